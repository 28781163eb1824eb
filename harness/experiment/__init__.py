"""An experiment as frozen data: its settings, read from TOML, and the facts by which its runs are matched."""

from harness.core.fingerprint import fingerprint, flatten
from harness.experiment.reading import parse_experiment, read_experiment, write_spec
from harness.experiment.settings import (
    BudgetSettings,
    EnvironmentSettings,
    EvaluationSettings,
    History,
    KnobSettings,
    LossSettings,
    MethodSettings,
    ModelSettings,
    OptimiserSettings,
    PlugSettings,
    SamplingSettings,
    SearchSettings,
    Settings,
    TinySettings,
    WarmStartSettings,
)
from harness.experiment.spec import Experiment

__all__ = [
    "BudgetSettings",
    "EnvironmentSettings",
    "EvaluationSettings",
    "Experiment",
    "History",
    "KnobSettings",
    "LossSettings",
    "MethodSettings",
    "ModelSettings",
    "OptimiserSettings",
    "PlugSettings",
    "SamplingSettings",
    "SearchSettings",
    "Settings",
    "TinySettings",
    "WarmStartSettings",
    "fingerprint",
    "flatten",
    "parse_experiment",
    "read_experiment",
    "write_spec",
]
