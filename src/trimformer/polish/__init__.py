"""Label-free training of a pruned model on what the dense model says: optional, after the refit."""
