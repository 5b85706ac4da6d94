"""Whoever finds nobody looks again soon: on one machine nobody is far, and nothing is overrun."""

from vfl.jobs import connect, host, resume
from vfl.net import rendezvous, session


def pause_little() -> None:
    """From now on in this process, and in those that are forked from it."""
    host._PAUSE = resume._PAUSE = connect._AGAIN = 0.1
    session.BACKOFF = rendezvous.BACKOFF = (0.02, 0.1)
