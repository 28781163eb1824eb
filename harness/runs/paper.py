"""What stands beside the spec of a paper's experiment: the published figures to quote, and what a run has to find.

    paper.toml
    [[quote]]                                   [[need]]
    paper = "2606.12634"                        what = "the weights of Qwen3.5-4B"
    environment = "AppWorld"                    path = "models/Qwen3.5-4B/config.json"
    split = "test_normal"                       command = "hf download Qwen/Qwen3.5-4B --local-dir models/Qwen3.5-4B"

A quote takes the keys of `harness published`; a need names a `path`, relative to where the command is run, or a Python
`module`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tomllib
from pathlib import Path

from pydantic import ValidationError, model_validator

from harness.core.errors import MissingDataError, UserError
from harness.experiment import Experiment, Settings
from harness.rollout.environments import EnvironmentPool
from harness.rollout.panel import tasks_of

PAPER = "paper.toml"


class Need(Settings):
    """Something that is fetched before an experiment can be run."""

    what: str
    path: str | None = None
    module: str | None = None
    command: str
    """What fetches it."""

    @model_validator(mode="after")
    def _one_place(self) -> Need:
        if (self.path is None) == (self.module is None):
            raise ValueError("a need names a path or a module, one of the two")
        return self

    @property
    def there(self) -> bool:
        """Whether it has been fetched."""
        if self.path is not None:
            return Path(self.path).exists()
        assert self.module is not None
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.append(here)
        return importlib.util.find_spec(self.module.partition(".")[0]) is not None


class Paper(Settings):
    """The contents of a `paper.toml`."""

    quote: tuple[dict[str, str], ...] = ()
    """By paper and environment: one of the two alone would quote what another experiment measured."""
    need: tuple[Need, ...] = ()

    @model_validator(mode="after")
    def _whose(self) -> Paper:
        for quote in self.quote:
            if not {"paper", "environment"} <= quote.keys():
                raise ValueError(f"a quote names a paper and an environment, got {', '.join(quote) or 'neither'}")
        return self


def read_paper(folder: Path) -> Paper:
    """What stands beside the spec in a folder; nothing where there is no `paper.toml`. UserError for a wrong one."""
    file = folder / PAPER
    if not file.is_file():
        return Paper()
    try:
        return Paper.model_validate_json(json.dumps(tomllib.loads(file.read_text(encoding="utf-8"))), strict=True)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid TOML: {error}") from None
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise UserError(f"{file}: {wrong}") from None


def require_at_hand(experiment: Experiment, folder: Path) -> None:
    """MissingDataError naming all that is still to be fetched before the spec in `folder` can be run, each with the
    command that fetches it; the environment is only made where everything else is there."""
    missing = [need for need in read_paper(folder).need if not need.there]
    if missing:
        listed = "; ".join(f"{need.what} ({need.path or need.module}): {need.command}" for need in missing)
        raise MissingDataError(f"this experiment cannot be run here yet. Missing: {listed}")
    settings = experiment.environment
    try:
        with EnvironmentPool(settings) as pool:
            for split in (settings.train_split, settings.eval_split):
                tasks_of(pool.environment, split)
    except OSError as error:
        raise MissingDataError(lacking(settings.id, error)) from None


def lacking(environment: str, error: OSError) -> str:
    """What an environment could not read, as a sentence: the file, where the error names one."""
    if isinstance(error, FileNotFoundError) and error.filename:
        return (
            f"environment {environment!r} needs the file {str(error.filename)!r}, which is not here: fetch it, or name "
            "another in the spec's environment.options"
        )
    return f"environment {environment!r}: {error}"
