"""Policies that do not learn, by short name: the baselines of a table, and models at an endpoint."""

BASELINES = {
    "do-nothing": "agents.policies.baselines:DoNothing",
    "gold": "agents.policies.baselines:Gold",
}
"""The two ends of every table."""
SHORT = {**BASELINES, "endpoint": "agents.policies.endpoint:EndpointPolicy"}
