"""NFSv4.1 and 4.2 (RFC 8881, RFC 7862, RFC 8276) as a client: a file system of the contract."""
