"""`python -m quicfs`, the same as the command `quicfs`."""

from quicfs.cli import main

if __name__ == "__main__":
    main()
