"""An experiment as frozen data: its settings, read from TOML, and the facts by which runs are matched."""

from harness.experiment.settings import (
    BudgetSettings,
    EnvironmentSettings,
    EvaluationSettings,
    Experiment,
    LossSettings,
    MethodSettings,
    ModelSettings,
    OptimiserSettings,
    SamplingSettings,
    TinySettings,
    WarmStartSettings,
    fingerprint,
    flatten,
    parse_experiment,
    read_experiment,
)

__all__ = [
    "BudgetSettings",
    "EnvironmentSettings",
    "EvaluationSettings",
    "Experiment",
    "LossSettings",
    "MethodSettings",
    "ModelSettings",
    "OptimiserSettings",
    "SamplingSettings",
    "TinySettings",
    "WarmStartSettings",
    "fingerprint",
    "flatten",
    "parse_experiment",
    "read_experiment",
]
