"""Placements that keep layers whole."""
