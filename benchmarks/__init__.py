"""Benchmarks that measure ratios against peers side by side; they are no part of the tests.

`python -m benchmarks.NAME` prints one JSON line last.
"""
