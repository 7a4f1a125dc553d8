"""What became of it: scores, divergence, and whether a latency was kept."""
