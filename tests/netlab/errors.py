"""What goes wrong when a lab is built or used."""


class NetlabError(Exception):
    """One sentence for the user, with the remedy."""
