"""Two stores as one, by composition."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_quantgate.spec import Json, Observation
    from pytest_quantgate.store.cache import Listing, Store

__all__ = ["Layered"]


class Layered:
    """Two stores as one: reads from `front`, then from `back`; writes to `front` only.

    For a baseline that continuous integration shares: `Layered(Store(local), Store(shared, writable=False))`.
    """

    def __init__(self, front: Store, back: Store) -> None:
        self.front = front
        self.back = back
        self.root = front.root
        self.writable = front.writable
        self.memo = front.memo
        self.put = front.put
        self.lock = front.lock
        self.prune = front.prune

    def get(self, key: str) -> Observation | None:
        """Return the observation that either holds."""
        found = self.front.get(key)
        return self.back.get(key) if found is None else found

    def written(self, key: str) -> float:
        """Return when the entry that `get` gives was written (seconds since the epoch), or 0."""
        return self.front.written(key) or self.back.written(key)

    def checkpoint(self, key: str) -> Path | None:
        """Return the checkpoint that either holds."""
        return self.front.checkpoint(key) or self.back.checkpoint(key)

    def checkpoint_record(self, key: str) -> dict[str, Json] | None:
        """Return the record that either holds."""
        return self.front.checkpoint_record(key) or self.back.checkpoint_record(key)

    def build_checkpoint(self, key: str, build: Callable[[Path], None], about: Json) -> Path:
        """Return the checkpoint that either holds, else build it in `front`."""
        return self.checkpoint(key) or self.front.build_checkpoint(key, build, about)

    def entries(self) -> Iterator[Listing]:
        """List the observations of both; one that both hold appears once."""
        seen = set()
        for store in (self.front, self.back):
            for listing in store.entries():
                if listing.key not in seen:
                    seen.add(listing.key)
                    yield listing
