"""The ledger: searched, verified, compared with a peer's copy."""

import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vfl.console.access import Session
from vfl.console.app import Console, check_csrf, looking
from vfl.console.form import read_upload
from vfl.console.pages import Cell, Table, size, when
from vfl.console.runs import page_of
from vfl.errors import DataError
from vfl.jobs.record import noted_seals
from vfl.party.audit.compare import Comparison, compare
from vfl.party.audit.lines import entries_of
from vfl.party.audit.tables import MessageFilter, known_names
from vfl.party.audit.verify import LedgerVerdict, verify
from vfl.party.identity import load_certificate, paths
from vfl.party.ledger import FOLDER, DecisionEntry, JobEntry, MessageEntry, kept_beside
from vfl.party.rotation import formerly

_PAGE = 100  # lines on a page
_COPY = 64 << 20  # bytes of a peer's copy


@dataclass(frozen=True)
class Choice:
    """What is looked for."""

    job: str = ""
    peer: str = ""
    type: str = ""
    since: str = ""
    words: str = ""  # in job, purpose, peer, type, who or reason
    decisions: bool = False  # these alone

    @classmethod
    def of(cls, request: Request) -> "Choice":
        """From the address of a page."""
        query = request.query_params
        texts = {name: query.get(name, "")[:200] for name in ("job", "peer", "type", "since", "words")}
        return cls(**texts, decisions="decisions" in query)

    @property
    def filter(self) -> MessageFilter:
        return MessageFilter(self.job or None, self.peer or None, self.type or None, self.since or None)


def routes(console: Console) -> list[Route]:
    """The addresses of these pages."""
    folder = console.store.root / FOLDER

    async def listed(request: Request, session: Session) -> Response:
        choice, page = Choice.of(request), page_of(request)
        table, more, known = await anyio.to_thread.run_sync(search, folder, choice, page)
        query = {k: v for k, v in request.query_params.items() if k != "page"}
        return await console.page(
            "ledger",
            session,
            here="/ledger",
            table=table,
            choice=choice,
            known=known,
            page=page,
            more=more,
            query=query,
        )

    async def verified(request: Request, session: Session) -> Response:
        found = await anyio.to_thread.run_sync(verdict, console)
        return await console.page("verified", session, here="/ledger", found=found, compared=None)

    async def compared(request: Request) -> Response:
        session = console.session_of(request)
        if session is None:
            return await guarded_compare(request)
        form, copy = await read_upload(request, _COPY)
        check_csrf(session, form)
        found = await anyio.to_thread.run_sync(compare_with, console, copy)
        return await console.page("verified", session, here="/ledger", found=None, compared=found)

    guarded_compare = looking(console, listed)
    return [
        Route("/ledger", looking(console, listed)),
        Route("/ledger/verify", looking(console, verified)),
        Route("/ledger/compare", compared, methods=["POST"]),
    ]


Line = MessageEntry | DecisionEntry


def search(folder: Path, choice: Choice, page: int) -> tuple[Table, bool, dict[str, list[str]]]:
    """The lines of a page, the newest first, whether there are more, and what can be chosen from."""
    if not folder.is_dir():
        return _table([], {}), False, {"jobs": [], "peers": [], "types": []}
    purposes: dict[int, str] = {}
    newest: deque[Line] = deque(maxlen=(page + 1) * _PAGE + 1)
    for line in _lines(folder, choice, purposes):
        newest.append(line)
    found = list(islice(reversed(newest), page * _PAGE, (page + 1) * _PAGE))
    names = known_names(folder)
    known = {
        "jobs": sorted(names.jobs),
        "peers": sorted(names.peers),
        "types": sorted(names.types),
    }
    return _table(found, purposes), len(newest) > (page + 1) * _PAGE, known


def _lines(folder: Path, choice: Choice, purposes: dict[int, str]) -> Iterator[Line]:
    words = choice.words.lower().split()
    for _, (entry, _, _) in entries_of(folder):
        if isinstance(entry, JobEntry):
            purposes[entry.session] = entry.purpose or ""
        elif isinstance(entry, MessageEntry) and not choice.decisions:
            said = (
                f"{entry.job or ''} {purposes.get(entry.session, '')} {entry.peer} {entry.type}".lower()
            )
            if choice.filter.has(entry) and all(word in said for word in words):
                yield entry
        elif isinstance(entry, DecisionEntry):
            said = f"{entry.job or ''} {entry.peer} decision {entry.who} {entry.reason}".lower()
            fits = choice.job in ("", entry.job) and choice.peer in ("", entry.peer) and not choice.type
            if fits and entry.time >= choice.since and all(word in said for word in words):
                yield entry


def _table(lines: list[Line], purposes: dict[int, str]) -> Table:
    rows: list[list[str | Cell]] = []
    for one in lines:
        if isinstance(one, DecisionEntry):
            said = f"by {one.who}{f': {one.reason}' if one.reason else ''}"
            about = one.job or one.model or one.task
            what = Cell(one.outcome, mark=one.outcome, note=said)
            rows.append([when(one.time), one.peer, about, what, "decision", "", "", f"{one.n:,}"])
            continue
        about = one.job or one.task or ""
        what = Cell(one.type, note=purposes.get(one.session, ""))
        rows_of = "" if one.rows is None else f"{one.rows:,}"
        rows.append(
            [
                when(one.time),
                one.peer,
                about,
                what,
                one.direction,
                rows_of,
                size(one.bytes),
                f"{one.n:,}",
            ]
        )
    heads = ["time (UTC)", "peer", "job", "what", "way", "rows", "size", "line"]
    numbers = frozenset(("rows", "size", "line"))
    return Table("Lines, the newest first", heads, rows, numbers, "There is no such line.")


def verdict(console: Console) -> LedgerVerdict:
    """Whether the ledger is whole. Raises DataError where there is none."""
    party = console.party
    folder = console.store.root / FOLDER
    _, certificate = paths(party.party.identity)
    own = load_certificate(certificate)
    kept = kept_beside(party.party.identity.parent, party.name, folder)
    noted = noted_seals(console.store, party.name)
    return verify(folder, own, earlier=formerly(own, certificate), kept=kept, noted=noted)


def compare_with(console: Console, copy: bytes) -> tuple[Comparison | None, list[str]]:
    """What differs from a peer's copy, and what is wrong with either. Raises DataError for what is no
    ledger."""
    folder = console.store.root / FOLDER
    own = verdict(console)
    if own.damage:
        return None, [f"this party's ledger is damaged: {own.damage[0]}"]
    with tempfile.TemporaryDirectory(dir=console.store.scratch()) as place:
        path = Path(place) / "copy.jsonl"
        path.touch(mode=0o600)
        path.write_bytes(copy)
        try:
            theirs = verify(path)
            pinned = console.party.peers.get(theirs.party)
            certificate = None if pinned is None else load_certificate(pinned.certificate)
            if certificate is None or pinned is None:
                return None, [f"the copy is of {theirs.party or 'nobody'}, who is no peer of this party"]
            theirs = verify(path, certificate, earlier=formerly(certificate, pinned.certificate))
            if theirs.damage:
                return None, [f"the copy is damaged: {theirs.damage[0]}".replace(str(place), "")]
            return compare(folder, path), []
        except DataError as error:
            raise DataError(
                str(error).replace(str(place), "the copy").replace("the copy/", "")
            ) from None
