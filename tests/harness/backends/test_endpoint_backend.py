"""Training on what a server samples: what the in-process sampler learns, the same after a kill, one step late where
that is asked for, corrected where engines differ; and servers that mislead refused by the name of what they lack."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import driven, job, judged, process, quiet, small, work
from policy_servers import Proxy, Twist, harness_serve, with_choice
from safetensors.numpy import load_file

from harness.backends import Completion, Prompt, SamplingParams
from harness.backends.endpoint import SAMPLER, EndpointBackend
from harness.backends.endpoint_sampler import UnfitSamplerError
from harness.backends.torch import TorchBackend
from harness.core import records
from harness.core.episodes import read_episodes
from harness.core.errors import UnknownNameError, UserError
from harness.experiment import LossSettings, OptimiserSettings, PlugSettings
from harness.learning.feed import learn
from harness.learning.run import Run
from harness.learning.sampling import sample_groups
from harness.learning.warm_start import start_of
from harness.losses import pack
from harness.protocols.backend import BackendSettings, Start, backend_class, deciding
from harness.protocols.check_backend import check_backend
from harness.runs.job import run_job
from harness.runs.plan import Job
from harness.serving.server import ModelServer
from harness.types import Credit, TokenSequence

PLUG = "harness.backends.endpoint:EndpointBackend"
EXACT = {"name": "tiny", "device": "cpu", "dtype": "float64"}
PARAMS = SamplingParams(9)


@pytest.fixture
def server(tiny_directory: Path) -> Iterator[ModelServer]:
    made = TorchBackend(tiny_directory, dtype="float64", device="cpu")
    with ModelServer(made, "tiny", batch=16, loaded=tiny_directory) as started:
        yield started


@pytest.fixture
def proxy(server: ModelServer) -> Iterator[Proxy]:
    proxy = Proxy(server.url)
    yield proxy
    proxy.close()


def backend_at(address: str, directory: Path, temperature: float = 1.0, **options: Any) -> EndpointBackend:
    settings = BackendSettings(OptimiserSettings(lr=1e-2), 4, temperature, "float64", "cpu")
    return EndpointBackend.from_start(Start(directory), settings, address=address, **options)


def through(address: str, **options: Any) -> dict[str, Any]:
    return {"plug": PLUG, "options": {"address": address} | options}


def run_of(directory: Path, folder: Path, **changes: Any) -> Run:
    experiment = small(model=EXACT, **changes)
    return Run(experiment, experiment.methods[0], 0, Start(directory, "0" * 64, {}), folder, judged(experiment))


def steps_of(folder: Path) -> list[dict[str, Any]]:
    """A run's steps; one recorded twice is taken once, the later one."""
    return [row for _, row in sorted({row["step"]: row for row in records.read(folder / "steps.jsonl").rows}.items())]


def assert_same(folder: Path, other: Path) -> None:
    """Two runs up to rounding: a server's batches are put together by chance, so the last digits are chance too."""
    for one, two in zip(steps_of(folder), steps_of(other), strict=True):
        assert one == pytest.approx(two, rel=1e-6, abs=1e-9, nan_ok=True)
    for name in ("rows.jsonl", "curve.jsonl"):
        assert records.read(folder / name).rows == records.read(other / name).rows, name
    assert records.read_json(folder / "done.json") == records.read_json(other / "done.json")
    for one, two in zip(*(read_episodes(each / "episodes.jsonl.gz")[0] for each in (folder, other)), strict=True):
        assert one.sequence.tokens.tolist() == two.sequence.tokens.tolist()
    here, there = (load_file(max(each.glob("checkpoint-*")) / "model.safetensors") for each in (folder, other))
    for name in here:
        np.testing.assert_allclose(here[name], there[name], atol=1e-7, err_msg=name)


def finished(job: Job) -> Path:
    run_job(job, quiet)
    return job.folder


# ---------------------------------------------------------------- what the in-process sampler learns


@pytest.mark.parametrize("updates", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_learns_what_the_in_process_sampler_learns(
    server: ModelServer, tiny_directory: Path, tmp_path: Path, updates: int
) -> None:
    """Same tokens, same steps, same judgement; a load after every step and one at the start."""
    more: dict[str, Any] = {
        "model": EXACT,
        "budget": {"steps": 2},
        "optimiser": {"lr": 3e-3, "updates": updates},
        "evaluation": {"tasks": 2, "every": 2},
    }
    there = finished(job(small(**more, backend=through(server.url)), tiny_directory, tmp_path / "there"))
    here = finished(job(small(**more), tiny_directory, tmp_path / "here"))
    assert_same(there, here)
    assert any(row["gradient_norm"] > 0 for row in steps_of(here))
    assert server.batcher.version.endswith(f"-{2 * updates}")
    assert not any("mismatch" in name for row in steps_of(there) for name in row)


@pytest.mark.slow
def test_what_is_sampled_is_what_scoring_says(server: ModelServer, tiny_directory: Path) -> None:
    """At a temperature, after an update and after a load; and tokens are the in-process sampler's."""
    backend = backend_at(server.url, tiny_directory, temperature=0.7)
    prompts, params = [Prompt((3, 4, 5 + n), seed=n) for n in range(6)], SamplingParams(9, 0.7)
    for seed in range(3):
        drawn = backend.sample(prompts, params)
        assert {done.version for done in drawn} == {backend.version}
        sequences = [sequence(prompt, done) for prompt, done in zip(prompts, drawn, strict=True)]
        for one, scores in zip(sequences, backend.score(sequences), strict=True):
            np.testing.assert_allclose(scores.logprobs, one.logprobs, atol=1e-12)
        alone = TorchBackend.sample(backend, prompts, params)
        assert [done.tokens.tolist() for done in drawn] == [done.tokens.tolist() for done in alone]
        if seed == 0:
            backend.update(pack(sequences, [Credit(likelihood=s.mask * 1.0) for s in sequences]), LossSettings())
            backend.sync()
        if seed == 1:
            backend.load(tiny_directory)


def sequence(prompt: Prompt, done: Completion) -> TokenSequence:
    tokens = np.concatenate([np.asarray(prompt.tokens), done.tokens])
    mask = np.arange(len(tokens)) >= len(prompt.tokens)
    logprobs = np.concatenate([np.zeros(len(prompt.tokens)), done.logprobs])
    return TokenSequence(tokens, mask, logprobs, np.zeros(len(tokens), np.int64))


def test_nothing_is_asked_of_a_server_before_the_first_completion_is(tiny_directory: Path, tmp_path: Path) -> None:
    """So a start is made without one. Then it is said how to start it."""
    backend = backend_at("http://127.0.0.1:9/v1", tiny_directory)
    silent = sequence(Prompt((3, 4)), Completion(np.array([5, 6]), np.array([-1.0, -1.0]), False))
    backend.update(pack([silent], [Credit(likelihood=silent.mask * 1.0)]), LossSettings())
    backend.sync()
    backend.save(tmp_path)
    assert backend.sample([], PARAMS) == []
    with pytest.raises(UserError, match=f"connection: .*harness serve {tiny_directory}"):
        backend.sample([Prompt((3, 4))], PARAMS)
    backend.close()


def test_a_version_that_was_not_loaded_is_told_from_one_that_was(server: ModelServer, tiny_directory: Path) -> None:
    """After an update without a sync a completion's version is not the backend's, which is what a run looks at."""
    backend = backend_at(server.url, tiny_directory)
    (first,) = backend.sample([Prompt((3, 4))], PARAMS)
    silent = sequence(Prompt((3, 4)), first)
    backend.update(pack([silent], [Credit(likelihood=silent.mask * 1.0)]), LossSettings())
    (late,) = backend.sample([Prompt((3, 4))], PARAMS)
    assert (first.version, late.version) == (0, 0)
    assert backend.version == 1


# ---------------------------------------------------------------- a server in a second process


def bifurcation(**changes: Any) -> Any:
    """Three places of which one matters, and a policy that has learned a little."""
    tiny = {"width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "mlp": 64, "window": 96, "vocabulary": 300}
    more: dict[str, Any] = {
        "environment": {"id": "environments:Bifurcation-v0", "options": {"horizon": 3, "pivots": 1}},
        "model": EXACT | {"tiny": tiny},
        "warm_start": {"steps": 150, "batch": 8, "lr": 1e-2, "demonstrations": 200},
        "budget": {"steps": 4, "checkpoint_every": 1},
        "evaluation": {"tasks": 4, "every": 2, "start_tasks": 0},
    }
    return small(**(more | changes))


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start_of(bifurcation(), tmp_path_factory.mktemp("cache")).directory


@pytest.fixture(scope="module")
def second(started: Path) -> Iterator[str]:
    with harness_serve(started, "--dtype", "float64") as address:
        yield address


@pytest.mark.slow
def test_it_keeps_the_contract(second: str, started: Path, tmp_path: Path) -> None:
    check_backend(PlugSettings.model_validate(through(second)), started, tmp_path / "saved")


@pytest.mark.slow
def test_through_harness_serve_a_run_learns_what_it_learns_alone(second: str, started: Path, tmp_path: Path) -> None:
    """Same tokens for four steps, though SIGKILLs at random moments fall into them."""
    alone = finished(job(bifurcation(), started, tmp_path / "alone"))
    assert any(row["gradient_norm"] > 0 for row in steps_of(alone))
    experiment = bifurcation(backend=through(second))
    hunted, rng, kills = job(experiment, started, tmp_path / "hunted"), random.Random(0), 0
    while not hunted.done:
        with process(work, hunted) as running:
            if kills < 2:
                written = len(steps_of(hunted.folder)) if (hunted.folder / "steps.jsonl").is_file() else 0
                kill_within(running, hunted.folder / "steps.jsonl", written + 1, rng)
            running.join(120)
            kills += running.exitcode == -9
    assert kills == 2
    assert_same(hunted.folder, alone)


def kill_within(running: Any, file: Path, rows: int, rng: random.Random) -> None:
    """SIGKILL at whatever a run is doing a moment after it has written so many steps."""
    while running.is_alive() and not (file.is_file() and len(records.read(file).rows) >= rows):
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.5))
    running.kill()


# ---------------------------------------------------------------- one step late


class Killed(BaseException): ...


def killed(job: Job, after: int) -> Job:
    """A run that ends at once before its step `after`."""

    def progress(what: str, done: int, total: int) -> None:
        if what == "training" and done == after:
            raise Killed

    with pytest.raises(Killed):
        run_job(job, progress)
    return job


def late(address: str, **changes: Any) -> Any:
    """Five steps, of which every second is sampled by weights one step old; judged at its end, and midway once."""
    more: dict[str, Any] = {"budget": {"steps": 5, "checkpoint_every": 1}, "evaluation": {"tasks": 2, "every": 3}}
    return small(model=EXACT, **(more | changes), backend=through(address, staleness=1))


@pytest.mark.slow
def test_one_step_late_every_second_step_is_on_policy(
    server: ModelServer, tiny_directory: Path, tmp_path: Path
) -> None:
    """The weights of steps 0 and 2 are the latest, those of 1 not; before step 3 the curve was judged, which loads the
    latest; those of 4 are then one step old."""
    folder = finished(job(late(server.url), tiny_directory, tmp_path))
    apart = [row["ratio/largest_log"] for row in steps_of(folder)]
    assert [gap > 1e-6 for gap in apart] == [False, True, False, False, True]
    (last,) = folder.glob("checkpoint-*")
    judge = TorchBackend(last, dtype="float64", device="cpu")
    drawn = server.batcher.ask([Prompt((3, 4, 5), 7, 9)], SamplingParams(9))  # what judged at the end is what is saved
    assert drawn[0].tokens.tolist() == judge.sample([Prompt((3, 4, 5), 7)], PARAMS)[0].tokens.tolist()
    np.testing.assert_allclose(drawn[0].logprobs, judge.sample([Prompt((3, 4, 5), 7)], PARAMS)[0].logprobs, atol=1e-12)


@pytest.mark.slow
def test_one_step_late_a_killed_run_goes_on_as_if_it_had_not_been(
    server: ModelServer, tiny_directory: Path, tmp_path: Path
) -> None:
    """From checkpoints whose server was behind (after step 1; after step 3, when judging loads the latest), and from
    one whose was not."""
    calm = finished(job(late(server.url), tiny_directory, tmp_path / "calm"))
    for after in (1, 2, 3):
        stopped = killed(job(late(server.url), tiny_directory, tmp_path / str(after)), after)
        (saved,) = stopped.folder.glob("checkpoint-*")
        assert (saved / SAMPLER).is_dir() == (after in (1, 3)), after
        assert_same(finished(stopped), calm)


# ---------------------------------------------------------------- where the engines differ


def noisy(proxy: Proxy, scale: float) -> None:
    """Log-probabilities that are off by a little, as another engine's are; the same for the same token."""

    def twist(body: dict[str, Any]) -> dict[str, Any]:
        choice = body["choices"][0]
        off = [scale * math.sin(token + place) for place, token in enumerate(choice["token_ids"])]
        return with_choice(
            token_logprobs=[min(x + e, 0.0) for x, e in zip(choice["token_logprobs"], off, strict=True)]
        )(body)

    proxy.reply = twist


def test_the_correction_weighs_what_the_trainer_says_against_what_the_server_said(
    proxy: Proxy, tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a second computation: scores of the very episodes, weights and masks written out."""
    noisy(proxy, 0.04)
    table = {"weight": "truncated", "mask": "token", "cap": 1.02, "low": 0.97, "high": 1.03}
    run = run_of(tiny_directory, tmp_path, backend=through(proxy.url, mismatch=table))
    with run.pool:
        groups, _ = sample_groups(run)
        taken: list[Any] = []
        monkeypatch.setattr(run.backend, "update", lambda batch, loss, per_term=False: taken.append(batch) or {})
        metrics, _ = driven(learn(run, groups, run.method.initial_state()), run.backend)
    sequences = [episode.sequence for group in groups for episode in group.episodes]
    own = TorchBackend(tiny_directory, dtype="float64", device="cpu").score(sequences)
    ratios = [np.exp(o.logprobs - s.logprobs)[s.mask] for o, s in zip(own, sequences, strict=True)]
    every = np.concatenate(ratios)
    kept = (every >= 0.97) & (every <= 1.03)
    assert 0 < kept.sum() < len(every)
    assert metrics["mismatch/mean"] == pytest.approx(every.mean(), rel=1e-9)
    assert metrics["mismatch/largest"] == pytest.approx(every.max(), rel=1e-9)
    assert metrics["mismatch/rejected"] == pytest.approx(1 - kept.mean(), rel=1e-9)
    (batch,) = taken
    assert batch.step_tokens == int(batch.mask.sum()) == kept.sum()
    weights = np.sort(batch.weights[batch.mask].numpy())
    np.testing.assert_allclose(weights, np.sort(np.minimum(every[kept], 1.02)), rtol=1e-9)
    told = np.sort(np.concatenate([o.logprobs[s.mask] for o, s in zip(own, sequences, strict=True)])[kept])
    np.testing.assert_allclose(np.sort(batch.logprobs[batch.mask].numpy()), told, atol=1e-12)


@pytest.mark.slow
def test_a_step_of_which_nothing_is_left_is_recorded_and_changes_nothing(
    server: ModelServer, tiny_directory: Path, tmp_path: Path
) -> None:
    backend = through(server.url, mismatch={"mask": "token", "low": 1.5, "high": 2.0})
    experiment = small(model=EXACT, budget={"steps": 1}, evaluation={"tasks": 1, "every": 0}, backend=backend)
    folder = finished(job(experiment, tiny_directory, tmp_path))
    (row,) = steps_of(folder)
    assert (row["mismatch/rejected"], "loss/total" in row) == (1.0, False)
    assert records.read_json(folder / "done.json")["optimiser_steps"] == 0


# ---------------------------------------------------------------- servers that mislead


def raw(body: dict[str, Any], plain: TorchBackend) -> dict[str, Any]:
    """Log-probabilities at temperature 1, whatever was sampled at."""
    choice = body["choices"][0]
    done = Completion(np.array(choice["token_ids"], np.int64), np.zeros(len(choice["token_ids"])), False)
    one = sequence(Prompt(body["prompt_token_ids"]), done)
    (scores,) = plain.score([one])
    return with_choice(token_logprobs=scores.logprobs[one.mask].tolist())(body)


def without_stop(body: dict[str, Any]) -> dict[str, Any]:
    choice = body["choices"][0]
    cut = len(choice["token_ids"]) - (choice["finish_reason"] == "stop")
    return with_choice(token_ids=choice["token_ids"][:cut], token_logprobs=choice["token_logprobs"][:cut])(body)


MISLEADING: dict[str, tuple[str, Twist]] = {
    "the same tokenizer": ("card", lambda body: {"data": [body["data"][0] | {"vocabulary_hash": "0" * 64}]}),
    "stop tokens": ("reply", without_stop),
    "processed log-probabilities": ("reply", lambda body: raw(body, PLAIN[0])),
}
PLAIN: list[TorchBackend] = []


@pytest.fixture(scope="module")
def sharp(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with logits large enough that a temperature matters."""
    made = TorchBackend(tiny_directory, dtype="float64", device="cpu")
    made.model.get_input_embeddings().weight.data *= 8
    into = tmp_path_factory.mktemp("sharp")
    made.save(into)
    PLAIN.append(made)
    return into


@pytest.mark.parametrize("lack", MISLEADING)
def test_a_server_that_misleads_is_refused_by_name(proxy: Proxy, sharp: Path, lack: str) -> None:
    place, twist = MISLEADING[lack]
    setattr(proxy, place, twist)
    backend = backend_at(proxy.url, sharp, temperature=0.5)
    with pytest.raises(UnfitSamplerError, match=f"lacks {lack};"):
        backend.sample([Prompt((3, 4))], SamplingParams(9, 0.5))


@pytest.mark.parametrize(
    "named",
    [pytest.param(True, id="named as told"), pytest.param(False, marks=pytest.mark.slow, id="named as before")],
)
def test_stale_weights_are_refused_by_name(proxy: Proxy, sharp: Path, named: bool) -> None:
    """A server that acknowledges a load and forgets it, and says so of its replies or does not."""
    backend = backend_at(proxy.url, sharp)
    (done,) = backend.sample([Prompt((3, 4))], PARAMS)
    one = sequence(Prompt((3, 4)), done)
    for _ in range(3):
        backend.update(pack([one], [Credit(likelihood=one.mask * 1.0)]), LossSettings())
    proxy.weights = lambda body: None  # type: ignore[assignment, return-value]
    if named:
        proxy.reply = lambda body: with_choice(weight_version=proxy.told[-1])(body)
    with pytest.raises(UnfitSamplerError, match="lacks fresh weights;"):
        backend.sync()


def test_a_server_that_somebody_else_gave_other_weights_is_found_out(server: ModelServer, tiny_directory: Path) -> None:
    one, other = backend_at(server.url, tiny_directory), backend_at(server.url, tiny_directory)
    one.sample([Prompt((3, 4))], PARAMS)
    other.sample([Prompt((3, 4))], PARAMS)
    with pytest.raises(UnfitSamplerError, match="lacks fresh weights;"):
        one.sample([Prompt((3, 4))], PARAMS)


# ---------------------------------------------------------------- its table in the spec


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"adress": "x"}, "unknown option .* 'adress'; did you mean 'address'"),
        ({"staleness": 2}, "option staleness of backend .* is 2: input should be 0 or 1"),
        ({"probe": "never"}, "unknown probe 'never'.*every load"),
        ({"mismatch": {"weight": "truncate"}}, "unknown weight of a correction 'truncate'; did you mean 'truncated'"),
        ({"mismatch": {"low": 3.0, "high": 2.0}}, "0 <= low < high"),
        ({"mismatch": {"capp": 2.0}}, "unknown option .* 'capp'; did you mean 'cap'"),
    ],
)
def test_mistakes_in_the_table_are_told_before_anything_runs(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        backend_class(PlugSettings(plug=PLUG, options=options))


def test_without_an_address_it_says_what_to_give(tiny_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(UserError, match="address = "):
        EndpointBackend.from_start(Start(tiny_directory), BackendSettings(device="cpu"))
    with pytest.raises(UserError, match="concurrency is at least 1"):
        EndpointBackend.from_start(Start(tiny_directory), BackendSettings(device="cpu"), address="x", concurrency=0)


def test_runs_are_matched_by_staleness_and_correction_alone() -> None:
    table = {"mask": "token", "low": 0.5}
    elsewhere = {"address": "x", "model": "m", "folder": "f", "concurrency": 3, "timeout_s": 9.0, "probe": "first load"}
    kept = deciding(PlugSettings(plug=PLUG, options=elsewhere | {"staleness": 1, "mismatch": table}))
    assert kept.options == {"staleness": 1, "mismatch": table}


def test_a_model_that_the_server_does_not_have_is_named(server: ModelServer, tiny_directory: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown model of the server 'tny'; did you mean 'tiny'"):
        backend_at(server.url, tiny_directory, model="tny").sample([Prompt((3, 4))], PARAMS)


@pytest.mark.slow
def test_what_was_written_for_the_server_is_removed(server: ModelServer, tiny_directory: Path, tmp_path: Path) -> None:
    backend = backend_at(server.url, tiny_directory, folder=str(tmp_path / "shared"))
    for _ in range(2):
        backend.load(tiny_directory)
        backend.sample([Prompt((3, 4))], PARAMS)
        assert len(list((tmp_path / "shared").iterdir())) == 1  # what the server has, and nothing older
    backend.close()
    backend.close()
    assert list((tmp_path / "shared").iterdir()) == []
