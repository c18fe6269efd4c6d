"""Two contrasts of one head, in register, that nobody called a pair."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from mrbridge import scale
from mrbridge.data.likeness import are_in_register, best_matches
from mrbridge.errors import MrbridgeWarning
from mrbridge.inspection.alike import leaks
from mrbridge.inspection.facts import Facts, Job, load
from mrbridge.inspection.finding import Finding, Group
from mrbridge.io.names import natural_key
from mrbridge.preparation.geometry import fit_size
from mrbridge.volume import CONTRASTS

MOST_SEARCHED = 50_000
"""Scans of a contrast up to which hidden pairs are searched: edges are compared of each with each
other one, which takes some minutes for so many."""

_Pair = tuple[Facts, Facts]


def find_hidden_pairs(facts: Sequence[Facts], workers: scale.Workers = 1) -> list[Finding]:
    """Scans of two contrasts that show one head in register although nothing says so.

    Args:
        facts: of all scans.
        workers: who reads the most alike again, to look closer.
    """
    candidates: list[_Pair] = []
    unsearched = []
    for first, second in combinations(CONTRASTS, 2):
        banks = [[one for one in facts if one.contrast == c] for c in (first, second)]
        if not all(banks):
            continue
        if max(map(len, banks)) > MOST_SEARCHED:
            unsearched.append(f"{first} and {second}")
            continue
        candidates += _candidates(*banks)
    pairs = _confirmed(candidates, workers)
    findings = [_told(pairs, facts)] if pairs else []
    if unsearched:
        findings.append(
            Finding(
                "hidden pairs",
                "note",
                f"Not searched between {', '.join(unsearched)}: more than {MOST_SEARCHED} scans.",
                "Inspect a part of the data to search there.",
            )
        )
    return findings


def _told(pairs: list[_Pair], facts: Sequence[Facts]) -> Finding:
    groups = [Group((one.name, other.name)) for one, other in pairs]
    groups.sort(key=lambda group: natural_key(group.names[0]))
    named = len({name for group in groups for name in group.names})
    text = (
        f"{len(groups)} pairs that nobody wrote down: the two images show the same anatomy "
        f"pixel by pixel in two contrasts ({named} of {len(facts)} scans)."
    )
    is_leak = any(leaks(pair) for pair in pairs)
    if is_leak:
        text += " Of some, one image is trained on and the other held out."
    report = "Call the data paired" if are_most(len(pairs), facts) else "Tell of them"
    remedy = (
        f"{report} when you report results. Give both scans of a pair one subject in a table to "
        "score on them; mrbridge train uses such pairs by itself."
    )
    return Finding("hidden pairs", "warning" if is_leak else "note", text, remedy, tuple(groups))


def are_most(pairs: int, facts: Sequence[Facts]) -> bool:
    """Whether so many pairs are more than half of what pairs there could be at all."""
    counts = Counter(one.contrast for one in facts)
    return len(counts) > 1 and pairs > min(counts.values()) / 2


def _candidates(sources: list[Facts], targets: list[Facts]) -> list[_Pair]:
    """Scans, not of one known subject, that are each other's best match."""
    found = best_matches([one.thumbnail for one in sources], [one.thumbnail for one in targets])
    pairs = [(sources[i], targets[j]) for i, j in found]
    return [pair for pair in pairs if pair[0].is_picture == pair[1].is_picture and _apart(*pair)]


def _apart(one: Facts, other: Facts) -> bool:
    subject = one.job.scan.subject
    return not subject or subject != other.job.scan.subject


def _confirmed(candidates: list[_Pair], workers: scale.Workers) -> list[_Pair]:
    """Those that are in register, told by the scans themselves, which are read again."""
    if not candidates:
        return []
    jobs = [(one.job, other.job) for one, other in candidates]
    told = scale.map_scans(_is_in_register, jobs, workers=workers, label="Looking for hidden pairs")
    # A scan that was there a moment ago may be gone: then the outcome is an error.
    return [pair for pair, (_, outcome) in zip(candidates, told, strict=True) if outcome is True]


def _is_in_register(jobs: tuple[Job, Job]) -> bool:
    """Whether the middle slice of one scan, and the slice at its place in the other, are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MrbridgeWarning)  # they were told at the first reading
        first, second = map(load, jobs)
    place = first.indices[len(first.slices) // 2]
    if place not in second.indices:
        return False
    images = first.slices[len(first.slices) // 2], second.slices[second.indices.index(place)]
    rows, columns = np.max([image.shape for image in images], axis=0)
    fitted = [fit_size(image, int(rows), int(columns))[0] for image in images]
    return are_in_register(fitted[0], fitted[1])
