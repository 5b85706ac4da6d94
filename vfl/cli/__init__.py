"""The command line: one party of a federation."""

from vfl.cli import (  # noqa: F401 - of `main`
    completion,
    directories,
    init,
    invite,
    jobs,
    kept,
    keys,
    leakage,
    ledger,
    oneway,
    online,
    papers,
    relay,
    results,
    screen,
    settings,
    shapes,
    status,
    tariff,
    tune,
    worth,
)
from vfl.cli.group import main

__all__ = ["main"]
