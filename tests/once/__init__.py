"""Exactly once: operations that are not idempotent, over a link that loses packets and connections that are cut.

`python -m tests.once --operations 10000 --loss 2%` (README of netlab: needs root).
"""
