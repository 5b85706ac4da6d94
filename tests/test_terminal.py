"""What commands print: names as they are on any terminal, whole on a narrow one; lost readers."""

import asyncio
import contextlib
import errno
import fcntl
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO
from unittest import mock

import click
import pytest
from click.testing import CliRunner
from test_jobs import GUEST_HALF

from vfl.cli import main
from vfl.jobs.account import Account
from vfl.models.relativities import Line
from vfl.party.audit.tables import Total
from vfl.protocols.trees.model import GuestModel
from vfl.terminal import backlog, results
from vfl.terminal.progress import ProgressDisplay, show_progress
from vfl.terminal.sheets import Sheet, put_sheet
from vfl.terminal.streams import finite, put_json, stderr, stdout
from vfl.terminal.usage import ENDING, INTERRUPTED, interrupted_by_signals
from vfl.text import shown, shown_in

HOSTILE = [
    *("share [/day]", "power [kw]", "[bold red]x[/bold red]", "[link=http://x]y[/link]", "[/]", "\\[x]"),
    *(
        ":warning:",
        "{0} %s $x_1$",
        "<b>&amp;",
        "=cmd|'/C calc'!A0",
        "größe",
        "日本語",
        "🚗👩\u200d💻",
        "e\u0301",
    ),
    *(
        "\x1b[31mred\x1b[0m",
        "\x1b]0;title\x07",
        "\x9b2J",
        "a\nerror: not one",
        "a\rb",
        "a\tb",
        "\x00\x7f",
    ),
    *("\u202eodd", "\u2066x", "pow\u200ber", "\u0301power", "\ufeff", "\u2028", "\udcff.csv", "\u3164"),
    *("x" * 5000, "\u0301" * 500, "\x1b" * 3000, ""),
]
ENCODINGS = ["utf-8", "ascii", "latin-1", "cp1252", "gbk"]


class Screen(io.TextIOWrapper):
    """A stream in place of stdout or stderr; a terminal if it has a width."""

    def __init__(self, encoding: str = "utf-8", tty: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty

    @property
    def text(self) -> str:
        """What is seen: without colours."""
        bare = self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", bare)


def on_screen(
    patch: pytest.MonkeyPatch,
    put: Callable[[], object],
    encoding: str = "utf-8",
    width: int | None = None,
) -> str:
    """What `put` prints on a terminal of this width, or in a pipe."""
    screen = Screen(encoding, tty=width is not None)
    with patch.context() as context:
        context.setenv("COLUMNS", str(width or 80))
        context.setenv("TERM", "xterm")
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "JOURNAL_STREAM"):
            context.delenv(name, raising=False)
        for name, stream in (("stdout", stdout), ("stderr", stderr)):
            context.setattr(sys, name, screen)
            stream.start()
        put()
        for stream in (stdout, stderr):
            stream.flush()
    stdout.start()
    stderr.start()
    return screen.text


def trained(names: list[str]) -> Any:
    """A training of trees with splits on columns of these names."""

    class Model(GuestModel):
        def importance(self) -> list[tuple[str, str, int, float]]:
            return [("registry", name, 3, 10.0) for name in names]

    old = GUEST_HALF.model
    assert isinstance(old, GuestModel)
    model = Model(old.parties, old.start, old.trees, old.splits)
    half = replace(GUEST_HALF, model=model, metrics={"federation": {"auc": 0.75, "d2": 0.5}})
    account = replace(Account.nothing(), seconds=1.0, sent={"registry": 1}, received={"registry": 1})
    return SimpleNamespace(half=half, rows={"held out": 1}, account=account, relativities=None)


def printed(names: list[str]) -> list[Callable[[], object]]:
    """Everything that prints names that are not ours."""
    lines = [Line(name, name, 0.5, None, 1.6, 1) for name in names]
    totals = [Total("j", "train", name, "T", "sent", "p", name, 1, 1, 1) for name in names]
    alignment = {"made": "2026-11-29T00:29", "rows": 1, "known": 1, "parties": ["a"], "join": "inner"}
    alignment |= {"many": False, "engine": "ecdh", "keys": [["nfkc"]], "expires": None, "expired": False}
    return [
        lambda: results.put_model(trained(names[:15])),
        lambda: results.put_relativities("m", lines),
        lambda: results.put_totals(totals),
        lambda: results.put_alignments([{**alignment, "name": n, "extends": n} for n in names]),
        lambda: results.put_alignments([{"name": "n", "made": "", "error": name} for name in names]),
        lambda: [stdout.put(f"table '{name}'") for name in names],
        lambda: [stderr.put(f"error: column '{name}'") for name in names],
        lambda: [said(name) for name in names],
    ]


def said(name: str) -> None:
    news = ProgressDisplay(times=True)
    with news.bar:
        news.progress(f"reading {name}, 1", 1, 2)
        news.say(f"note: column '{name}' has shifted")


def test_standard_errors_stand_beside_coefficients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are any; a base level has none."""
    lines = [Line("zone", level, 0.5, None, 1.65, 10) for level in ("a", "b")]
    text = on_screen(monkeypatch, lambda: results.put_relativities("m", lines), "utf-8", 100)
    assert "standard error" not in text
    lines[0] = replace(lines[0], standard_error=0.0312)
    text = on_screen(monkeypatch, lambda: results.put_relativities("m", lines), "utf-8", 100)
    assert "standard error" in text and "0.0312" in text


@pytest.mark.parametrize("width", [None, 40, 80, 300])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_names_are_text_on_any_terminal(
    monkeypatch: pytest.MonkeyPatch, encoding: str, width: int | None
) -> None:
    for put in printed(HOSTILE):
        text = on_screen(monkeypatch, put, encoding, width)
        assert not re.search(
            r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b]", text.replace("\r", "")
        )
        assert not any(line.startswith("error: not one") for line in text.splitlines())
        assert width is None or max(map(len, text.splitlines())) <= 4010


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_name_is_shown_as_it_is_but_for_what_cannot_be(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    for width in (None, 40, 2000):
        for put in printed(HOSTILE)[:3]:
            text = on_screen(monkeypatch, put, encoding, width)
            for name in HOSTILE[:14]:
                assert shown_in(shown(name), encoding) in text, (width, name)


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120, 400])
def test_no_name_is_cut_or_broken(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    names = [f"claims-{'x' * length}-20261122-200629-c678c7" for length in (1, 20, 60)]
    for put in printed(names)[:4]:
        lines = on_screen(monkeypatch, put, "utf-8", width).splitlines()
        for name in names:
            assert any(name in line for line in lines), (width, lines)


def test_a_table_by_the_width_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = Sheet(
        ("column", "rows", "what"),
        [("density", 1234, "some prose that may be broken over lines"), ("area", None, "")],
        "a table",
        frozenset(("rows",)),
        frozenset(("what",)),
    )

    def at(width: int | None) -> list[str]:
        return on_screen(monkeypatch, lambda: put_sheet(sheet), "utf-8", width).splitlines()

    title, top, *_, last = at(100)
    assert (title, top[0], last[0]) == ("a table", "┏", "└")
    lines = at(44)
    assert lines[1].split() == ["column", "rows", "what"] and "1,234  some prose that" in lines[2]
    assert all(len(line) <= 44 for line in lines)
    assert at(30) == [
        *("a table", "column density", "  rows  1,234"),
        *("  what  some prose that may be broken over lines", "column area"),
    ]
    assert at(None) == [
        *("a table", "column\trows\twhat", "density\t1234\tsome prose that may be broken over lines"),
        "area\t\t",
    ]


def test_the_models_name_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = on_screen(monkeypatch, lambda: results.put_model(trained(["a"]))).splitlines()
    assert first.startswith("model claims-1: 1 tree; 1.0 s; registry ")


def test_news_have_times_where_no_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ note: column 'x' has shifted\n"
    assert re.fullmatch(stamp, on_screen(monkeypatch, lambda: said("x")))
    assert "Z note" not in on_screen(monkeypatch, lambda: said("x"), width=80)
    plain = on_screen(monkeypatch, lambda: ProgressDisplay().say("hello"))
    assert plain == "hello\n"


def test_json_is_ascii_without_numbers_that_json_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"a": [float("nan"), {"b": float("inf")}], "größe": ("\udcff", 1.5)}
    text = on_screen(monkeypatch, lambda: put_json(found), "ascii")
    assert text.isascii() and text.count("\n") == 1
    assert (
        json.loads(text)
        == {"a": [None, {"b": None}], "größe": ["\udcff", 1.5]}
        == finite(json.loads(text))
    )


# --- Streams that nobody reads, or that are full. -----------------------------------------------


def vfl(line: str) -> tuple[list[int], str, str]:
    """The exit codes of a pipe's commands, and what is on stdout and stderr, by a shell."""
    script = f'{line}; echo "codes ${{PIPESTATUS[@]}}" >&9'
    shell = ["bash", "-c", f"vfl() {{ '{sys.executable}' -m vfl.cli \"$@\"; }}; {script}"]
    reading, writing = os.pipe()
    done = subprocess.run(
        ["bash", "-c", f'exec 9>&{writing}; exec "$@"', "bash", *shell],
        capture_output=True,
        text=True,
        check=False,
        pass_fds=[writing],
    )
    os.close(writing)
    with os.fdopen(reading) as codes:
        found = codes.read().split()
    return [int(code) for code in found[1:]], done.stdout, done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    for command in ("config schema party", "--help", "--version"):
        codes, _, err = vfl(f"vfl {command} | true")
        assert (codes[0], err) == (0, ""), command
    codes, out, err = vfl("vfl config schema party | head -1")
    assert (codes, out, err) == ([0, 0], "{\n", "")
    codes, out, _ = vfl("vfl nosuch 2>&1 | true")
    assert codes[0] == 2


def test_a_full_disk_is_told() -> None:
    for command in ("config schema party", "--help", "--version"):
        codes, _, err = vfl(f"vfl {command} > /dev/full")
        assert (codes, err.count("\n")) == ([3], 1)
        assert err.startswith("error: stdout cannot be written (No space left on device); what the ")
    codes, out, _ = vfl("vfl config schema nosuch 2> /dev/full")
    assert (codes, out) == ([2], "")


def test_closed_streams() -> None:
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        codes, _, err = vfl(f"vfl config schema party {closed}")
        assert (codes, err) == ([0], ""), closed
    codes, out, _ = vfl("vfl config schema nosuch 2>&-")
    assert (codes, out) == ([2], "")


def test_what_takes_the_place_of_a_closed_stream_gets_no_line(tmp_path: Path) -> None:
    """A file opened later must not become stderr."""
    code = "import vfl.cli, sys; open(sys.argv.pop(1), 'w'); vfl.cli.main()"
    kept = tmp_path / "ledger"
    done = subprocess.run(
        ["bash", "-c", '"$@" >&- 2>&-', "bash", sys.executable, "-c", code, str(kept), "nosuch"],
        check=False,
    )
    assert done.returncode == 2 and kept.read_text() == ""


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")]
)
def test_a_stream_that_fails_does_not_end_what_is_printed(
    monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    class Failing(Screen):
        def write(self, text: str) -> int:
            raise error

    def put() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", Failing())
            stdout.start()
            for _ in range(3):
                stdout.put("a line")
            put_sheet(Sheet(("a",), [("b",)]))
            stdout.flush()
            assert stdout.left == isinstance(error, BrokenPipeError)
            assert (stdout.failure is error) != stdout.left

    on_screen(monkeypatch, put)


def test_news_go_on_when_there_is_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service is told from the results of a command: its log outlives a full disk."""
    full = True

    class Disk(Screen):
        def write(self, text: str) -> int:
            if full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(text)

    disk = Disk()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", disk)
        stderr.start()
        stderr.put("lost", "lost")
        stderr.put("lost")
        full = False
        stderr.put("there", "again")
        full = True
        stderr.put("lost")
        full = False
        stderr.put("back")
    assert disk.text.splitlines() == [
        "note: 3 lines could not be written (No space left on device)",
        "there",
        "again",
        "note: 1 line could not be written (No space left on device)",
        "back",
    ]


def test_a_pipe_that_does_not_wait_loses_nothing() -> None:
    """As a parent leaves one that reads and writes by an event loop of its own."""
    reading, writing = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # elsewhere pipes are small enough
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    command = [sys.executable, "-m", "vfl.cli", "config", "schema", "party"]
    with subprocess.Popen(command, stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            written = pipe.read()
        assert process.wait() == 0 and process.stderr is not None and process.stderr.read() == b""
    assert len(written) > 8192 and json.loads(written)["title"]


# --- Readers that do not read. -------------------------------------------------------------------


@contextlib.contextmanager
def unread() -> Iterator[BinaryIO]:
    """The other end of stderr, which is a pipe of 4 KiB."""
    reading, writing = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with (
        os.fdopen(reading, "rb") as other,
        os.fdopen(writing, "w", encoding="utf-8") as pipe,
        mock.patch.object(sys, "stderr", pipe),
    ):
        stderr.start()
        yield other
    stderr.start()


def test_a_reader_that_does_not_read_holds_up_no_service() -> None:
    """What it was not given is counted in its place."""
    lines = 30_000
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.extend(other.read().decode().splitlines()))

    async def run(show: ProgressDisplay) -> None:
        for number in range(lines):
            show.say(f"{number} {'x' * 100}")
        reader.start()
        while stderr._backlog is not None and stderr._backlog._size:
            await asyncio.sleep(0.001)
        show.say("here again")

    with unread() as other:
        with show_progress(times=True) as show:
            asyncio.run(run(show))
        assert not stderr.left
        sys.stderr.close()
        reader.join()
    *kept, note, last = [line.partition("Z ")[2] or line for line in read]
    assert [line.partition(" ")[0] for line in kept] == [str(number) for number in range(len(kept))]
    assert backlog.MOST / 140 < len(kept) < lines
    assert note == f"note: {lines - len(kept):,} lines could not be written (nobody read them)"
    assert last == "here again"


def test_lines_that_were_dropped_are_counted_in_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    written = threading.Semaphore(0)
    monkeypatch.setattr(backlog, "MOST", 3 * 101)
    true = backlog._write

    def write(descriptor: int, data: bytes) -> None:
        written.acquire()
        true(descriptor, data)

    monkeypatch.setattr(backlog, "_write", write)
    with unread() as other:
        with stderr.not_waiting():
            waiting = stderr._backlog
            assert waiting is not None

            def let_through(until: int) -> None:
                while waiting._size > until:
                    written.release()
                    time.sleep(0.001)

            stderr.put(*(letter * 100 for letter in "abcde"))
            let_through(101)
            stderr.put("f" * 20)
            written.release(100)
        sys.stderr.close()
        assert other.read().decode().splitlines() == [
            *(letter * 100 for letter in "abc"),
            "note: 2 lines could not be written (nobody read them)",
            "f" * 20,
        ]


def test_a_service_that_ends_waits_for_its_reader_only_so_long() -> None:
    with unread():
        with stderr.not_waiting(0.05):
            stderr.put(*["x" * 1000] * 100)
        assert stderr.left
        stderr.put("nobody hears this")
        stderr.flush()


def test_other_commands_wait_for_their_reader() -> None:
    read: list[bytes] = []
    with unread() as other:
        reader = threading.Timer(0.1, lambda: read.append(other.read()))
        reader.start()
        with show_progress():
            stderr.put(*["x" * 1000] * 100)
        stderr.put("error: last")
        sys.stderr.close()
        reader.join()
    assert read[0].decode().splitlines() == ["x" * 1000] * 100 + ["error: last"]


def test_a_reader_that_goes_away_while_nobody_waits_is_no_error() -> None:
    with unread() as other, stderr.not_waiting():
        other.close()
        stderr.put("x")
        while not stderr.left:
            time.sleep(0.001)
        stderr.put("x")


def test_a_pipe_that_does_not_wait_gets_all_from_a_backlog() -> None:
    with unread() as other:
        os.set_blocking(sys.stderr.fileno(), False)
        reader = threading.Timer(0.1, lambda: read.append(other.read()))
        read: list[bytes] = []
        reader.start()
        with stderr.not_waiting():
            stderr.put(*["x" * 1000] * 100)
        sys.stderr.close()
        reader.join()
    assert read[0].count(b"\n") == 100


def test_a_file_gets_each_line_at_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as file, mock.patch.object(sys, "stderr", file):
        stderr.start()
        with show_progress(times=True) as show:
            for number in range(20_000):
                show.say(f"{number} {'x' * 100}")
            assert log.read_text().count("\n") == 20_000
    stderr.start()


# --- Signals. ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_interrupts_a_command_wherever_it_is(number: signal.Signals) -> None:
    """Also before it waits for its peers, and as the first process of a container."""
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt) as raised, interrupted_by_signals():
            signal.raise_signal(number)
        assert raised.type is not KeyboardInterrupt  # for which Python has an exit code of its own
        assert signal.getsignal(number) is signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)  # as nohup does
        with interrupted_by_signals():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("command", ["serve", "train"])
def test_a_signal_while_a_command_starts(tmp_path: Path, command: str) -> None:
    """A service that is told to end has ended well; a job is interrupted."""
    os.mkfifo(tmp_path / "party.toml")
    arguments = [sys.executable, "-m", "vfl.cli", command, "party.toml", "job.toml"]
    arguments = arguments[:5] if command == "serve" else arguments
    with subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        with (tmp_path / "party.toml").open("w"):  # it is there and reads
            process.send_signal(signal.SIGTERM)
            assert process.wait() == (0 if command == "serve" else INTERRUPTED)
        assert process.stderr is not None
        assert process.stderr.read() == ("" if command == "serve" else "interrupted\n")


# --- Usage. --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train", "PARTY.toml is missing: see vfl train --help"),
        ("train a.toml", "JOB.toml is missing"),
        ("score a.toml --wat", "vfl score has no option --wat: did you mean --wait?"),
        ("align a.toml -z", "vfl align has no option -z: see vfl align --help"),
        ("align a.toml --wait -1", "--wait must be a number from 0 to 86400"),
        ("align a.toml --wait nan", "--wait must be a number from 0 to 86400"),
        ("align a.toml --wait soon", "--wait must be a number from 0 to 86400"),
        ("doctor a.toml --wait 1e9", "--wait must be a number from 0 to 3600"),
        ("align a.toml --join both", "--join must be inner or left"),
        ("ledger show x --since yesterday", "--since must be a day or a time (UTC), such as 2026-"),
        ("score a.toml --model", "--model needs a value"),
        ("score a.toml --model m --data", "--data needs a value"),
        (
            "score a.toml --model m --data d --out o.csv --top 3.5",
            "--top must be a whole number from 1 to",
        ),
        ("score a.toml --model m --data d --out o.csv --top 3", "--top goes with --explain"),
        ("score a.toml --data d --out o.csv", "--model is missing"),
        ("train a.toml b.toml --json=3", "--json takes no value"),
        ("doctor a b c", "2 arguments too many, from 'b' on: see vfl doctor --help"),
        ("alignments a b", "1 argument too many, from 'b' on"),
        ("trian", "'trian' is no command of vfl: did you mean train?"),
        ("nosuch", "'nosuch' is no command of vfl: there are align, alignments, "),
        ("ledger shwo x", "'shwo' is no command of vfl ledger: did you mean show?"),
        ("config schema foo", "KIND must be party, job or"),
        ("--vers", "vfl has no option --vers: did you mean --version?"),
        ("keys new a\x1b[2J --dir x", "cannot be a party's name"),
    ],
)
def test_what_is_wrong_with_a_command_is_one_line_in_our_words(line: str, said: str) -> None:
    done = CliRunner().invoke(main, line.split(" "))
    assert done.stdout == "" and done.stderr.startswith("error: ")
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1 and said in done.stderr and "\x1b" not in done.stderr
    assert "Usage" not in done.stderr and "Invalid value" not in done.stderr


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
        else:
            found.append((*path, name))
    return found


def test_help_fits_80_columns_and_cuts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for path in commands(main):
        done = CliRunner().invoke(main, [*path, "--help"])
        assert (done.exit_code, done.stderr) == (0, "")
        assert done.stdout.startswith(" ".join(["Usage: vfl", *path]))
        assert all(len(line) <= 80 for line in done.stdout.splitlines())
        assert not any(line.endswith("...") for line in done.stdout.splitlines()[1:]), path
        assert not re.search(
            r"\b(TEXT|INTEGER|FLOAT|RANGE)\b", re.sub("--(reason|purpose) TEXT", "", done.stdout)
        )


def test_every_command_that_has_a_result_has_json() -> None:
    def has_json(path: tuple[str, ...]) -> bool:
        command: Any = main
        for name in path:
            command = command.commands[name]
        return isinstance(command, click.Group) or any("--json" in p.opts for p in command.params)

    without = {path for path in commands(main) if not has_json(path)}
    scripts = ("completion",)
    refused = {(group, "rename") for group in ("models", "runs", "alignments")}
    services = {("serve",), ("relay",), ("online", "serve"), ("console",)}
    assert without == {("config", "schema"), scripts, *refused, *services}


LEFT_COMPUTING = """
import asyncio, atexit, threading, time
import click
from vfl.cli.running import run
from vfl.terminal.usage import CommandGroup

@click.group(cls=CommandGroup)
def group(): ...

@group.command()
def go():
    async def work():
        asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
        click.echo("done")
    run(work())

atexit.register(print, "the interpreter ends")
group(["go"])
"""


def test_a_command_ends_beside_a_thread_that_still_computes() -> None:
    """At once: one that comes back from compiled code while the interpreter ends makes it abort."""
    ended = subprocess.run([sys.executable, "-c", LEFT_COMPUTING], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


LEFT_WORKING = """
import multiprocessing, threading, time
from concurrent.futures import ProcessPoolExecutor

import click

from vfl.crypto.workers import _end_with
from vfl.terminal.usage import COMPUTING, CommandGroup

def end_with_it():
    parent = multiprocessing.parent_process()
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()

@click.group(cls=CommandGroup)
def group(): ...

@group.command()
def go():
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_it)
    pool.submit(int).result()
    pool.submit(time.sleep, 600)
    threading.Thread(target=threading.Event().wait, name=COMPUTING, daemon=True).start()
    pool.shutdown(wait=False, cancel_futures=True)

if __name__ == "__main__":
    group(["go"])
"""


def test_workers_that_are_left_are_no_leak_that_python_tells_of(tmp_path: Path) -> None:
    (tmp_path / "left.py").write_text(LEFT_WORKING)
    ended = subprocess.run([sys.executable, tmp_path / "left.py"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_step_that_waits_says_its_seconds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("vfl.terminal.progress.time.monotonic", lambda: clock.now)
    display, said = ProgressDisplay(), []
    monkeypatch.setattr(display, "say", said.append)
    for waited in (0, 31):
        clock.now = 1000.0 + waited
        display.progress("waiting for approval by host registry", waited, 3600)
    assert said == ["waiting for approval by host registry: 31 s of 3,600 s"]


def test_the_time_left_is_that_of_the_job_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the service did before, and where an interrupted job goes on."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("vfl.terminal.progress.time.monotonic", lambda: clock.now)
    display, said = ProgressDisplay(), []
    monkeypatch.setattr(display, "say", said.append)
    for now, done in ((1000.0, 1), (1039.0, 40), (4000.0, 21), (4040.0, 31)):
        clock.now = now
        display.progress("training", done, 40)
    assert said[-1] == "training: 31 of 40, about 35 s left"
    assert said[-2] == "training: 21 of 40"
