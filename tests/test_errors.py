"""What each failure prints, at the party at fault and at the others, with real processes.

Everywhere: one line that starts with `error: ` at the party at fault, naming what and what to do; one
line at each other party that took part; soon; a documented exit code; no traceback; no id, key or value
(`Running.check` looks for those). A host that serves goes on to its next job.
"""

import contextlib
import json
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from federation import (
    JOB,
    WAIT,
    Federation,
    Party,
    Running,
    Table,
    ended,
    free_port,
    kill,
    replaced,
    word,
    write_table,
)

from vfl.errors import DataError, PeerStopped, Refused, VflError, fault
from vfl.jobs.alignments import load_alignment, save_alignment
from vfl.net.hello import PROTOCOL
from vfl.party.store import Store

PLANTED = "PLANTEDSECRET"  # what a test puts into a cell; no process may print it
LONG = {**JOB, "secureboost": {**JOB["secureboost"], "trees": 500}}


def job(**parameters: object) -> dict[str, dict[str, object]]:
    return {**JOB, "secureboost": {**JOB["secureboost"], **parameters}}


def changed(table: Table, **columns: list[str]) -> Table:
    return {**table, **columns}


def with_cell(table: Table, column: str, row: int, cell: str) -> Table:
    cells = list(table[column])
    cells[row] = cell
    return changed(table, **{column: cells})


def renamed(table: Table, old: str, new: str) -> Table:
    return {new if name == old else name: cells for name, cells in table.items()}


def doubled(table: Table, column: str) -> Table:
    return with_cell(table, column, 3, table[column][1])


@pytest.fixture(autouse=True)
def nothing_planted_is_printed(tmp_path: Path) -> Iterator[None]:
    yield
    for path in (*tmp_path.rglob("*.out"), *tmp_path.rglob("*.err")):
        assert PLANTED not in path.read_text()


# --- The error is in the guest's own files: no other party is asked. ----------------------------

Spoil = Callable[[Party, Table], None]


def spoilt(change: Callable[[Table], Table]) -> Spoil:
    return lambda insurer, table: write_table(insurer.table, change(table))


def setting(section: str, key: str, value: object) -> Spoil:
    def set_it(insurer: Party, table: Table) -> None:
        insurer.settings[section][key] = value

    return set_it


def pin(name: str) -> Spoil:
    def set_it(insurer: Party, table: Table) -> None:
        insurer.settings["peers"]["registry"]["certificate"] = f"peers/{name}.pem"

    return set_it


OWN_FAULTS: dict[str, tuple[Spoil, int, list[str]]] = {
    "wrong path": (
        setting("data", "path", "tabel.csv"),
        3,
        ["no file ", "tabel.csv: did you mean table.csv?"],
    ),
    "no label column": (
        spoilt(lambda t: renamed(t, "claim", "claims")),
        3,
        ["table.csv: no column 'claim' (named by label): did you mean 'claims'?"],
    ),
    "misspelt column": (
        setting("data", "categorical", ["aera"]),
        3,
        ["table.csv: no column 'aera' (named by categorical): did you mean 'area'?"],
    ),
    "label not 0 or 1": (
        spoilt(lambda t: changed(t, claim=[{"0": "1", "1": "2"}[c] for c in t["claim"]])),
        3,
        ["table.csv: label 'claim' must be 0 or 1 but is something else in row"],
    ),
    "three label values": (
        spoilt(lambda t: with_cell(t, "claim", 9, "3")),
        3,
        ["label 'claim' must be 0 or 1 but is something else in row 11: correct it"],
    ),
    "missing label": (
        spoilt(lambda t: with_cell(with_cell(t, "claim", 4, ""), "claim", 5, "NaN")),
        3,
        ["table.csv: label 'claim' is missing in 2 rows (rows 6, 7)"],
    ),
    "one class": (
        spoilt(lambda t: changed(t, claim=["1"] * len(t["claim"]))),
        3,
        ["label 'claim' has only one class"],
    ),
    "duplicate ids": (
        spoilt(lambda t: doubled(t, "plate")),
        3,
        ["table.csv: 1 row repeats the id of an earlier row (row 5)", 'say duplicates = "first"'],
    ),
    "empty ids": (
        spoilt(lambda t: with_cell(with_cell(t, "plate", 0, ""), "plate", 7, " - ")),
        3,
        ["table.csv: 2 rows have no id once normalised (rows 2, 9)", "remove the rows"],
    ),
    "text in a numeric column": (
        spoilt(lambda t: with_cell(t, "density", 2, PLANTED)),
        3,
        [
            "table.csv: column 'density' has text that is no number in row 4",
            "correct it, or leave the cell empty where the value is missing",
        ],
    ),
    "a column without values": (
        spoilt(lambda t: changed(t, density=[""] * len(t["plate"]))),
        3,
        ["table.csv: column 'density' has no value in any row: ignore it in [data]"],
    ),
    "table changed after alignment": (
        spoilt(lambda t: {name: cells[50:] for name, cells in t.items()}),
        5,
        ["of the rows of alignment", "no more, or in another number: run `vfl align --extend"],
    ),
    "unknown key in the party file": (
        setting("data", "normalize", ["trim"]),
        2,
        ["insurer.toml: unknown key 'normalize' in [data]: did you mean 'normalise'?"],
    ),
    "keys that are not there": (
        setting("party", "identity", "keys/nobody"),
        4,
        ["nobody.pem does not exist: `vfl keys new` makes an identity"],
    ),
    "own certificate pinned as the peer's": (
        pin("insurer"),
        4,
        ["insurer.pem is this party's own certificate: put registry's there"],
    ),
    "a third party's certificate pinned as the peer's": (
        pin("bureau"),
        4,
        ["bureau.pem is the certificate of bureau: pin registry's under [peers.registry]"],
    ),
    "another certificate of the peer's since alignment": (
        pin("new-registry"),
        5,
        ["was made with another certificate of registry: align again"],
    ),
    "a peer's certificate that is not there": (
        pin("nobody"),
        4,
        ["peers/nobody.pem does not exist"],
    ),
}


@pytest.mark.parametrize("case", OWN_FAULTS)
def test_an_error_in_the_guests_own_files(federation: Federation, insurer: Party, case: str) -> None:
    marks = {name: host.mark() for name, host in federation.serving.items()}
    spoil, code, said = OWN_FAULTS[case]
    spoil(insurer, federation.tables["insurer"])
    insurer.train().failed(code, *said)
    for name, host in federation.serving.items():
        assert host.mark() == marks[name]  # nobody else was troubled


def test_a_wrong_job_file(insurer: Party) -> None:
    insurer.train(job(tres=3)).failed(
        2, "job.toml: unknown key 'tres' in [secureboost]: did you mean 'trees'?"
    )
    insurer.run("train", "jobb.toml").failed(2, "no job file jobb.toml: did you mean job.toml?")
    insurer.run("train", "insurer.toml").failed(
        2, "insurer.toml is a party file, where a job file is due"
    )


def test_a_wrong_party_file(insurer: Party) -> None:
    insurer.run("doctor")
    Running(insurer, ["align", "insurr.toml"]).wait().failed(
        2, "no party file insurr.toml: did you mean insurer.toml?"
    )


def test_a_certificate_of_another_party_under_this_name(insurer: Party, keys: Path) -> None:
    insurer.settings["party"]["identity"] = str(keys / "stranger" / "stranger")
    insurer.train().failed(
        4, "is the certificate of stranger, but the party file is insurer's: check identity in [party]"
    )


def test_a_key_that_others_can_read(insurer: Party) -> None:
    key = insurer.folder / "keys" / "insurer.key"
    key.chmod(0o644)
    insurer.align().failed(4, "others can read the private key", "run chmod 600")


def test_no_alignment_yet(insurer: Party) -> None:
    for path in (insurer.store / "alignments").iterdir():
        path.unlink()
    insurer.train().failed(5, "there is no alignment yet: run `vfl align` first")


def test_too_few_rows_of_a_class(federation: Federation, insurer: Party) -> None:
    table = federation.tables["insurer"]
    write_table(insurer.table, changed(table, claim=["1", *["0"] * (len(table["claim"]) - 1)]))
    insurer.train().failed(3, "table.csv: in the", "aligned rows to", "the label has only one class")


def test_commands_of_the_other_role(federation: Federation, insurer: Party) -> None:
    said = "is the party file of a guest, the command takes a host's"
    insurer.run("serve").failed(2, "insurer.toml", said)
    settings = federation.parties["registry"].settings
    host = Party("registry", insurer.folder, json.loads(json.dumps(settings)))
    host.run("align").failed(2, "registry.toml is the party file of a host, the command takes a guest's")


def test_models_that_cannot_be_used(federation: Federation, insurer: Party) -> None:
    (model,) = (insurer.store / "models").glob("*.json")
    insurer.score(model="clams").failed(5, "no model clams in ", f"there are {model.stem}")

    whole = json.loads(model.read_text())
    model.write_text(json.dumps({**whole, "body": {**whole["body"], "columns": []}}))
    insurer.score().failed(5, f"{model.name} is damaged: its content does not match its digest")
    model.write_text(model.read_text()[:100])
    insurer.score().failed(5, f"{model.name} is damaged: it is no valid JSON")
    model.write_text(json.dumps({**whole, "version": 2}))
    insurer.score().failed(5, f"{model.name} was written by a newer vfl: update vfl to read it")
    theirs = federation.parties["registry"].store / "models" / model.name
    model.write_text(theirs.read_text())
    insurer.score().failed(5, "it may be the other party's half, or of another version")

    model.write_text(json.dumps(whole))
    insurer.settings["peers"]["registry"]["certificate"] = "peers/new-registry.pem"
    insurer.score().failed(5, "was trained with another registry (its certificate differs")
    del insurer.settings["peers"]["registry"]
    insurer.score().failed(5, "was trained with another registry")


def test_outputs_that_cannot_be_written(insurer: Party) -> None:
    insurer.score(out="none/s.csv").failed(3, "none/s.csv cannot be written: there is no folder none")
    insurer.score(out="s.txt").failed(
        3, "s.txt cannot be written: its name must end in .csv or .parquet"
    )
    insurer.score(data="nwe.csv").failed(3, "no file nwe.csv: did you mean new.csv?")


# --- A host that cannot start. --------------------------------------------------------------------


def test_a_host_that_cannot_start(federation: Federation, tmp_path: Path, keys: Path) -> None:
    made = Federation(tmp_path, keys, hosts=("registry",), tables=federation.tables)
    with ended(made):
        registry, table = made.parties["registry"], made.tables["registry"]
        taken = federation.guest.settings["peers"]["registry"]["address"]
        registry.settings["party"]["listen"] = taken
        registry.run("serve").failed(2, f"cannot listen on {taken}: address already in use")
        registry.settings["party"]["listen"] = "127.0.0.1:0"
        for change, said in [
            (
                with_cell(table, "power", 5, PLANTED),
                "column 'power' has text that is no number in row 7",
            ),
            (doubled(table, "registration"), "1 row repeats the id of an earlier row (row 5)"),
            (renamed(table, "brand", "brnad"), "no column 'brand' (named by categorical): did you mean"),
        ]:
            write_table(registry.table, change)
            registry.run("serve").failed(3, f"table.csv: {said}")


# --- No session comes about. ----------------------------------------------------------------------


def test_a_host_whose_certificate_is_not_pinned(tmp_path: Path, keys: Path) -> None:
    """A host of its own: one that was dialled in vain before may say so together, in minutes."""
    made = Federation(tmp_path, keys, hosts=("registry",))
    made.guest.settings["peers"]["registry"]["certificate"] = "peers/new-registry.pem"
    with ended(made.serve()):
        made.guest.align().failed(
            4, "shows another certificate", "than the one pinned for registry", "of [peers.registry]"
        )
        said = "refused a connection from 127.0.0.1: it does not pin this party's certificate"
        assert made.serving["registry"].until("refused")[-1].startswith(said)


def test_a_guest_whose_certificate_is_not_pinned(tmp_path: Path, keys: Path) -> None:
    made = Federation(tmp_path, keys, hosts=("registry",))
    made.parties["registry"].settings["peers"]["insurer"]["certificate"] = "peers/new-insurer.pem"
    with ended(made.serve()):
        made.guest.align().failed(
            4, "registry refused this party's certificate", "insurer.pem to registry, where it must be"
        )
        said = "refused a connection from 127.0.0.1: its certificate is not pinned here"
        assert made.serving["registry"].until("refused")[-1] == said


def test_parties_that_cannot_be_reached(federation: Federation, insurer: Party) -> None:
    bureau = federation.serving["bureau"]
    mark = bureau.mark()
    address = f"127.0.0.1:{free_port()}"
    insurer.settings["peers"]["registry"]["address"] = address
    insurer.run("align", "--wait", "1").failed(
        7, f"cannot reach registry at {address} within 1 s: connection refused"
    )
    bureau.until("job ended", mark)
    assert bureau.endings(mark) == [
        "job ended: insurer stopped the job: another party cannot be reached"
    ]
    insurer.settings["peers"]["registry"]["address"] = "no-such-host.invalid:7443"
    insurer.run("align", "--wait", "0").failed(
        7, "cannot reach registry at no-such-host.invalid:7443: the name cannot be resolved"
    )


def test_a_host_that_never_dials_in(tmp_path: Path, keys: Path) -> None:
    made = Federation(tmp_path, keys, guest_listens=True)
    registry = made.parties["registry"]
    registry.settings["peers"]["insurer"]["certificate"] = "peers/new-insurer.pem"
    with ended(made):
        made.guest.run("align", "--wait", "0.2").failed(
            7, "no connection from registry and bureau within 0 s: is `vfl serve` running there"
        )
        # One host is there, the other pins a wrong certificate: each says what it knows, once.
        made.serve()
        done = made.guest.run("align", "--wait", "2")
        done.failed(7, "no connection from registry within 2 s")
        refused = "refused a connection from 127.0.0.1: it does not pin this party's certificate"
        assert done.err.count(refused) == 1
        meanwhile = "from 127.0.0.1 was refused meanwhile: it does not pin this party's certificate"
        assert f"{meanwhile}; if it was registry, this party's certificate has to be put" in done.err
        looked = made.guest.run("doctor", "--wait", "2")
        assert looked.code == 1 and f"{meanwhile}; if it was registry" in looked.out
        lines = made.serving["registry"].until("error: ")
        assert sum("shows another certificate" in line for line in lines) == 1
        assert made.serving["bureau"].until("job ended")[-1] == (
            "job ended: insurer stopped the job: registry cannot be reached"
        )


def test_a_host_told_of_a_name_that_does_not_resolve(tmp_path: Path, keys: Path) -> None:
    made = Federation(tmp_path, keys, guest_listens=True, hosts=("registry",))
    made.parties["registry"].settings["peers"]["insurer"]["address"] = "no-such-host.invalid:7443"
    with ended(made.serve()):
        assert made.serving["registry"].until("waiting")[-1] == (
            "waiting for insurer at no-such-host.invalid:7443: the name cannot be resolved"
        )


def test_another_version_of_the_protocol(federation: Federation, insurer: Party) -> None:
    host = federation.serving["registry"]
    mark = host.mark()
    del insurer.settings["peers"]["bureau"]  # whose word may come before the registry has any
    newer = f"import vfl.net.hello as h, vfl.cli; h.PROTOCOL = {PROTOCOL + 1}; vfl.cli.main()"
    done = insurer.start("align", "--wait", "2", program=(sys.executable, "-c", newer)).wait()
    done.failed(
        10,
        f" runs protocol {PROTOCOL} (vfl ",
        f"this party protocol {PROTOCOL + 1} (vfl ",
        "update the older one",
    )
    # A connection that a test before has cut may be told of as well.
    (line,) = [line for line in host.until("update the older one", mark) if "runs protocol" in line]
    assert re.fullmatch(
        rf"refused a connection from 127\.0\.0\.1: insurer runs protocol {PROTOCOL + 1} .*: update the "
        "older one",
        line,
    )


# --- A job fails. ---------------------------------------------------------------------------------


@pytest.fixture
def at_registry(federation: Federation, insurer: Party) -> Iterator[Callable[[], str]]:
    """The line with which the registry's job ended; afterwards it must serve the next job."""
    host = federation.serving["registry"]
    mark = host.mark()

    def ending() -> str:
        text = re.compile(r"^(?:error|job ended): .*$", re.MULTILINE)
        lines = host.until(": ", mark)
        while not text.findall("\n".join(lines)):
            lines = host.until(": ", mark + sum(len(line) + 1 for line in lines))
        found = text.findall(host.err[mark:])
        assert len(found) == 1
        return str(found[0])

    yield ending
    insurer.settings["peers"] = {"registry": insurer.settings["peers"]["registry"]}
    write_table(insurer.table, federation.tables["insurer"])
    insurer.align().ok()


def test_ids_that_nobody_shares(
    federation: Federation, insurer: Party, at_registry: Callable[[], str]
) -> None:
    rng = random.Random(1)
    table = federation.tables["insurer"]
    write_table(insurer.table, changed(table, plate=[word(rng) for _ in table["plate"]]))
    insurer.align().failed(3, "no id is common to all parties: check that normalise in [data]")
    assert at_registry() == "job ended: insurer stopped the job: no id is common to all parties"


def test_an_intersection_below_the_hosts_minimum(
    federation: Federation, insurer: Party, at_registry: Callable[[], str]
) -> None:
    table = federation.tables["insurer"]
    write_table(insurer.table, {name: cells[:40] for name, cells in table.items()})
    insurer.align().failed(
        9, "stopped the job: an alignment of", "rows breaks rule min_intersection = 50 of [policy]"
    )
    assert "breaks rule min_intersection = 50" in at_registry() or "stopped it" in at_registry()


def test_rules_for_ids_that_differ(insurer: Party, at_registry: Callable[[], str]) -> None:
    insurer.settings["data"]["normalise"] = ["trim", "alnum", "upper"]
    insurer.settings["peers"].pop("bureau")
    said = "set normalise in [data] alike on both sides"
    insurer.align().failed(9, "registry stopped the job: registry normalises ids by", said)
    assert said in at_registry()
    insurer.settings["data"].pop("normalise")


HOST_FAULTS: dict[str, tuple[Callable[[Table], Table], str]] = {
    "text in a numeric column": (
        lambda t: with_cell(t, "power", 2, PLANTED),
        "error: table.csv: column 'power' has text that is no number in row 4: correct it, or ",
    ),
    "no such column": (
        lambda t: renamed(t, "registration", "plates"),
        "error: table.csv: no column 'registration' (named by id)",
    ),
    "duplicate ids": (
        lambda t: doubled(t, "registration"),
        "error: table.csv: 1 row repeats the id of an earlier row (row 5)",
    ),
}


@pytest.mark.parametrize("case", HOST_FAULTS)
def test_a_host_whose_table_was_replaced_by_a_broken_one(
    federation: Federation, insurer: Party, at_registry: Callable[[], str], case: str
) -> None:
    bureau = federation.serving["bureau"]
    mark = bureau.mark()
    change, said = HOST_FAULTS[case]
    with replaced(federation.parties["registry"], change(federation.tables["registry"])):
        line = insurer.align().failed(9)
    assert line == (
        "error: registry stopped the job: a problem in its own table (its log has the details)"
    )
    assert at_registry().startswith(said)
    assert bureau.until("job ended", mark)[-1] == (
        "job ended: insurer stopped the job: registry stopped it"
    )


def test_a_host_whose_table_changed_after_alignment(
    federation: Federation, insurer: Party, at_registry: Callable[[], str]
) -> None:
    table = federation.tables["registry"]
    with replaced(federation.parties["registry"], {name: cells[50:] for name, cells in table.items()}):
        insurer.train().failed(
            9, "registry stopped the job: its table changed since alignment", "run `vfl align --extend`"
        )
    assert at_registry().startswith("error: table.csv has ")


@contextlib.contextmanager
def moved(path: Path) -> Iterator[None]:
    away = path.with_name(path.name + ".away")
    path.rename(away)
    try:
        yield
    finally:
        if path.exists():
            path.unlink()
        away.rename(path)


def test_a_host_without_the_alignment(
    federation: Federation, insurer: Party, at_registry: Callable[[], str]
) -> None:
    (name,) = [path.stem for path in (insurer.store / "alignments").glob("*.json")]
    with moved(federation.parties["registry"].store / "alignments" / f"{name}.json"):
        insurer.train().failed(
            9, f"registry stopped the job: it has no alignment {name}: run `vfl align` again"
        )
    assert at_registry() == f"error: there is no alignment {name} here"


def test_a_host_with_another_number_of_aligned_rows(
    federation: Federation, insurer: Party, at_registry: Callable[[], str]
) -> None:
    store = Store(federation.parties["registry"].store)
    (name,) = [path.stem for path in (insurer.store / "alignments").glob("*.json")]
    whole = load_alignment(store, name)
    save_alignment(store, type(whole)(**{**vars(whole), "rows": whole.rows[:-1]}))
    try:
        insurer.train().failed(10, "registry has", "rows in alignment", "align again")
    finally:
        save_alignment(store, whole)
    assert at_registry() == "job ended: insurer stopped the job: the parties hold different alignments"


def test_a_host_that_lost_or_damaged_its_half(
    federation: Federation, insurer: Party, at_registry: Callable[[], str]
) -> None:
    (model,) = (insurer.store / "models").glob("*.json")
    half = federation.parties["registry"].store / "models" / model.name
    with moved(half):
        half.write_text(half.with_name(half.name + ".away").read_text()[:-40])
        insurer.score().failed(
            9, "registry stopped the job: it does not hold what this job needs (its log has the details)"
        )
    assert at_registry().startswith("error: ")
    assert at_registry().endswith(f"{model.name} is damaged: it is no valid JSON")


def test_a_job_that_a_hosts_policy_refuses(tmp_path: Path, keys: Path) -> None:
    made = Federation(tmp_path, keys, hosts=("registry",))
    made.parties["registry"].settings["policy"] |= {"min_child_rows": 15, "key_bits": 3072}
    with ended(made.serve()):
        host = made.serving["registry"]
        made.guest.align().ok()
        remedy = "raise it in the job, or the host lowers the rule"
        key = f"key_bits = 2048 breaks rule key_bits = 3072 of [policy]: {remedy}"
        rows = f"min_child_rows = 14 breaks rule min_child_rows = 15 of [policy]: {remedy}"
        for parameters, rule in [
            ({"min_child_rows": 14}, f"{rows}; {key}"),
            ({"min_child_rows": 15}, key),
        ]:
            mark = host.mark()
            made.guest.train(job(**parameters)).failed(9, f"registry stopped the job: {rule}")
            host.until("job ended", mark)
            assert host.endings(mark) == [f"job ended: {rule}"]
        made.guest.align().ok()


# A file may not grow past this many bytes: as on a full disk, for one process alone.
FULL_FOR_ALL = """
import resource, vfl.cli, vfl.jobs.training, vfl.jobs.host
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
vfl.cli.main()
"""
# Full for arrays alone: the ledger, which is written before, has room.
FULL_DISK = """
import resource, vfl.cli, vfl.jobs.training, vfl.jobs.host
from vfl.party.store import Store

endless, write = resource.RLIM_INFINITY, Store.write_array

def limited(*arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2500, endless))
    try:
        return write(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (endless, endless))

Store.write_array = limited
vfl.cli.main()
"""


def test_a_ledger_without_room(insurer: Party, federation: Federation) -> None:
    """Nothing is said that cannot be written down."""
    marks = {name: host.mark() for name, host in federation.serving.items()}
    shutil.rmtree(insurer.store / "ledger")
    done = insurer.start("align", *WAIT, program=FULL_FOR_ALL).wait()
    done.failed(3, "the ledger ", "vfl-store/ledger cannot be written: File too large")
    assert all("asks to" not in host.err[marks[name] :] for name, host in federation.serving.items())


def test_a_full_disk_at_the_guest(insurer: Party, at_registry: Callable[[], str]) -> None:
    done = insurer.start("align", *WAIT, program=FULL_DISK).wait()
    done.failed(3, "vfl-store/alignments/", "cannot be written: File too large")
    assert not list((insurer.store / "alignments").glob(".*"))


def test_a_full_disk_at_a_host(tmp_path: Path, keys: Path) -> None:
    made = Federation(tmp_path, keys, hosts=("registry",))
    registry = made.parties["registry"]
    registry.settings["party"]["listen"] = f"127.0.0.1:{free_port()}"
    made.guest.settings["peers"]["registry"]["address"] = registry.settings["party"]["listen"]
    with ended(made):
        host = registry.start("serve", program=FULL_DISK)
        host.until("listening")
        made.guest.align().failed(
            9, "registry stopped the job: it could not write a file of its own (its log has the details)"
        )
        assert "cannot be written: File too large" in host.until("error: ")[-1]
        (made.guest.store / "alignments").exists() and pytest.fail("the guest kept an alignment")
        # It serves on: a job that fits is done.
        table = made.tables["registry"]
        write_table(registry.table, {name: cells[:120] for name, cells in table.items()})
        made.guest.align().ok()


# --- A party dies. --------------------------------------------------------------------------------


def test_a_guest_that_dies_while_it_trains(
    federation: Federation, insurer: Party, at_registry: Callable[[], str]
) -> None:
    host = federation.serving["registry"]
    mark = host.mark()
    running = insurer.start_train(LONG)
    host.until("asks to train", mark)
    kill(running)
    assert re.fullmatch(
        r"job ended: (the connection to insurer broke .*|insurer is gone)", at_registry()
    )


@pytest.mark.parametrize("computing", [False, True])
def test_a_host_that_dies_while_the_guest_trains(tmp_path: Path, keys: Path, computing: bool) -> None:
    """With `computing` the guest is busy meanwhile, and learns of it when that is done."""
    slow = (
        "import asyncio, sys, time, vfl.cli, vfl.models.trees as guest\n"
        "train = guest.guest_train\n"
        "async def busy(*args, **named):\n"
        "    print('computing', file=sys.stderr, flush=True)\n"
        "    await asyncio.to_thread(time.sleep, 2)\n"
        "    return await train(*args, **named)\n"
        "guest.guest_train = busy\n"
        "vfl.cli.main()\n"
    )
    with ended(Federation(tmp_path, keys).serve()) as made:
        guest, registry, bureau = made.guest, made.serving["registry"], made.serving["bureau"]
        guest.align().ok()
        program = slow if computing else ()
        running = guest.start_train(LONG, program=program)
        for host in (registry, bureau):
            host.until("asks to train")
        if computing:
            running.until("computing")
        kill(registry)
        running.wait().failed(8, "the connection to registry broke (")
        assert bureau.until("job ended")[-1] == (
            "job ended: insurer stopped the job: the connection to another party broke"
        )
        made.serve("registry")
        guest.align().ok()


# --- The lines themselves. ------------------------------------------------------------------------


def test_what_peers_are_told_holds_no_detail() -> None:
    def kinds(kind: type[VflError]) -> list[type[VflError]]:
        return [kind, *(k for sub in kind.__subclasses__() for k in kinds(sub))]

    codes = {kind.exit_code for kind in kinds(VflError)}
    assert codes >= set(range(1, 11))
    for kind in kinds(VflError):
        if kind.__init__ is VflError.__init__ and kind is not Refused:
            assert "QX-1" not in kind("row 7: QX-1").for_peer
            assert kind("row 7", for_peer="a rule").for_peer == "a rule"
    assert Refused("a rule of ours").for_peer == "a rule of ours"
    assert issubclass(PeerStopped, VflError) and DataError.exit_code == 3


def test_a_fault_of_vfl_names_the_place_and_no_value() -> None:
    try:
        {}[PLANTED]
    except KeyError as error:
        group = ExceptionGroup("several", [error])
        for text in (fault(error), fault(group)):
            assert re.fullmatch(r"a fault .* please report it: KeyError at test_errors.py:\d+", text)
    assert fault(KeyError(PLANTED)) == "a fault of vfl itself, please report it: KeyError"


def test_a_fault_of_vfl_is_one_line(insurer: Party) -> None:
    broken = (
        "import vfl.cli, vfl.jobs.own_table as own_table\n"
        f"def broken(*args, **kwargs): raise KeyError('{PLANTED}')\n"
        "own_table.read_wanted = broken\n"
        "vfl.cli.main()\n"
    )
    done = insurer.start("align", program=broken).wait()
    done.failed(1, "a fault of vfl itself, please report it: KeyError at ")
