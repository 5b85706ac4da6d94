"""No id, value, label, bin edge or category is on the wire, in any encoding we could think of.

A whole run (align, train, score) is recorded as it goes into TLS, and searched for everything that a
party holds. What is searched for cannot occur by chance: ids and categories are long random text,
numbers have random mantissas, and of labels and small numbers whole stretches are searched for. The
search itself is tested by planting.
"""

import hashlib
import inspect
import random
import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from federation import GLM_JOB, HIDDEN_JOB, JOB, NUMERIC, Federation, Table, ended, make_tables, word
from recording import Proxy, Sent, record

from vfl.jobs.alignment import Plan
from vfl.jobs.alignments import load_alignment
from vfl.jobs.record import load_record
from vfl.jobs.reveals import message_types
from vfl.learn.binning import bin_columns
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kinds import load_half
from vfl.net.wire import Message, decode
from vfl.party.config import load_party
from vfl.party.id_trials import OwnKey, attempts, trials
from vfl.party.ids import normalise
from vfl.party.sections import DataSection
from vfl.party.store import Store
from vfl.party.table import read_table
from vfl.protocols.linear.scoring import GuestGlm, HostGlm, LinearPart
from vfl.protocols.trees.paillier import CandidateSums

IDS = {"insurer": "plate", "registry": "registration", "bureau": "plate_no", "new": "plate"}
ID_COLUMNS = ("vin", *IDS.values())
KEY = 8  # bytes by which a needle is found; none is shorter
DIGESTS = ("md5", "sha1", "sha256", "sha512", "blake2b", "blake2s")
Floats = np.ndarray


@dataclass(frozen=True)
class Needle:
    """Bytes that must not be on the wire, and what they are (never shown: the bytes)."""

    what: str
    data: bytes


class Searcher:
    """Finds many needles at once."""

    def __init__(self, needles: Iterable[Needle]) -> None:
        self._by_start: dict[bytes, list[Needle]] = defaultdict(list)
        self.size = 0
        for needle in needles:
            assert len(needle.data) >= KEY, needle.what
            self._by_start[needle.data[:KEY]].append(needle)
            self.size += 1
        self._maybe = np.zeros(1 << 24, np.bool_)
        self._maybe[_hashes(b"".join(self._by_start))[::KEY]] = True

    def found(self, haystack: bytes) -> set[str]:
        """What of the needles is in there."""
        return {
            needle.what
            for at in np.flatnonzero(self._maybe[_hashes(haystack)]).tolist()
            for needle in self._by_start.get(haystack[at : at + KEY], ())
            if haystack.startswith(needle.data, at)
        }


def _hashes(data: bytes) -> np.ndarray:
    """24 bits for the KEY bytes from each place on."""
    keys = np.ndarray(max(0, len(data) - KEY + 1), np.uint64, data, strides=(1,))
    return (keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)


def of_id(text: str | bytes) -> Iterator[Needle]:
    """An id as text and as all its plain digests, the ways an id is 'anonymised' in practice."""
    data = text.encode() if isinstance(text, str) else text
    if len(data) >= KEY:
        yield Needle("id as text", data)
        yield Needle("id as UTF-16", data.decode("latin-1").encode("utf-16-le"))
    for name in DIGESTS:
        digest = hashlib.new(name, data).digest()
        yield Needle(f"id as {name}", digest[:16])
        yield Needle(f"id as {name} in hex", digest.hex()[:32].encode())
        yield Needle(f"id as {name} in hex", digest.hex().upper()[:32].encode())


def of_number(value: float, what: str) -> Iterator[Needle]:
    """A number with a random mantissa: MessagePack's floats are the big-endian ones."""
    yield Needle(f"{what} as float64", struct.pack("<d", value))
    yield Needle(f"{what} as float64", struct.pack(">d", value))
    for text in (repr(value), f"{value:.6f}", f"{value:.8e}"):
        if len(text) >= KEY:
            yield Needle(f"{what} as text", text.encode())


def of_numbers(values: Floats, what: str) -> Iterator[Needle]:
    """Stretches of a column in some order, in the types a column travels in."""
    present = np.nan_to_num(values)
    for order in "<>":
        for start in range(0, len(present) - 16, 16):
            piece = present[start : start + 16]
            # Four cells without a value are zeros, which masks of rows have by chance.
            few = piece[:4] if piece[:4].any() else piece
            yield Needle(f"{what} as float32", few.astype(f"{order}f4").tobytes())
            yield Needle(f"{what} as float16", piece.astype(f"{order}f2").tobytes())
            whole = np.round(piece)
            if len(np.unique(whole)) > 2:  # else it could be in there by chance
                for width in (2, 4, 8):
                    yield Needle(f"{what} as int{8 * width}", whole.astype(f"{order}i{width}").tobytes())
            # Fixed point, as a quantised value would be.
            for width, scale in ((4, 1e6), (8, 1e9), (8, 2**32)):
                scaled = np.round(few * scale).astype(f"{order}i{width}")
                yield Needle(f"{what} in fixed point", scaled.tobytes())


def of_label(label: Floats) -> Iterator[Needle]:
    """Stretches of the label in some order, as bits and as numbers."""
    bits = label.astype(np.uint8)
    for order in ("big", "little"):
        for shift in range(8):
            packed = np.packbits(bits[shift:], bitorder=order).tobytes()[: (len(bits) - shift) // 8]
            for start in range(0, len(packed) - 11, 4):
                yield Needle("label as bits", packed[start : start + 12])
    for start in range(0, len(bits) - 64, 16):
        piece = bits[start : start + 64]
        if not 8 < piece.sum() < 56:
            continue
        yield Needle("label as bytes", piece.tobytes())
        yield Needle("label as text", bytes(piece + ord("0")))
        yield Needle("label as MessagePack booleans", bytes(piece + 0xC2))
        for kind in ("i2", "i4", "i8", "f4", "f8"):
            for order in "<>":
                yield Needle(f"label as {kind}", piece.astype(order + kind).tobytes())


def of_text(text: str, what: str) -> Iterator[Needle]:
    yield Needle(f"{what} as text", text.encode())
    yield Needle(f"{what} as UTF-16", text.encode("utf-16-le"))
    for name in DIGESTS:
        yield Needle(f"{what} as {name}", hashlib.new(name, text.encode()).digest()[:16])


def numbers(cells: Sequence[str]) -> Floats:
    return np.array([float(cell) if cell else np.nan for cell in cells])


def of_ids(cells: Sequence[str]) -> Iterator[Needle]:
    """Ids as they are written, by the rule, and in all ways that a diagnosis tries."""
    rule = DataSection.model_fields["normalise"].default
    ids = {cell.encode() for cell in cells}
    for one in normalise([cells], rule, "first", empties="drop").ids:
        ids |= {one, re.sub(rb"^\d+:", b"", one)}
    for trial in trials(OwnKey([cells], [], rule), attempts(rule, 1), "guest"):
        ids.update(trial.values())
    for one in ids - {b""}:
        yield from of_id(one)


def of_table(table: Table, id_columns: Sequence[str], orders: Sequence[np.ndarray]) -> Iterator[Needle]:
    """Everything in a party's table, the rows in each of these orders; -1 is a row that it has not."""
    for name, cells in table.items():
        if name in id_columns:
            yield from of_ids(cells)
        elif name == "claim":
            for order in orders:
                yield from of_label(numbers(cells)[order])
        elif name in NUMERIC:
            column = numbers([*cells, ""])
            for value in set(column[~np.isnan(column)].tolist()):
                yield from of_number(value, "value")
            for order in orders:
                yield from of_numbers(column[order], "column")
        else:
            for category in {cell for cell in cells if cell}:
                yield from of_text(category, "category")


Run = tuple[Federation, list[Sent]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Run:
    """Trees, a column of the guest and one of a host monotone."""
    made = Federation(tmp_path_factory.mktemp("privacy"), keys)
    for name, monotone in (
        ("insurer", {"density": "increasing"}),
        ("bureau", {"driver_age": "decreasing"}),
    ):
        made.parties[name].settings["data"]["monotone"] = monotone
    return made, record(made)


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Run:
    """A linear model, one numeric column of each host in bins."""
    made = Federation(tmp_path_factory.mktemp("privacy"), keys)
    for name, column in (("insurer", "density"), ("registry", "power")):
        made.parties[name].settings["glm"] = {"binned": [column], "bins": 5}
    return made, record(made, GLM_JOB)


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Run:
    """A linear model with a coordinator, some iterations of it."""
    made = Federation(tmp_path_factory.mktemp("privacy"), keys, coordinator=True)
    job = {**HIDDEN_JOB, "glm": {**HIDDEN_JOB["glm"], "max_iterations": 3}}
    return made, record(made, job)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Run:
    """Rows joined in all ways at once: by oblivious transfer, by two keys, some of the guest's rows to
    one of a host's, others to none, and compared under other rules; scored by lookups."""
    tables = make_tables(rows=200, seed=6)
    rng = random.Random(6)
    number = {plate: word(rng, 17) for plate in tables["bureau"]["plate_no"]}
    for name, column in IDS.items():
        of_row = [number.get(re.sub("[^A-Z0-9]", "", cell.upper()), "") for cell in tables[name][column]]
        tables[name]["vin"] = [cell if rng.random() < 0.8 else "" for cell in of_row]
    tables["insurer"] = {name: [*cells, *cells[:30]] for name, cells in tables["insurer"].items()}
    made = Federation(tmp_path_factory.mktemp("privacy"), keys, tables=tables)
    for name, party in made.parties.items():
        party.settings["data"].update(id="vin", fallback=[{"id": IDS[name]}])
    made.guest.settings["data"]["duplicates"] = "keep"
    for name in ("registry", "bureau"):
        # Here it is of use to see all that may be said.
        made.parties[name].settings["policy"] |= {"diagnose": True, "directories": True}
    made.guest.settings["score"] = {"lookup": "sealed"}
    return made, record(made, plan=Plan(join="left", engine="ot", diagnose=True))


@pytest.fixture(scope="module")
def lattice(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Run:
    """Trees and a linear model over the lattice engine."""
    made = Federation(tmp_path_factory.mktemp("privacy"), keys)
    for name in ("registry", "bureau"):
        made.parties[name].settings["policy"]["encryptions"] = ["lattice"]
    trees, linear = (
        {**job, model: {**job[model], "encryption": "lattice"}}
        for job, model in ((JOB, "secureboost"), (GLM_JOB, "glm"))
    )
    return made, record(made, trees, linear)


def of_part(part: LinearPart) -> Iterator[Needle]:
    """Coefficients, and what a design knows of its columns."""
    for coefficient in part.coefficients:
        yield from of_number(coefficient, "coefficient")
    for factor in part.design.factors:
        for edge in factor.edges or ():
            yield from of_number(edge, "edge")
        for level in (*factor.levels, *factor.joined):
            if len(level) >= KEY:
                yield from of_text(level, "level")
    for covariate in part.design.covariates:
        for number in (covariate.mean, covariate.deviation, covariate.fill):
            yield from of_number(number, "moment")


def secrets(federation: Federation) -> Iterator[Needle]:
    """All that any party holds; the tables' rows as in the file and as aligned, and without holdout."""
    for name, party in federation.parties.items():
        if name == "umpire":
            continue
        store = Store(party.store)
        aligned = load_alignment(store, store.latest("alignment")).rows
        table = federation.tables[name]
        rows = np.arange(len(next(iter(table.values()))))
        yield from of_table(table, ID_COLUMNS, [rows, aligned])
        # Edges and categories as a host would choose them, and as its half of the model has them.
        features = read_table(
            load_party(party.file).data, role=party.settings["party"]["role"], need_label=False
        )
        for column in bin_columns(features.take(aligned), 6, 10).columns:
            for edge in [] if column.edges is None else column.edges.tolist():
                yield from of_number(edge, "edge")
            for category in column.categories:
                yield from of_text(category, "category")
        for model in store.names("model"):
            half = load_half(store, model, GuestHalf if name == "insurer" else HostHalf)
            if isinstance(half.model, GuestGlm | HostGlm):
                yield from of_part(half.model.part)
            elif name != "insurer":
                for split in half.model.splits:
                    if split.threshold is not None:
                        yield from of_number(split.threshold, "threshold")
    yield from of_table(
        federation.tables["new"], ID_COLUMNS, [np.arange(len(federation.tables["new"]["plate"]))]
    )


def haystacks(sent: Sequence[Sent]) -> dict[tuple[str, str], bytes]:
    joined: dict[tuple[str, str], bytearray] = defaultdict(bytearray)
    for message in sent:
        joined[message.sender, message.receiver] += message.frame
    return {ends: bytes(data) for ends, data in joined.items()}


KINDS = {
    "run": {"BlindedIds", "AlignStore", "Gradients", "CandidateSums", "Directions"},
    "fit": {"BlindedIds", "FellowKeys", "Residuals", "OpenedProducts", "HeldOutScores", "PartialScores"},
    "hidden": {
        "Join",
        "ScorePart",
        "HiddenResiduals",
        "BlindGradient",
        "OpenedGradient",
        "HeldOutScores",
    },
    "joined": {
        "ExtensionColumns",
        "MatchSample",
        "JoinRows",
        "RowPlaces",
        "Gradients",
        "LookedUp",
        "SealedDirectory",
        "SealedParts",
    },
    "lattice": {
        "HintPart",
        "Vectors",
        "VectorSums",
        "OpenedSums",
        "PartialScores",
    },
}


@pytest.mark.parametrize("name", KINDS)
def test_nothing_private_is_on_the_wire(request: pytest.FixtureRequest, name: str) -> None:
    federation, sent = request.getfixturevalue(name)
    assert {message.kind for message in sent} >= KINDS[name]
    searcher = Searcher(secrets(federation))
    assert searcher.size > 20_000
    # A partial score, which a host of a linear model has to tell, is a coefficient where every other
    # column of the host is at its base level or mean.
    partial = [m for m in sent if m.kind == "PartialScores"]
    for ends, data in haystacks([m for m in sent if m.kind != "PartialScores"]).items():
        assert searcher.found(data) == set(), ends
    for ends, data in haystacks(partial).items():
        assert searcher.found(data) <= {"coefficient as float64"}, ends


def test_constraints_in_party_files_are_those_of_the_model(run: Run) -> None:
    federation, sent = run
    bits = {
        name: {
            decode(m.payload, [CandidateSums]).ordered
            for m in sent
            if (m.sender, m.kind) == (name, "CandidateSums")
        }
        for name in ("bureau", "registry")
    }
    assert bits["registry"] == {b""} and len(bits["bureau"]) > 1
    splits = []
    for name, half in (("insurer", GuestHalf), ("bureau", HostHalf)):
        store = Store(federation.parties[name].store)
        splits += load_half(store, store.latest("model"), half).model.splits
        record, _ = load_record(store, store.latest("run"))
        assert record.monotone == federation.parties[name].settings["data"]["monotone"]
    assert {split.above for split in splits if split.column == "density"} == {False}
    assert {split.above for split in splits if split.column == "driver_age"} == {True}


# The message that tells hosts which rows train, and the field with a bit a row.
DRAWN = {
    "run": ("TreeStart", "active"),
    "fit": ("FitStart", "training"),
    "hidden": ("FitStart", "training"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_labels_of_the_rows_drawn_for_training_are_not_on_the_wire(
    request: pytest.FixtureRequest, name: str
) -> None:
    """The guest says which rows are drawn; their labels, alone, could travel in the same order."""
    federation, sent = request.getfixturevalue(name)
    kind, key = DRAWN[name]
    store = Store(federation.guest.store)
    aligned = load_alignment(store, store.latest("alignment")).rows
    first = next(
        msgspec.msgpack.decode(m.payload)[1] for m in sent if (m.kind, m.receiver) == (kind, "registry")
    )
    drawn = np.unpackbits(np.frombuffer(first[key], np.uint8), count=len(aligned)).astype(bool)
    assert 0.6 < drawn.mean() < 0.9
    label = numbers(federation.tables["insurer"]["claim"])[aligned]
    searcher = Searcher([*of_label(label[drawn]), *of_label(label[~drawn]), *of_label(1 - label[drawn])])
    for ends, data in haystacks(sent).items():
        assert searcher.found(data) == set(), ends


def test_the_coordinator_has_a_session_with_each_party_and_hears_no_row(hidden: Run) -> None:
    _, sent = hidden
    parties = {"insurer", "registry", "bureau"}
    links = {frozenset((m.sender, m.receiver)) for m in sent if "umpire" in (m.sender, m.receiver)}
    assert links == {frozenset((name, "umpire")) for name in parties}
    heard = {m.kind for m in sent if m.receiver == "umpire"}
    assert heard == {"Hello", "Join", "BlindGradient", "Slope", "PartyProducts", "Kept"}
    assert {m.job for m in sent if m.receiver == "umpire"} == {"train"}


@pytest.mark.parametrize("name", ["fit", "hidden"])
def test_a_linear_model_names_no_column(request: pytest.FixtureRequest, name: str) -> None:
    _, sent = request.getfixturevalue(name)
    for data in haystacks(sent).values():
        data = data.replace(b"tweedie_power", b"")
        for hidden in (b"density", b"area", b"power", b"brand", b"driver_age", b"occupation"):
            assert hidden not in data


def test_only_columns_that_may_be_shown_are_named(run: Run) -> None:
    _, sent = run
    whole = haystacks(sent)
    shown = b"".join(whole.values())
    for hidden in (b"density", b"plate", b"driver_age", b"occupation", b"registration"):
        assert hidden not in shown
    for (sender, receiver), data in whole.items():
        data = data.replace(b"tweedie_power", b"")  # a setting in the job, no column
        named = [name for name in (b"power", b"brand") if name in data]
        assert not named or (sender, receiver) == ("registry", "insurer")
    assert b"bureau:1" in whole["bureau", "insurer"]


def test_the_search_finds_what_is_planted() -> None:
    """Every kind of needle, in random bytes of the size of a run."""
    rng = np.random.default_rng(3)
    noise = rng.bytes(20_000)
    texts = [f"id{rng.integers(10**12)}" for _ in range(3)]
    column = rng.normal(100, 20, 64)
    label = rng.integers(0, 2, 200).astype(float)
    needles = [
        *(needle for text in texts for needle in of_id(text)),
        *(needle for value in column.tolist() for needle in of_number(value, "value")),
        *of_numbers(column, "column"),
        *of_label(label),
        *of_text("a category name", "category"),
    ]
    searcher = Searcher(needles)
    assert searcher.found(noise) == set()
    kinds = {needle.what for needle in needles}
    assert len(kinds) >= 39
    chooser = random.Random(4)
    for kind in kinds:
        needle = chooser.choice([n for n in needles if n.what == kind])
        assert kind in searcher.found(noise + needle.data + noise)
    # And things as they would really travel.
    for message, kind in [
        (msgspec.msgpack.encode({"values": column.tolist()}), "value as float64"),
        (msgspec.json.encode(column.tolist()), "value as text"),
        (column.astype("<f4").tobytes(), "column as float32"),
        (np.round(column).astype("<i2").tobytes(), "column as int16"),
        (np.packbits(label.astype(bool)).tobytes(), "label as bits"),
        (np.packbits(label[5:].astype(bool), bitorder="little").tobytes(), "label as bits"),
        (label.astype(np.int8).tobytes(), "label as bytes"),
        (msgspec.msgpack.encode(label.astype(bool).tolist()), "label as MessagePack booleans"),
        (msgspec.msgpack.encode(label.astype(int).tolist()), "label as bytes"),
        (msgspec.msgpack.encode(texts), "id as text"),
        (hashlib.sha256(texts[1].encode()).hexdigest().encode(), "id as sha256 in hex"),
    ]:
        assert kind in searcher.found(noise + message + noise)


def test_between_processes_there_is_tls_and_nothing_else(tmp_path: Path, keys: Path) -> None:
    made = Federation(tmp_path, keys, hosts=("registry",))
    with ended(made.serve()):
        peer = made.guest.settings["peers"]["registry"]
        with Proxy(peer["address"]).running() as proxy:
            peer["address"] = proxy.address
            made.guest.align().ok()
            made.guest.train().ok()
            made.guest.score().ok()
        seen = bytes(proxy.seen)
    assert len(seen) > 300_000
    assert Searcher(secrets(made)).found(seen) == set()
    # Not even the certificates and names, nor WebSocket's headers.
    for text in (b"insurer", b"registry", b"HTTP/1.1", b"Upgrade", b"claims"):
        assert text not in seen


# --- The table of messages. -----------------------------------------------------------------------

DOCUMENT = Path(__file__).parents[1] / "docs" / "messages.md"
DIRECTIONS = (
    "guest -> host|host -> guest|[Ee]ither -> either|"
    "(?:party|guest|host) -> coordinator|coordinator -> (?:party|guest|host)|"
    "owner -> others|"  # owner: of the job's key
    "client -> server|server -> client"
)


def described(kind: type[Message]) -> tuple[str, str, str]:
    """(name, direction, what it reveals) from the docstring."""
    text = " ".join(inspect.getdoc(kind).split()) if kind.__doc__ else ""
    found = re.match(rf"({DIRECTIONS})\b(.*?)Reveals: (.+)", text)
    assert found, f"{kind.__name__}: its docstring needs a direction and `Reveals:`"
    return kind.__name__, found[1].lower(), found[3].rstrip(".")


def test_every_message_says_what_it_reveals_as_the_document_does() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| ([^|]+?) \| [^|]+ \| ([^|]+?) \|$", DOCUMENT.read_text(), re.MULTILINE
    )
    assert sorted(rows) == sorted(described(kind) for kind in message_types().values())
