"""Whether this process makes spans of its jobs: only where OTEL_* names somebody to give them to."""

import contextlib
import os
from collections.abc import Iterator

from vfl.errors import not_installed
from vfl.jobs.connect import Site
from vfl.jobs.show import Show

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def is_wanted() -> bool:
    """Whether spans are to be made, by the variables that OpenTelemetry has for that."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none":
        return False
    return bool(exporter) or any(os.environ.get(name) for name in _ENDPOINTS)


@contextlib.contextmanager
def tracing(site: Site, show: Show) -> Iterator[None]:
    """The block, of whose jobs spans are made if they are wanted.

    Where the packages for it are missing a note says so: the variables may be meant for other programs.
    Raises ConfigError for variables that ask for what vfl has not.
    """
    if not is_wanted():
        yield
        return
    try:
        from vfl.monitor.spans import putting_spans
    except ModuleNotFoundError as error:
        show.say(f"note: no traces: {not_installed(error)}")
        yield
        return
    with putting_spans(site.party, show) as spans:
        site.activity.watchers.append(spans)
        try:
            yield
        finally:
            site.activity.watchers.remove(spans)
