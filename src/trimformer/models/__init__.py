"""Finds, observes, masks and prunes the sublayers of a model; the only package that knows model families."""

from trimformer.models.discovery import find_layers, find_sublayers, max_positions
from trimformer.models.families import register_family, supported_layers
from trimformer.models.sublayer import KINDS, Kind, Producer, Sublayer

__all__ = [
    "KINDS", "Kind", "Producer", "Sublayer", "find_layers", "find_sublayers", "max_positions", "register_family",
    "supported_layers",
]  # fmt: skip
