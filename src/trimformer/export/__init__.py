"""Exports models to files for other runtimes."""
