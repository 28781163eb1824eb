"""The catalogue: importing this package registers the environments, as in `gymnasium.make("environments:Guess-v0")`."""

from gymnasium import register

# Gymnasium's wrappers are left off: TextEnv does their checks itself, and an episode here may last microseconds.
register("Guess-v0", entry_point="environments.guess:Guess", order_enforce=False, disable_env_checker=True)
register(
    "Bifurcation-v0",
    entry_point="environments.bifurcation.env:Bifurcation",
    order_enforce=False,
    disable_env_checker=True,
)
register(
    "Reasoning-v0", entry_point="environments.reasoning.env:Reasoning", order_enforce=False, disable_env_checker=True
)
register(
    "ReasoningMini-v0",
    entry_point="environments.reasoning.mini:ReasoningMini",
    order_enforce=False,
    disable_env_checker=True,
)
register(
    "Tau3Airline-v0",
    entry_point="environments.tau3_airline.env:Tau3AirlineEnv",
    order_enforce=False,
    disable_env_checker=True,
)
register(
    "Tau3AirlineProcedural-v0",
    entry_point="environments.tau3_airline.env:Tau3AirlineEnv",
    kwargs={"source": "procedural", "user": "scripted"},
    order_enforce=False,
    disable_env_checker=True,
)
register(
    "Tau3AirlineMini-v0",
    entry_point="environments.tau3_airline.mini:Tau3AirlineMini",
    order_enforce=False,
    disable_env_checker=True,
)
register(
    "AppWorld-v0", entry_point="environments.appworld.env:AppWorldEnv", order_enforce=False, disable_env_checker=True
)
register(
    "AppWorldMini-v0",
    entry_point="environments.appworld.mini:CachedAppWorldMini",
    order_enforce=False,
    disable_env_checker=True,
)
register(
    "TextArena-v0",
    entry_point="environments.foreign.textarena:TextArena",
    order_enforce=False,
    disable_env_checker=True,
)
register(
    "Verifiers-v0",
    entry_point="environments.foreign.verifiers:Verifiers",
    order_enforce=False,
    disable_env_checker=True,
)
SETUPS = {
    "appworld": "environments.appworld.install:set_up",
    "appworld-data": "environments.appworld.install:set_up_data",
    "textarena": "environments.foreign.install:set_up_textarena",
    "verifiers": "environments.foreign.install:set_up_verifiers",
}
"""What `harness setup` can install for an environment: a name, and the function that does it."""
