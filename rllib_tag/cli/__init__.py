"""The `rllib` command, which parses and prints; `training`, `playing` and `report` do the work."""

from rllib_tag.cli.commands import app, main

__all__ = ["app", "main"]
