"""Every class in agents/methods that satisfies the protocol, and the options that change what it computes."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from itertools import chain

import agents.methods


def shipped() -> dict[str, type]:
    """Found by looking, so that a new file is tested without being listed."""
    found = {}
    for info in pkgutil.iter_modules(agents.methods.__path__, "agents.methods."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            own = inspect.isclass(value) and value.__module__ == module.__name__
            if own and all(hasattr(value, part) for part in ("needs", "initial_state", "assign")):
                found[name] = value
    return found


OPTIONS = {
    "GRPO": [{"kl": 0.0}, {"kl": 0.2, "std": False}, {"leave_one_out": True}],
    "SDAR": [{"coef": 0.0}, {"beta": 0.3, "kl": 0.0}],
    "AdaptiveCRINGE": [{"rho_target": 0.9, "beta": 0.7}, {"lam_min": 0.0, "lam_max": 0.0}, {"mu_min": 0, "mu_max": 0}],
    "TokenCRINGE": [{"lam": 0.3, "kl": 0.0}],
    "CRAFT": [
        {"enabled": False},
        {"phase_aware": False},
        {"polarised_kl": False},
        {"phase_aware": False, "polarised_kl": False, "lam": 0.0, "kl": 0.0},
        {"credit": "aligned", "tau": 0.1},
        {"credit": "fallback", "beta_plus": 0.5, "beta_minus": 2.0},
        {"weights": "uniform", "alignment": "episode"},
        {"below": "zero", "g_min": 3, "swap": True, "theta_kl": 0.3},
        {"credit": "aligned", "g_min": 4, "theta_g": 0.5, "rho_target": 0.2},
    ],
    "RLSD": [{"lam": 1.0, "eps_w": 0.9}, {"lam": 0.0}, {"teacher": "current"}],
    "SkillSD": [{"coef": 0.5}],
    "HSD": [
        {"mix": 0.5, "kl": 0.0},
        {"failures_only": True, "direction": "jsd"},
        {"top_k": 4},
        {"teacher": "initial", "kl_form": "sequence", "reference_every": 20},
    ],
    "OPSD": [{"top_k": 3, "divergence": "forward", "alpha": 0.2, "clip": 0.05}, {"teacher": "ema"}],
    "GRPOMixedOPSD": [{"mix": 0.2, "kl": 0.0, "clip": 0.1}],
    "SDPO": [{"top_k": 5, "divergence": "jsd"}, {"teacher": "current"}],
    "SCGRPO": [{"top_k": 4, "kl": 0.0}],
    "GiGPO": [{"omega": 0.5, "gamma": 1.0, "kl": 0.0}, {"std": False, "anchor": "observation"}, {"anchor": "state"}],
    "GAGPO": [{"lam": 0.0, "anchor": "observation"}, {"gamma": 0.5, "kl": 0.0}],
    "VinePPO": [{"at": "token", "kl": 0.0}],
    "AgentOPSD": [{"lam": 1.0, "band": 0.9, "gamma": 0.5}, {"lam": 0.0, "kl": 0.0}],
    "GRPOLambda": [{"lam": 0.6, "trace": "both"}, {"lam": 0.0, "floor": None, "kl": 0.0}],
    "Oracle": [
        {"exact": True},
        {"exact": True, "expected": True, "scale": "step"},
        {"scale": "step", "at": "turn"},
        {"scale": "none", "kl": 0.0},
    ],
    "Inverted": [{"exact": True, "scale": "step"}],
    "SGCD": [
        {"gamma": 0.0},
        {"gamma": 3.0, "c": 1.5, "top_k": 3},
        {"control": "mean", "top_k": None},
        {"control": "normalised", "kl": 0.0},
        {"control": "norm", "teacher": "initial"},
        {"control": "matched", "top_k": 3, "kl": 0.0},
    ],
}


def flat(rows):
    """The entries of all rows in one list."""
    return list(chain.from_iterable(rows))


def variants() -> list[object]:
    """Each class with its defaults, and with each of its options above."""
    return [cls(**options) for name, cls in shipped().items() for options in [{}, *OPTIONS.get(name, [])]]
