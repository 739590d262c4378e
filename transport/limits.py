"""Every bound on what a peer can make us hold or do, in one place. Sizes in bytes, times in seconds."""

from __future__ import annotations

from typing import Final

# --- datagrams and trains
MAX_UDP_PAYLOAD: Final = 65_527
MIN_INITIAL_DATAGRAM: Final = 1_200  # RFC 9000 §14.1
TRAIN_BYTES: Final = 262_144  # composed, sealed and opened at once
TRAIN_SEGMENTS: Final = 256  # more than that many bytes have, of 1,200 in each
GSO_BYTES: Final = 65_000  # one UDP_SEGMENT send: below the 16-bit length of the UDP header
GSO_SEGMENTS: Final = 64  # UDP_MAX_SEGMENTS of the kernels before 6.9
RECEIVE_BURSTS: Final = 16  # reads before the loop gets a turn
SEND_BURSTS: Final = 4  # trains sent before the loop gets a turn
SOCKET_BUFFER: Final = 16 << 20

# --- handshakes
MAX_CRYPTO_BUFFER: Final = 65_536  # out-of-order CRYPTO data per level; RFC 9000 §7.5 asks for 4,096
MAX_CLIENT_HELLO: Final = 16_384  # what is collected before ALPN must have been seen
MAX_UNDECRYPTABLE: Final = 16  # packets that wait for keys, per connection
MAX_UNDECRYPTABLE_BYTES: Final = 32_768
MAX_HALF_OPEN: Final = 1_024  # connections without a completed handshake, per endpoint
RETRY_ABOVE: Final = 64  # half-open connections from which on every client must prove its address
HANDSHAKE_TIMEOUT: Final = 30.0
RETRY_TOKEN_LIFETIME: Final = 60.0
NEW_TOKEN_LIFETIME: Final = 86_400.0
MAX_USED_TOKENS: Final = 4_096  # NEW_TOKENs that came back and are remembered as used up, per endpoint
MAX_TOKEN: Final = 512  # that a client keeps of a server: its Initial needs room for other things
CRYPTO_PIECE: Final = 1_000  # bytes of TLS messages in one frame after the handshake: fits every packet
ACCEPT_BACKLOG: Final = 128
AMPLIFICATION_FACTOR: Final = 3  # RFC 9000 §8.1

# --- connection IDs
LOCAL_CID_LENGTH: Final = 8
MAX_ACTIVE_PEER_CIDS: Final = 8  # our active_connection_id_limit
MAX_ACTIVE_LOCAL_CIDS: Final = 4  # that we issue, whatever the peer would allow
MAX_RETIRED_UNACKED: Final = 32  # RETIRE_CONNECTION_ID frames under way (RFC 9000 §5.1.2)

# --- packets
MAX_ACK_RANGES: Final = 64  # of ours that we remember and send
MAX_ACK_ONLY_RUNS: Final = 256  # sent packets that only acknowledge, remembered per packet number space
MAX_SKIPPED: Final = 16  # packet numbers left out that an ACK is compared with (RFC 9000 §21.4)
MIN_SKIP_PERIOD: Final = 128  # packets between two of them, about; it doubles each time
MAX_SKIP_PERIOD: Final = 65_536
MAX_TRACKED_RUNS: Final = 65_536  # pieces of sent history that one packet number space may fall into

# --- work for nothing, in units of about a microsecond of processor time (see `work`)
WORK_PER_SECOND: Final = 20_000  # of one connection
WORK_BURST: Final = 20_000  # that it may be ahead of that
WORK_PER_PACKET: Final = 16  # that are not counted: control frames that accompany data

# --- paths
MAX_PATHS: Final = 4  # pairs of addresses that a connection knows at a time
MAX_PENDING_PATH_RESPONSES: Final = 4  # on each of them
PATH_VALIDATION_PTOS: Final = 3  # RFC 9000 §8.2.4: until a path is given up

# --- keys (RFC 9001 §6.6, §B.1, §B.2): packets
AES_GCM_SEALED: Final = 1 << 23  # under one key
AES_GCM_FORGED: Final = 1 << 52  # that could not be opened, over all keys of a connection
CHACHA20_SEALED: Final = 1 << 62
CHACHA20_FORGED: Final = 1 << 36
KEY_UPDATE_AFTER: Final = 1 << 22  # half of what AES-GCM allows

# --- streams
MAX_STREAMS_BIDI: Final = 256  # concurrent, opened by the peer
MAX_STREAMS_UNI: Final = 256
STREAM_WINDOW: Final = 1 << 20  # the first receive window of a stream
STREAM_WINDOW_MAX: Final = 16 << 20
CONNECTION_WINDOW: Final = 3 << 19
CONNECTION_WINDOW_MAX: Final = 24 << 20
MAX_FRAGMENTS: Final = 4_096  # out-of-order pieces per stream
SEND_BUFFER_MIN: Final = 1 << 20  # unacknowledged and unsent bytes that a writer may have pending
SEND_BUFFER_MAX: Final = 32 << 20

# --- datagrams (RFC 9221)
MAX_DATAGRAMS_OUT: Final = 256  # that wait to be sent; more are refused
DATAGRAM_MAX_AGE: Final = 1.0  # of one that waits
MAX_DATAGRAMS_IN: Final = 1_024  # that wait to be received; more are dropped
MAX_DATAGRAM_BYTES_IN: Final = 4 << 20

# --- notifications
MAX_EVENTS: Final = 256  # that wait to be received; then the oldest are dropped

# --- timing
MAX_IDLE_TIMEOUT: Final = 30.0
MAX_ACK_DELAY: Final = 0.025
ACK_DELAY_EXPONENT: Final = 3
TIMER_GRANULARITY: Final = 0.001  # RFC 9002 §6.1.2
MTU_RAISE_INTERVAL: Final = 600.0  # RFC 8899 §5.1.1
MIN_MTU_RAISE_INTERVAL: Final = 5.0  # that a consumer may ask for, as in Linux
MAX_SOURCES_LOGGED: Final = 1_024  # addresses of which was logged that they send nonsense
MAX_RESET_SUSPECTS: Final = 16  # connections with one address, the newest, that a stateless reset may be for
RESETS_PER_SECOND: Final = 100  # stateless resets and Version Negotiations, per endpoint

# --- qlog: what may be written of what a peer sends
QLOG_FILE: Final = 256 << 20  # of one connection
QLOG_OPEN: Final = 256  # files of connections at one time
QLOG_FILES: Final = 10_000  # of one process in one directory: a flood of Initials must not use up its inodes
QLOG_TOTAL: Final = 4 << 30  # of one process into one directory
QLOG_FRAMES: Final = 64  # of one packet
QLOG_RANGES: Final = 64  # of one ACK
QLOG_TEXT: Final = 256  # characters of a reason phrase
QLOG_BYTES: Final = 32  # of an ID
