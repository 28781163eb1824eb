"""Engines in processes of their own: forked workers in another interpreter, framed messages, limits, a sandbox."""
