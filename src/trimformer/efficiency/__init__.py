"""What units cost: multiply-accumulates, parameters, and later measured latency."""
