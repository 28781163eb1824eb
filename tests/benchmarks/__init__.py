"""Speed of our own code beside the plain way of doing the same: `python -m tests.benchmarks [name ...]`."""
