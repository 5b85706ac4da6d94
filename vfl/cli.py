"""The command line: one party of a federation."""

import asyncio
import contextlib
import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vfl import __version__
from vfl.errors import VflError, fault

if TYPE_CHECKING:
    from vfl.jobs.guest import Trained
    from vfl.party.linear import Line

T = TypeVar("T")
INTERRUPTED = 130
_LOG_SECONDS = 30.0
_WIDE = 240  # characters of a line where there is no terminal
_METRICS = {  # of the models' documents, in words
    "auc": "AUC",
    "log_loss": "log loss",
    "deviance": "deviance",
    "d2": "D²",
    "mae": "mean absolute error",
}

_PARTY = click.argument("party", type=click.Path(path_type=Path), metavar="PARTY.toml")
_WAIT = click.option(
    "--wait",
    type=click.FloatRange(0, 86400),
    default=30.0,
    show_default=True,
    help="Seconds to wait for the other parties to be there.",
)
_MODEL = click.option(
    "--model", required=True, help="Name of a model or of its job (the newest), or a path."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")


class _Group(click.Group):
    """Turns every failure into one line and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except VflError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            click.echo(f"error: {fault(error)}", err=True)
            ctx.exit(VflError.exit_code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vfl")
def main() -> None:
    """Train and score models together with other companies, without sharing data.

    \b
    Exit codes: 0 done (a host: ended by Ctrl-C or SIGTERM), 1 a fault of vfl itself, or unhealthy,
    2 configuration, 3 table or storage, 4 keys, 5 model or alignment, 6 refused by policy,
    7 peer unreachable, 8 peer lost, 9 peer stopped the job, 10 peer broke the protocol, 130 interrupted.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


@main.group()
def keys() -> None:
    """This party's identity."""


@keys.command("new")
@click.argument("name")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("keys"),
    show_default=True,
    help="Folder of the two files.",
)
def keys_new(name: str, folder: Path) -> None:
    """Make a key and a certificate for the party NAME."""
    from vfl.party import identity

    made = identity.create(folder / name, name)
    click.echo(f"{folder / name}.key   the private key: never leaves this machine")
    click.echo(f"{folder / name}.pem   the certificate: give it to the other parties")
    click.echo(f"fingerprint  {made.certificate.fingerprint_groups}")
    click.echo("Compare the fingerprint by phone before the others pin the certificate.")


@keys.command("show")
@click.argument("certificate", type=click.Path(path_type=Path), metavar="CERTIFICATE.pem")
def keys_show(certificate: Path) -> None:
    """Show whose a certificate is, and its fingerprint."""
    from vfl.party import identity

    found = identity.load_certificate(certificate)
    click.echo(f"{found.name}\nfingerprint  {found.fingerprint_groups}")


@main.group("config")
def config_group() -> None:
    """The files a person writes."""


@config_group.command("schema")
@click.argument("kind", type=click.Choice(["party", "job"]))
def config_schema(kind: str) -> None:
    """Print the JSON Schema of a party or job file."""
    from vfl.party import config

    click.echo(json.dumps(config.schema("party" if kind == "party" else "job"), indent=2))


@main.command()
@_PARTY
@click.option("--wait", type=click.FloatRange(0, 3600), default=5.0, show_default=True)
def doctor(party: Path, wait: float) -> None:
    """Check files, keys, table and peers before any job."""
    from vfl.jobs.doctor import examine
    from vfl.party.config import load_party

    healthy = _run(examine(load_party(party), wait, click.echo))
    if not healthy:
        raise click.exceptions.Exit(1)


@main.command()
@_PARTY
def serve(party: Path) -> None:
    """Serve jobs as a host or coordinator, one after the other, until Ctrl-C or SIGTERM."""
    from vfl.jobs.connect import Office
    from vfl.jobs.coordinator import coordinate
    from vfl.jobs.host import serve as serve_host
    from vfl.party.config import load_party

    settings = load_party(party)
    if settings.role == "guest":
        _need_role(settings.role, "host", party)
    work = serve_host if settings.role == "host" else coordinate
    with _terminal() as show:
        try:
            _run(work(Office.open(settings), show))
        except KeyboardInterrupt:
            show.say(f"{settings.name} stops serving")


@main.command()
@_PARTY
@_WAIT
@_JSON
def align(party: Path, wait: float, as_json: bool) -> None:
    """Find the rows that all parties know, by private set intersection."""
    from vfl.jobs.connect import Office
    from vfl.jobs.guest import align as align_guest
    from vfl.party.config import load_party

    settings = load_party(party)
    _need_role(settings.role, "guest", party)
    with _terminal() as show:
        alignment, account = _run(align_guest(Office.open(settings), wait=wait, show=show))
    if as_json:
        _print_json(
            {
                "alignment": alignment.name,
                "rows": len(alignment.rows),
                **_account(account),
            }
        )
    else:
        click.echo(f"alignment {alignment.name} is kept; {_cost(account)}")


@main.command()
@_PARTY
@click.argument("job", type=click.Path(path_type=Path), metavar="JOB.toml")
@click.option("--alignment", help="Name of an alignment; the latest by default.")
@_WAIT
@_JSON
def train(party: Path, job: Path, alignment: str | None, wait: float, as_json: bool) -> None:
    """Train the model of a job file together with the hosts."""
    from vfl.jobs.connect import Office
    from vfl.jobs.guest import train as train_guest
    from vfl.party.config import load_job, load_party

    settings, wanted = load_party(party), load_job(job)
    _need_role(settings.role, "guest", party)
    with _terminal() as show:
        done = _run(
            train_guest(Office.open(settings), wanted, alignment=alignment, wait=wait, show=show)
        )
    if as_json:
        _print_json(
            {
                "model": done.half.name,
                **_model_document(done),
                "rows": done.rows,
                "metrics": done.half.metrics,
                "phases": done.phases,
                **_account(done.account),
            }
        )
        return
    _print_metrics(done.half.metrics, done.rows["held out"])
    click.echo(f"model {done.half.name}: {_print_model(done)}; {_cost(done.account)}")


@main.command()
@_PARTY
@_MODEL
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Rows to score.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help=".csv or .parquet")
@_WAIT
@_JSON
def score(party: Path, model: str, data: Path, out: Path, wait: float, as_json: bool) -> None:
    """Score a file of rows without labels."""
    from vfl.jobs.connect import Office
    from vfl.jobs.guest import score as score_guest
    from vfl.party.config import load_party

    settings = load_party(party)
    _need_role(settings.role, "guest", party)
    with _terminal() as show:
        done = _run(score_guest(Office.open(settings), model, data, out, wait=wait, show=show))
    if as_json:
        _print_json(
            {
                "rows": done.rows,
                "unknown": done.unknown,
                **_account(done.account),
            }
        )
        return
    for name, rows in done.unknown.items():
        if rows:
            click.echo(
                f"{name} does not know {rows:,} of {done.rows:,} rows: scored without its columns"
            )
    click.echo(f"{done.rows:,} scores in {out}; {_cost(done.account)}")


@main.command()
@_PARTY
@_MODEL
@_JSON
def relativities(party: Path, model: str, as_json: bool) -> None:
    """Show what a linear model says about this party's own columns."""
    from vfl.jobs.relativities import load_lines
    from vfl.party.config import load_party
    from vfl.party.linear import COLUMNS
    from vfl.party.store import Store

    settings = load_party(party)
    name, lines = load_lines(Store(settings.party.store), model, settings.role)
    if as_json:
        rows = [dict(zip(COLUMNS, line.cells, strict=True)) for line in lines]
        _print_json({"model": name, "relativities": rows})
        return
    _print_relativities(name, lines)


def _need_role(role: str, needed: str, path: Path) -> None:
    from vfl.errors import ConfigError

    if role != needed:
        command = "align, train and score" if role == "guest" else "serve"
        raise ConfigError(f"{path.name}: this party is a {role}, whose commands are {command}")


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; SIGTERM ends it like Ctrl-C, so that peers are told."""

    async def supervised() -> T:
        asyncio.get_running_loop().set_default_executor(_Threads())
        task = asyncio.current_task()
        if task is not None:
            with contextlib.suppress(NotImplementedError):  # Windows has no such signal
                asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(supervised())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
        if isinstance(first, VflError):
            raise first from None
        raise


class _Threads(ThreadPoolExecutor):
    """A thread for each call, for which nobody waits when a job is interrupted."""

    def submit(self, call: Callable[..., T], /, *arguments: Any, **named: Any) -> Future[T]:
        outcome: Future[T] = Future()

        def compute() -> None:
            try:
                outcome.set_result(call(*arguments, **named))
            except BaseException as error:
                outcome.set_exception(error)

        outcome.set_running_or_notify_cancel()
        threading.Thread(target=compute, daemon=True).start()
        return outcome


class _Terminal:
    """News on stderr: lines, and on a terminal one bar with the time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._step: tuple[str, Any] = ("", None)
        self._started = self._said = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(line, markup=False)

    def progress(self, what: str, done: int, of: int | None) -> None:
        """Move the bar; another step starts a new one."""
        kind, now = what.partition(",")[0], time.monotonic()
        if self._step[0] != kind:
            self._started = now
            if self._step[1] is not None:
                self.bar.remove_task(self._step[1])
            self._step = (kind, self.bar.add_task(what, total=None, count=""))
        count = f"{done:,} so far" if of is None else f"{done:,} of {of:,}"
        if of is not None and 0 < done < of:
            count += f", about {(now - self._started) * (of - done) / done:,.0f} s left"
        self.bar.update(self._step[1], description=what, completed=done, total=of, count=count)
        if self.bar.disable and now - self._said >= _LOG_SECONDS and done and done != of:
            # No terminal: a line now and then, for the log.
            self._said = now
            self.say(f"{what}: {count}")


@contextlib.contextmanager
def _terminal() -> Iterator[_Terminal]:
    terminal = _Terminal()
    with terminal.bar:
        yield terminal


def _print_json(result: dict[str, Any]) -> None:
    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(inner) for key, inner in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    click.echo(json.dumps(finite(result)))


def _print_metrics(metrics: dict[str, dict[str, float]], rows: int) -> None:
    if not metrics:
        return
    from rich.table import Table

    table = Table(title=f"on {rows:,} held-out rows", title_justify="left")
    table.add_column("model")
    for key in next(iter(metrics.values())):
        table.add_column(_METRICS.get(key, key), justify="right")
    for name, values in metrics.items():
        table.add_row(name, *(f"{value:.4f}" for value in values.values()))
    _print(table)


def _model_document(done: "Trained") -> dict[str, Any]:
    """What the JSON says about a model, by its kind."""
    from vfl.protocols.boost import GuestModel

    model = done.half.model
    if isinstance(model, GuestModel):
        return {"trees": len(model.trees), "importance": model.importance()}
    return {**model.ending, "relativities": str(done.relativities)}


def _print_model(done: "Trained") -> str:
    """Print what there is to see of a model, by its kind; in words how large it is."""
    from vfl.protocols.boost import GuestModel

    model = done.half.model
    if isinstance(model, GuestModel):
        _print_importance(model.importance())
        return f"{len(model.trees)} trees"
    click.echo(f"relativities are in {done.relativities}")
    many = f"{model.iterations:,} iteration{'' if model.iterations == 1 else 's'}"
    return f"{'' if model.converged else 'NOT '}converged after {many}"


def _print_relativities(name: str, lines: "Sequence[Line]") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"model {name}", title_justify="left")
    for heading in ("column", "level"):
        table.add_column(heading, overflow="fold")
    for heading in ("coefficient", "per unit", "relativity", "rows"):
        table.add_column(heading, justify="right")
    for line in lines:
        table.add_row(
            Text(line.column),
            Text(line.level),
            f"{line.coefficient:.4f}",
            "" if line.per_unit is None else f"{line.per_unit:.4g}",
            "" if line.relativity is None else f"{line.relativity:.4f}",
            "" if line.rows is None else f"{line.rows:,}",
        )
    _print(table)


def _print_importance(importance: list[tuple[str, str, int, float]]) -> None:
    from rich.table import Table

    table = Table(title="importance", title_justify="left")
    for heading in ("party", "column"):
        table.add_column(heading)
    for heading in ("splits", "gain"):
        table.add_column(heading, justify="right")
    for party, column, splits, gain in importance[:15]:
        table.add_row(party, column, f"{splits}", f"{gain:.1f}")
    _print(table)


def _print(table: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)  # nothing is cut in a file or a pipe
    console.print(table)


def _account(account: Any) -> dict[str, Any]:
    return {
        "seconds": account.seconds,
        "bytes_sent": account.sent,
        "bytes_received": account.received,
        "peak_memory": account.peak_memory,
    }


def _cost(account: Any) -> str:
    parties = ", ".join(
        f"{name} {account.sent[name] / 1e6:.1f} MB out, {account.received[name] / 1e6:.1f} MB in"
        for name in account.sent
    )
    return f"{account.seconds:.1f} s; {parties}"


if __name__ == "__main__":
    main()
