"""qlog: what a connection does, written down for qvis. Nothing else of the transport depends on it: a connection knows
a `trace.Tracer` only.

`tracer`: events of one connection. `frames`: frames as events have them. `directory`: a file for each connection.
"""
