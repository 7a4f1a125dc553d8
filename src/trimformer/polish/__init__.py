"""Optional training of a pruned model towards the dense model's outputs, without labels, after the refit."""
