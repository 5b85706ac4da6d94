"""The report of a run: one page without network, and its tables."""
