"""Notebooks of the scenarios, run and looked at."""

import contextlib
import html
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO
from unittest import mock

import nbformat
import prepared
from commands import command, environment
from nbclient import NotebookClient
from paillier_key import one_key

from vfl import local
from vfl.jobs.reveals import message_types, reveals


def smaller_notebook(path: Path, smaller: Mapping[str, str]) -> nbformat.NotebookNode:
    """A notebook with texts in its cells of code replaced by others."""
    notebook = nbformat.read(path, as_version=4)
    for text, other in smaller.items():
        (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and text in cell.source)
        cell.source = cell.source.replace(text, other)
    return notebook


def run_notebook(path: Path, smaller: Mapping[str, str]) -> nbformat.NotebookNode:
    """Run a notebook in its folder, in a kernel of its own."""
    notebook = smaller_notebook(path, smaller)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": path.parent}}).execute()
    return notebook


def run_here(path: Path, smaller: Mapping[str, str]) -> str:
    """What a notebook prints that this process runs, in its folder.

    Its hosts are forked, its other commands run here: a kernel and processes would take twice as long.
    """
    import matplotlib as mpl
    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    shell, before = InteractiveShell(), {*sys.modules}
    with (
        one_key(),
        contextlib.chdir(path.parent),
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "path", [*sys.path]),
        mock.patch.object(local, "subprocess", SimpleNamespace(Popen=_serve)),
        mock.patch.object(local, "run", _run),
        pd.option_context("display.width", 80),
        mpl.rc_context({"backend": "agg"}),
        capture_output() as shown,
    ):
        for cell in smaller_notebook(path, smaller).cells:
            if cell.cell_type == "code":
                shell.run_cell(cell.source).raise_error()
    for name in {"demo", *sys.modules} - before:
        if str(path.parent) in str(getattr(sys.modules.get(name), "__file__", "")):
            del sys.modules[name]
    return str(shown.stdout)


def _serve(words: Sequence[str], *, cwd: Path, stderr: TextIO, **_: object) -> subprocess.Popen[bytes]:
    return prepared.start(words[3:], cwd, environment(), stderr, stderr)


def _run(folder: Path, *words: str | Path) -> dict[str, Any]:
    return command(*map(str, words), "--json", folder=folder).ok().json


def printed(notebook: nbformat.NotebookNode) -> str:
    """All text that the cells have printed."""
    found = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    return "".join(output.get("text", "") for output in found)


def check_kept_outputs(path: Path, pictures: int) -> None:
    """Readable without running: every cell of code has run, in order, and none failed."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds
    drawn = sum("image/png" in o.get("data", {}) for cell in cells for o in cell.outputs)
    assert drawn == pictures
    assert path.stat().st_size < 1_000_000
    assert str(Path.home()) not in path.read_text()


def kept_tables(path: Path) -> list[str]:
    """The tables among a notebook's kept outputs, as HTML."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = [output.get("data", {}).get("text/html") for cell in cells for output in cell.outputs]
    return [html.unescape(table) for table in found if table]


def told_of(path: Path) -> set[str]:
    """The messages in the kept tables of what each reveals, in the words of this version."""
    known, found = message_types(), set()
    for table in kept_tables(path):
        if "<th>reveals</th>" in table:
            kinds = [kind for kind in known if f"<td>{kind}</td>" in table]
            for kind in kinds:
                assert f"<td>{reveals(known[kind])}</td>" in table, kind
            found.update(kinds)
    return found
