"""How the cluster's commands fail: one line that says what is missing and what to do, exit code 2."""


class Unavailable(Exception):
    """This machine cannot run a cluster, or not as it is. str() is one line."""
