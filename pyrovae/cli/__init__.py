"""The command line: ``pyrovae train``, ``pyrovae data`` and the commands on saved runs."""

from pyrovae.cli.app import app, main

__all__ = ["app", "main"]
