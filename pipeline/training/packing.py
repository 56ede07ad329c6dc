"""Best-fit-decreasing packing: rows into sequences of at most `max_length` tokens, documents kept apart by position.

A row is never cut. The result depends on the lengths alone, so every machine packs alike.
"""

import bisect
from collections.abc import Sequence


def pack_best_fit(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Row numbers by sequence; each sequence's lengths sum to at most `max_length`. Longest row first, ties in order.

    Example: pack_best_fit([3, 6, 5, 2], 8) -> [[1, 3], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    sequences: list[list[int]] = []
    spaces: list[int] = []  # distinct free spaces, sorted; at most max_length of them
    by_space: dict[int, list[int]] = {}
    for row in order:
        found = bisect.bisect_left(spaces, lengths[row])
        if found == len(spaces):
            sequence, space = len(sequences), max_length
            sequences.append([])
        else:
            space = spaces[found]
            sequence = by_space[space].pop()
            if not by_space[space]:
                del by_space[space], spaces[found]
        sequences[sequence].append(row)
        left = space - lengths[row]
        if left > 0:
            if left not in by_space:
                by_space[left] = []
                bisect.insort(spaces, left)
            by_space[left].append(sequence)
    return sequences
