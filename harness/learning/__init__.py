"""Learning: the training loop of one run, and the starting policy that all methods share."""
