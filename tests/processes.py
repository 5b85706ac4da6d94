"""Processes that tests start: none of them outlives the tests, however these end."""

import signal

from vfl.local import with_parent

die_with_parent = with_parent(signal.SIGKILL)
