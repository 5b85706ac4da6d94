"""Protocols over rows: clients with the same columns, and a server that reads nothing."""
