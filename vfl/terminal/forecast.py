"""What a training would cost and tell, before it."""

from vfl.jobs.forecast import BYTES_OFF, TIME_OFF, Forecast
from vfl.jobs.score_forecast import ScoreForecast
from vfl.terminal.results import put_leakage
from vfl.terminal.streams import stdout
from vfl.text import counted


def put_forecast(found: Forecast) -> None:
    """The figures, how they are made and how far they are off; then what each party could learn."""
    leakage = found.leakage
    of = f" of alignment {leakage.alignment}" if leakage.alignment else ""
    stdout.put(f"{leakage.job} over {counted(found.rows, 'row')}{of}: nothing was sent")
    received = sum(traffic.received for traffic in found.traffic.values())
    sent = max((traffic.sent for traffic in found.traffic.values()), default=0)
    for name, traffic in found.traffic.items():
        stdout.put(f"{name}: {_size(traffic.sent)} out, {_size(traffic.received)} in")
    stdout.put(
        f"time: {_seconds(found.processor_seconds)} of one core of this machine for all parties "
        "together, and "
        f"{_seconds(found.line_seconds)} on a line of 100 Mbit/s",
        f"memory: {_size(found.memory)} here, {_size(found.host_memory)} at a host",
        f"tape, where it is kept: up to {_size(received)} here, {_size(sent)} at a host",
        f"made by playing the job in memory on small drawn tables, {counted(found.columns, 'column')} "
        "at each "
        f"host: as a rule bytes are within a factor of {BYTES_OFF:g}, time within {TIME_OFF:g}",
    )
    put_leakage(leakage)


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
