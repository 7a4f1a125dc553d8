"""What units cost: MACs, parameters, measured latency."""
