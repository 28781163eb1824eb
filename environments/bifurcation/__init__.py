"""Bifurcation-v0: controlled tasks in which it is known exactly what every action was worth.

A task is a row of places, each shown as one letter; the agent answers each with a digit. At the few *pivotal* letters
one digit is needed (the same in every task), anything else hurts; everywhere else nothing matters. Whether the task
succeeds is drawn at its end: likely when nothing is hurt, unlikely when something is.

environment  q      agent  4      (no matter)
environment  c      agent  7      (pivotal: c needs 7)
environment  h      agent  0      (no matter)
environment  t      agent  4      (the end: succeeds with chance 0.8; with another digit at c, with chance 0.2)

Parameters: horizon, pivotal places, kinds of them, mistakes that show late (`delay`) or can be taken back with "!"
(`recoverable`), decoys that raise the same alarm and harm nothing, idle words in every action, chance in the outcome.
`rules` and `world` are pure functions, `values` computes exact values of the reference continuation and of any policy,
`env` is the Gymnasium environment. docs/bifurcation.md says what to do with it.
"""
