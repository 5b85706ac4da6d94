"""The command line: one party of a federation."""

from vfl.cli import (  # noqa: F401 - of `main`
    approvals,
    audit,
    completion,
    console,
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
