"""Whether a ledger is whole: its chain of hashes, its seals, the files that it lies in."""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

from vfl.errors import ConfigError, DataError, IdentityError
from vfl.party.audit.lines import LedgerLine, lines_of
from vfl.party.identity import Certificate, parse_certificate
from vfl.party.ledger import (
    ORIGIN,
    SEAL,
    Extract,
    KeptSeal,
    ParsedLine,
    PlacedSeal,
    Repair,
    Seal,
    Start,
    cut_back,
    decode,
    last_seal,
    link,
    read_kept,
    replaced_seals,
    stands,
    statement,
)
from vfl.text import counted

_UNFINISHED = "is not finished, as a killed process leaves it: the next job sets it aside"


@dataclass
class LedgerVerdict:
    """What `verify` found."""

    party: str = ""
    lines: int = 0
    seals: int = 0
    sealed: int = 0  # the last line under a seal
    sealed_at: str = ""
    last: int = 0
    head: str = ""  # the hash of the last line
    damage: list[str] = field(default_factory=list)  # in the order of lines
    notes: list[str] = field(default_factory=list)


def verify(
    ledger: Path,
    certificate: Certificate | None = None,
    *,
    earlier: Set[str] = frozenset(),
    head: str | None = None,
    kept: Path | None = None,
    noted: Mapping[str, str] | None = None,
) -> LedgerVerdict:
    """Whether each line is as it was written, none is missing, moved or put in, and all seals hold.

    `certificate`: the party's own, which seals must be of, or of one whose fingerprint is in `earlier`;
    without it those that the ledger holds serve. `head`: a hash noted down at an earlier check, which
    the ledger must still have; `noted`: such hashes, and where each was noted. `kept`: the file beside
    the key that holds the newest seal. Where none of these is known, an end cut off together with
    `seal.json` is not found, nor what the owner of the key writes anew: the peers' ledgers (`compare`)
    tell. Raises DataError where there is no ledger.
    """
    hashes = {**(noted or {}), **({} if head is None else {head: "at an earlier check"})}
    return _Verification(ledger, certificate, earlier, hashes, kept).run()


def parse_hash(text: str) -> str:
    """A hash as a person has noted it down. Raises ConfigError for what is none."""
    hash_ = text.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", hash_):
        raise ConfigError(
            "a hash of a ledger has 64 hexadecimal digits, as `vfl ledger verify` prints it"
        )
    return hash_


class _Verification:
    """The state between two lines."""

    def __init__(
        self,
        ledger: Path,
        certificate: Certificate | None,
        earlier: Set[str],
        noted: dict[str, str],
        kept: Path | None,
    ) -> None:
        self._ledger = ledger
        self._certificate = certificate
        self._sealers = {certificate.fingerprint, *earlier} if certificate is not None else None
        self._noted, self._kept = noted, kept
        self._found = LedgerVerdict()
        self._damage: list[tuple[int, str]] = []  # with the order of the line
        self._order = 0
        self._expected = 1
        # What the hash before the next line may be: as written, or as computed; None: not known.
        self._before: set[str] | None = {ORIGIN}
        self._missing: list[tuple[int, int, int, str]] = []  # from, to, order and place of the next line
        self._certificates: dict[str, Certificate] = {}
        self._own_word: set[str] = set()  # certificates of seals for which only the ledger stands
        self._seal_hashes: set[str] = set()
        self._copied = 0  # lines that a copy must have
        self._repairs: set[str] = set()
        self._elses = False  # whether it is of another party than the certificate

    def run(self) -> LedgerVerdict:
        found = self._found
        if certificate := self._certificate:
            self._certificates[certificate.fingerprint] = certificate
            found.party = certificate.name
        beside, kept = (
            self._read_last_seal(),
            self._read_kept(),
        )  # before the lines: a job may be writing
        lines = iter(lines_of(self._ledger))
        line: LedgerLine | None = next(lines, None)
        while line is not None:
            following = next(lines, None)
            self._order += 1
            written = self._read(line)
            if written is not None:
                self._take(line, written, following)
                for hash_ in (written.hash, *(self._before or ())):
                    self._noted.pop(hash_, None)
            line = following
        for first, last, order, place in self._missing:
            self._say(f"{_numbers(first, last)} missing before {place}", order)
        if found.last < self._copied:
            self._say(f"the copy was cut off: it went on to line {self._copied}")
        copied = self._copied > 0
        for where in dict.fromkeys(self._noted.values()):
            self._say(
                f"no line has the hash that was noted {where}: the ledger was cut back or rewritten, "
                + ("or this copy was made before: ask for a new one" if copied else "or is another one")
            )
        if self._ledger.is_dir():
            self._check_last_seal(beside)
            self._check_kept(kept)
            self._check_torn()
        self._note_seals()
        found.damage = [text for _, text in sorted(self._damage, key=lambda damage: damage[0])]
        return found

    def _say(self, text: str, order: int | None = None) -> None:
        self._damage.append((self._order if order is None else order, text))

    def _read(self, line: LedgerLine) -> ParsedLine | None:
        if not line.data.endswith(b"\n"):
            self._say(f"{line.place} {_UNFINISHED}")
            return None
        try:
            return decode(line.data[:-1])
        except ValueError:
            self._say(f"{line.place} was changed: it is no entry")
            self._expected += 1
            self._before = None
            return None

    def _take(self, line: LedgerLine, written: ParsedLine, following: LedgerLine | None) -> None:
        entry, found = written.entry, self._found
        if isinstance(entry, Extract):
            if self._order > 1:
                self._say(f"{line.place} was put in: a copy begins there")
            self._begin(entry.n + 1)
            self._check_party(entry.party)
            self._copied = entry.last
            found.notes.append(f"a copy for {entry.peer}: other lines are represented by their digests")
            return
        if self._order == 1 and not self._ledger.is_dir() and entry.n > 1:
            self._begin(entry.n)  # a file of its own
            found.notes.append(f"the file begins with line {entry.n}: what stood before was not checked")
        found.lines += 1
        linked = True
        if entry.n == self._expected:
            linked = self._linked(written)
            if not linked:
                self._say(f"{line.place} was changed (line {entry.n})")
        elif self._replaced(following):
            self._say(
                f"{line.place} was changed: line {entry.n} stands in place of line {self._expected}"
            )
            self._expected += 1
            self._before = None
            return
        elif not self._follow(line, entry.n):
            return
        self._look_at(line, written, linked)
        self._expected += 1
        computed = {link(before, written.digest) for before in self._before or ()}
        if written.hash:
            self._before = {written.hash, *sorted(computed)[:4]}
        elif self._before is not None:
            self._before = computed
        found.last = self._expected - 1
        found.head = written.hash or next(iter(computed), "")

    def _begin(self, n: int) -> None:
        self._expected = n
        self._before = {ORIGIN} if n == 1 else None

    def _replaced(self, following: LedgerLine | None) -> bool:
        """Whether a line of another number stands where the expected one did, as the next line says."""
        if following is None:
            return False
        try:
            return decode(following.data.rstrip(b"\n")).entry.n == self._expected + 1
        except ValueError:
            return False

    def _follow(self, line: LedgerLine, n: int) -> bool:
        """A line that is not the next one; whether the chain goes on from there."""
        if n > self._expected:
            self._missing.append((self._expected, n - 1, self._order, line.place))
            self._expected, self._before = n, None
            return True
        for i, (first, last, order, place) in enumerate(self._missing):
            if first <= n <= last:
                self._say(
                    f"{line.place} was moved (line {n}): it stands after line {self._expected - 1}"
                )
                rest = [(first, n - 1, order, place), (n + 1, last, order, place)]
                self._missing[i : i + 1] = [gap for gap in rest if gap[0] <= gap[1]]
                return False
        self._say(f"{line.place} was put in: line {n} stands there a second time")
        return False

    def _linked(self, written: ParsedLine) -> bool:
        if self._before is None or not written.hash:
            return True
        return any(link(before, written.digest) == written.hash for before in self._before)

    def _look_at(self, line: LedgerLine, written: ParsedLine, linked: bool) -> None:
        entry, found = written.entry, self._found
        if isinstance(entry, Start):
            self._check_party(entry.party)
            try:
                certificate = parse_certificate(entry.certificate.encode(), line.path)
            except IdentityError:
                self._say(f"{line.place} holds no certificate of a party")
            else:
                self._certificates.setdefault(certificate.fingerprint, certificate)
        elif isinstance(entry, Repair):
            self._repairs.add(entry.file)
            found.notes.append(
                f"{line.place}: {counted(entry.bytes, 'byte')} of a line that a killed process had not "
                f"finished {'was' if entry.bytes == 1 else 'were'} set aside as {entry.file}"
            )
        elif isinstance(entry, Seal):
            self._seal_hashes.add(written.hash)
            self._check_seal(line, entry, linked)

    def _check_party(self, party: str) -> None:
        """Whose ledger it is, by its own word."""
        found = self._found
        found.party = found.party or party
        if party != found.party and not self._elses:
            self._elses = True
            self._say(f"the ledger is of {party}, the certificate is of {found.party}")

    def _check_seal(self, line: LedgerLine, seal: Seal, linked: bool) -> None:
        found = self._found
        found.seals += 1
        certificate = self._certificates.get(seal.certificate)
        if certificate is None:
            self._say(f"{line.place}: sealed with a certificate that the ledger does not hold")
            return
        if self._elses:
            return  # of whom it is has been said
        if self._sealers is None:
            self._own_word.add(seal.certificate)
        elif seal.certificate not in self._sealers:
            self._say(f"{line.place}: sealed with another certificate than the party's")
            return
        if self._before is None or not linked:
            return  # the damage has been said
        if not any(
            certificate.verify(seal.signed, statement(found.party, seal.n, before, seal.time))
            for before in self._before
        ):
            self._say(f"{line.place}: the seal's signature does not hold")
            return
        found.sealed, found.sealed_at = seal.n, seal.time

    def _read_last_seal(self) -> PlacedSeal | DataError | None:
        try:
            return last_seal(self._ledger) if self._ledger.is_dir() else None
        except DataError as error:
            return error

    def _check_last_seal(self, seal: PlacedSeal | DataError | None) -> None:
        if isinstance(seal, DataError):
            self._say(str(seal))
        elif seal is None:
            if self._found.seals and not (self._ledger / SEAL).exists():
                self._say(f"{SEAL} is missing, though the ledger has seals")
        elif not stands(self._ledger, seal):
            try:
                written = decode(seal.line.encode())
            except ValueError:
                self._say(f"{SEAL} is damaged")
                return
            n = written.entry.n
            if n > self._found.last:
                self._say(f"the ledger was cut off before line {n}, the last seal by {SEAL}")
            elif not self._damage or written.hash not in self._seal_hashes:
                self._say(f"line {n} is not the last seal that {SEAL} holds: the ledger was rewritten")

    def _read_kept(self) -> KeptSeal | DataError | None:
        try:
            return None if self._kept is None else read_kept(self._kept)
        except DataError as error:
            return error

    def _check_kept(self, kept: KeptSeal | DataError | None) -> None:
        """Hold the ledger against what lies beside the party's key."""
        if isinstance(kept, DataError):
            self._say(str(kept))
        elif kept is not None and cut_back(self._ledger, kept.seal, self._found.last):
            n = decode(kept.seal.line.encode()).entry.n
            if n > self._found.last:
                self._say(f"the ledger was cut off before line {n}, the newest seal by {self._kept}")
            else:
                self._say(
                    f"line {n} is not the newest seal that {self._kept} holds: the ledger was cut "
                    "back or rewritten"
                )
        for path in replaced_seals(self._kept) if self._kept is not None else ():
            try:
                earlier = read_kept(path)
            except DataError as error:
                self._say(str(error))
                continue
            if earlier is not None:
                entry = decode(earlier.seal.line.encode()).entry
                self._say(
                    f"another ledger was here before, whose newest seal is line {entry.n} of "
                    f"{entry.time}: if it was moved away on purpose, remove {path}"
                )

    def _check_torn(self) -> None:
        for path in sorted(self._ledger.glob("*.torn-*")):
            if path.name not in self._repairs:
                self._found.notes.append(f"{path.name} was set aside, but no line says so")

    def _note_seals(self) -> None:
        found = self._found
        for fingerprint in sorted(self._own_word):
            found.notes.append(
                f"seals are of certificate {fingerprint}, which the ledger itself holds: compare it "
                "with the party's"
            )
        if found.sealed < found.last:
            found.notes.append(f"{_numbers(found.sealed + 1, found.last)} under no seal yet")


def _numbers(first: int, last: int) -> str:
    return f"line {first} is" if first == last else f"lines {first} to {last} are"
