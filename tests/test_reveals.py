"""What each message reveals is found in every process, whatever it has imported."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from vfl.jobs.reveals import UNKNOWN, message_type, message_types, reveals
from vfl.net.wire import Message

# Of a process that has imported nothing of the package; then of one that has imported every module,
# and so every message.
ALL = """
import pkgutil, sys
from vfl.jobs.reveals import message_types
found = sorted(message_types())
slow = sorted({"matplotlib", "jinja2", "sklearn", "vfl.report.page"} & sys.modules.keys())
import vfl
for module in pkgutil.walk_packages(vfl.__path__, "vfl."):
    __import__(module.name)
from vfl.net.wire import Message
def of(kind):
    return [found for sub in kind.__subclasses__() for found in (sub, *of(sub))]
told = {"found": found, "slow": slow, "every": sorted(kind.__name__ for kind in of(Message))}
"""
ONE = """
import sys
from vfl.jobs.reveals import message_type, reveals
rooms = [name for name in sys.modules if name.startswith(("vfl.protocols.", "vfl.jobs.offer"))]
told = {"rooms": rooms, "reveals": reveals(message_type(%r))}
"""
NONE = """
import sys, vfl.net.hello
from vfl.jobs.reveals import message_type
def imported():
    return "vfl.protocols.linear.hidden" in sys.modules
message_type("Hello")
before = imported()
message_type("Gossip")
told = {"before": before, "after": imported()}
"""
NAMES = ["HintProducts", "Offer", "MatchCounts", "Resumed"]

# Each program in a process of its own; they share what is not the package's.
EACH = """
import json, os, sys
import msgspec, numba, numpy
assert "vfl" not in sys.modules
for name, program in json.loads(sys.argv[1]).items():
    if not os.fork():
        known = {}
        exec(program, known)
        print(json.dumps([name, known["told"]]), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"{name} failed")
"""


@pytest.fixture(scope="module")
def told() -> dict[str, dict[str, object]]:
    """What each program tells of a process that has just begun."""
    programs = {"all": ALL, "none": NONE, **{name: ONE % name for name in NAMES}}
    command = [sys.executable, "-c", EACH, json.dumps(programs)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(line) for line in done.stdout.splitlines())


def test_a_process_that_has_imported_nothing_knows_all_messages(
    told: dict[str, dict[str, list[str]]],
) -> None:
    found, every = told["all"]["found"], told["all"]["every"]
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


@pytest.mark.parametrize("name", NAMES)
def test_one_message_is_found_without_its_module(told: dict[str, dict[str, object]], name: str) -> None:
    assert told[name] == {"rooms": [], "reveals": reveals(message_types()[name])}


def test_what_draws_reports_is_not_imported(told: dict[str, dict[str, object]]) -> None:
    assert told["all"]["slow"] == []


def test_only_a_message_that_is_not_there_takes_the_import_of_all(
    told: dict[str, dict[str, object]],
) -> None:
    assert told["none"] == {"before": False, "after": True}
