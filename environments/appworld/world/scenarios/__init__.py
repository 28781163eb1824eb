"""All scenarios of the world, in a fixed order."""

from __future__ import annotations

from environments.appworld.world.scenario import Scenario
from environments.appworld.world.scenarios import files, mail, messages, money, music, notes, plans, playlists, sharing

_THEMES = (playlists, music, money, sharing, notes, messages, mail, plans, files)
SCENARIOS: tuple[Scenario, ...] = tuple(scenario for theme in _THEMES for scenario in theme.SCENARIOS)
