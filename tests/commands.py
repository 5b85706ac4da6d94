"""Commands in this process, which end as a process would: with an exit code, stdout and stderr."""

import contextlib
import io
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from vfl.cli import main


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.out))

    def ok(self) -> "Done":
        assert self.code == 0, self.err
        assert self.errors == []
        return self

    def failed(self, code: int, *said: str) -> str:
        """The one line of the error, which must say these things; nothing on stdout."""
        assert self.code == code, (self.code, self.err)
        assert len(self.errors) == 1, self.err
        (line,) = self.errors
        assert self.err.splitlines()[-1] == line
        for text in said:
            assert text in line, line
        assert self.out == ""
        return line


def environment() -> dict[str, str]:
    """No proxy of the machine's, and no colours or widths of somebody's terminal."""
    dropped = ("proxy", "PROXY", "COLUMNS", "FORCE_COLOR")
    return {k: v for k, v in os.environ.items() if not k.endswith(dropped)} | {"TERM": "dumb"}


def command(*arguments: str, folder: Path | None = None) -> Done:
    """`vfl` with these arguments, in a folder. What a process would show as a traceback is raised."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    began, code = time.monotonic(), 0
    with (
        contextlib.chdir(folder or Path.cwd()),
        mock.patch.dict(os.environ, environment(), clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main.main([*arguments], prog_name="vfl")
        except SystemExit as ending:
            assert ending.code is None or isinstance(ending.code, int)
            code = ending.code or 0
    said = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return Done(code, *said, time.monotonic() - began)
