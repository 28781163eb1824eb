"""An experiment as a job of verl 0.9: a folder that a Ray cluster with verl and this package trains from.

spec.toml          the experiment, with the rows that are in the job
rows/NAME.yaml     verl's configuration of a row
loops.yaml         the agent loop of each row: our environments
tasks/*.json       the tasks that are trained on, and those of validation
harness_job.py     what verl imports: estimators, loss and trainer
launch.sh          one run: sh launch.sh ROW SEED
README.md          what it needs, how it is started, what verl does in another way
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import MissingDataError, UnknownNameError, UserError
from harness.core.fingerprint import slug
from harness.core.records import json_text, write_whole
from harness.experiment import Experiment, MethodSettings, write_spec
from harness.report.export.verl_settings import loops, refusals, settings
from harness.rollout.environments import EnvironmentPool
from harness.rollout.panel import tasks_of
from harness.runs.plan import judged_panel

VERL = "0.9.1"
"""The version whose configuration, registries and loop a job is written for."""
MODULE = '''"""What verl imports of this job (VERL_USE_EXTERNAL_MODULES): an advantage estimator for each row, the loss
and the trainer, put into verl's registries. The code is in the package sibling-harness."""

from pathlib import Path

from harness.backends.verl.plugin import register

register(Path(__file__).resolve().parent)
'''
LAUNCH = """#!/bin/sh
# One run of this job:           sh launch.sh ROW SEED
# On eight GPUs:                 sh launch.sh ROW SEED trainer.n_gpus_per_node=8
# On a Ray cluster that runs:    RAY_ADDRESS=auto sh launch.sh ROW SEED trainer.nnodes=2 trainer.n_gpus_per_node=8
# What follows ROW and SEED are overrides of verl's configuration. The same command goes on from the last checkpoint.
set -eu
job=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 2 ] || [ ! -f "$job/rows/$1.yaml" ]; then
    echo "usage: sh launch.sh ROW SEED [key=value ...]; rows: {rows}" >&2
    exit 2
fi
row=$1 seed=$2
shift 2
{policy}export HARNESS_VERL_JOB="$job" HARNESS_VERL_SEED="$seed" VERL_USE_EXTERNAL_MODULES=harness_job
export PYTHONPATH="$job${{PYTHONPATH:+:$PYTHONPATH}}"
exec python -m verl.trainer.main_ppo --config-path "$job/rows" --config-name "$row" "$@"
"""
ASKED = """\
if [ -z "${HARNESS_VERL_POLICY:-}" ]; then
    echo "HARNESS_VERL_POLICY: the directory of the model that training starts from" >&2
    exit 2
fi
"""
"""What the launch script asks for where the job does not know its policy."""
README = """# {title}: a job of verl {verl}

Rows: {labels}. Seeds of the experiment: {seeds}. Its facts are in `spec.toml`.

```bash
{commands}
```

Further words are overrides of verl's configuration (`trainer.n_gpus_per_node=8`). With `RAY_ADDRESS=auto` a Ray cluster
that runs is used; the folder has to stand at the same path on all of its machines.

**What it needs.** GPUs; an environment with `verl[vllm]=={verl}` and, installed without its dependencies,
sibling-harness (verl's vLLM wants its own versions of torch and transformers); what else the packages `harness` and
the environment import; and {policy}.

| whose | what |
|---|---|
| sibling-harness | environments, the conversation token for token, credit, loss, order of tasks, seeds |
| verl | sampling (vLLM), scores, gradients, AdamW, its schedule, the pull to the reference policy, checkpoints, logs |

| file | what it is |
|---|---|
| `spec.toml` | the experiment, with the rows that are in this job |
| `rows/*.yaml` | verl's configuration of each row, laid over its `ppo_trainer` |
| `loops.yaml` | the agent loop of each row |
| `tasks/*.json` | tasks of training (a run's order is its seed's) and of validation |
| `harness_job.py` | what verl imports: estimators `harness-ROW`, the loss `harness`, the trainer `harness` |
| `launch.sh` | one run |

**What verl does in another way.**

* The ratio is taken to the trainer's own log-probability (`old_log_probs`), not to the sampler's.
* The pull to the reference policy is cut at 10 nats a token.
* Where an episode is lost, its group is dropped, and still counts in an aggregation by sequences.
* Validation plays all its tasks at every point of the curve, sampled only.
* Weights are float32, computed with in {dtype}.
* No record of sibling-harness is written. A table needs the checkpoints played (`harness evaluate`), and never mixes
  runs of two engines.
"""


def write_job(
    experiment: Experiment, out: Path, model: Path | None = None, window: int | None = None, rows: Sequence[str] = ()
) -> list[Path]:
    """Write an experiment's job; the same arguments give the same bytes. Returns the files.

    model: the policy's directory (default: the spec's own); window: most tokens of an episode (default: what the
    model reads); rows: labels of those in the job (default: all). UserError naming every row that verl cannot train,
    with the reasons; nothing is written then.
    """
    chosen = _chosen(experiment, rows)
    _refuse(experiment, chosen)
    policy = _policy(experiment, model)
    width = window or _reads(experiment, policy)
    names = {slug(row.label): row.label for row in chosen}
    if len(names) < len(chosen):
        raise UserError(f"labels of rows must differ as names of files, got {[row.label for row in chosen]}")
    kept = experiment.model_copy(update={"methods": tuple(chosen)})
    files = {
        f"rows/{slug(row.label)}.yaml": yaml(settings(kept, row, None if policy is None else str(policy), width))
        for row in chosen
    }
    files |= {"loops.yaml": yaml(loops(names)), "harness_job.py": MODULE, **_tasks(kept)}
    launch = LAUNCH.format(rows=" ".join(names), policy="" if policy else ASKED)
    files |= {"launch.sh": launch, "README.md": _readme(kept, policy, list(names))}
    for name, text in files.items():
        write_whole(out / name, text)
    write_spec(kept, out / "spec.toml")
    return [out / name for name in ("spec.toml", *files)]


def _chosen(experiment: Experiment, rows: Sequence[str]) -> list[MethodSettings]:
    """The rows of these labels; all where none is named."""
    known = {row.label: row for row in experiment.methods}
    for label in rows:
        if label not in known:
            raise UnknownNameError("row", label, known)
    chosen = [row for label, row in known.items() if label in rows or not rows]
    if not chosen:
        raise UserError("the spec has no [[methods]]: a job of verl trains at least one")
    return chosen


def _refuse(experiment: Experiment, chosen: Sequence[MethodSettings]) -> None:
    """UserError naming every row that verl cannot train, each with its reasons."""
    refused = {row.label: reasons for row in chosen if (reasons := refusals(experiment, row))}
    if not refused:
        return
    reasons_of_rows = "; ".join(f"{label!r}: {', and '.join(reasons)}" for label, reasons in refused.items())
    fit = [row.label for row in chosen if row.label not in refused]
    help_ = f". Of these rows verl can train: {' '.join(f'--method {label!r}' for label in fit)}" if fit else ""
    raise UserError(f"verl cannot train {reasons_of_rows}{help_}")


def _policy(experiment: Experiment, model: Path | None) -> Path | None:
    """The directory of the policy that training starts from; None where it is made elsewhere, and named when a run is
    started."""
    own = Path(experiment.model.name)
    if model is None and experiment.warm_start is None and own.is_dir():
        model = own
    if model is not None and not (model / "config.json").is_file():
        raise UserError(f"{str(model)!r} is no model directory: it has no config.json")
    return None if model is None else model.resolve()


def _reads(experiment: Experiment, policy: Path | None) -> int:
    """Most tokens that the policy reads, as its configuration says, or the spec's of a tiny one."""
    directory = policy or Path(experiment.model.name)
    if not (directory / "config.json").is_file():
        if experiment.model.name == "tiny":
            return experiment.model.tiny.window
        raise MissingDataError(
            f"how many tokens model.name = {experiment.model.name!r} reads is not known here: give its directory by "
            "--model, or --window"
        )
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    found = config.get("max_position_embeddings", config.get("text_config", {}).get("max_position_embeddings"))
    if not isinstance(found, int):
        raise UserError(f"{directory}/config.json does not say how many tokens the model reads: give --window")
    return found


def _tasks(experiment: Experiment) -> dict[str, str]:
    """The files of tasks: those that are trained on, and the panel that everybody is judged on."""
    settings, sampling = experiment.environment, experiment.sampling
    with EnvironmentPool(settings) as pool:
        if not pool.environment.trainable(settings.train_split):
            raise UserError(f"split {settings.train_split!r} of {settings.id} may not be trained on")
        train = tasks_of(pool.environment, settings.train_split)
        judged = list(judged_panel(pool.environment, experiment).tasks)
    shared = {"environment": settings.id, "prompts_per_step": sampling.prompts_per_step}
    trained = shared | {"split": settings.train_split, "tasks": train, "steps": experiment.budget.steps}
    panel = shared | {"split": settings.eval_split, "tasks": judged, "steps": None}
    return {"tasks/train.json": json_text(trained), "tasks/evaluation.json": json_text(panel)}


def _readme(experiment: Experiment, policy: Path | None, names: Sequence[str]) -> str:
    known = f"the policy that training starts from, at `{policy}`"
    asked = (
        "the policy that training starts from, a model directory named by `HARNESS_VERL_POLICY` (of a warm start: what "
        "`harness\nbench` has made of it, under `starts/` in its cache folder)"
    )
    before = "" if policy else "HARNESS_VERL_POLICY=path/to/a/model "
    return README.format(
        title=experiment.title or experiment.name,
        verl=VERL,
        labels=", ".join(row.label for row in experiment.methods),
        seeds=", ".join(map(str, experiment.seeds)),
        commands="\n".join(f"{before}sh launch.sh {name} {experiment.seeds[0]}" for name in names),
        policy=known if policy else asked,
        dtype=experiment.model.dtype,
    )


def yaml(value: Any) -> str:
    """Plain data as YAML in blocks: mappings, lists, and what JSON writes of the rest."""
    return "\n".join(_lines(value, "")) + "\n"


def _lines(value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, entry in value.items():
            if isinstance(entry, dict | list) and entry:
                yield f"{indent}{key}:"
                yield from _lines(entry, indent + "  ")
            else:
                yield f"{indent}{key}: {_scalar(entry)}"
    elif isinstance(value, list):
        for entry in value:
            first, *rest = _lines(entry, indent + "  ") if isinstance(entry, dict) else [indent + "  " + _scalar(entry)]
            yield f"{indent}- {first.lstrip()}"
            yield from rest
    else:
        yield indent + _scalar(value)


def _scalar(value: Any) -> str:
    """As JSON, a float always with its point: YAML reads 1e-06 as text."""
    if isinstance(value, float):
        if value == float("inf"):
            return ".inf"
        mantissa, e, exponent = repr(value).partition("e")
        return (mantissa if "." in mantissa else f"{mantissa}.0") + (e + exponent)
    return json.dumps(value, ensure_ascii=False)
