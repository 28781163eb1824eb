"""Runs of an experiment: which are wanted (plan), what each has spent (state), what is recorded of them (record)."""
