"""Removes units from models, and saves and loads the resulting checkpoints."""
