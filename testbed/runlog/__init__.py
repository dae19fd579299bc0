"""A run's folder: its documents and tables, its summary, and many runs side by side."""
