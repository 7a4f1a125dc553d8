"""Refits of a shrunk model: teacher and student walked together."""
