"""The `harness` command. Nothing heavy is imported before a command needs it: `harness --help` answers at once."""

from harness.cli.entry import app, main

__all__ = ["app", "main"]
