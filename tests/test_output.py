"""Files that commands write: where they may, what is never written over, what is there in the end."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from vfl.errors import DataError
from vfl.party import files, identity
from vfl.party.config import Party, load_party
from vfl.party.output import OutputPlace, TextForm, check_scores, columns_of, write_scores
from vfl.party.sections import DataSection
from vfl.party.store import Store
from vfl.party.table import read_table

FILE = """
[party]
name = "insurer"
role = "guest"
identity = "keys/insurer"

[data]
path = "table.csv"
id = "plate"
label = "claim"

[peers.registry]
certificate = "peers/registry.pem"
address = "127.0.0.1:7443"
"""


@contextmanager
def refused(*said: str) -> Iterator[None]:
    with pytest.raises(DataError) as raised:
        yield
    assert str(raised.value).count("\n") == 0
    for text in said:
        assert text in str(raised.value), raised.value


@pytest.fixture
def party(tmp_path: Path) -> Party:
    identity.create(tmp_path / "keys" / "insurer", "insurer")
    identity.create(tmp_path / "other" / "registry", "registry")
    (tmp_path / "peers").mkdir()
    shutil.copy(tmp_path / "other" / "registry.pem", tmp_path / "peers")
    (tmp_path / "insurer.toml").write_text(FILE)
    (tmp_path / "job.toml").write_text('[job]\nname = "claims"\n')
    for name in ("table.csv", "new.csv"):
        (tmp_path / name).write_text("plate,claim\nA,1\n")
    return load_party(tmp_path / "insurer.toml")


def target(party: Party, out: Path, force: bool = False, command: str = "score") -> OutputPlace:
    folder = party.party.store.parent
    return OutputPlace.of(
        out,
        command,
        party=party,
        reads={folder / "new.csv": "the table of rows to score"},
        is_former=lambda path: path.is_file() and path.read_bytes().startswith(b"former"),
        force=force,
    )


def write(party: Party, out: Path, content: bytes = b"scores", **options: Any) -> None:
    with target(party, out, **options).writing() as file:
        file.write(content)


def test_what_is_the_partys_own_is_never_written_over(party: Party, tmp_path: Path) -> None:
    write(party, tmp_path / "scores.csv")  # makes the store
    (tmp_path / "hard.csv").hardlink_to(tmp_path / "table.csv")
    (tmp_path / "link.csv").symlink_to(tmp_path / "keys" / "insurer.key")
    (tmp_path / "way").symlink_to(tmp_path / "vfl-store")
    (tmp_path / "copied.csv").write_text((tmp_path / "job.toml").read_text())
    (tmp_path / "old-key.csv").write_bytes((tmp_path / "keys" / "insurer.key").read_bytes())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name, said in {
        "new.csv": "it is the table of rows to score",
        "peers/../new.csv": "it is the table of rows to score",
        "table.csv": "it is the table of insurer",
        "hard.csv": "it is the table of insurer",
        "link.csv": "it is the private key of insurer",
        "keys/insurer.key": "it is the private key of insurer",
        "keys/insurer.pem": "it is the certificate of insurer",
        "peers/registry.pem": "it is the certificate of registry",
        "other/registry.pem": "it is a key or a certificate",
        "old-key.csv": "it is a key or a certificate",
        "insurer.toml": "it is a party file",
        "job.toml": "it is a job file",
        "copied.csv": "it is a job file",
        "vfl-store/scores.csv": "it lies in the store of insurer",
        "vfl-store/ledger/2026-11.jsonl": "it lies in the store of insurer",
        "way/models/x.csv": "it lies in the store of insurer",
    }.items():
        for force in (False, True):
            with refused(f"{tmp_path / name} cannot be written: ", said, "name another one"):
                write(party, tmp_path / name, force=force)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_symbolic_link_stays_and_its_target_is_written(party: Party, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.csv"
    link.symlink_to("there/real.csv")
    for content in (b"first", b"second"):
        write(party, link, content)
        assert link.is_symlink() and (tmp_path / "there" / "real.csv").read_bytes() == content
    circle = tmp_path / "circle.csv"
    circle.symlink_to("circle.csv")
    with refused("circle.csv cannot be written: "):
        write(party, circle)
    (tmp_path / "void.csv").symlink_to("/dev/null")
    with refused("it is no regular file"):
        write(party, tmp_path / "void.csv")


def test_only_former_outputs_of_the_same_command_are_replaced(party: Party, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    assert not target(party, out).check()
    for content in (b"monday's", b"tuesday's", b"wednesday's"):
        write(party, out, content)
        assert out.read_bytes() == content and target(party, out).check()
    shutil.copy(out, tmp_path / "copy")  # brought back by some tool, with another time
    out.unlink()
    shutil.copy(tmp_path / "copy", out)
    write(party, out, b"thursday's")

    out.write_bytes(b"thursday's, with notes")
    with refused("it has been changed since vfl score wrote it", "--force"):
        write(party, out)
    assert out.read_bytes() == b"thursday's, with notes"
    write(party, out, b"friday's", force=True)
    write(party, out, b"saturday's")

    with refused("it is there already and was not written by vfl ledger export", "--force"):
        write(party, out, command="ledger export")
    mine = tmp_path / "mine.csv"
    mine.write_bytes(b"mine")
    with refused("it is there already and was not written by vfl score", "--force"):
        write(party, mine)
    assert mine.read_bytes() == b"mine"
    # Of another store, or of a version that kept no digests: known by its form.
    mine.write_bytes(b"former scores")
    write(party, mine, b"new")
    assert mine.read_bytes() == b"new"


def test_a_kill_between_digest_and_output_leaves_a_known_file(
    party: Party, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scores.csv"
    write(party, out, b"old")

    class Killed(BaseException):
        pass

    real = Path.replace

    def killed(path: Path, to: Path) -> Path:
        if Path(to) == out:
            raise Killed
        return real(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            write(party, out, b"new")
    assert out.read_bytes() == b"old"
    write(party, out, b"new")
    assert out.read_bytes() == b"new"


def test_a_file_that_appears_meanwhile_stays(party: Party, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    checked = target(party, out)
    out.write_bytes(b"somebody's")
    with refused("was not written by vfl score"), checked.writing() as file:
        file.write(b"scores")
    assert out.read_bytes() == b"somebody's"


def test_a_store_that_cannot_be_written_keeps_no_digest(
    party: Party, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DataError("full")

    monkeypatch.setattr(Store, "write", full)
    write(party, tmp_path / "out.csv", b"former")
    write(party, tmp_path / "out.csv", b"former, again")
    assert (tmp_path / "out.csv").read_bytes() == b"former, again"


# --- Scores. ------------------------------------------------------------------------------------


def saved(path: Path, *parts: Any) -> dict[str, int]:
    with files.replacing(path) as file:
        return write_scores(file, path.suffix, parts)


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_scores_part_by_part(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rows: dict[str, Any] = {"id": ["007", None, "a,b"], "score": np.array([0.1, 1e-17, np.nan])}
    parts = [slice(0, 1), slice(1, 2), slice(2, 3)]  # one without any id
    saved(path, *({name: values[part] for name, values in rows.items()} for part in parts))
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert path.stat().st_mode & 0o777 == 0o600
    assert columns_of(path, path.suffix) == ["id", "score"]
    if name == "scores.csv":
        assert path.read_text() == '"id","score"\n"007",0.1\n,1e-17\n"a,b",\n'
    else:
        assert pq.read_table(path).to_pydict() == {
            "id": ["007", None, "a,b"],
            "score": [0.1, 1e-17, None],
        }


def test_scores_are_written_as_the_party_writes_its_own_table(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    part: dict[str, Any] = {
        "id": ["1;2", None],
        "score": np.array([0.1, 1e-17]),
        "of": np.array([-2.0, np.nan]),
    }
    data = DataSection(path=path, id=("plate",), decimal=",")
    with files.replacing(path) as file:
        write_scores(file, ".csv", [part], TextForm.of(data))
    assert path.read_text() == '"id";"score";"of"\n"1;2";"0,1";"-2"\n;"1e-17";\n'
    assert columns_of(path, ".csv", ";") == [*part]
    read = pd.read_csv(path, sep=";", decimal=",", dtype={"id": str})
    assert read["score"].tolist() == [0.1, 1e-17] and read["of"].isna().tolist() == [False, True]
    assert TextForm.of(DataSection(path=path, id=("plate",))) == (",", ".")
    assert TextForm.of(DataSection(path=path, id=("plate",), separator="\t")) == ("\t", ".")


def test_ids_and_reasons_that_a_spreadsheet_would_compute(tmp_path: Path) -> None:
    part = {
        "=id": ["=1+1", "-12", "+49 170 1", "@x"],
        "score": np.array([-1.5, 2, 3, 4]),
        "contribution:=x": np.array([-0.5, 0, 0, 0]),
        "reasons": ["-x -57 % odds; =y -2 % odds", "a -5 % odds", "", "b"],
    }
    assert saved(tmp_path / "s.csv", part) == {"=id": 2, "reasons": 1}
    assert (tmp_path / "s.csv").read_text().splitlines() == [
        '"\'=id","score","contribution:=x","reasons"',
        '"\'=1+1",-1.5,-0.5,"\'-x -57 % odds;\' =y -2 % odds"',
        '"-12",2,0,"a -5 % odds"',
        '"+49 170 1",3,0,""',
        '"\'@x",4,0,"b"',
    ]
    assert saved(tmp_path / "s.parquet", part) == {}
    assert pq.read_table(tmp_path / "s.parquet").to_pydict()["=id"] == part["=id"]


@pytest.mark.parametrize("content", ["", "a,b", '"a"\n', "\0\1", "a,a\n"])
def test_columns_of_any_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "x").write_text(content)
    for kind in (".csv", ".parquet"):
        assert isinstance(columns_of(tmp_path / "x", kind), list)
    assert columns_of(tmp_path / "none", ".csv") == columns_of(tmp_path, ".parquet") == []


def test_scores_that_cannot_be_written(party: Party, tmp_path: Path) -> None:
    (tmp_path / "d.csv").mkdir()
    (tmp_path / "file").write_text("")

    def check(path: Path) -> None:
        check_scores(path)
        target(party, path)

    for path, said in [
        (tmp_path / "scores.xlsx", "scores.xlsx cannot be written: its name must end in .csv or"),
        (tmp_path / "x" / "scores.csv", "there is no folder"),
        (tmp_path / "file" / "scores.csv", "there is no folder"),
        (tmp_path / "d.csv", "d.csv cannot be written: it is a folder"),
    ]:
        with refused(said):
            check(path)


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
def test_names_of_files_that_are_no_unicode(party: Party, tmp_path: Path, kind: str) -> None:
    """A name of bytes: the file is written, known again, and read as a table."""
    path = tmp_path / os.fsdecode(b"s\xff\xfc" + kind.encode())
    part = {"plate": ["A", "B"], "score": np.array([0.5, 1.0])}
    for _ in range(2):
        with target(party, path).writing() as file:
            write_scores(file, kind, [part])
    with refused(" cannot be written: it is there already and was not written by vfl report"):
        target(party, path, command="report")
    section = DataSection(path=path, id=("plate",))
    assert read_table(section, role="host", need_label=False).ids == [["A", "B"]]


def test_a_file_name_that_the_locale_cannot_write(party: Party, tmp_path: Path) -> None:
    (tmp_path / "table.csv").rename(tmp_path / "täble.csv")
    text = (tmp_path / "insurer.toml").read_text()
    (tmp_path / "insurer.toml").write_text(text.replace("table.csv", "täble.csv"), encoding="utf-8")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "vfl.cli", "align", "--dry-run", str(tmp_path / "insurer.toml")],
        env={**os.environ, **locale},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "ble.csv: 1 row\n" in done.stdout and done.stdout.isascii()


def test_a_full_disk_leaves_nothing_half_written(
    party: Party, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scores.csv"
    there = set(tmp_path.iterdir())

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    checked = target(party, path)

    def finish() -> None:
        with checked.writing() as file:
            file.write(b"scores")

    monkeypatch.setattr(os, "fsync", full)
    tries: list[Callable[[], object]] = [lambda: target(party, path), finish]
    for attempt in tries:
        with refused(f"{path} cannot be written: No space left on device"):
            attempt()
    assert set(tmp_path.iterdir()) - there <= {tmp_path / "vfl-store"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(party: Party, tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(0o500)
    with refused("cannot be written: Permission denied"):
        target(party, tmp_path / "shut" / "scores.csv")
