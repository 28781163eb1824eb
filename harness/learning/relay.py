"""One feed for several processes that train together: rank 0 plays, gathers and writes, all step alike.

    relay = Relay(channel, RunFeed(run) if channel.rank == 0 else None)
    if relay.resumed_from is not None and channel.rank > 0:
        backend.load(relay.resumed_from)
    backend.drive(relay)

`channel` is whatever carries an object from rank 0 to all (`torch.distributed.broadcast_object_list`, say). An error
of rank 0 ends the others too: nobody waits for a broadcast that does not come.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from harness.core.errors import HarnessError
from harness.learning.feed import RunFeed
from harness.protocols.feed import Metrics, Update


@runtime_checkable
class Channel(Protocol):
    """A way from rank 0 to all ranks of a group."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """This process's number, from 0."""
        ...

    @abstractmethod
    def broadcast(self, item: Any) -> Any:
        """What rank 0 gave, on every rank; what the others give is not looked at. All ranks call it together."""
        ...


@dataclass(frozen=True)
class _Failed:
    """What rank 0 says instead of an update."""

    why: str


class Relay:
    """A rank's end of a feed (`harness.protocols.feed.Feed`); only rank 0 holds the feed itself."""

    def __init__(self, channel: Channel, feed: RunFeed | None) -> None:
        """feed: the run's, on rank 0; None on the others. ValueError where it is the other way round."""
        if (channel.rank == 0) != (feed is not None):
            raise ValueError(f"rank 0 holds the feed, and no other; this is rank {channel.rank}")
        self._channel, self._feed = channel, feed
        self.resumed_from: Path | None = channel.broadcast(feed.resumed_from if feed else None)
        """The checkpoint the run goes on from, for the ranks whose weights the feed did not load."""

    def next(self) -> Update | None:
        """The next update, the same on every rank. HarnessError on the others where rank 0 failed."""
        if self._feed is not None:
            try:
                update = self._feed.next()
            except BaseException as error:
                self._channel.broadcast(_Failed(f"{type(error).__name__}: {error}"))
                raise
            self._channel.broadcast(update)
            return update
        given = self._channel.broadcast(None)
        if isinstance(given, _Failed):
            raise HarnessError(f"rank 0 stopped, and all others with it: {given.why}")
        received: Update | None = given
        return received

    def report(self, metrics: Metrics) -> None:
        """Rank 0's metrics are those of the log; of the others none are kept."""
        if self._feed is not None:
            self._feed.report(metrics)
