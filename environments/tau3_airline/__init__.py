"""τ³-bench airline: the official tasks, procedural tasks on the same database, and a compact rendering of those.

data.py        the pinned files
journal.py     an episode's view of the database
tools.py       what the agent may call
tasks.py       what a task is
grader.py      DB x COMMUNICATE
oracle.py      the policy's rules as code
procedural.py  thousands of tasks
users.py       oneshot, scripted
llm_user.py    a language model as the user
metrics.py     success by kind, floors, errors
env.py         the Gymnasium environment
mini.py        the compact grammar
parity.py      comparison with the official package
"""
