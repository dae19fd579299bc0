"""A run's folder: its documents and tables, its summary, and the comparison of many runs."""
