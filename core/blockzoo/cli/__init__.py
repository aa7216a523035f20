"""The command ``blockzoo``: one file a verb."""

from blockzoo.cli.app import main

__all__ = ["main"]
