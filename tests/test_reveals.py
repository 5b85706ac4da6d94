"""What each message reveals is found in every process, whatever it has imported."""

import subprocess
import sys
from collections import Counter

import pytest

from vfl.jobs.reveals import UNKNOWN, message_type, message_types, reveals
from vfl.net.wire import Message

# Of every module of the package, and so of every message.
ALL = """
import pkgutil, vfl
for module in pkgutil.walk_packages(vfl.__path__, "vfl."):
    __import__(module.name)
from vfl.net.wire import Message
def of(kind):
    return [found for sub in kind.__subclasses__() for found in (sub, *of(sub))]
print(*sorted(kind.__name__ for kind in of(Message)))
"""


def printed(program: str) -> list[str]:
    """The words that a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_process_that_has_imported_nothing_knows_all_messages() -> None:
    found = printed("from vfl.jobs.reveals import message_types; print(*sorted(message_types()))")
    every = printed(ALL)
    assert found == every
    assert len(found) > 90
    assert max(Counter(every).values()) == 1, "two messages of the same name"


def test_each_message_says_what_it_reveals() -> None:
    for name, kind in message_types().items():
        assert kind.__name__ == name and issubclass(kind, Message)
        assert message_type(name) is kind
        assert reveals(kind) not in ("", UNKNOWN)
    assert message_type("Gossip") is None
    assert reveals(message_type("Gossip")) == UNKNOWN


@pytest.mark.parametrize("name", ["HintProducts", "Offer", "MatchCounts", "Resumed"])
def test_one_message_is_found_without_its_module(name: str) -> None:
    program = "from vfl.jobs.reveals import message_type, reveals"
    program += f"; print(reveals(message_type({name!r})))"
    assert " ".join(printed(program)) == reveals(message_types()[name])


def test_what_draws_reports_is_not_imported() -> None:
    slow = {"matplotlib", "jinja2", "sklearn", "vfl.report.page"}
    program = "import sys; from vfl.jobs.reveals import message_types; message_types()"
    assert printed(f"{program}; print(*({slow!r} & sys.modules.keys()))") == []


def test_only_a_message_that_is_not_there_takes_the_import_of_all() -> None:
    program = (
        "import sys, vfl.net.hello; from vfl.jobs.reveals import message_type; message_type('Hello')\n"
        "print('vfl.protocols.linear.hidden' in sys.modules)\n"
        "message_type('Gossip')\n"
        "print('vfl.protocols.linear.hidden' in sys.modules)"
    )
    assert printed(program) == ["False", "True"]
