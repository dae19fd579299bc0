"""Placements that keep every layer whole, and the algorithms that find good ones."""
