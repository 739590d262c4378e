"""What crosses the boundary between a consumer of QUIC and its handshake agent; both sides use it.

`netlink`: the messages of net/handshake. `descriptor`: the calls on the socket that an agent was given.
`channel`: how both travel in the model, over AF_UNIX SOCK_SEQPACKET.
"""
