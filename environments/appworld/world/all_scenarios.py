"""All scenarios of the world, in a fixed order: the tasks, and the Mini tasks."""

from __future__ import annotations

from environments.appworld.world import mini
from environments.appworld.world.scenario import Scenario
from environments.appworld.world.scenarios import files, mail, messages, money, music, notes, plans, playlists, sharing

_THEMES = (playlists, music, money, sharing, notes, messages, mail, plans, files)
SCENARIOS: tuple[Scenario, ...] = (*(scenario for theme in _THEMES for scenario in theme.SCENARIOS), *mini.scenarios())
