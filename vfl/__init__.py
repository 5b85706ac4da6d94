"""Vertical federated learning for insurers."""

__version__ = "0.1.0"
