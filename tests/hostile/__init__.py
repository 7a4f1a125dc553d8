"""Bad input of every kind: one sentence that names it, exit code 2, and a file system as it was."""
