"""What a training would cost and tell, before it."""

from collections.abc import Mapping

from vfl.jobs.forecast import BYTES_OFF, TIME_OFF, Forecast, Tapes
from vfl.jobs.known_columns import ColumnCount
from vfl.jobs.score_forecast import ScoreForecast
from vfl.terminal.results import put_leakage
from vfl.terminal.streams import stdout
from vfl.text import counted


def put_forecast(found: Forecast) -> None:
    """The figures, how they are made and how far they are off; then what each party could learn."""
    leakage = found.leakage
    of = f" of alignment {leakage.alignment}" if leakage.alignment else ""
    stdout.put(f"{leakage.job} over {counted(found.rows, 'row')}{of}: nothing was sent")
    for name, traffic in found.traffic.items():
        known = f", {_columns(name, found.columns[name])}" if name in found.columns else ""
        stdout.put(f"{name}: {_size(traffic.sent)} out, {_size(traffic.received)} in{known}")
    for name, traffic in found.beside.items():
        ways = f"{_size(traffic.sent)} out, {_size(traffic.received)} in"
        stdout.put(f"{name} with {found.coordinator}: {ways}")
    stdout.put(
        f"time: {_seconds(found.processor_seconds)} of one core of this machine for all parties "
        "together, and "
        f"{_seconds(found.line_seconds)} on a line of 100 Mbit/s",
        f"memory: {_size(found.memory)} here, {_size(found.host_memory)} at a host",
        _tapes(found.tapes),
        _audit(found),
        *_iterations(found),
        "made by playing the job in memory on small drawn tables: as a rule bytes are within a factor "
        f"of {BYTES_OFF:g} where a host's number of columns is known, time within {TIME_OFF:g}",
    )
    put_leakage(leakage)


def _iterations(found: Forecast) -> list[str]:
    """With how many iterations of a linear model all of it is reckoned."""
    if not found.iterations:
        return []
    took = counted(found.iterations, "iteration")
    return [
        f"reckoned with the {took} of the drawn tables: real columns may take two or three times as many"
    ]


def _tapes(tapes: Tapes) -> str:
    """What tapes take, of all and at a host of a share of the trees."""
    text = f"tape, where it is kept: up to {_size(tapes.here)} here, {_size(tapes.host)} at a host"
    share = f" (with tape = 0.1 there some {_size(tapes.at_a_host(0.1))}, as its trees are drawn)"
    return text + (share if tapes.of_trees else "")


def _audit(found: Forecast) -> str:
    """What it costs to show a host's audit."""
    text = "audit, where a host demands one: a replay takes this party's part of the time once more, "
    text += f"less than {_seconds(found.processor_seconds)}"
    return text + (
        "; under Paillier little but the trees that are drawn" if found.tapes.of_trees else ""
    )


def _columns(host: str, known: ColumnCount) -> str:
    """How many columns a host was taken to have, and why."""
    columns = counted(known.count, "column")
    if known.basis == "given":
        return f"for {columns}"
    if known.basis == "model":
        return f"for {columns} (as many at least, by {known.model}; or --host-columns {host}=N)"
    return f"for {columns} (not known here: say how many by --host-columns {host}=N; in grows with them)"


def put_project_forecast(found: Mapping[str, Forecast], project: str) -> None:
    """Each model's figures, and what they come to together."""
    for one in found.values():
        put_forecast(one)
    parts = [*found.values()]
    for name in parts[0].traffic:
        traffic = [one.traffic[name] for one in parts if name in one.traffic]
        out, back = (sum(getattr(one, way) for one in traffic) for way in ("sent", "received"))
        stdout.put(f"project {project}: {name} {_size(out)} out, {_size(back)} in, all models together")


def _size(number: float) -> str:
    return f"{number / 1e6:,.1f} MB" if number < 1e9 else f"{number / 1e9:,.1f} GB"


def _seconds(number: float) -> str:
    return f"{number:,.0f} s" if number < 120 else f"{number / 60:,.0f} min"


def put_score_forecast(found: ScoreForecast) -> None:
    """The same of a batch."""
    stdout.put(f"{counted(found.rows, 'row')} by {found.model}: nothing was sent")
    for name, host in found.hosts.items():
        stdout.put(
            f"{name}: {_size(host.sent)} out, {_size(host.received)} in, by the ledger's {host.basis} "
            f"of {host.of[:10]}; within a factor of {BYTES_OFF:g} as a rule"
        )
        for way, said in (("to", host.told), ("by", host.learnt)):
            what = (one for one in said if not one.startswith("nothing"))
            stdout.put(*(f"  told {way} {name}: {one}" for one in what))
    for note in found.notes:
        stdout.put(f"note: {note}")
