"""Estimates the loss caused by removing units: gradients, second moments, removal curves."""
