"""The command line: one party of a federation."""

from vfl.cli import jobs, keys, leakage, ledger, relay, results, settings  # noqa: F401 - of `main`
from vfl.cli.group import main

__all__ = ["main"]
