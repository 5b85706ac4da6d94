"""What tests start ends with them: interrupted, terminated or killed, with and without xdist."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from processes import die_with_parent

from vfl import local
from vfl.errors import VflError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part is Linux's")

# In place of `vfl serve`, which takes seconds to start; started in the same way.
INNER = """
import os, sys, time
from pathlib import Path
from execnet import gateway_base
from federation import Party, Running

# A worker whose pytest is gone gives its test five seconds before it interrupts it.
waited = gateway_base.WorkerPool.waitall
gateway_base.WorkerPool.waitall = lambda pool, timeout=None: waited(pool, timeout and min(timeout, 0.2))

def test_that_never_ends(tmp_path):
    party = Party("registry", tmp_path, {})
    program = "import signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    program += "; print('serving', file=sys.stderr, flush=True); time.sleep(600)"
    serving = Running(party, [], (sys.executable, "-c", program))
    serving.until("serving")
    found = Path(os.environ["FOUND"])
    found.with_suffix(".new").write_text(f"{serving.process.pid} {os.getpid()}")
    found.with_suffix(".new").rename(found)
    time.sleep(600)
"""


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
@pytest.mark.parametrize("victim", ["pytest", "pytest with a worker", "the worker"])
def test_nothing_is_left_behind(tmp_path: Path, victim: str, number: signal.Signals) -> None:
    (tmp_path / "test_inner.py").write_text(INNER)
    found = tmp_path / "found"
    workers = [] if victim == "pytest" else ["-n", "1", "--max-worker-restart", "0"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "120"]
    command += ["-p", "xdist.plugin", "-p", "pytest_timeout"]  # no others: each is time to start
    outer = subprocess.Popen(
        [*command, "--rootdir", str(tmp_path), *workers, "test_inner.py"],
        cwd=tmp_path,
        env={
            **os.environ,
            "FOUND": str(found),
            "PYTHONPATH": os.pathsep.join([*sys.path, ""]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    serving = 0
    try:
        deadline = time.monotonic() + 60
        while not found.exists():
            assert outer.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        serving, worker = map(int, found.read_text().split())
        assert runs(serving)
        assert (worker == outer.pid) == (victim == "pytest")
        if number == signal.SIGINT and victim != "the worker":
            os.killpg(outer.pid, number)  # as a terminal does
        else:
            os.kill(worker if victim == "the worker" else outer.pid, number)
        while runs(serving):
            assert time.monotonic() < deadline, "still there"
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(outer.pid, signal.SIGKILL)  # the worker and what it serves are in its session
        outer.wait()


DEMO = """
import sys, time
from pathlib import Path
from vfl import local

local._VFL = [sys.executable, "-c", "import time; time.sleep(600)"]
with local.serving({"registry": Path(sys.argv[1])}) as hosts:
    print(hosts["registry"].process.pid, flush=True)
    time.sleep(600)
"""


def test_hosts_of_a_demo_end_with_it(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-c", DEMO, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )
    assert demo.stdout is not None
    serving = int(demo.stdout.readline())
    assert runs(serving)
    demo.kill()
    demo.communicate()
    deadline = time.monotonic() + 60
    while runs(serving):
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        ("relaying on 127.0.0.1:1\nopen: 0; since the start: 2 connections", ""),
        (
            "relaying on 127.0.0.1:1\nregistry dialled",
            "the relay, which should know no party, writes of regis",
        ),
        ("no such command", "the relay did not start: see "),
    ],
)
def test_what_the_relay_of_a_demo_wrote_is_searched_for_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, ends: str
) -> None:
    program = f"import sys, time; print({said!r}, file=sys.stderr, flush=True); time.sleep(600)"
    monkeypatch.setattr(local, "_VFL", [sys.executable, "-c", program])
    party = tmp_path / "registry" / "registry.toml"
    party.parent.mkdir()
    party.write_text('listen = "127.0.0.1:7443"\n')
    heard: list[str] = []
    expected = pytest.raises(VflError, match=ends) if ends else contextlib.nullcontext()
    with expected, local.relaying(tmp_path, ["registry"], heard.append):
        deadline = time.monotonic() + 60
        while said not in (tmp_path / "relay" / "relay.log").read_text():
            assert time.monotonic() < deadline, "nothing written"
            time.sleep(0.01)
    listen = tomllib.loads((tmp_path / "relay" / "relay.toml").read_text())["relay"]["listen"]
    assert party.read_text() == f'listen = "relay://{listen}"\n'
    assert heard == ([] if ends else ["The relay, which knows nobody's name, counted 2 connections"])
