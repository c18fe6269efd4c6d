"""Two contrasts of one head, in register, whose names do not say so."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from mrbridge import parallel
from mrbridge.dataset.pairs import are_in_register, best_matches
from mrbridge.errors import MrbridgeWarning
from mrbridge.inspection.checks import Finding, Group, finding
from mrbridge.inspection.checks.duplicates import in_train_and_held_out
from mrbridge.inspection.facts import Entry, Facts, load
from mrbridge.io.names import natural_key
from mrbridge.preprocessing.geometry import fit_size
from mrbridge.reports import counted
from mrbridge.volume import CONTRASTS

MOST_SEARCHED = 50_000
"""Scans of a contrast. The search compares the edges of every scan with those of every scan of the
other contrast, which takes some minutes for so many."""


def find_undeclared_pairs(facts: Sequence[Facts], workers: parallel.Workers = 1) -> list[Finding]:
    """Scans of two contrasts that show one head in register although their names do not say so.

    Args:
        facts: of all scans.
        workers: processes, or the address of a Dask scheduler, to read candidates again.
    """
    candidates: list[tuple[Facts, Facts]] = []
    not_searched = []
    for contrasts in combinations(CONTRASTS, 2):
        sources, targets = ([one for one in facts if one.contrast == c] for c in contrasts)
        if max(len(sources), len(targets)) > MOST_SEARCHED and sources and targets:
            not_searched.append(" and ".join(contrasts))
        else:
            candidates += _candidates(sources, targets)
    pairs = _in_register(candidates, workers)
    findings = []
    if pairs:
        groups = [Group((one.name, other.name)) for one, other in pairs]
        groups.sort(key=lambda group: natural_key(group.names[0]))
        across = any(map(in_train_and_held_out, pairs))
        findings.append(
            finding(
                "undeclared-pairs-across-splits" if across else "undeclared-pairs",
                groups,
                pairs=counted(len(groups), "pair"),
                named=len({name for group in groups for name in group.names}),
                scans=counted(len(facts), "scan"),
                disclose="Report the data as paired"
                if are_most(len(pairs), facts)
                else "Disclose these pairs",
            )
        )
    if not_searched:
        findings.append(
            finding(
                "undeclared-pairs-not-searched",
                contrasts=", ".join(not_searched),
                most=MOST_SEARCHED,
            )
        )
    return findings


def are_most(pairs: int, facts: Sequence[Facts]) -> bool:
    """Whether the number of pairs is more than half of the possible number."""
    counts = Counter(one.contrast for one in facts)
    return len(counts) > 1 and pairs > min(counts.values()) / 2


def _candidates(sources: list[Facts], targets: list[Facts]) -> list[tuple[Facts, Facts]]:
    """Scans that are each other's best match, and not known to be of one subject."""
    matches = best_matches([one.thumbnail for one in sources], [one.thumbnail for one in targets])
    pairs = [(sources[i], targets[j]) for i, j in matches]
    return [
        (one, other)
        for one, other in pairs
        if one.is_2d == other.is_2d and not (one.subject and one.subject == other.subject)
    ]


def _in_register(
    candidates: list[tuple[Facts, Facts]], workers: parallel.Workers
) -> list[tuple[Facts, Facts]]:
    """Those candidates that are in register at full resolution; their scans are read again."""
    if not candidates:
        return []
    entries = [(one.entry, other.entry) for one, other in candidates]
    results = parallel.map_scans(
        _is_in_register, entries, workers=workers, label="Looking for undeclared pairs"
    )
    # The result is an error if a scan has disappeared in the meantime.
    return [pair for pair, (_, result) in zip(candidates, results, strict=True) if result is True]


def _is_in_register(entries: tuple[Entry, Entry]) -> bool:
    """Whether the middle slice of one scan matches the slice at its position in the other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MrbridgeWarning)  # shown when the scans were first read
        first, second = map(load, entries)
    middle = len(first.slices) // 2
    position = first.indices[middle]
    if position not in second.indices:
        return False
    images = first.slices[middle], second.slices[second.indices.index(position)]
    rows, columns = np.max([image.shape for image in images], axis=0)
    one, other = (fit_size(image, int(rows), int(columns))[0] for image in images)
    return are_in_register(one, other)
