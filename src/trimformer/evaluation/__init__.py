"""Evaluation of a pruned model: scores, divergence, latency targets and quality targets."""
