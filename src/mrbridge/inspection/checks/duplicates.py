"""Exact and near duplicates: copies, and scans that show nearly the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.fft import dctn

from mrbridge.inspection.checks import Finding, Group, finding
from mrbridge.inspection.facts import Facts

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
    return [*_exact_duplicates(facts), *_near_duplicates(facts)]


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


def _exact_duplicates(facts: Sequence[Facts]) -> list[Finding]:
    groups: dict[str, list[Group]] = defaultdict(list)
    for scans in exact_copies(facts):
        contrasts = {one.contrast for one in scans}
        remark = " and ".join(sorted(contrasts)) if len(contrasts) > 1 else ""
        groups[_relation(scans)].append(Group(tuple(one.name for one in scans), remark))
    return [finding(f"exact-duplicates-{r}", groups[r]) for r in _RELATIONS if r in groups]


def _near_duplicates(facts: Sequence[Facts]) -> list[Finding]:
    near: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
    side_views: dict[int, NDArray[np.float16] | None] = {}
    for i, j, correlation in near_duplicates([one.thumbnail for one in facts]):
        for n in (i, j):
            if n not in side_views:
                side = facts[n].side_view
                side_views[n] = None if side is None else _fine_structure(side)
        if facts[i].sha256 != facts[j].sha256 and _are_similar(side_views[i], side_views[j]):
            near[_relation([facts[i], facts[j]])].append((i, j, correlation))
    return [
        finding(
            f"near-duplicates-{relation}",
            [
                Group(tuple(facts[n].name for n in scans), f"similarity up to {correlation:.3f}")
                for scans, correlation in _connected(near[relation])
            ],
        )
        for relation in _RELATIONS
        if relation in near
    ]


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


def _are_similar(one: NDArray[np.float16] | None, other: NDArray[np.float16] | None) -> bool:
    """Volumes with one equal slice may differ elsewhere: whether their side views are similar."""
    if one is None or other is None:
        return True
    return float(np.vdot(one.astype(np.float32), other)) >= _CORRELATION


def _connected(pairs: list[tuple[int, int, float]]) -> list[tuple[list[int], float]]:
    """Connected components of pairs, each with its greatest correlation."""
    from scipy.sparse import coo_array  # slow to import, and few datasets have near-duplicates
    from scipy.sparse.csgraph import connected_components

    numbers = sorted({n for i, j, _ in pairs for n in (i, j)})
    place = {n: k for k, n in enumerate(numbers)}
    rows, columns = [place[i] for i, _, _ in pairs], [place[j] for _, j, _ in pairs]
    links = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(len(numbers), len(numbers)))
    count, labels = connected_components(links, directed=False)
    members: list[list[int]] = [[] for _ in range(count)]
    greatest = [0.0] * count
    for n, label in zip(numbers, labels, strict=True):
        members[label].append(n)
    for i, _, correlation in pairs:
        label = labels[place[i]]
        greatest[label] = max(greatest[label], correlation)
    return list(zip(members, greatest, strict=True))
