"""Who trains and who is held out: by subject, seeded, and written down.

Neighbouring slices of one scan are nearly equal, so a split by slice leaks. Where there are too
few subjects to hold one out, each scan gives up one contiguous block, with a gap on either side.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mrbridge.errors import InputError
from mrbridge.io.names import natural_key
from mrbridge.preparation.settings import PrepareSettings
from mrbridge.preparation.store import Range, ScanRecord

Segments = dict[str, list[Range]]


@dataclass(frozen=True)
class Wish:
    """A record, and the split that the user's table asks for."""

    record: ScanRecord
    split: str | None = None


def split_scans(wishes: Sequence[Wish], settings: PrepareSettings) -> dict[str, Segments]:
    """Assign every scan's slices to `train`, `val`, `test`, or to none (the gaps).

    A split that the user asks for holds; what is left follows the rules above. A subject is never
    in two splits, unless all scans are split in blocks.

    Args:
        wishes: the scans, those of the two contrasts of `settings` only.
        settings: shares, gap and seed.

    Returns:
        Record id to its segments.

    Raises:
        InputError: the user's table puts one subject into two splits.
    """
    _check_leaks(wishes)
    asked = {wish.split for wish in wishes}
    fixed = _asked_subjects(wishes)
    result: dict[str, Segments] = {}
    free: list[ScanRecord] = []
    for wish in wishes:
        split = wish.split or fixed.get(wish.record.subject or "")
        if split in ("val", "test") or (split and "val" in asked):
            result[wish.record.id] = {split: [(0, wish.record.shape[0])]}
        elif "val" in asked:
            result[wish.record.id] = {"train": [(0, wish.record.shape[0])]}
        else:
            free.append(wish.record)
    return result | _split_free(free, settings, with_test="test" not in asked)


def _split_free(
    records: list[ScanRecord], settings: PrepareSettings, *, with_test: bool
) -> dict[str, Segments]:
    generator = np.random.default_rng(settings.seed)
    known = [record for record in records if record.subject is not None]
    held = _hold_out(known, settings, generator, with_test=with_test)
    result: dict[str, Segments] = {}
    blocked = [record for record in records if record.subject is None]
    if held is None:
        blocked = records
    else:
        for record in known:
            split = held.get(str(record.subject), "train")
            result[record.id] = {split: [(0, record.shape[0])]}
    # One place for all scans, so that scans on one grid give up the same anatomy.
    place = float(generator.uniform(0.25, 0.75))
    result |= _split_volumes([r for r in blocked if not r.is_picture], settings, place)
    return result | _split_pictures([r for r in blocked if r.is_picture], settings, place)


def _hold_out(
    records: list[ScanRecord],
    settings: PrepareSettings,
    generator: np.random.Generator,
    *,
    with_test: bool,
) -> dict[str, str] | None:
    """Subject to `val` or `test`; None where validation by subject is impossible."""
    contrasts: dict[str, set[str]] = defaultdict(set)
    for record in records:
        contrasts[str(record.subject)].add(record.contrast)
    subjects = sorted(contrasts, key=natural_key)
    generator.shuffle(subjects)
    # Those with both contrasts first: they can be scored as pairs.
    subjects.sort(key=lambda subject: -len(contrasts[subject]))
    wanted = {settings.source, settings.target}
    training = {c: sum(c in contrasts[s] for s in subjects) for c in wanted}
    held: dict[str, str] = {}
    for split, share in (("val", settings.validation_share), ("test", settings.test_share)):
        if split == "test" and not (with_test and len(subjects) > 3):
            continue
        left = {c: round(share * n) for c, n in _totals(contrasts, wanted).items()}
        if share > 0:
            left = {c: max(1, n) for c, n in left.items()}
        for subject in subjects:
            kinds = contrasts[subject]
            useful = any(left[c] > 0 for c in kinds)
            spares = all(training[c] > 1 for c in kinds)
            if subject not in held and useful and spares:
                held[subject] = split
                for c in kinds:
                    left[c] -= 1
                    training[c] -= 1
        missing = [c for c in wanted if not any(
            c in contrasts[s] for s, where in held.items() if where == split)]  # fmt: skip
        if split == "val" and share > 0 and missing:
            return None
    return held


def _totals(contrasts: dict[str, set[str]], wanted: Iterable[str]) -> dict[str, int]:
    return {c: sum(c in kinds for kinds in contrasts.values()) for c in wanted}


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


def _split_pictures(
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
    """Split `count` neighbours: one block for validation, a gap on either side, the rest."""
    size = max(1, round(settings.validation_share * count))
    if settings.validation_share == 0 or count - size - 2 * settings.gap < 1:
        return {"train": [(0, count)]}
    start = round(place * (count - size))
    before, after = start - settings.gap, start + size + settings.gap
    train = [(a, b) for a, b in ((0, before), (after, count)) if b > a]
    return {"train": train, "val": [(start, start + size)]}


def _asked_subjects(wishes: Sequence[Wish]) -> dict[str, str]:
    return {str(w.record.subject): w.split for w in wishes if w.split and w.record.subject}


def _check_leaks(wishes: Sequence[Wish]) -> None:
    seen: dict[str, str] = {}
    for wish in wishes:
        subject = wish.record.subject
        if subject is None or wish.split is None:
            continue
        if seen.setdefault(subject, wish.split) != wish.split:
            raise InputError(
                f"subject {subject} is in the splits {seen[subject]} and {wish.split}",
                remedy="Give all scans of a subject the same split.",
            )
