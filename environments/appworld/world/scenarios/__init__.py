"""The scenarios of the world, a file for each theme; `world.all_scenarios` puts them together."""
