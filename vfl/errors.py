"""What can go wrong, seen from one party.

Every error that a user can act on is a `VflError`. Its text is one line that names the file,
column, row or peer and says what to do. `for_peer` is the line that the other parties are told:
never a value, an id or a path. The exit code of the command line is the class's.
"""

import traceback
from pathlib import Path

# What only some commands need, by the extra of pyproject.toml that brings it.
_EXTRAS = {
    **dict.fromkeys(("jinja2", "markupsafe", "matplotlib"), "[report]"),
    **dict.fromkeys(("authlib", "httpx2", "joserfc"), "[oidc]"),
    **dict.fromkeys(("fastapi", "prometheus_client", "starlette", "uvicorn"), "[online]"),
    "openpyxl": "[excel]",
    "mlflow": "[mlflow]",
    "opentelemetry": "[otel]",
}


def fault(error: BaseException) -> str:
    """A bug as one line: where in vfl, without the error's text, which may quote a value."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = f"a fault of vfl itself, please report it: {type(error).__name__}"
    frames = [(Path(f.f_code.co_filename), line) for f, line in traceback.walk_tb(error.__traceback__)]
    own = [(path, line) for path, line in frames if Path(__file__).parent in path.parents] or frames
    return text + (f" at {own[-1][0].name}:{own[-1][1]}" if own else "")


def not_installed(error: ModuleNotFoundError) -> str:
    """A package that is missing, and how to install it, as one line."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "vfl"):
        return fault(error)
    extra = _EXTRAS.get(package, "")
    return (
        f"{package} is not installed, which this command needs: pip install 'vfl{extra}' "
        f"(in a clone: pip install '.{extra}')"
    )


class VflError(Exception):
    """A failure with one clear line for the local user and one for the peers."""

    exit_code = 1
    for_peer = "it failed with an error of its own (its log has the details)"
    passing = False
    """Whether the job may go on from its last checkpoint, once the parties are connected again."""
    until_tomorrow = False
    """Whether a limit of the day alone stands against it."""

    def __init__(
        self, message: str, *, for_peer: str | None = None, passing: bool | None = None
    ) -> None:
        super().__init__(message)
        if for_peer is not None:
            self.for_peer = for_peer
        if passing is not None:
            self.passing = passing


class ConfigError(VflError):
    """A party file, job file or command line that does not say what it should."""

    exit_code = 2
    for_peer = "its configuration was refused (its log has the details)"


class DataError(VflError):
    """A table that cannot be used as it is."""

    exit_code = 3
    for_peer = "a problem in its own table (its log has the details)"


class IdentityError(VflError):
    """A key or certificate that is missing, unreadable or not the party's own."""

    exit_code = 4
    for_peer = "a problem with its own keys (its log has the details)"


class ModelError(VflError):
    """A model half, alignment or other stored file that is missing, damaged or foreign."""

    exit_code = 5
    for_peer = "it does not hold what this job needs (its log has the details)"


class BrokenRule(str):
    """A sentence on what breaks a rule of [policy], which is `rule`."""

    rule: str

    def __new__(cls, text: str, rule: str) -> "BrokenRule":
        """The sentence and the rule."""
        made = super().__new__(cls, text)
        made.rule = rule
        return made


class Refused(VflError):
    """A job that this party's own rules do not allow; peers are told the rule.

    `rules`: the names of those of [policy], as far as they are known.
    """

    exit_code = 6

    def __init__(
        self, message: str, *, for_peer: str | None = None, rules: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, for_peer=str(message) if for_peer is None else for_peer)
        self.rules = (message.rule,) if isinstance(message, BrokenRule) else rules


class DayIsFull(Refused):
    """A job that would be more than this party's rules allow on one day (UTC)."""

    until_tomorrow = True


class RateIsFull(Refused):
    """A lookup that would be more than a party's rules allow in a minute; `seconds` until it is not."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class PeerUnreachable(VflError):
    """No session with a peer could be opened.

    nobody_listens: whether it seems that nothing listens at its address.
    """

    exit_code = 7
    for_peer = "another party cannot be reached"

    def __init__(
        self, message: str, *, for_peer: str | None = None, nobody_listens: bool = False
    ) -> None:
        super().__init__(message, for_peer=for_peer)
        self.nobody_listens = nobody_listens


class PeerLost(VflError):
    """The connection to a peer broke in the middle of a job."""

    exit_code = 8
    for_peer = "the connection to another party broke"
    passing = True


class PeerStopped(VflError):
    """A peer ended the job and said why, and whether for good."""

    exit_code = 9


class PeerError(VflError):
    """A peer broke the protocol; names the peer and the message."""

    exit_code = 10


class ClusterError(VflError):
    """A cluster of this party's own that cannot go on."""

    exit_code = 11


INTERRUPTED = 130
"""The exit code of a command that Ctrl-C or a signal has ended, as of other programs."""

EXIT_CODES = {
    0: "done (a host: ended by Ctrl-C, SIGTERM or SIGHUP)",
    VflError.exit_code: "a fault of vfl itself, or what was checked is not in order",
    ConfigError.exit_code: "configuration or command line",
    DataError.exit_code: "table or storage",
    IdentityError.exit_code: "keys",
    ModelError.exit_code: "model or alignment",
    Refused.exit_code: "refused by this party's own rules",
    PeerUnreachable.exit_code: "a peer cannot be reached",
    PeerLost.exit_code: "a peer was lost in the middle of a job",
    PeerStopped.exit_code: "a peer stopped the job",
    PeerError.exit_code: "a peer broke the protocol",
    ClusterError.exit_code: "this party's own cluster cannot go on",
    INTERRUPTED: "interrupted",
}
"""What the exit code of a command means."""


# Of the estimators, where scikit-learn's tools expect Python's own kinds as well.


class ParameterError(ConfigError, ValueError):
    """A parameter, or an argument of a method, that does not say what it should."""


class UnknownParameter(ParameterError, TypeError):
    """A parameter that does not exist."""


class InputError(DataError, ValueError):
    """A table, a label or weights that cannot be used as they are."""


class VflWarning(UserWarning):
    """What may not be as its user thinks, though nothing failed."""
