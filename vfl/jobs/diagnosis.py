"""Why few ids match: other ways to write them, tried on a sample with each host; both sides are told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vfl.crypto.randomness import Randomness
from vfl.errors import DayIsFull, Refused
from vfl.jobs.connect import Site
from vfl.jobs.offer import Accept, Offer
from vfl.jobs.show import Show
from vfl.net.peer import Peer, together
from vfl.party.id_trials import (
    Advice,
    Attempt,
    OwnKey,
    advise,
    attempts,
    combine,
    name_alike,
    trials,
)
from vfl.party.policy import check_intersection
from vfl.party.policy_section import PolicySection
from vfl.party.table import Table
from vfl.protocols.align.join import Matched
from vfl.protocols.align.match_rates import (
    Comparison,
    MatchRate,
    MatchShare,
    MatchStart,
    Refusal,
    guest_match_rates,
    host_match_rates,
)
from vfl.protocols.align.psi import Admit
from vfl.text import counted

FEW = 0.5  # of the smaller table's ids: when fewer match, the guest asks for a diagnosis


@dataclass(frozen=True)
class Diagnosis:
    """What the two sides learned of how they write ids. Nothing in it names an id."""

    peer: str
    tried: list[Attempt]
    rates: list[MatchRate]
    advice: Advice
    asked: tuple[int, int]  # ids in samples, that the guest and the host asked about

    def lines(self) -> list[str]:
        """A table for a terminal, and the advice under it."""
        alike: dict[object, list[tuple[Attempt, MatchRate]]] = {}
        for attempt, rate in zip(self.tried, self.rates, strict=True):
            if rate.common is not None:
                key = (attempt.column, rate.ids, rate.sample, rate.common)
                alike.setdefault(key, []).append((attempt, rate))
        rows = []
        for group in alike.values():
            rate = group[0][1]
            low, high = (100 * end for end in rate.interval)
            name = name_alike([attempt for attempt, _ in group])
            rows.append(f"{100 * (rate.share or 0):6.1f} %  {low:5.1f} to {high:5.1f}  {name}")
        heading = [
            f"matched ids of a sample with {self.peer}, by rule:",
            "  rate    95 % interval  rule",
        ]
        return [*(heading if rows else []), *rows, f"advice: {self.advice.text}"]

    def as_json(self) -> dict[str, object]:
        """The same for a program."""
        rule = self.advice.normalise
        return {
            "peer": self.peer,
            "advice": self.advice.text,
            "normalise": None if rule is None else [list(steps) for steps in rule],
            "rates": [
                {
                    "rule": rate.trial,
                    "guest_ids": rate.ids[0],
                    "host_ids": rate.ids[1],
                    "sample": min(rate.sample),
                    "common": rate.common,
                    "rate": rate.share,
                    "interval": list(rate.interval),
                }
                for rate in self.rates
                if rate.common is not None
            ],
        }


def are_few(common: int, *tables: int) -> bool:
    """Whether so few ids are common to tables of so many that the guest asks why."""
    return common < FEW * min(tables)


def diagnosis_context(run: bytes, key: int) -> bytes:
    """What names the comparison of samples of a key's ids in a run."""
    return run + b" match rates" + bytes([key])


async def guest_diagnosis(
    hosts: Sequence[Peer],
    key: OwnKey,
    *,
    context: bytes,
    randomness: Randomness,
    show: Show,
) -> dict[str, Diagnosis | None]:
    """Compare samples with each host under all ways to write ids, and say what to do.

    context: the run; randomness: of this comparison alone. By host; None for one whose policy does not
    allow it. Raises PeerError, PeerStopped, PeerLost.
    """
    tried = attempts(key.rule, len(key.columns))
    own_trials = trials(key, tried, "guest")
    first = await guest_match_rates(
        hosts, own_trials, context=context, randomness=randomness, progress=show.progress
    )

    async def second(host: Peer, found: Comparison | Refusal) -> Diagnosis | Refusal:
        if isinstance(found, str):
            return found
        again: Comparison | Refusal | None = None
        if (best := combine(tried, found.rates)) is not None:
            more = await guest_match_rates(
                [host],
                trials(key, [best], "guest"),
                context=_second(context),
                randomness=randomness.part("combined", host.name),
            )
            again = more[host.name]
        return _diagnosis(host, key, _together(host, (tried, found), best, again))

    found_of = await together([second(host, first[host.name]) for host in hosts])
    diagnoses: dict[str, Diagnosis | None] = {}
    for host, found in zip(hosts, found_of, strict=True):
        diagnoses[host.name] = None if isinstance(found, str) else found
        if isinstance(found, str):
            show.say(
                f"note: {host.name} does not compare samples of ids: {_TO_GUEST[found]}; {_INSTEAD}"
            )
        else:
            if found.asked[1]:
                show.say(f"{host.name} asked about {counted(found.asked[1], 'id')} in samples")
            for line in found.lines():
                show.say(line)
    return diagnoses


async def host_diagnosis(
    guest: Peer,
    start: MatchStart,
    key: OwnKey,
    *,
    name: str,
    context: bytes,
    randomness: Randomness,
    refused: Refusal | None,
    admit: Callable[[int], bool],
    show: Show,
) -> Diagnosis | None:
    """A host's part, once the guest's first message is there; None where it takes none.

    name: this host's, as the guest knows it. refused: why it takes none, if it does not. admit: as
    for `host_match_rates`. The rest is as for the guest.
    """
    tried = attempts(key.rule, len(key.columns))
    found: Comparison | Refusal
    if refused is not None:
        await guest.send(MatchShare(b"", refused))
        found = refused
    else:
        found = await host_match_rates(
            guest,
            trials(key, tried, "host"),
            name=name,
            context=context,
            start=start,
            admit=admit,
            randomness=randomness,
            progress=show.progress,
        )
    if isinstance(found, str):
        why = _TO_HOST[found]
        show.say(f"note: {guest.name} asked to compare samples of ids: {why}; nothing was compared")
        return None
    again: Comparison | Refusal | None = None
    if (best := combine(tried, found.rates)) is not None:
        again = await host_match_rates(
            guest,
            trials(key, [best], "host"),
            name=name,
            context=_second(context),
            admit=admit,
            randomness=randomness.part("combined", guest.name),
        )
    diagnosis = _diagnosis(guest, key, _together(guest, (tried, found), best, again))
    if diagnosis.asked[0]:
        show.say(
            f"{guest.name} asked about {counted(diagnosis.asked[0], 'id')} in samples, which [policy] "
            "max_ids_a_day counts"
        )
    for line in diagnosis.lines():
        show.say(line)
    return diagnosis


@dataclass(frozen=True)
class Answering:
    """How a host answers a guest that asks why few ids match."""

    peer: Peer
    count: Admit  # of the ids that it asks about
    refused: Refusal | None  # why it is not answered, if it is not
    randomness: Randomness
    show: Show

    def admits(self, ids: int) -> bool:
        """Whether so many more may be asked about today; they are counted."""
        try:
            self.count(self.peer, ids)
        except DayIsFull:
            return False
        return True


def why_undiagnosed(policy: PolicySection, matched: Matched) -> Refusal | None:
    """Why a host does not say how ids would match by other rules; None if it does.

    Of ids of which few are the guest's, it would say more than the alignment that it does not allow.
    """
    if not policy.diagnose:
        return "policy"
    try:
        check_intersection(policy, matched.ids)
    except Refused:
        return "intersection"
    return None


async def answer_diagnoses(
    site: Site, peer: Peer, offer: Offer, table: Table, answering: Answering
) -> Accept:
    """The guest's Accept, after it has asked why few ids match, once a key, or has not."""
    party = site.party
    for number, key in enumerate(OwnKey.all_of(party.data, table.by_key(party.data))):
        message = await peer.recv(Accept, MatchStart)
        if isinstance(message, Accept):
            return message
        await host_diagnosis(
            peer,
            message,
            key,
            name=party.name,
            context=diagnosis_context(offer.run, number),
            randomness=answering.randomness.part("why few ids match", number),
            refused=answering.refused,
            admit=answering.admits,
            show=answering.show,
        )
    return await peer.recv(Accept)


_INSTEAD = (
    "compare by phone how each party writes its ids: `vfl align --dry-run` with the party file shows it "
    "to each, without a peer"
)
_TO_GUEST: dict[Refusal, str] = {
    "policy": "its party file does not allow it (a host that trusts this guest with it adds the line "
    "`diagnose = true` under [policy])",
    "intersection": "it does so only for an alignment that its [policy] allows, and with this one the "
    "rows in common are fewer than its min_intersection or more than its max_intersection "
    "(without any it never does)",
    "trials": "its version of vfl tries other rules",
    "day": "with these it would have been asked about more ids today than its [policy] max_ids_a_day "
    "allows",
}
_TO_HOST: dict[Refusal, str] = {
    "policy": "[policy] does not allow it (who trusts this guest with it adds the line "
    "`diagnose = true` there)",
    "intersection": "the alignment does not meet [policy] min_intersection or max_intersection",
    "trials": "its version of vfl tries other rules",
    "day": "with these it would have asked about more ids today than [policy] max_ids_a_day allows",
}

_Tried = tuple[list[Attempt], Comparison]


def _together(
    peer: Peer, first: _Tried, best: Attempt | None, again: Comparison | Refusal | None
) -> _Tried:
    """What was tried first and, if there was such, what was best in each column together. Raises
    PeerError for a peer that does not try what follows from the rates."""
    tried, found = first
    if best is None or again is None or again == "day":
        return first
    if isinstance(again, str):
        raise peer.breach("a comparison of samples that does not follow from the one before it")
    asked = found.asked[0] + again.asked[0], found.asked[1] + again.asked[1]
    return [*tried, best], Comparison(found.rates + again.rates, asked)


def _diagnosis(peer: Peer, key: OwnKey, done: _Tried) -> Diagnosis:
    tried, found = done
    advice = advise(tried, found.rates, key.names, peer.name)
    return Diagnosis(peer.name, tried, found.rates, advice, found.asked)


def _second(context: bytes) -> bytes:
    return context + b" combined"
