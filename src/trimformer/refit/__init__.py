"""Refits the weights of shrunk models to follow the dense model."""
