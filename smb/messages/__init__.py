"""The SMB2 messages, one file per command family of [MS-SMB2]; parsing and writing side by side."""
