"""Allocates the budget to sublayers: selects the units to keep."""
