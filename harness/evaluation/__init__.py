"""Judging policies and credit: playing a split with a policy that is not trained here, and credit fidelity."""
