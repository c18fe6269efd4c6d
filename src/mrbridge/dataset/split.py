"""The split into training, validation and test: by subject, seeded, and recorded.

Neighbouring slices of one scan are nearly equal, so a split by slice leaks. With too few subjects
to hold one out, each scan gives up one contiguous block for validation. The slices next to it (the
gap) are in no split.

Which subjects are held out depends on a hash of the seed and the subject: one that is added later
moves at most one other into or out of validation, and one into or out of the test.

More images never leave fewer for training. The number of held-out subjects rises by at most one
with each further subject, the smallest sets of 2D images are held out first, and of a series of
slices at most one more leaves the training split with each further slice.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from mrbridge.dataset.settings import PrepareSettings
from mrbridge.dataset.store import Range, ScanRecord
from mrbridge.errors import InputError, warn
from mrbridge.io.names import natural_key

Segments = dict[str, list[Range]]

LEAST_FOR_VALIDATION = 8
"""Slices of the shortest series that contributes a block; a shorter one is all for training."""

_GAP_SHARE = 5  # the two gaps take at most one slice in five


@dataclass(frozen=True)
class Request:
    """A record, and the split that the user's table asks for."""

    record: ScanRecord
    split: str | None = None


def split_scans(requests: Sequence[Request], settings: PrepareSettings) -> dict[str, Segments]:
    """Assign every scan's slices to `train`, `val`, `test`, or to none (the gaps).

    The user's table comes first; everything else follows the rules above. A subject is never in two
    splits, unless all scans are split in blocks.

    Returns:
        Record id to its segments.

    Raises:
        InputError: the user's table puts one subject into two splits.
    """
    asked = {request.split for request in requests}
    fixed = _asked_subjects(requests)
    result: dict[str, Segments] = {}
    free: list[ScanRecord] = []
    for request in requests:
        split = request.split or fixed.get(request.record.subject or "", "train")
        if split != "train" or "val" in asked:
            result[request.record.id] = {split: [(0, request.record.shape[0])]}
        else:
            free.append(request.record)
    wanted = {subject for subject, split in fixed.items() if split == "train"}
    result |= _split_free(free, settings, wanted, with_test="test" not in asked)
    lost = {r.subject for r in free if r.subject in wanted and "train" not in result[r.id]}
    if lost:
        warn(
            f"no scan has the split val: {len(lost)} of the {len(wanted)} subjects with the split "
            "train are held out"
        )
    return result


def _split_free(
    records: list[ScanRecord],
    settings: PrepareSettings,
    wanted: Collection[str],
    *,
    with_test: bool,
) -> dict[str, Segments]:
    """Split what the user's table leaves open; `wanted` are subjects for training, which are held
    out only if there are no others."""
    known = [record for record in records if record.subject is not None]
    held = _hold_out(known, settings, wanted, with_test=with_test)
    result: dict[str, Segments] = {}
    blocked = [record for record in records if record.subject is None]
    if held is None:
        blocked = records
    else:
        for record in known:
            split = held.get(str(record.subject), "train")
            result[record.id] = {split: [(0, record.shape[0])]}
    # One place for all scans, so that scans on one grid give up the same anatomy.
    place = float(np.random.default_rng(settings.seed).uniform(0.25, 0.75))
    result |= _split_volumes([r for r in blocked if not r.is_2d], settings, place)
    return result | _split_2d([r for r in blocked if r.is_2d], settings, place)


def _hold_out(
    records: list[ScanRecord],
    settings: PrepareSettings,
    wanted: Collection[str],
    *,
    with_test: bool,
) -> dict[str, str] | None:
    """Subject to `val` or `test`; None if validation by subject is impossible."""
    contrasts: dict[str, set[str]] = defaultdict(set)
    for record in records:
        contrasts[str(record.subject)].add(record.contrast)
    # Those with both contrasts first: they can be scored as pairs. Then the smallest sets of 2D
    # images. Volumes have about equally many slices, and their order is random.
    sizes = Counter(str(record.subject) for record in records if record.is_2d)
    ranks = {one: _rank(one, settings.seed) for one in contrasts}
    order = {one: (one in wanted, -len(contrasts[one]), sizes[one]) for one in contrasts}
    both = set(settings.contrasts)
    training = {c: sum(c in kinds for kinds in contrasts.values()) for c in both}
    counts = {c: _held_counts(n, settings, with_test=with_test) for c, n in training.items()}
    held: dict[str, str] = {}
    # From opposite ends, so that no subject moves from one to the other.
    for split, sign in (("val", 1), ("test", -1)):
        left = {c: counts[c][split] for c in both}
        for *_, subject in sorted((*order[one], sign * ranks[one], one) for one in contrasts):
            kinds = contrasts[subject]
            useful = all(left[c] > 0 for c in kinds)
            spares = all(training[c] > 1 for c in kinds)
            if subject not in held and useful and spares:
                held[subject] = split
                for c in kinds:
                    left[c] -= 1
                    training[c] -= 1
        has_all = both <= {c for one in held for c in contrasts[one]}
        if split == "val" and settings.validation_share > 0 and not has_all:
            return None
    return held


def _rank(subject: str, seed: int) -> int:
    """A random number that depends on nothing else."""
    digest = hashlib.sha256(f"{seed} {subject}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8])


def _held_counts(subjects: int, settings: PrepareSettings, *, with_test: bool) -> dict[str, int]:
    """How many subjects to hold out for `val` and, if there are more than three, for `test`."""
    held = val = test = 0
    for count in range(1, subjects + 1):
        val = max(int(settings.validation_share > 0), round(settings.validation_share * count))
        if with_test and count > 3:
            test = max(int(settings.test_share > 0), round(settings.test_share * count))
        # Both can grow at once, and training would then lose a subject to a larger dataset.
        held = min(held + 1, val + test)
    val = min(val, held - min(1, test))
    return {"val": val, "test": held - val}


def _split_volumes(
    records: list[ScanRecord], settings: PrepareSettings, place: float
) -> dict[str, Segments]:
    grids: dict[str, list[ScanRecord]] = defaultdict(list)
    for record in records:
        grids[record.grid_hash].append(record)
    result: dict[str, Segments] = {}
    for group in grids.values():
        first = min(record.slice_indices[0] for record in group)
        last = max(record.slice_indices[-1] for record in group)
        block = _block(last - first + 1, settings, place)
        for record in group:
            indices = np.array(record.slice_indices) - first
            result[record.id] = {
                split: [(int(a), int(b)) for a, b in np.searchsorted(indices, ranges) if b > a]
                for split, ranges in block.items()
            }
    return result


def _split_2d(
    records: list[ScanRecord], settings: PrepareSettings, place: float
) -> dict[str, Segments]:
    series: dict[tuple[str, str], list[ScanRecord]] = defaultdict(list)
    for record in records:
        series[record.contrast, str(record.subject)].append(record)
    result: dict[str, Segments] = {}
    for group in series.values():
        group.sort(key=lambda record: natural_key(record.name))
        block = _block(len(group), settings, place)
        for position, record in enumerate(group):
            result[record.id] = {
                split: [(0, 1)]
                for split, ranges in block.items()
                if any(start <= position < stop for start, stop in ranges)
            }
    return result


def _block(count: int, settings: PrepareSettings, place: float) -> Segments:
    """Split `count` neighbours: one block for validation, a gap on either side, the rest.

    The block is `validation_share` of the slices, one at least, and the two gaps are `gap` slices
    each, but no more than a fifth of the slices together. If that would leave fewer for training
    than a shorter series has, block and gaps are smaller.
    """
    if settings.validation_share == 0 or count < LEAST_FOR_VALIDATION:
        return {"train": [(0, count)]}
    taken = 0
    for length in range(LEAST_FOR_VALIDATION, count + 1):
        size = max(1, round(settings.validation_share * length))
        gaps = min(2 * settings.gap, length // _GAP_SHARE)
        # Both can grow at once, and training would then lose a slice to a longer series.
        taken = min(taken + 1, size + gaps)
    gaps = min(gaps, taken - 1)
    size = taken - gaps
    before, after = (gaps + 1) // 2, gaps // 2
    start = min(max(round(place * (count - size)), before), count - size - after)
    train = [(a, b) for a, b in ((0, start - before), (start + size + after, count)) if b > a]
    return {"train": train, "val": [(start, start + size)]}


def _asked_subjects(requests: Sequence[Request]) -> dict[str, str]:
    """The split of each subject that the user's table assigns."""
    splits: dict[str, str] = {}
    for request in requests:
        subject = request.record.subject
        if not subject or request.split is None:
            continue
        if splits.setdefault(subject, request.split) != request.split:
            raise InputError(
                f"subject {subject} is in the splits {splits[subject]} and {request.split}",
                remedy="Give all scans of a subject the same split.",
            )
    return splits
