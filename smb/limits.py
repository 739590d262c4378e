"""Everything that a peer can make us keep, and how much of it."""

from __future__ import annotations

from typing import Final

MAX_IO_SIZE: Final = 8 << 20  # one READ, WRITE or transaction ([MS-SMB2] §3.3.1: MaxReadSize and so on)
MAX_MESSAGE_SIZE: Final = MAX_IO_SIZE + 64 * 1024  # with headers, compounds and the transform header
MAX_UNAUTHENTICATED_MESSAGE_SIZE: Final = 128 * 1024  # before the first session is there
MAX_COMPOUND: Final = 64  # messages in one packet
# Message ids that a client may have at its disposal. With 64 KiB each they also bound what its requests hold.
MAX_CREDITS: Final = 1024
CREDIT_SIZE: Final = 65536  # bytes of payload that one credit pays for (§3.1.5.2)
MAX_OUTSTANDING: Final = 512  # requests of one connection being worked on, waiting ones included
MAX_SOURCES_LOGGED: Final = 4096  # whose first bad message is remembered
MAX_CONNECTIONS: Final = 4096  # of one server
MAX_SESSIONS: Final = 64  # of one connection
MAX_SETUP_ROUNDS: Final = 8  # SESSION_SETUP messages of one exchange
MAX_TREES: Final = 256  # of one session
MAX_OPENS: Final = 16384  # of one connection
MAX_LOCKS_PER_REQUEST: Final = 64
MAX_LOCKS_PER_OPEN: Final = 4096
MAX_WAITING: Final = 256  # CHANGE_NOTIFY and LOCK requests of one connection that wait
MAX_NOTIFICATIONS: Final = 1024  # changes kept for one watched directory
MAX_DIRECTORY_BUFFER: Final = 1 << 20  # one QUERY_DIRECTORY response
MAX_COPY_CHUNKS: Final = 256  # §3.3.3: ServerSideCopyMaxNumberofChunks
MAX_COPY_CHUNK: Final = 1 << 20
MAX_COPY_DATA: Final = 16 << 20
MAX_PATH: Final = 4096  # characters of a name in a request
NEGOTIATE_TIMEOUT_S: Final = 30.0  # from the stream's start to a session
MAX_PIPE_DATA: Final = 65536  # one message written to a pipe
INTERIM_AFTER_S: Final = 1.0  # a client hears after that long that its request is being worked on
