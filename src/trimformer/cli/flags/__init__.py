"""Flags of the commands, one file per command; nothing here imports what only a run needs."""
