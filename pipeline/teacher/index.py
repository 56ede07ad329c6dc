"""Which segment of the answer cache holds a request: 12 bytes for each, so that a million of them are no weight.

Requests are known by 64 bits of a hash of their names (two of a million are alike once in 40 million caches), sorted in
buckets small enough to insert into.
"""

from array import array
from bisect import bisect_left

import xxhash

BUCKET_BITS = 10


class SegmentIndex:
    """Request -> the lowest segment noted for it."""

    def __init__(self) -> None:
        self._hashes = [array("Q") for _ in range(1 << BUCKET_BITS)]
        self._segments = [array("I") for _ in range(1 << BUCKET_BITS)]  # positions in `_names`, beside the hashes
        self._names: list[str] = []

    def get(self, key: str) -> str | None:
        """The segment that holds it; None when none does."""
        bucket, place, found = self._find(xxhash.xxh3_64_intdigest(key.encode()))
        return self._names[self._segments[bucket][place]] if found else None

    def note(self, name: str, keys: list[str]) -> list[bool]:
        """A segment's keys; for each whether it is new."""
        self._names.append(name)
        number = len(self._names) - 1
        new: list[bool] = []
        for key in keys:
            digest = xxhash.xxh3_64_intdigest(key.encode())
            bucket, place, found = self._find(digest)
            new.append(not found)
            if not found:
                self._hashes[bucket].insert(place, digest)
                self._segments[bucket].insert(place, number)
            elif name < self._names[self._segments[bucket][place]]:
                self._segments[bucket][place] = number
        return new

    def _find(self, digest: int) -> tuple[int, int, bool]:
        """Its bucket, its place there, and whether it is there."""
        bucket = digest >> (64 - BUCKET_BITS)
        hashes = self._hashes[bucket]
        place = bisect_left(hashes, digest)
        return bucket, place, place < len(hashes) and hashes[place] == digest
