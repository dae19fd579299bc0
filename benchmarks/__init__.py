"""Side-by-side ratios against peers; `python -m benchmarks.NAME` prints one JSON line last. Never part of the tests."""
