"""Callgate: a real-time call gateway that enforces a pool of calling minutes while calls are live."""

__version__ = "0.1.0"
