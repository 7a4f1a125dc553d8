"""Runs the command line as `python -m trimformer`."""

from trimformer.cli.main import command

command()
