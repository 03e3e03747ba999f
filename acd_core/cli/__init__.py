"""The command `acd`: one file a verb. Importing it costs typer and rich; the verbs load torch."""

from acd_core.cli.app import app, main

__all__ = ["app", "main"]
