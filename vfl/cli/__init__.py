"""The command line: one party of a federation."""

from vfl.cli import jobs, keys, leakage, ledger, results, settings  # noqa: F401 - commands of `main`
from vfl.cli.group import main

__all__ = ["main"]
