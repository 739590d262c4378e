"""The SMB client: a connection without input and output, its driver, and the file system on top."""
