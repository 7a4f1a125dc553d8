"""Computes what units cost: MACs, parameters or measured latency."""
