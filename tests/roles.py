"""Every protocol with all its parties over memory, on so few rows that a run takes milliseconds."""

import asyncio
import contextlib
import io
import secrets
import tempfile
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

import msgspec
import numpy as np
from dealt_transfers import dealt_transfers
from federation import HIDDEN_JOB, Federation
from hostile import Peers, Scenario
from lattice_batches import hints_made_once, small_batches
from paillier_key import KEY, quick_key
from silent import Silent

from vfl.blocks.texts import Packed
from vfl.crypto.group import ORDER
from vfl.crypto.voprf import derive_key, public_key
from vfl.errors import PeerStopped, Refused
from vfl.jobs import coordinator
from vfl.jobs.agreement import Agreement, accept_offer, check_offer, offer_to
from vfl.jobs.approved import approval_statement
from vfl.jobs.audit_draw import HostDraw, Presented, Settled, commit, draw_with
from vfl.jobs.connect import Site
from vfl.jobs.coordinator import coordinator_of
from vfl.jobs.directories import fetch_directory
from vfl.jobs.offer import Approved, AuditDemand, Gathered, Join, Kept, Offer, Waiting
from vfl.jobs.presenting import unpack
from vfl.learn.across import CrossedLevels, GuestLevels, OwnFactor, PairOfParties
from vfl.learn.association import Associated
from vfl.learn.binning import Features, bin_columns
from vfl.learn.cells import Factor
from vfl.learn.design import Design, Matrix, Rules
from vfl.learn.fixed_point import FixedPoint
from vfl.learn.losses import LogisticLoss, loss_of
from vfl.learn.params import BoostParams, GlmParams
from vfl.learn.screening import Everything
from vfl.net.hello import Resume, Resumed, greet
from vfl.net.peer import MemoryPeer, Peer, Stop, together
from vfl.net.window import Breach, OldAttempt, Windows
from vfl.party.config import Job, load_party
from vfl.party.identity import create
from vfl.party.store import Store
from vfl.protocols.align.join import (
    KeyIds,
    Matched,
    guest_drop,
    guest_inner,
    guest_left,
    guest_match,
    host_drop,
    host_inner,
    host_left,
    host_match,
)
from vfl.protocols.align.match_rates import Trial, guest_match_rates, host_match_rates
from vfl.protocols.align.psi import OprfEngine, PsiSettings, guest_align, host_align
from vfl.protocols.common.batches import all_scores
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.correlations import HostColumns, guest_correlations, host_correlations
from vfl.protocols.linear.fit import Fit
from vfl.protocols.linear.fitting import guest_fit
from vfl.protocols.linear.hidden import coordinator_fit, hidden_guest_fit, hidden_host_fit
from vfl.protocols.linear.host_fitting import host_fit
from vfl.protocols.linear.inflation import guest_inflation, host_inflation
from vfl.protocols.linear.scoring import (
    GuestGlm,
    HostGlm,
    LinearPart,
    guest_glm_score,
    host_glm_score,
)
from vfl.protocols.lookup.directory import (
    Header,
    decode_header,
    encode_header,
    inputs_of,
    statement,
)
from vfl.protocols.lookup.lookup import LookupSession, host_lookups
from vfl.protocols.lookup.sealing import OpenTable, Sealed, Sealing, seal
from vfl.protocols.oneway.host_cells import HostCells
from vfl.protocols.oneway.messages import TableEncryption, TableShared
from vfl.protocols.oneway.pairs import guest_pair, host_pair
from vfl.protocols.oneway.screening import (
    HostColumn,
    Numbers,
    ScreenRules,
    guest_screen,
    host_screen,
)
from vfl.protocols.oneway.sums import HostTerms
from vfl.protocols.oneway.tables import guest_table, host_table
from vfl.protocols.pooled.adding import MaskingAdder
from vfl.protocols.pooled.adding_server import serve_totals
from vfl.protocols.trees.hidden_coordinator import coordinate_trees
from vfl.protocols.trees.scoring import guest_score, host_score
from vfl.protocols.trees.training import guest_train, host_train
from vfl.protocols.trees.warm_start import Initial, guest_begin, host_begin, start_from
from vfl.protocols.tuning import hear_trial, tell_end, tell_trial
from vfl.protocols.worth import WorthFigure, WorthFigures, hear_worth, tell_worth

T = TypeVar("T")
Lent = Callable[[str], Resources]
"""What a party lends to its role, by its name."""
GUEST, HOSTS, LEAD = "insurer", ("bureau", "registry"), "umpire"
ROWS = 40
N, WIDTH = KEY.public.n, KEY.public.width


_open: dict[str, Peers] = {}  # the sessions of the run that is under way


async def _dial(site: Site, name: str, *_: object) -> MemoryPeer:
    return _open[site.party.name][name]


@contextmanager
def in_memory() -> Iterator[None]:
    """What takes long in a run of all protocols takes less; a coordinator is dialled over memory."""
    with (
        quick_key(),
        small_batches(2),
        hints_made_once(),
        dealt_transfers(),
        mock.patch.object(Site, "dial", _dial),
    ):
        yield


def _ciphertexts() -> list[bytes]:
    """Numbers that are no ciphertexts, or are and hide nothing."""
    p = KEY._p
    numbers = (0, 1, N, N * N - 1, N * N, N * N + 1, p, p * p, 7 * p * N, N - 1, 1 + N)
    return [int(number).to_bytes(WIDTH, "little") for number in numbers]


def _moduli() -> list[bytes]:
    """Numbers of 2048 bits, or nearly, that are no modulus of a key."""
    prime, p = (3 << 2046) + 439, KEY._p
    small = 65_521 * ((1 << 2047) // 65_521 | 1) + (2 * 65_521)
    numbers = (0, 1, N + 1, N - 2, N >> 1, prime, p * p, small, p * (p + 2), 2**2048 - 1)
    return [int(number).to_bytes(256, "big") for number in numbers]


def _points() -> list[bytes]:
    """Encodings that are no element of ristretto255, or its identity (kinds of RFC 9496, A.2)."""
    field = 2**255 - 19
    numbers = (0, 1, field, field + 1, field - 1, 2**255 - 1, 2**256 - 1, 2**255, ORDER, 3)
    return [number.to_bytes(32, "little") for number in numbers]


def _fellow_keys() -> list[bytes]:
    """Points of small order on Curve25519 (RFC 7748, section 6.1; Langley, Hamburg), and no points."""
    low = 325606250916557431795983626356110631294008115727848805560023387167927233504
    field = 2**255 - 19
    return [n.to_bytes(32, "little") for n in (0, 1, low, field - 1, field, field + 1, 2**256 - 1)]


PATTERNS = {
    "ciphertexts": _ciphertexts(),
    "modulus": _moduli(),
    "points": _points(),
    "public_key": _fellow_keys(),
    "public_keys": _fellow_keys(),
    "plaintexts": [int(v).to_bytes(256, "big") for v in (0, N - 1, N, N // 2, 2**2048 - 1)],
}
# What one host says to another through the guest, who cannot check it.
RELAYED = frozenset({"AlignKey", "FellowKey"})
# Encrypted sums, and what hosts say to each other sealed: what comes of a lie shows in the inverse.
INFERRED = frozenset({"Encrypted", "RotatedInformation", "WeightPart", "Relayed", "AliasFound"})
# What one client adds to the others' numbers, or says to them through the server.
ADDED = frozenset({"ClientKey", "GroupSecret", "MaskedPart"})
SUMMED = frozenset({"MaskSeed"})


def columns(party: int, rows: int = ROWS) -> Features:
    """Numbers with gaps and a category."""
    rng = np.random.default_rng([party, rows])
    numbers = rng.normal(size=rows)
    numbers[rng.random(rows) < 0.1] = np.nan
    return {f"number{party}": numbers, f"kind{party}": rng.choice(np.array(["a", "b"], object), rows)}


FEATURES = {name: columns(k) for k, name in enumerate((GUEST, *HOSTS))}


def training(objective: str) -> Training:
    rng = np.random.default_rng(1)
    held = rng.random(ROWS) < 0.2
    signal = sum(np.nan_to_num(f[f"number{k}"]) for k, f in enumerate(FEATURES.values()))
    noisy = signal + rng.normal(size=ROWS)
    label, loss = np.asarray(noisy > 0, np.float64), loss_of(objective)
    if loss.classes > 1:
        label = np.digitize(noisy, np.quantile(noisy, [0.3, 0.7])).astype(np.float64)
    return Training(label, np.ones(ROWS), ~held, np.zeros(ROWS, np.bool_), loss)


def nothing(party: str) -> Resources:
    """No more than a process, and the operating system's random numbers."""
    return Resources()


def star(hosts: tuple[str, ...] = HOSTS) -> tuple[tuple[str, str], ...]:
    return tuple((GUEST, host) for host in hosts)


# -------------------------------------------------------------------------------- the protocols


def greeting() -> Scenario:
    prints = {GUEST: b"\1" * 32, HOSTS[0]: b"\2" * 32}

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        return {
            own: greet(
                next(iter(peers[own].values())), own=prints[own], other=prints[other], role="host"
            )
            for own, other in ((GUEST, HOSTS[0]), (HOSTS[0], GUEST))
        }

    return Scenario("greeting", star(HOSTS[:1]), roles)


def refusing() -> Scenario:
    """A host that says no, and why."""

    async def guest(host: Peer) -> str:
        await host.send(Kept())
        try:
            await host.recv(Kept)
        except PeerStopped as stopped:
            return str(stopped)
        return "allowed"

    async def host(guest: Peer) -> None:
        await guest.recv(Kept)
        await guest.send(Stop("a rule of the host's", passing=True))

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        return {GUEST: guest(peers[GUEST][HOSTS[0]]), HOSTS[0]: host(peers[HOSTS[0]][GUEST])}

    return Scenario("refusing", star(HOSTS[:1]), roles)


def resuming() -> Scenario:
    """The first words of a connection on which a session goes on, as session.py has them."""
    key = b"\5" * 32

    async def dialled(peer: Peer) -> int | None:
        windows = Windows(None)
        attempt, arrived = windows.ask()
        await peer.send(Resume(key, attempt, arrived))
        answer = await peer.recv(Resumed)
        if answer.received is not None:
            _allowed(peer, windows.take_answer, answer.received)
        return answer.received

    async def listening(peer: Peer) -> None:
        windows = Windows(None)
        asked = await peer.recv(Resume)
        arrived = None
        if asked.key == key:
            arrived = _allowed(peer, partial(windows.answer, asked.attempt), asked.received)
        await peer.send(Resumed(arrived))

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        return {GUEST: dialled(peers[GUEST][HOSTS[0]]), HOSTS[0]: listening(peers[HOSTS[0]][GUEST])}

    return Scenario("resuming", star(HOSTS[:1]), roles)


def _allowed(peer: Peer, go_on: Callable[[int], T], received: int) -> T:
    """What comes of going on, where the other end may."""
    try:
        return go_on(received)
    except (OldAttempt, Breach) as breach:
        raise peer.breach(str(breach)) from None


NOW = "2026-11-30T08:00:00+00:00"


def agreement(folder: Path, keys: Path) -> Scenario:
    """The first messages of a job with a coordinator, up to the signatures of all, and the last one."""
    parties = Federation(folder, keys, guest_listens=True, coordinator=True).parties
    offices = {}
    for name, party in parties.items():
        party.write()
        offices[name] = Site.open(load_party(party.file))
    job = Job.model_validate(HIDDEN_JOB).canonical
    offer = Offer("train", b"\7" * 32, sorted(HOSTS), ["upper"], "aligned-1", "model-1", job)

    async def join(peers: Peers, signed: Agreement) -> None:
        peers[LEAD].hello = SimpleNamespace(role="coordinator")  # type: ignore[attr-defined]
        async with coordinator_of(offices[signed_by(peers)], signed, job, LEAD, 5.0, Silent()):
            pass

    def signed_by(peers: Peers) -> str:
        return next(name for name in offices if name not in peers and _open[name] is peers)

    async def guest(peers: Peers) -> None:
        hosts = [peers[host] for host in sorted(HOSTS)]
        answers, signed = await offer_to(offices[GUEST], hosts, offer, Silent())
        for host, answer in zip(hosts, answers, strict=True):
            if answer.rows != ROWS:
                raise host.breach("Accept of another number of rows")
        await join(peers, signed)
        await together([host.recv(Kept) for host in hosts])

    async def host(name: str, peers: Peers) -> None:
        asked = await peers[GUEST].recv(Offer)
        Job.from_canonical(asked.job)
        check_offer(offices[name], peers[GUEST], asked)
        given = None
        if name == HOSTS[0]:  # where a person decides
            await peers[GUEST].send(Waiting(600))
            said = approval_statement(asked.terms(GUEST), NOW)
            given = Approved(NOW, offices[name].identity.sign(said))
        audit = None
        if name == HOSTS[1]:  # which audits trainings
            draw = HostDraw(0.1, b"\5" * 32, "0" * 64)
            audit = draw.demand(asked.terms(GUEST), offices[name].identity)
        signed = await accept_offer(
            offices[name], peers[GUEST], asked, ROWS, approved=given, audit=audit
        )
        await join(peers, signed)
        await peers[GUEST].send(Kept(30))

    async def lead(peers: Peers) -> None:
        joins = await together([peer.recv(Join) for peer in peers.values()])
        for peer, came in zip(peers.values(), joins, strict=True):
            coordinator._check_join(offices[LEAD], peer, came)
            if came != joins[0]:
                raise peer.breach("a Join of another job than the other parties'")
        signature = offices[LEAD].identity.sign(joins[0].terms.statement)
        await together([peer.send(Gathered(signature)) for peer in peers.values()])

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        _open.clear()
        _open.update(peers)
        hosts = {name: host(name, peers[name]) for name in HOSTS}
        return {GUEST: guest(peers[GUEST]), LEAD: lead(peers[LEAD])} | hosts

    sessions = (*star(), *((LEAD, name) for name in (GUEST, *HOSTS)))
    # Signatures are other ones in every run: of two Joins with valid ones, the later is refused.
    return Scenario("agreement", sessions, roles, relayed=frozenset({"Join"}))


def alignment(hosts: tuple[str, ...], engine: OprfEngine = "ecdh", lent: Lent = nothing) -> Scenario:
    ids = {
        name: [f"id {i}".encode() for i in range(k, 20 + k)] for k, name in enumerate((GUEST, *hosts))
    }

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        def settings(name: str) -> PsiSettings:
            return PsiSettings(engine, randomness=lent(name).randomness)

        own = list(peers[GUEST].values())
        guest = guest_align(own, ids[GUEST], context=b"run", minimum=5, settings=settings(GUEST))
        return {GUEST: guest} | {
            host: host_align(
                peers[host][GUEST],
                ids[host],
                Participant(host, hosts, b"run", minimum=5),
                settings=settings(host),
            )
            for host in hosts
        }

    how = {"ecdh": "", "ot": " by transfers", "vole": " by vector OLE"}[engine]
    return Scenario(f"alignment of {1 + len(hosts)}{how}", star(hosts), roles, PATTERNS, RELAYED)


def joining() -> Scenario:
    """An alignment that is extended, by two keys, joined many to one, inner and left."""
    rows = {GUEST: [*range(12), 1, 1, 14], HOSTS[0]: range(1, 14), HOSTS[1]: range(16)}
    keys = {}
    for name, ids in rows.items():
        first = KeyIds(
            Packed.of([[b"key %d" % i for i in range(16)]]), np.array([i if i % 3 else -1 for i in ids])
        )
        keys[name] = [first, KeyIds(Packed.of([[b"other %d" % i for i in range(16)]]), np.array(ids))]

    def start(name: str) -> Matched:
        """That 1, 2, 4 and 5 were matched; the second host no longer has 5."""
        earlier = {1: 0, 2: 1, 4: 2, 5: 3 if name != HOSTS[1] else -1}
        of_row = np.array([earlier.get(i, -1) for i in rows[name]])
        return Matched(of_row, np.where(of_row < 0, -1, 0), 4)

    async def guest(peers: Peers) -> None:
        hosts = list(peers.values())
        begun = await guest_drop(hosts, start(GUEST))
        matched = await guest_match(hosts, keys[GUEST], context=b"run", start=begun, many=True)
        await guest_inner(hosts, matched, many=True)
        await guest_left(hosts, [matched] * len(hosts), np.arange(len(rows[GUEST])), bytes)

    async def host(name: str, peer: Peer) -> None:
        begun = await host_drop(peer, start(name))
        own = Participant(name, HOSTS, b"run")
        matched = await host_match(peer, keys[name], own, start=begun)
        await host_inner(peer, matched, many=True)
        await host_left(peer, matched, many=True)

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        hosts = {name: host(name, peers[name][GUEST]) for name in HOSTS}
        return {GUEST: guest(peers[GUEST])} | hosts

    return Scenario("joining", star(), roles, PATTERNS, RELAYED)


def match_rates(lent: Lent = nothing) -> Scenario:
    def trials(first: int) -> list[Trial]:
        numbers = [[b"%d" % (step * i) for i in range(first, first + 110)] for step in (1, 7)]
        return [Trial(f"times {k}", partial(iter, own)) for k, own in enumerate(numbers)]

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        def run(party: str) -> Any:
            return {"context": b"run", "randomness": lent(party).randomness}

        guest = guest_match_rates(list(peers[GUEST].values()), trials(0), **run(GUEST))
        return {GUEST: guest} | {
            host: host_match_rates(peers[host][GUEST], trials(40 + k), name=host, **run(host))
            for k, host in enumerate(HOSTS)
        }

    return Scenario("match rates", star(), roles, PATTERNS)


def boosting(levels: int = 0, lent: Lent = nothing, **settings: Any) -> Scenario:
    """`levels`: of a further category of each party."""
    params = BoostParams(
        **{"trees": 2, "depth": 2, "max_bins": 5, "min_bin_rows": 2, "min_child_rows": 3, **settings}
    )
    rows = training("multiclass" if params.classes else "binary")

    def binned(party: str) -> Any:
        monotone = {"number1": "increasing"} if party == HOSTS[0] else {}
        further = {"levels": np.array([f"l{i % levels}" for i in range(ROWS)], object)} if levels else {}
        features = FEATURES[party] | further
        return bin_columns(features, params.max_bins, params.min_bin_rows, monotone)

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        own, theirs = {GUEST: binned(GUEST)}, list(peers[GUEST].values())
        guest = guest_train(theirs, own, rows, params, key=KEY, resources=lent(GUEST))
        return {GUEST: guest} | {
            host: host_train(
                peers[host][GUEST],
                binned(host),
                params,
                Participant(host, resources=lent(host)),
                shown=str,
            )
            for host in HOSTS
        }

    return Scenario("boosting", star(), roles, PATTERNS)


def lattice_boosting(lent: Lent = nothing, **settings: Any) -> Scenario:
    params = BoostParams(
        **{"trees": 2, "depth": 2, "max_bins": 5, "min_bin_rows": 2, "min_child_rows": 9, **settings},
        encryption="lattice",
    )
    rows = training("binary")

    def binned(party: str) -> Any:
        monotone = {"number1": "increasing"} if party == HOSTS[0] else {}
        return bin_columns(FEATURES[party], params.max_bins, params.min_bin_rows, monotone)

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        own, theirs = {GUEST: binned(GUEST)}, list(peers[GUEST].values())
        guest = guest_train(theirs, own, rows, params, resources=lent(GUEST))
        return {GUEST: guest} | {
            host: host_train(
                peers[host][GUEST],
                binned(host),
                params,
                Participant(host, resources=lent(host)),
                shown=str,
            )
            for host in HOSTS
        }

    return Scenario("boosting over the lattice engine", star(), roles, PATTERNS)


def hidden_boosting(encryption: str, lent: Lent = nothing) -> Scenario:
    """Trees whose sums a coordinator opens."""
    params = BoostParams.model_validate(
        {"trees": 2, "depth": 2, "max_bins": 5, "min_bin_rows": 2, "encryption": encryption}
        | {"min_child_rows": 3 if encryption == "paillier" else 9}
        | {"sums": "hidden", "coordinator": LEAD}
    )
    rows = training("binary")
    key = KEY if encryption == "paillier" else None

    def binned(party: str) -> Any:
        monotone = {"number1": "increasing"} if party == HOSTS[0] else {}
        return bin_columns(FEATURES[party], params.max_bins, params.min_bin_rows, monotone)

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        own = peers[GUEST]
        guest = guest_train(
            [own[host] for host in HOSTS],
            {GUEST: binned(GUEST)},
            rows,
            params,
            key=key,
            resources=lent(GUEST),
            coordinator=own[LEAD],
        )
        lead = coordinate_trees(list(peers[LEAD].values()), params, lambda tree, of: None)
        return {GUEST: guest, LEAD: lead} | {
            host: host_train(
                peers[host][GUEST],
                binned(host),
                params,
                Participant(host, resources=lent(host)),
                shown=str,
                coordinator=peers[host][LEAD],
            )
            for host in HOSTS
        }

    sessions = (*((LEAD, name) for name in (GUEST, *HOSTS)), *star())
    return Scenario(f"hidden boosting under {encryption}", sessions, roles, PATTERNS, SUMMED)


def _matrix(party: str, train: np.ndarray, more: int = 0) -> Matrix:
    """A party's columns, and so many further ones."""
    features = FEATURES[party] | {f"more{k}": columns(k + 9)[f"number{k + 9}"] for k in range(more)}
    part = {name: values[train] for name, values in features.items()}
    return Design.fit(part, Rules(min_level_rows=1)).matrix(features, ROWS)


def fitting(
    encryption: str = "paillier",
    *,
    infers: bool = False,
    several: bool = False,
    few: bool = False,
    lent: Lent = nothing,
    **settings: Any,
) -> Scenario:
    """few: rows, no more than there are coefficients, of which nothing can be inferred."""
    of_penalty = {"alphas": [0.01, 0.1], "folds": 2} if several else {"alpha": 0.01}
    given = {"max_iterations": 2, "encryption": encryption, **of_penalty, **settings}
    params = GlmParams.model_validate(given)
    if infers:  # from wherever the fit is at once, and of however few rows
        changes = {"inference": True, "max_leverage": 1.0, "max_iterations": 30}
        params = params.model_copy(update=changes)
    rows = training("logistic")
    if few:
        rows = replace(rows, train=rows.train & (np.arange(ROWS) < 14))

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        matrix = {GUEST: _matrix(GUEST, rows.train, 7 if few else 0)}
        own = list(peers[GUEST].values())
        guest = guest_fit(own, matrix, rows, params, key=KEY, resources=lent(GUEST))
        return {GUEST: guest} | {
            host: host_fit(
                peers[host][GUEST],
                ROWS,
                lambda train, host=host: _matrix(host, train),
                params,
                Participant(host, HOSTS, b"run", minimum=10, resources=lent(host)),
            )
            for host in HOSTS
        }

    blind = RELAYED | INFERRED if infers else RELAYED
    return Scenario(f"fitting under {encryption}", star(), roles, PATTERNS, blind)


def fitting_across(encryption: str, lent: Lent = nothing) -> Scenario:
    """Pairs of the guest's column with one of each host's."""
    pairs = tuple(("kind0", f"{host}:kind{k}") for k, host in enumerate(HOSTS, start=1))
    params = GlmParams.model_validate(
        {"max_iterations": 1, "encryption": encryption, "alpha": 0.01}
        | {"across": pairs, "across_rows": 3, "across_names": True}
    )
    rows = training("logistic")
    factor = Design.fit(
        {name: values[rows.train] for name, values in FEATURES[GUEST].items()}, Rules(min_level_rows=1)
    ).factors[0]
    levels = GuestLevels("kind0", (factor.base, *factor.others), factor.codes(FEATURES[GUEST]["kind0"]))

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        guest = guest_fit(
            list(peers[GUEST].values()),
            {GUEST: _matrix(GUEST, rows.train)},
            rows,
            params,
            key=KEY,
            resources=lent(GUEST),
            across=[levels],
        )
        return {GUEST: guest} | {
            host: host_fit(
                peers[host][GUEST],
                ROWS,
                lambda train, host=host: _matrix(host, train),
                params,
                Participant(host, HOSTS, b"run", minimum=10, resources=lent(host)),
                crossed=lambda: [PairOfParties(0, OwnFactor(0, 0, 1), 3)],
            )
            for host in HOSTS
        }

    return Scenario(f"fitting across under {encryption}", star(), roles, PATTERNS, RELAYED)


def hidden_fitting(family: str, lent: Lent = nothing) -> Scenario:
    steps = 2 if family == "logistic" else 1  # poisson takes several gradients a step
    params = GlmParams(max_iterations=steps, alpha=0.01, scores="hidden", coordinator=LEAD)
    rows = training(family)

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        own, parties = peers[GUEST], list(peers[LEAD].values())
        matrix, theirs = _matrix(GUEST, rows.train), [own[host] for host in HOSTS]
        guest = hidden_guest_fit(own[LEAD], theirs, matrix, rows, params, lent(GUEST))
        lead = coordinator_fit(parties, params, family == "logistic", KEY, lent(LEAD))
        return {LEAD: lead, GUEST: guest} | {
            host: hidden_host_fit(
                peers[host][GUEST],
                peers[host][LEAD],
                ROWS,
                lambda train, host=host: _matrix(host, train),
                params,
                family,
                Participant(host, HOSTS, b"run", resources=lent(host)),
            )
            for host in HOSTS
        }

    sessions = (*((LEAD, name) for name in (GUEST, *HOSTS)), *star())
    # Residuals that nobody can see into: what comes of a lie about them shows when they are opened.
    blind = RELAYED | {"ScorePart", "HiddenResiduals", "Evaluate", "Settle", "NextDirection", "Key"}
    return Scenario(f"hidden {family} fitting", sessions, roles, PATTERNS, blind)


def _small_trees() -> list[Any]:
    """The guest's half of a model, and the hosts'."""
    made = boosting(trees=3, depth=3)

    async def train() -> list[Any]:
        roles = made.roles(made.open())
        return await together(roles.values())

    with in_memory():
        (model, _), *halves = asyncio.run(train())
    return [model, *halves]


def beginning() -> Scenario:
    """The first steps of a training that begins with a model."""
    model, *halves = _small_trees()
    initial = Initial(model, dict(zip(HOSTS, halves, strict=True)), b"\6" * 32)
    rows = start_from(initial, training("binary"))

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        guest = guest_begin(list(peers[GUEST].values()), initial, FEATURES[GUEST], rows)
        return {GUEST: guest} | {
            host: host_begin(peers[host][GUEST], half, initial.training, FEATURES[host], ROWS)
            for host, half in zip(HOSTS, halves, strict=True)
        }

    return Scenario("beginning with a model", star(), roles, PATTERNS)


def scoring() -> Scenario:
    model, *halves = _small_trees()
    places = np.where(np.arange(ROWS) % 5 == 4, -1, np.arange(ROWS))
    order = np.arange(ROWS)

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        parts = guest_score(
            list(peers[GUEST].values()), model, FEATURES[GUEST], [places, order], ROWS, explain=True
        )
        return {GUEST: all_scores(parts)} | {
            host: host_score(peers[host][GUEST], half, FEATURES[host], ROWS)
            for host, half in zip(HOSTS, halves, strict=True)
        }

    return Scenario("scoring with trees", star(), roles, PATTERNS)


def linear_scoring(*, across: bool = False) -> Scenario:
    parts = {
        name: LinearPart(design, tuple(0.1 * (k + 1) for k in range(len(design.coefficients))))
        for name, features in FEATURES.items()
        for design in [Design.fit(features, Rules(missing="level", min_level_rows=1))]
    }
    fit = Fit(0.7, {}, np.zeros(ROWS), 3, True, 0.1, 0.2, 1e-9)
    model = GuestGlm(
        (GUEST, *HOSTS),
        fit.intercept,
        parts[GUEST],
        fit.iterations,
        fit.converged,
        fit.deviance,
        fit.explained,
        fit.gradient,
        across=(("kind0", f"{HOSTS[0]}:kind1"),) if across else (),
    )
    level = parts[HOSTS[0]].design.factors[0].others[0]
    cells = CrossedLevels(0, "guest:kind0", "kind1", ("a", "b"), ((1, level),), (9,), (0.3,))
    own = parts[GUEST].scores(FEATURES[GUEST], ROWS)
    places = np.where(np.arange(ROWS) % 5 == 4, -1, np.arange(ROWS))

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        scored = guest_glm_score(
            list(peers[GUEST].values()),
            model,
            FEATURES[GUEST],
            own,
            [places, np.arange(ROWS)],
            explain=True,
        )
        return {GUEST: all_scores(scored)} | {
            host: host_glm_score(
                peers[host][GUEST],
                HostGlm(parts[host], True, across=(cells,) if across and host == HOSTS[0] else ()),
                FEATURES[host],
                parts[host].scores(FEATURES[host], ROWS),
                parts[host].missing_score(FEATURES[host]),
                show_columns=host == HOSTS[0],
            )
            for host in HOSTS
        }

    return Scenario("scoring with a linear model", star(), roles, PATTERNS)


def adding(lent: Lent = nothing) -> Scenario:
    clients = (GUEST, *HOSTS)

    async def client(name: str, server: Peer) -> np.ndarray:
        adder = MaskingAdder(server, Participant(name, clients, b"run", resources=lent(name)))
        total = await adder.total(np.arange(3), "counts")
        await adder.end()
        return total

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        server = serve_totals(list(peers[LEAD].values()))
        return {LEAD: server} | {name: client(name, peers[name][LEAD]) for name in clients}

    return Scenario("adding", tuple((LEAD, name) for name in clients), roles, PATTERNS, ADDED)


class _Sealed:
    """A directory in memory, and who may look rows up in it: once."""

    def __init__(self, signed: bytes, signature: bytes, made: Sealed, entries: bytes) -> None:
        self.signed, self.signature, self.catalogue = signed, signature, made.catalogue
        self.version, self.most_a_minute = decode_header(signed).version, 100
        self.width = len(entries) // ROWS
        self._entries, self._asked = entries, 0

    def read(self, part: int) -> bytes:
        first, stop = self.catalogue.starts[part], self.catalogue.starts[part + 1]
        return self._entries[first * self.width : stop * self.width]

    async def newest(self) -> "_Sealed":
        return self

    async def admit(self, points: int) -> None:
        self._asked += 1
        if self._asked > 1:
            raise Refused("a rule of the host's")

    async def admit_fetch(self, size: int) -> None: ...

    def secret_of(self, public: bytes) -> bytes | None:
        return SEALING if public == public_key(SEALING) else None


SEALING = derive_key(bytes(32), b"a directory")


def looking_up() -> Scenario:
    """A directory that is fetched, and looked up in until the host refuses."""
    folder = Path(tempfile.mkdtemp())
    own = create(folder / "registry", "registry")
    keys = [KeyIds([b"%d" % row for row in range(ROWS)], np.arange(ROWS))]
    table = OpenTable(keys, ROWS, lambda rows: np.full((rows.stop - rows.start, 2), 7, np.uint8), 2)
    header = Header(
        model="m",
        host="registry",
        guest=GUEST,
        version="20261129-120000-abcdef",
        made=datetime(2020, 11, 29, 12, tzinfo=UTC),
        key=public_key(SEALING),
        entries=ROWS,
        rows=ROWS,
        rules=[["trim"]],
        columns=[1],
        bits=2,
        handle=0,
        missing=bytes(2),
        same=[],
        shown=[],
        unknown_levels=0,
        table=bytes(32),
        catalogue=bytes(32),
    )
    sink = io.BytesIO()
    made = seal(table, Sealing(SEALING, header.context, 2), sink, None, secrets.token_bytes)
    signed = encode_header(msgspec.structs.replace(header, catalogue=made.catalogue.digest))
    half = SimpleNamespace(name="m", trained_name="m", normalise=("trim",), fallback=())
    data = SimpleNamespace(keys=[SimpleNamespace(id=("id",))])

    async def guest(host: Peer) -> list[bytes | None]:
        with tempfile.TemporaryDirectory() as store:
            party = SimpleNamespace(name=GUEST, data=data)
            pinned = {"registry": own.certificate}
            site = SimpleNamespace(store=Store(Path(store)), party=party, pinned=pinned)
            async with LookupSession(host, secrets.token_bytes).open() as session:
                reader = await fetch_directory(site, half, session, Silent())  # type: ignore[arg-type]
                inputs, key = inputs_of(0, [b"3", b"none", b"5"]), reader.header.key
                outputs = await session.outputs(inputs, key, lambda version: None)
                found = reader.open(outputs)
                with contextlib.suppress(Refused):
                    await session.outputs(inputs, key, lambda version: None)
                return found

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        source = _Sealed(signed, own.sign(statement(signed)), made, sink.getvalue())
        host = host_lookups(peers["registry"][GUEST], source, secrets.token_bytes)
        return {GUEST: guest(peers[GUEST]["registry"]), "registry": host}

    return Scenario("looking up", star(("registry",)), roles, PATTERNS)


def table(encryption: TableEncryption = "paillier", lent: Lent = nothing) -> Scenario:
    """A table by a factor of the host's and one of the guest's."""
    halves, thirds = np.arange(ROWS) % 2, np.arange(ROWS) * 3 // ROWS
    measures = [FixedPoint(np.arange(ROWS), 0)]

    def cells(chosen: np.ndarray) -> HostCells:
        codes = halves[chosen]
        return HostCells([["even", "odd"]], codes, np.bincount(codes, minlength=2), 5)

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        def group(least: int) -> Factor:
            return Factor(("a", "b", "c"), thirds)

        async def guest(peer: Peer) -> None:
            await guest_table(peer, np.ones(ROWS, np.bool_), measures, group, lent(GUEST))
            await peer.send(TableShared([[1.0, None]]))

        async def host(peer: Peer) -> None:
            terms = HostTerms(encryption, 2048)
            await host_table(peer, ROWS, cells, terms, lambda sums: None, lent(HOSTS[0]))
            await peer.recv(TableShared)

        return {GUEST: guest(peers[GUEST][HOSTS[0]]), HOSTS[0]: host(peers[HOSTS[0]][GUEST])}

    return Scenario("table", star(HOSTS[:1]), roles, PATTERNS)


def pair(lent: Lent = nothing) -> Scenario:
    """A table by a factor of each of two hosts."""
    codes = {HOSTS[0]: np.arange(ROWS) % 2, HOSTS[1]: np.arange(ROWS) * 3 // ROWS}
    measures = [FixedPoint(np.arange(ROWS), 0)]

    def cells(name: str) -> Callable[[np.ndarray], HostCells]:
        own = codes[name]
        levels = [f"{level}" for level in range(own.max() + 1)]
        return lambda chosen: HostCells([levels], own[chosen], np.bincount(own[chosen]), 2)

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        def host(name: str) -> Awaitable[None]:
            own = Participant(name, HOSTS, b"pair", resources=lent(name))
            terms = HostTerms("paillier", 2048)
            return host_pair(peers[name][GUEST], ROWS, cells(name), terms, lambda sums: None, own)

        first, second = (peers[GUEST][name] for name in HOSTS)
        table = guest_pair((first, second), None, measures, lent(GUEST))
        return {GUEST: table, **{name: host(name) for name in HOSTS}}

    relayed = frozenset({"FellowKey", "Relayed"})
    return Scenario("pair", star(HOSTS), roles, PATTERNS, relayed=relayed)


def screening(lent: Lent = nothing) -> Scenario:
    """Two columns of a host's, one of which it gives away, and the guest tells it all sums."""
    halves, thirds = np.arange(ROWS) % 2, np.arange(ROWS) * 3 // ROWS
    label = (np.arange(ROWS) % 3 > 1).astype(np.float64)
    numbers = Numbers(FixedPoint.of(label), None)
    everything = Everything.of(LogisticLoss(), np.ones(ROWS), label)

    def columns(chosen: np.ndarray) -> list[HostColumn]:
        return [
            HostColumn("1", ("even", "odd"), ("a", "b"), halves, np.bincount(halves)),
            HostColumn("2", ("x", "y", "z"), None, thirds, np.bincount(thirds)),
        ]

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        guest, host = peers[GUEST][HOSTS[0]], peers[HOSTS[0]][GUEST]
        rules = ScreenRules(HostTerms("paillier", 2048), 5, True, LogisticLoss())
        return {
            GUEST: guest_screen(guest, None, numbers, everything, True, lent(GUEST)),
            HOSTS[0]: host_screen(host, ROWS, columns, rules, lambda sums: None, lent(HOSTS[0])),
        }

    return Scenario("screening", star(HOSTS[:1]), roles, PATTERNS)


def inflating(lent: Lent = nothing) -> Scenario:
    """Variance inflation with two hosts."""

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        train = np.ones(ROWS, bool)
        guest = guest_inflation(
            list(peers[GUEST].values()), train, _matrix(GUEST, train).take(train), lent(GUEST)
        )
        return {GUEST: guest} | {
            host: host_inflation(
                peers[host][GUEST],
                ROWS,
                lambda training, host=host: _matrix(host, training),
                Participant(host, HOSTS, b"screening", minimum=10, resources=lent(host)),
            )
            for host in HOSTS
        }

    relayed = frozenset({"FellowKey", "Relayed"})
    return Scenario("inflating", star(HOSTS), roles, PATTERNS, relayed=relayed)


def correlating(lent: Lent = nothing) -> Scenario:
    """Correlations of a guest and two hosts, which are held against each other as well."""

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        of = {party: lent(party) for party in (GUEST, *HOSTS)}
        own = {
            party: Associated.of(FEATURES[party], 1, resources.randomness.at("turned columns"))
            for party, resources in of.items()
        }
        guest = guest_correlations(list(peers[GUEST].values()), GUEST, own[GUEST], ROWS, of[GUEST])
        return {GUEST: guest} | {
            host: host_correlations(
                peers[host][GUEST],
                HostColumns(own[host], [f"{at}" for at, _ in enumerate(own[host].columns)], True),
                ROWS,
                Participant(host, HOSTS, b"correlations", minimum=10, resources=of[host]),
                lambda many: None,
            )
            for host in HOSTS
        }

    relayed = frozenset({"FellowKey", "Relayed"})
    return Scenario("correlating", star(HOSTS), roles, PATTERNS, relayed=relayed)


def worth() -> Scenario:
    """The figures of what a host's data is worth."""
    figures = [
        WorthFigure("model", [], "gini", 0.2),
        WorthFigure("model", [0], "gini", 0.3, 0.2, 0.4),
        WorthFigure("added", [0], "gini", 0.1, 0.0, 0.2),
    ]
    told = WorthFigures(2 * ROWS, ROWS, ROWS // 2, ROWS // 4, ROWS // 4, 500, figures)

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        return {
            GUEST: tell_worth([peers[GUEST][HOSTS[0]]], told),
            HOSTS[0]: hear_worth(peers[HOSTS[0]][GUEST], HOSTS[:1], ROWS),
        }

    return Scenario("worth", star(HOSTS[:1]), roles, PATTERNS)


def tuning() -> Scenario:
    """Two trials of a search, without their trainings."""

    def has(settings: Mapping[str, object]) -> bool:
        return settings.keys() == {"depth"} and settings["depth"] in (2, 3)

    async def guest(host: Peer) -> None:
        for number in (1, 2):
            await tell_trial([host], number, {"depth": number + 1})
        await tell_end([host])

    async def host(guest: Peer) -> None:
        number = 1
        while await hear_trial(guest, number, has) is not None:
            number += 1

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        return {GUEST: guest(peers[GUEST][HOSTS[0]]), HOSTS[0]: host(peers[HOSTS[0]][GUEST])}

    return Scenario("tuning", star(HOSTS[:1]), roles, PATTERNS)


def auditing() -> Scenario:
    """The draw whether a run is audited, and a certificate that is handed over, whatever it says."""
    run, name = b"\7" * 32, HOSTS[0]
    brought = HostDraw(0.5, b"\1" * 32)
    demand = AuditDemand(0.5, commit(run, name, brought.share), b"")

    async def guest(host: Peer) -> None:
        await draw_with(host, run, demand, lambda size: b"\2" * size)
        await host.send(Presented(zlib.compress(b"a certificate"), False))
        await host.recv(Settled)

    async def host(guest: Peer) -> None:
        await brought.draw(guest, name, lambda drawing: None)
        said = await guest.recv(Presented)
        if unpack(guest, said.certificate) != b"a certificate" or said.more:
            raise Refused("the certificate does not hold")
        await guest.send(Settled(0))

    def roles(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
        return {GUEST: guest(peers[GUEST][name]), name: host(peers[name][GUEST])}

    return Scenario("auditing", star(HOSTS[:1]), roles, PATTERNS)


SCENARIOS: dict[str, Callable[[], Scenario]] = {
    "greeting": greeting,
    "resuming": resuming,
    "refusing": refusing,
    "alignment of two": lambda: alignment(HOSTS[:1]),
    "alignment of three": lambda: alignment(HOSTS),
    "alignment by transfers": lambda: alignment(HOSTS[:1], "ot"),
    "alignment by vector OLE": lambda: alignment(HOSTS[:1], "vole"),
    "joining": joining,
    "match rates": match_rates,
    "boosting": boosting,
    "boosting by sets": lambda: boosting(5, max_bins=8, ordered_categories="all"),
    "boosting of classes": lambda: boosting(trees=1, classes=3),
    "boosting best-first": lambda: boosting(depth=3, max_leaves=3),
    "lattice boosting": lattice_boosting,
    "lattice boosting best-first": lambda: lattice_boosting(depth=3, max_leaves=3, min_child_rows=5),
    "hidden boosting": lambda: hidden_boosting("paillier"),
    "hidden lattice boosting": lambda: hidden_boosting("lattice"),
    "fitting": fitting,
    "lattice fitting": lambda: fitting("lattice"),
    "fitting by folds": lambda: fitting("lattice", several=True),
    "fitting across": lambda: fitting_across("paillier"),
    "lattice fitting across": lambda: fitting_across("lattice"),
    "fitting to zeros": lambda: fitting(alpha=0.05, l1_ratio=0.5),
    "credible fitting": lambda: fitting("lattice", several=True, alpha=0.0, credibility=True),
    "inferring": lambda: fitting("lattice", infers=True),
    "inferring of few rows": lambda: fitting(infers=True, few=True),
    "hidden logistic fitting": lambda: hidden_fitting("logistic"),
    "hidden poisson fitting": lambda: hidden_fitting("poisson"),
    "adding": adding,
    "scoring": scoring,
    "beginning": beginning,
    "linear scoring": linear_scoring,
    "linear scoring across": lambda: linear_scoring(across=True),
    "looking up": looking_up,
    "table": table,
    "pair": pair,
    "screening": screening,
    "inflating": inflating,
    "correlating": correlating,
    "auditing": auditing,
    "worth": worth,
    "tuning": tuning,
}
