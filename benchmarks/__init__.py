"""Measurements beside limits and peers: `python -m benchmarks` runs them, and docs/benchmarks.md shows them."""
