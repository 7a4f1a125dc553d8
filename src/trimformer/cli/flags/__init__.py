"""The flags of the commands, a file per command: nothing here imports what only a run needs."""
