"""Scans that show the same: exact and near duplicates, and undeclared pairs.

Undeclared pairs are two contrasts of one head, in register, whose names do not say so.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.fft import dctn

from mrbridge import parallel
from mrbridge.dataset.pairs import are_in_register, best_matches
from mrbridge.errors import MrbridgeWarning
from mrbridge.inspection.facts import Entry, Facts, load
from mrbridge.inspection.findings import Finding, Group, finding
from mrbridge.io.names import natural_key
from mrbridge.preprocessing.geometry import fit_size
from mrbridge.reports import counted
from mrbridge.volume import CONTRASTS

MOST_SEARCHED = 50_000
"""Scans of a contrast, at most, among which undeclared pairs are searched: comparing the edges of
every scan with those of every scan of the other contrast takes some minutes for this number."""

_FREQUENCIES = 16  # of the perceptual hash, along each axis
_HASH_DISTANCE = 24
"""Bits of 255: copies with noise, another brightness or JPEG in between differ in up to 18, slices
of different people in 54 or more (five open datasets)."""
_CORRELATION = 0.95
"""Of fine structure: at least 0.98 in such copies, at most 0.64 between people; neighbouring slices
of one head, 1 mm apart, reach 0.99."""
_BLUR = 3.0  # pixels of a thumbnail; coarser structure is similar in all heads
_BATCH = 64  # hashes that are compared with all others together
_NEIGHBOURS = 16  # candidates for each scan

# What makes equal or nearly equal scans a problem, the worst first; keys of findings.toml.
_RELATIONS = ("contrasts", "splits", "subjects", "neighbours")


def find_duplicates(facts: Sequence[Facts]) -> list[Finding]:
    """Exact duplicates by the hash of their voxels, near-duplicates by their thumbnails."""
    exact: dict[str, list[Group]] = defaultdict(list)
    for scans in exact_copies(facts):
        contrasts = {one.contrast for one in scans}
        remark = " and ".join(sorted(contrasts)) if len(contrasts) > 1 else ""
        exact[_relation(scans)].append(Group(tuple(one.name for one in scans), remark))
    near: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
    for i, j, correlation in near_duplicates([one.thumbnail for one in facts]):
        one, other = facts[i], facts[j]
        if one.sha256 != other.sha256 and _are_similar(one.side_view, other.side_view):
            near[_relation([one, other])].append((i, j, correlation))
    connected = {
        relation: [
            Group(tuple(facts[n].name for n in scans), f"similarity up to {correlation:.3f}")
            for scans, correlation in _connected(pairs)
        ]
        for relation, pairs in near.items()
    }
    return [
        finding(f"{kind}-duplicates-{relation}", groups[relation])
        for kind, groups in (("exact", exact), ("near", connected))
        for relation in _RELATIONS
        if relation in groups
    ]


def exact_copies(facts: Sequence[Facts]) -> list[list[Facts]]:
    """Groups of scans with the same voxels, in their order."""
    groups: dict[str, list[Facts]] = defaultdict(list)
    for one in facts:
        groups[one.sha256].append(one)
    return [group for group in groups.values() if len(group) > 1]


def in_train_and_held_out(scans: Iterable[Facts]) -> bool:
    """Whether some are in the training split and others in a held-out split."""
    splits = {split for one in scans for split in one.entry.splits}
    return "train" in splits and len(splits) > 1


def _relation(scans: Sequence[Facts]) -> str:
    if len({one.contrast for one in scans}) > 1:
        return "contrasts"
    if in_train_and_held_out(scans):
        return "splits"
    return "subjects" if len({one.subject for one in scans} - {None}) > 1 else "neighbours"


def near_duplicates(
    thumbnails: Sequence[NDArray[np.uint8]],
) -> list[tuple[int, int, float]]:
    """Pairs of thumbnails, i < j, that show nearly the same, with the correlation of their fine
    structure.

    Candidates have nearly equal perceptual hashes: signs of the lowest frequencies of the cosine
    transform about their median (Zauner 2010, Implementation and Benchmarking of Perceptual Image
    Hash Functions).
    """
    if len(thumbnails) < 2:
        return []
    hashes = np.stack([_hash(one) for one in thumbnails])
    candidates = [
        pair for start in range(0, len(hashes), _BATCH) for pair in _nearest(hashes, start)
    ]
    # Half precision halves the memory if all scans of a dataset are similar.
    numbers = sorted({n for pair in candidates for n in pair})
    fine = {n: _fine_structure(thumbnails[n]) for n in numbers}
    pairs = ((i, j, float(np.vdot(fine[i].astype(np.float32), fine[j]))) for i, j in candidates)
    return [pair for pair in pairs if pair[2] >= _CORRELATION]


def _nearest(hashes: NDArray[np.uint64], start: int) -> list[tuple[int, int]]:
    """Pairs i < j of nearly equal hashes, for `_BATCH` numbers i from `start`; only the
    `_NEIGHBOURS` nearest of each i, so that candidates are few even if all scans are similar.
    """
    part, others = hashes[start : start + _BATCH], hashes[start:]
    distances = np.zeros((len(part), len(others)), np.uint16)
    for word in range(hashes.shape[1]):
        distances += np.bitwise_count(part[:, None, word] ^ others[None, :, word])
    pairs = []
    for row, of_row in enumerate(distances):
        later = row + 1 + np.flatnonzero(of_row[row + 1 :] <= _HASH_DISTANCE)
        order = np.argsort(of_row[later], kind="stable")[:_NEIGHBOURS]
        pairs += [(start + row, start + int(j)) for j in sorted(later[order])]
    return pairs


def _hash(thumbnail: NDArray[np.uint8]) -> NDArray[np.uint64]:
    waves = dctn(thumbnail.astype(np.float32), norm="ortho")[:_FREQUENCIES, :_FREQUENCIES].ravel()
    waves[0] = np.median(waves[1:])  # the mean brightness does not count
    return np.packbits(waves > waves[0]).view(np.uint64)


def _fine_structure(thumbnail: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Of a thumbnail, as a vector of length 1."""
    values = thumbnail.astype(np.float32)
    values -= ndimage.gaussian_filter(values, _BLUR)
    values -= values.mean()
    return (values / max(float(np.linalg.norm(values)), 1e-6)).astype(np.float16)


def _are_similar(one: NDArray[np.uint8] | None, other: NDArray[np.uint8] | None) -> bool:
    """Whether side views are similar: volumes with one equal slice may differ elsewhere."""
    if one is None or other is None:
        return True
    first, second = (_fine_structure(side).astype(np.float32) for side in (one, other))
    return float(np.vdot(first, second)) >= _CORRELATION


def _connected(pairs: list[tuple[int, int, float]]) -> list[tuple[list[int], float]]:
    """Connected components of pairs i < j, each with its greatest correlation."""
    from scipy.sparse import coo_array  # slow to import, and few datasets have near-duplicates
    from scipy.sparse.csgraph import connected_components

    rows, columns, correlations = zip(*pairs, strict=True)
    size = max(columns) + 1
    links = coo_array((correlations, (rows, columns)), shape=(size, size))
    _, labels = connected_components(links, directed=False)
    members: dict[int, list[int]] = defaultdict(list)
    for n in sorted({*rows, *columns}):
        members[labels[n]].append(n)
    greatest: dict[int, float] = defaultdict(float)
    for i, _, correlation in pairs:
        greatest[labels[i]] = max(greatest[labels[i]], correlation)
    return [(scans, greatest[label]) for label, scans in members.items()]


def find_undeclared_pairs(facts: Sequence[Facts], workers: parallel.Workers = 1) -> list[Finding]:
    """Scans of two contrasts that show one head in register although their names do not say so.

    Args:
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
    one, other = (fit_size(image, int(rows), int(columns)) for image in images)
    return are_in_register(one, other)
