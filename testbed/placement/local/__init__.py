"""Placements built and improved block by block: a draft with its cost kept up to date, and moves on it."""
