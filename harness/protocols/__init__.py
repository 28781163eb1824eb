"""The contracts: what the engine asks of a method, a backend, an environment, a policy and a context source, each
with its check."""
