"""`callgate demo`: a gateway with a made-up account, whose simulated softphones place calls."""

from gateway.cli.demo.command import demo

__all__ = ["demo"]
