"""What removing units costs in loss: gradients, second moments, removal curves."""
