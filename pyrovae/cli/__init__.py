"""The command line: ``pyrovae train`` and the commands on saved runs, one file each.

A command is a function in a file of its name, listed in `pyrovae.cli.app.COMMANDS`. Everything heavy is imported inside the
function, so that help and mistyped options need no torch.
"""

from pyrovae.cli.app import app, main

__all__ = ["app", "main"]
