"""Scans that are alike: copies and near copies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mrbridge.inspection.facts import Facts
from mrbridge.inspection.finding import Finding, Group, Severity

_FREQUENCIES = 16  # of the perceptual hash, along each axis
_BITS_APART = 24
"""Of 255: copies with noise, another brightness or JPEG in between differ in up to 18, slices of
different people in 54 or more (five open data sets)."""
_SAME = 0.95
"""Correlation of fine structure: at least 0.98 in such copies, at most 0.64 between people;
neighbouring slices of one head, 1 mm apart, reach 0.99."""
_BLUR = 3.0  # pixels of a thumbnail; coarser structure is alike in all heads
_AT_ONCE = 64  # hashes that are compared with all others together
_NEIGHBOURS = 16  # scans that one scan is compared with more closely


def find_alike(facts: Sequence[Facts]) -> list[Finding]:
    """Exact and near duplicates."""
    near: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
    sides: dict[int, NDArray[np.float16] | None] = {}
    for i, j, likeness in near_duplicates([one.thumbnail for one in facts]):
        for n in (i, j):
            if n not in sides:
                side = facts[n].side_view
                sides[n] = None if side is None else _fine(side)
        if facts[i].sha256 != facts[j].sha256 and _sides_agree(sides[i], sides[j]):
            near[_relation([facts[i], facts[j]])].append((i, j, likeness))
    return [*_told_exact(facts), *_told_near(facts, near)]


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
        pair for start in range(0, len(hashes), _AT_ONCE) for pair in _nearest(hashes, start)
    ]
    # Half precision halves the memory of a data set in which everything is alike.
    fine = {n: _fine(thumbnails[n]) for n in sorted({n for pair in candidates for n in pair})}
    likeness = [float(np.vdot(fine[i].astype(np.float32), fine[j])) for i, j in candidates]
    return [
        (i, j, like) for (i, j), like in zip(candidates, likeness, strict=True) if like >= _SAME
    ]


def _nearest(hashes: NDArray[np.uint64], start: int) -> list[tuple[int, int]]:
    """Pairs i < j of nearly equal hashes, for `_AT_ONCE` numbers i from `start` on; of each i the
    `_NEIGHBOURS` nearest only, so that work grows with the number of scans however alike they are.
    """
    part, others = hashes[start : start + _AT_ONCE], hashes[start:]
    apart = np.zeros((len(part), len(others)), np.uint16)
    for word in range(hashes.shape[1]):
        apart += np.bitwise_count(part[:, None, word] ^ others[None, :, word])
    pairs = []
    for row, distances in enumerate(apart):
        later = row + 1 + np.flatnonzero(distances[row + 1 :] <= _BITS_APART)
        order = np.argsort(distances[later], kind="stable")[:_NEIGHBOURS]
        pairs += [(start + row, start + int(j)) for j in sorted(later[order])]
    return pairs


def _hash(thumbnail: NDArray[np.uint8]) -> NDArray[np.uint64]:
    waves = dctn(thumbnail.astype(np.float32), norm="ortho")[:_FREQUENCIES, :_FREQUENCIES].ravel()
    waves[0] = np.median(waves[1:])  # brightness says nothing
    return np.packbits(waves > waves[0]).view(np.uint64)


def _fine(thumbnail: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Its fine structure, as a vector of length 1."""
    values = thumbnail.astype(np.float32)
    values -= ndimage.gaussian_filter(values, _BLUR)
    values -= values.mean()
    return (values / max(float(np.linalg.norm(values)), 1e-6)).astype(np.float16)


def _sides_agree(one: NDArray[np.float16] | None, other: NDArray[np.float16] | None) -> bool:
    """Volumes with one equal slice may differ elsewhere."""
    if one is None or other is None:
        return True
    return float(np.vdot(one.astype(np.float32), other)) >= _SAME


def _exact(facts: Sequence[Facts]) -> list[list[Facts]]:
    groups: dict[str, list[Facts]] = defaultdict(list)
    for one in facts:
        groups[one.sha256].append(one)
    return [group for group in groups.values() if len(group) > 1]


def _relation(scans: Sequence[Facts]) -> str:
    """What makes equal or nearly equal scans a fault, the worst first."""
    if len({one.contrast for one in scans}) > 1:
        return "contrasts"
    if leaks(scans):
        return "splits"
    subjects = {one.job.scan.subject for one in scans} - {None}
    return "subjects" if len(subjects) > 1 else "neighbours"


def leaks(scans: Iterable[Facts]) -> bool:
    """Whether some are trained on and others are held out."""
    splits = {split for one in scans for split in one.job.splits}
    return "train" in splits and len(splits) > 1


def _told_exact(facts: Sequence[Facts]) -> list[Finding]:
    told: dict[str, list[Group]] = defaultdict(list)
    for scans in _exact(facts):
        contrasts = {one.contrast for one in scans}
        remark = " and ".join(sorted(contrasts)) if len(contrasts) > 1 else ""
        told[_relation(scans)].append(Group(tuple(one.name for one in scans), remark))
    return [
        Finding("exact duplicates", severity, text, remedy, tuple(told[key]))
        for key, (severity, text, remedy) in _EXACT.items()
        if key in told
    ]


def _told_near(
    facts: Sequence[Facts], near: dict[str, list[tuple[int, int, float]]]
) -> list[Finding]:
    findings = []
    for key, (kind, severity, text, remedy) in _NEAR.items():
        if key in near:
            groups = tuple(
                Group(tuple(facts[n].name for n in chain), f"likeness up to {likeness:.3f}")
                for chain, likeness in _chains(near[key])
            )
            findings.append(Finding(kind, severity, text, remedy, groups))
    return findings


def _chains(pairs: list[tuple[int, int, float]]) -> list[tuple[list[int], float]]:
    """Scans that hang together, each like at least one other, with the greatest likeness."""
    names = sorted({n for i, j, _ in pairs for n in (i, j)})
    places = {n: place for place, n in enumerate(names)}
    links = coo_array(
        (np.ones(len(pairs)), ([places[i] for i, _, _ in pairs], [places[j] for _, j, _ in pairs])),
        shape=(len(names), len(names)),
    )
    count, labels = connected_components(links, directed=False)
    chains: list[tuple[list[int], float]] = [([], 0.0) for _ in range(count)]
    for n, label in zip(names, labels, strict=True):
        chains[label][0].append(n)
    for i, _, likeness in pairs:
        members, most = chains[labels[places[i]]]
        chains[labels[places[i]]] = members, max(most, likeness)
    return chains


_EXACT: dict[str, tuple[Severity, str, str]] = {
    "contrasts": (
        "fault",
        "The same voxels stand under several contrasts: at least one of the names is wrong.",
        "Find out which contrast it is and remove the others; --fix leaves all of them out.",
    ),
    "splits": (
        "fault",
        "The same voxels are trained on and held out: scores on them mean nothing.",
        "Remove the copies, or prepare from a table made with --fix.",
    ),
    "subjects": (
        "fault",
        "The same voxels stand under several subjects.",
        "Find out whose they are; --fix keeps the first of each.",
    ),
    "neighbours": (
        "warning",
        "The same voxels are there more than once.",
        "Remove the copies, or prepare from a table made with --fix, which keeps the first.",
    ),
}
_NEAR: dict[str, tuple[str, Severity, str, str]] = {
    "contrasts": (
        "near-duplicates",
        "warning",
        "Nearly the same image stands under two contrasts: one of the names may be wrong.",
        "Look at them, and remove the wrong one.",
    ),
    "splits": (
        "near-duplicates across splits",
        "fault",
        "Nearly the same image is trained on and held out: scores on it promise too much.",
        "Put copies, and neighbouring slices of one head, into one split.",
    ),
    "subjects": (
        "near-duplicates",
        "warning",
        "Nearly the same image stands under two subjects.",
        "Look whether it is one person, and if so give both one subject in a table.",
    ),
    "neighbours": (
        "images that are nearly equal",
        "note",
        "Nearly the same image is there more than once: a copy, or neighbouring slices of a head.",
        "Split neighbours by blocks, as prepare does, never one by one.",
    ),
}
