"""Physical removal of units, and directories of shrunk models."""
