"""The budget shared out over sublayers: which units stay."""
