"""Generalised linear models of all parties' columns."""
