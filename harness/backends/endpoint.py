"""Trained here, sampled elsewhere: the torch backend's trainer and scores, and the completions of a server that takes
token ids and loads weights (`harness serve`; `endpoint_sampler` says what is asked of one).

    sample     the server's completions, each with the version of the weights that sampled it
    sync       the weights written to a folder, which the server is told to load
    corrected  by how much the two engines differ on each token, and what is done about it (`harness.losses.mismatch`)

Nothing is asked of the server before the first completion is: a warm start needs none. From then on every version of
the weights has a name of its own, so that a server which somebody else has given other weights is found out.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar, Literal

from harness.backends.endpoint_sampler import EndpointSampler
from harness.backends.torch.backend import TorchBackend
from harness.backends.torch.heads import CHUNK_MIB
from harness.backends.torch.lora import Lora
from harness.backends.torch.processes import PATIENCE_S
from harness.core.errors import UnknownNameError, UserError
from harness.core.pieces import flat, joined
from harness.core.types import Credit, TokenSequence
from harness.endpoint import Endpoint, EndpointCallError
from harness.losses import Batch, LossSpec
from harness.losses.mismatch import Corrected, Correction, correct
from harness.protocols.backend import BackendSettings, Completion, Prompt, SamplingParams, Start
from harness.protocols.capabilities import EVERYTHING, Capability
from harness.protocols.feed import Feed

SAMPLER = "sampler"
"""Of a checkpoint: the weights that the server had, where they were older than the trainer's."""


class EndpointBackend(TorchBackend):
    """A `TorchBackend` whose completions are a server's (see the module's docstring). `version` is that of the weights
    which the server samples with.

    Options that decide no result: address (left out, that of `OPENAI_BASE_URL`; the key is that of `OPENAI_API_KEY`),
    model (what the server calls it; left out, the only one it has), folder (where weights are written for the server to
    read; left out, a temporary one), concurrency (requests under way at once), timeout_s (of one request, in seconds),
    probe (whether the server's log-probabilities are held against the trainer's after every load, or the first alone).

    Options that decide one: staleness (1: the server loads weights after every second step, so that those of a
    completion are at most one step old; whatever is judged is sampled with the latest), mismatch (what is done about
    the distance between the two engines; left out, nothing).
    """

    without_effect: ClassVar[frozenset[str]] = frozenset(
        {"address", "model", "folder", "concurrency", "timeout_s", "probe"}
    )
    _server: _Server
    _staleness: int = 0
    _mismatch: Correction = Correction()
    _moved: bool = True
    """Whether the trainer's weights are others than the server's."""
    _age: int = 0
    """How many steps they are ahead."""
    _due: bool = True
    """Whether the server must be given weights before it samples again."""
    _trouble: Exception | None = None
    """Why it could not be."""
    _behind: Path | None = None
    """The weights it is to have then, where they are older than the trainer's."""

    @classmethod
    def from_start(
        cls,
        start: Start,
        settings: BackendSettings,
        chunk_mib: float = CHUNK_MIB,
        recompute_layers: bool = False,
        states_8bit: bool = False,
        lora: Lora | None = None,
        processes: int = 1,
        shard: bool = False,
        patience_s: float = PATIENCE_S,
        address: str = "",
        model: str = "",
        folder: str = "",
        concurrency: int = 16,
        timeout_s: float = 600.0,
        probe: Literal["every load", "first load"] = "every load",
        staleness: Literal[0, 1] = 0,
        mismatch: Correction | None = None,
    ) -> EndpointBackend:
        """The policy of a start; see `harness.protocols.backend.Backend.from_start`. UserError without an address,
        or for more than one process to train in."""
        if processes != 1 or shard:
            raise UserError("the endpoint backend trains in one process: leave out processes and shard")
        address = address or os.environ.get("OPENAI_BASE_URL", "")
        if not address:
            raise UserError(
                'the endpoint backend has no server: give it one, options = { address = "http://localhost:8000/v1" }, '
                "or set OPENAI_BASE_URL"
            )
        if concurrency < 1 or timeout_s <= 0:
            raise UserError(f"concurrency is at least 1 and timeout_s above 0, got {concurrency} and {timeout_s:g}")
        made = super().from_start(start, settings, chunk_mib, recompute_layers, states_8bit, lora)
        assert isinstance(made, EndpointBackend)
        key = os.environ.get("OPENAI_API_KEY") or "none"
        endpoint = Endpoint(model, base_url=address, api_key=key, timeout_s=timeout_s, concurrency=concurrency)
        made._server = _Server(made, endpoint, concurrency, folder, always=probe == "every load")
        made.concurrency, made._staleness, made._mismatch = concurrency, staleness, mismatch or Correction()
        return made

    @classmethod
    def capabilities(cls) -> frozenset[Capability]:
        """Everything but top-p: servers differ in what the log-probabilities of its tokens are."""
        return EVERYTHING - {Capability.TOP_P}

    def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        """See `EndpointSampler.sample`. May be called from several threads."""
        if not prompts:
            return []
        with self._server.lock:
            if self._trouble is not None:  # which another thread met while this one waited
                raise self._trouble
            if self._due:
                self._begin()
        return [replace(done, version=self._server.version) for done in self._server.sampler.sample(prompts, params)]

    def _begin(self) -> None:
        """Give the server what it is to sample with; the trainer's weights first, which can be compared."""
        try:
            self._push()
            if self._behind is not None:
                self._push(self._behind)
        except Exception as error:
            self._trouble = error
            raise
        self._due, self._behind = False, None

    def _push(self, saved: Path | None = None) -> None:
        # Numbers only grow: a version that was not pushed may have had the next one.
        self.version = max(self.version, self._server.version + 1)
        self._server.take(self.version, saved)
        self._moved, self._age = saved is not None, int(saved is not None)

    def sync(self) -> None:
        """Have the server load the trainer's weights, if it has others; before the first completion it is not asked."""
        if self._due:
            self._behind = None  # what it loads before it samples are the trainer's
        elif self._moved:
            self._push()

    def drive(self, feed: Feed) -> None:
        """See `harness.protocols.backend.Trainer.drive`; the server loads weights as often as `staleness` says."""
        while (update := feed.next()) is not None:
            feed.report(self.update(update.batch, update.loss, per_term=update.per_term))
            if not update.last:
                continue
            if self._age == self._staleness:
                self.sync()
            else:
                self._age += 1
                self.version = self._server.version

    def update(self, batch: Batch, loss: LossSpec, per_term: bool = False) -> dict[str, float]:
        """See `TorchBackend.update`."""
        self._moved = True
        return super().update(batch, loss, per_term)

    def corrected(self, sequences: Sequence[TokenSequence], credits: Sequence[Credit]) -> Corrected | None:
        """See `harness.protocols.backend.Trainer.corrected`; costs one scoring of the step, and nothing where
        `mismatch` is off."""
        if not self._mismatch.on:
            return None
        trainer = joined([scores.logprobs for scores in self.score(flat(sequences))], sequences)
        return correct(sequences, trainer, [credit.advantages for credit in credits], self._mismatch)

    def save(self, path: Path | str) -> None:
        """See `TorchBackend.save`; and the server's weights where the next step's completions are theirs."""
        super().save(path)
        older = self._behind if self._due else self._server.folder
        if self._staleness and self._moved and older is not None:
            shutil.copytree(older, Path(path) / SAMPLER)

    def load(self, path: Path | str) -> None:
        """See `TorchBackend.load`. The server is given weights before it samples again."""
        super().load(path)
        older = Path(path) / SAMPLER
        self._moved, self._due = True, True
        self._behind = older if self._staleness and older.is_dir() else None

    def close(self) -> None:
        """Close the connections, and remove what was written for the server."""
        super().close()
        self._server.close()


class _Server:
    """The server, and the weights that it was given last."""

    def __init__(self, backend: TorchBackend, endpoint: Endpoint, concurrency: int, folder: str, always: bool) -> None:
        """folder: where weights are written, empty for a temporary one. always: compare after every load, not after
        the first alone."""
        self.lock = threading.Lock()
        self.version = -1
        self.folder: Path | None = None
        """Where its weights stand."""
        self._backend, self._endpoint, self._concurrency, self._always = backend, endpoint, concurrency, always
        self._root = Path(folder).resolve() if folder else None
        self._remove: Callable[[], Any] = lambda: None
        self._own = secrets.token_hex(4)
        self._sampler: EndpointSampler | None = None

    @property
    def sampler(self) -> EndpointSampler:
        """What samples at it; there once it has weights."""
        assert self._sampler is not None
        return self._sampler

    def take(self, version: int, saved: Path | None = None) -> None:
        """Give it the trainer's weights, or a saved model's, and look at what it makes of them. UnfitSamplerError names
        what a trainer cannot do without and it lacks."""
        first = self._sampler is None
        sampler = self._sampler or self._connected()
        name = f"{self._own}-{version}"
        into = self._written_to() / name
        if saved is None:
            self._backend.save_policy(into)
        else:
            shutil.copytree(saved, into)
        judge = self._backend if self._always and saved is None and not first else None
        sampler.sync(into, name, judge)
        if first:
            sampler.probe(self._backend, name)
        if self.folder is not None:  # only now: it goes back there where it cannot load others
            shutil.rmtree(self.folder, ignore_errors=True)
        self._sampler, self.version, self.folder = sampler, version, into

    def _written_to(self) -> Path:
        if self._root is None:
            self._root = Path(mkdtemp(prefix="weights-"))
            self._remove = weakref.finalize(self, shutil.rmtree, self._root, True)
        return self._root

    def _connected(self) -> EndpointSampler:
        backend, endpoint = self._backend, self._endpoint
        try:
            known = endpoint.ask("models").get("data")
        except EndpointCallError as error:
            if error.kind != "connection":
                raise
            raise UserError(
                f"{error}; start a server for this policy, `harness serve {backend.initial_directory}`, and call again"
            ) from None
        names = [str(card.get("id")) for card in known if isinstance(card, Mapping)] if isinstance(known, list) else []
        if endpoint.model not in names and (endpoint.model or len(names) != 1):
            raise UnknownNameError("model of the server", endpoint.model, names, "(option model of the backend)")
        endpoint.model = endpoint.model or names[0]
        return EndpointSampler(
            endpoint, backend.renderer, backend.window, backend.temperature, concurrency=self._concurrency
        )

    def close(self) -> None:
        """Close the connections, and remove what was written."""
        self._endpoint.close()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._remove()
