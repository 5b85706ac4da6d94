"""Why few ids match: other ways to write them, tried on a sample with each host; both sides are told."""

from collections.abc import Sequence
from dataclasses import dataclass

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
from vfl.protocols.align.match_rates import MatchRate, MatchStart, guest_match_rates, host_match_rates

FEW = 0.5  # of the smaller table's ids: when fewer match, the guest asks for a diagnosis


@dataclass(frozen=True)
class Diagnosis:
    """What the two sides learned of how they write ids. Nothing in it names an id."""

    peer: str
    tried: list[Attempt]
    rates: list[MatchRate]
    advice: Advice

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


async def guest_diagnosis(
    hosts: Sequence[Peer],
    key: OwnKey,
    *,
    context: bytes,
    show: Show,
) -> dict[str, Diagnosis | None]:
    """Compare samples with each host under all ways to write ids, and say what to do.

    context: the run. By host; None for one whose policy does not allow it. Raises PeerError,
    PeerStopped, PeerLost.
    """
    tried = attempts(key.rule, len(key.columns))
    own_trials = trials(key, tried, "guest")
    rates_of = await guest_match_rates(hosts, own_trials, context=context, progress=show.progress)

    async def second(host: Peer, rates: list[MatchRate] | None) -> Diagnosis | None:
        if rates is None:
            return None
        whole, all_rates = tried, rates
        if (best := combine(tried, rates)) is not None:
            again = await guest_match_rates(
                [host], trials(key, [best], "guest"), context=_second(context)
            )
            if (more := again[host.name]) is None:
                raise host.breach("MatchSizes without the trial that follows from the others")
            whole, all_rates = [*tried, best], rates + more
        return Diagnosis(host.name, whole, all_rates, advise(whole, all_rates, key.names, host.name))

    diagnoses = await together([second(host, rates_of[host.name]) for host in hosts])
    for host, diagnosis in zip(hosts, diagnoses, strict=True):
        if diagnosis is None:
            show.say(
                f"note: {host.name} does not compare samples of ids: its [policy] diagnose is false, or "
                "its version of vfl tries other rules"
            )
        else:
            for line in diagnosis.lines():
                show.say(line)
    return dict(zip([host.name for host in hosts], diagnoses, strict=True))


async def host_diagnosis(
    guest: Peer,
    start: MatchStart,
    key: OwnKey,
    *,
    name: str,
    context: bytes,
    allowed: bool,
    show: Show,
) -> Diagnosis | None:
    """A host's part, once the guest's first message is there; None where it takes none.

    name: this host's, as the guest knows it. allowed: by [policy] diagnose. The rest is as for the
    guest.
    """
    tried = attempts(key.rule, len(key.columns)) if allowed else []
    rates = await host_match_rates(
        guest,
        trials(key, tried, "host"),
        name=name,
        context=context,
        start=start,
        progress=show.progress,
    )
    if rates is None:
        why = "" if allowed else ", which [policy] diagnose = false does not allow"
        show.say(f"note: {guest.name} asked to compare samples of ids{why}; nothing was compared")
        return None
    if (best := combine(tried, rates)) is not None:
        more = await host_match_rates(
            guest, trials(key, [best], "host"), name=name, context=_second(context)
        )
        if more is None:
            raise guest.breach("MatchStart of another trial than follows from the others")
        tried, rates = [*tried, best], rates + more
    diagnosis = Diagnosis(guest.name, tried, rates, advise(tried, rates, key.names, guest.name))
    for line in diagnosis.lines():
        show.say(line)
    return diagnosis


def _second(context: bytes) -> bytes:
    return context + b" combined"
