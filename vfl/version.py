"""The version of the package, which the greeting of a session, stored files and reports name."""

__version__ = "0.1.0"
