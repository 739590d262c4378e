"""Every bound on what an NFS peer can make us hold or do. Sizes in bytes, times in seconds."""

from __future__ import annotations

from typing import Final

# --- RPC
MAX_MESSAGE: Final = 4 << 20  # of one RPC message: four times the largest READ or WRITE
BURST: Final = 256  # messages that are told apart in what has come; the rest of it waits as it is
MAX_FRAGMENTS: Final = 1_024  # records of one message (RFC 5531 §11)
SILENCE_S: Final = 30.0  # within a message that has begun; then the stream is given up
MAX_AUTH: Final = 400  # body of a credential or a verifier (RFC 5531 §8.2)
MAX_MACHINE_NAME: Final = 255  # RFC 5531 appendix A
MAX_GIDS: Final = 16
MAX_KNOWN_CREDENTIALS: Final = 1_024  # whose bytes are not taken apart again
MAX_CALLS: Final = 64  # of one stream that wait for something; more are read when one of them is done
GATHERED: Final = 1 << 20  # replies that are collected before they are sent
FAIR_CALLS: Final = 64  # calls carried out before other streams get a turn
MAX_MISDIRECTED: Final = 16  # messages of the wrong direction on a QUIC stream that are discarded in silence
MAX_STREAMS: Final = 64  # that a peer may have open on one QUIC connection

# --- the served tree
MAX_VOLATILE_HANDLES: Final = 65536  # objects of trees that have no handles of their own
MAX_OWNERS: Final = 4096  # users, and groups, whose names are remembered
COMPILE_AFTER: Final = 8  # requests for the same set of attributes before it gets a function of its own
MAX_ENCODERS: Final = 256  # of these
MAX_IO: Final = 1 << 20  # of one READ or WRITE
MAX_LISTING: Final = 1 << 20  # of one READDIR's results
MAX_COPY: Final = 64 << 20  # of one COPY; the client goes on from there
MAX_SEGMENTS: Final = 64  # of one READ_PLUS
MAX_RECENT_FILES: Final = 64  # open for calls that come without an open
RECENT_FILE_S: Final = 2.0  # that one of them stays unused
MAX_MOUNTS: Final = 1024  # of NFSv3 clients that are remembered for DUMP
MAX_MOUNT_DEPTH: Final = 64  # names in the path of one

# --- clients and sessions of the server
MAX_CLIENTS: Final = 4_096
MAX_SESSIONS: Final = 8_192
MAX_SESSIONS_PER_CLIENT: Final = 16
MAX_CONNECTIONS_PER_SESSION: Final = 64
MAX_SLOTS: Final = 256  # of one session
MAX_OPERATIONS: Final = 128  # of one COMPOUND
MAX_REQUEST: Final = (1 << 20) + 65_536  # one call of a session: a WRITE of 1 MiB and what stands around it
MAX_RESPONSE: Final = (1 << 20) + 65_536
MAX_CACHED_RESPONSE: Final = 16_384  # one reply that a slot keeps
SMALL_REPLY: Final = 512  # one that is kept although nobody asked for it
SLOT_SIZE: Final = 256  # of a slot itself
REPLY_CACHE: Final = 128 << 20  # what all slots of all sessions take; new sessions get few when it is used up
MAX_WAITING_RETRIES: Final = 4  # of one request that is still being carried out
COURTESY_S: Final = 86_400.0  # that the state of a client stays after its lease, unless somebody wants it
SWEEP_S: Final = 1.0  # between looks at leases
MAX_CLIENT_LINES: Final = 16_384  # of the list of clients on disk before it is written anew
MAX_CALLBACK: Final = 65_536
MAX_CALLBACK_OPERATIONS: Final = 8
MAX_CALLBACK_SLOTS: Final = 16
MAX_CALLBACK_PATHS: Final = 8  # of one session
CALLBACK_TIMEOUT_S: Final = 30.0
CALLBACK_PATH_S: Final = 10.0  # on one path, then another is tried
CALLBACK_RETRY_S: Final = 0.1  # after the client has said that it is busy

# --- opens, locks and delegations of the server. An open or a delegation keeps a file of the tree open.
MAX_CLIENT_OPENS: Final = 16_384
MAX_CLIENT_LOCK_OWNERS: Final = 4_096  # counted once for each file that they lock
MAX_LOCK_RANGES: Final = 1_024  # of one owner on one file; local trees take no more than four times that
MAX_LOCK_WAITERS: Final = 64  # of one file that are told when they may try again
MAX_CLIENT_DELEGATIONS: Final = 512
MAX_DELEGATIONS: Final = 4_096
DELEGATION_SHY_S: Final = 10.0  # after a recall, before the same file is delegated again
MAX_SHY_FILES: Final = 1_024  # for which that is remembered
OPEN_ATTEMPTS: Final = 8  # of one OPEN, while others make and remove its name

# --- the client: what it offers a server, and keeps for it
CLIENT_SLOTS: Final = 128  # calls under way in one session
CLIENT_MAX_MESSAGE: Final = (
    1 << 20
) + 8_192  # of one call or reply: a READ or WRITE of 1 MiB, and what is around it
CLIENT_MAX_CACHED: Final = 8_192  # of a reply that the server is asked to keep
CLIENT_MAX_OPERATIONS: Final = 128  # of one COMPOUND
CALLBACK_SLOTS: Final = 16
CALLBACK_MAX_MESSAGE: Final = 65_536
CALLBACK_MAX_CACHED: Final = 4_096
CALLBACK_MAX_OPERATIONS: Final = 16
UNSTABLE: Final = 64 << 20  # written data of all files that the server has not committed yet
LOCK_OWNERS: Final = 1_024  # of one open file
LOCK_RANGES: Final = 4_096  # of one owner
CLIENT_DELEGATIONS: Final = 1_024  # held; more go back, the idle ones first
CLIENT_DATA: Final = 256 << 20  # data of all files that are remembered ...
CLIENT_DATA_SHARE: Final = 32  # ... and this part of the machine's memory, if that is less
CLIENT_NAMES: Final = 65_536  # names of all directories that are remembered
POSTED: Final = 1_024  # requests that nobody waits for
BEHIND: Final = 8 << 20  # written data that waits for a moment, under write delegations
