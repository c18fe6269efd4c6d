"""Findings of an inspection: which scans have a problem, and what to do; their texts are in
`findings.toml`. Most find scans that differ from the others of their contrast: in number, label,
quality or orientation.
"""

from __future__ import annotations

import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.inspection.facts import BINS, LEAST_SCANS, Facts, by_contrast
from mrbridge.preprocessing.intensity import OTHER_CONTRAST
from mrbridge.reports import some

Severity = Literal["fault", "warning", "note"]
"""`fault`: training would be wrong; `warning`: look at these scans; `note`: good to know."""

SEVERITIES: tuple[Severity, ...] = ("fault", "warning", "note")

_SHOWN = 3  # names of a group, and groups of a finding, in one line of text

_Thumbnail = NDArray[np.uint8]
_View = Callable[[_Thumbnail], _Thumbnail]

_Z = 5.0  # robust standard deviations
_LEAST_SPREAD_TEXTURE = 0.15  # of the logarithm: factors below 2.1 are normal
_LEAST_SPREAD_HISTOGRAM = 0.03  # of the distance between histograms, in [-1, 1]
_DOUBTFUL = 0.15  # skewness from which on a label is doubtful
_TRUNCATED = 0.25  # share of a volume's slices in which the head reaches an edge
_VERY_UNEQUAL = 1.5

_COMPARED = 128  # scans, evenly spaced, with which each scan is compared
_NEAREST = 3  # most similar of these, whose mean correlation says how well a scan matches
_BACKGROUND = 25  # and below, of 255
_BATCH = 64
_GAIN_2D, _GAIN_3D = 0.01, 0.05
"""By how much most scans must correlate better as they are than flipped or rotated. Axial slices of
heads are nearly the same upside down; sagittal ones are not."""
_RARE = 0.2  # a larger share of scans with one handedness is a convention, not a mistake

_UPSIDE_DOWN: tuple[str, _View] = ("upside down", lambda image: image[::-1])
_VIEWS_2D: tuple[tuple[str, _View], ...] = (
    _UPSIDE_DOWN,
    ("mirrored", lambda image: image[:, ::-1]),
    ("rotated by 90°", lambda image: np.rot90(image, 1)),
    ("rotated by 90°", lambda image: np.rot90(image, -1)),
)
_VIEWS_3D: tuple[tuple[str, _View], ...] = (
    _UPSIDE_DOWN,
    ("front to back", lambda image: image[:, ::-1]),
)


@dataclass(frozen=True)
class Group:
    """Scans that belong together in a finding: a pair, copies of one another, or a single scan.

    Attributes:
        remark: more about them, such as a measurement; may be empty.
    """

    names: tuple[str, ...]
    remark: str = ""

    def __str__(self) -> str:
        shown = some(self.names, _SHOWN, " = ")
        return f"{shown} ({self.remark})" if self.remark else shown


@dataclass(frozen=True)
class Finding:
    """One kind of problem.

    Attributes:
        kind: a short name, such as `exact duplicates`.
        text, remedy: what was found, and what to do, in a sentence or two each.
        groups: the scans concerned; empty if all are.
    """

    kind: str
    severity: Severity
    text: str
    remedy: str
    groups: tuple[Group, ...] = ()

    @property
    def first_sentence(self) -> str:
        """The first sentence of what was found."""
        return self.text.partition(". ")[0].removesuffix(".") + "."

    def __str__(self) -> str:
        shown = some(self.groups, _SHOWN, "; ")
        return f"{self.severity}: {self.kind}: {self.text} {shown}".rstrip()

    def as_json(self) -> dict[str, Any]:
        """The finding in findings.json."""
        groups = [{"scans": list(group.names), "remark": group.remark} for group in self.groups]
        return {**vars(self), "groups": groups}


def finding(key: str, groups: Iterable[Group] = (), **values: object) -> Finding:
    """The finding whose text is `key` in `findings.toml`, with `values` filled in."""
    entry = _texts()[key]
    text, remedy = (entry[part].format(**values) for part in ("text", "remedy"))
    return Finding(entry["kind"], entry["severity"], text, remedy, tuple(groups))


@cache
def _texts() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("findings.toml").read_text("utf-8"))


def find_outliers(facts: Sequence[Facts]) -> list[Finding]:
    """All findings that do not compare every scan with every other one."""
    return [
        *_unequal_counts(facts),
        *_wrong_labels(facts),
        *_truncation(facts),
        *_texture_outliers(facts),
        *_histogram_outliers(facts),
        *_repaired(facts),
        *find_misoriented(facts),
        *_find_opposite_handedness(facts),
    ]


def find_unknown(facts: Sequence[Facts]) -> list[Finding]:
    """Scans that `translate` would refuse, or call unusual, by the look of their images."""
    findings = []
    for level, key in (("refused", "refused-scans"), ("unusual", "unusual-scans")):
        groups = [
            Group((one.name,), "; ".join(one.verdict.reasons))
            for one in facts
            if one.verdict is not None and one.verdict.level == level
        ]
        if groups:
            findings.append(finding(key, groups))
    return findings


def _unequal_counts(facts: Sequence[Facts]) -> list[Finding]:
    totals = Counter(one.contrast for one in facts)
    if len(totals) < 2:
        return [finding("single-contrast", contrast=next(iter(totals)))]
    sessions: dict[tuple[str, str | None], Counter[str]] = defaultdict(Counter)
    for one in facts:
        if one.subject is not None:
            sessions[one.subject, one.session][one.contrast] += 1
    common = [
        c for c in totals if 2 * sum(c in counts for counts in sessions.values()) > len(sessions)
    ]
    if len(common) > 1 and sum(map(len, sessions.values())) > len(sessions):
        return _incomplete_subjects(sessions, common)
    if len(set(totals.values())) == 1:
        return []
    is_very_unequal = max(totals.values()) > _VERY_UNEQUAL * min(totals.values())
    counts = ", ".join(f"{count} {contrast}" for contrast, count in sorted(totals.items()))
    return [finding("very-unequal-counts" if is_very_unequal else "unequal-counts", counts=counts)]


def _incomplete_subjects(
    sessions: dict[tuple[str, str | None], Counter[str]], common: list[str]
) -> list[Finding]:
    """Sessions without a contrast that most of them have, or with several scans of one."""
    groups = []
    for (subject, session), counts in sessions.items():
        missing = [f"no {contrast}" for contrast in sorted(common) if not counts[contrast]]
        several = [f"{counts[c]} {c}" for c in sorted(common) if counts[c] > 1]
        if missing or several:
            name = subject if session is None else f"{subject}, session {session}"
            groups.append(Group((name,), " and ".join(missing + several)))
    if not groups:
        return []
    return [finding("incomplete-subjects", groups, count=len(groups), all=len(sessions))]


def _wrong_labels(facts: Sequence[Facts]) -> list[Finding]:
    groups, is_any_wrong = [], False
    for one in facts:
        sign = {"T1w": 1, "T2w": -1}.get(one.contrast)
        if sign is None or one.skewness is None or sign * one.skewness < _DOUBTFUL:
            continue
        other = "T2w" if one.contrast == "T1w" else "T1w"
        is_wrong = sign * one.skewness >= OTHER_CONTRAST
        is_any_wrong |= is_wrong
        how = "very likely" if is_wrong else "perhaps"
        remark = f"labelled {one.contrast}, {how} {other} (skewness {one.skewness:+.2f})"
        groups.append(Group((one.name,), remark))
    key = "wrong-labels" if is_any_wrong else "doubtful-labels"
    return [finding(key, groups)] if groups else []


def _truncation(facts: Sequence[Facts]) -> list[Finding]:
    groups = []
    for one in facts:
        sides = [side for side, share in one.truncation.items() if share >= _TRUNCATED]
        if sides:
            slices = "" if one.is_2d else f" ({max(one.truncation.values()):.0%} of the slices)"
            groups.append(Group((one.name,), f"{' and '.join(sides)}{slices}"))
    return [finding("truncation", groups)] if groups else []


def _texture_outliers(facts: Sequence[Facts]) -> list[Finding]:
    """Noise and sharpness, compared with scans of the same contrast and spacing."""
    kinds: dict[tuple[str, object], list[Facts]] = defaultdict(list)
    for one in facts:
        spacing = one.spacing and tuple(round(step, 1) for step in one.spacing)
        kinds[one.contrast, spacing].append(one)
    remarks: dict[str, list[str]] = defaultdict(list)
    for scans in kinds.values():
        for measure, high, low in (
            ("noise", "noisy", "unusually smooth"),
            ("sharpness", "unusually rough: noise, ringing or motion", "blurred"),
        ):
            known = [one for one in scans if getattr(one, measure)]
            values = np.log([getattr(one, measure) for one in known])
            for number, z in _outliers(values, _LEAST_SPREAD_TEXTURE):
                factor = float(np.exp(values[number] - np.median(values)))
                word = high if z > 0 else low
                remark = f"{word} ({measure} {factor:.2g} times the median, z {z:+.1f})"
                remarks[known[number].name].append(remark)
    groups = [Group((name,), "; ".join(of_one)) for name, of_one in remarks.items()]
    return [finding("noise-and-motion", groups)] if groups else []


def _histogram_outliers(facts: Sequence[Facts]) -> list[Finding]:
    """By the Wasserstein distance, in [-1, 1], from the median histogram of the contrast."""
    groups = []
    for scans in by_contrast(facts).values():
        cumulative = np.cumsum([one.histogram for one in scans], axis=1)  # (scans, BINS)
        distances = np.abs(cumulative - np.median(cumulative, axis=0)).sum(axis=1) * 2 / BINS
        for number, z in _outliers(distances, _LEAST_SPREAD_HISTOGRAM):
            if z > 0:
                groups.append(Group((scans[number].name,), f"z {z:+.1f}"))
    return [finding("unusual-intensities", groups)] if groups else []


def _outliers(values: NDArray[np.float64], least_spread: float) -> list[tuple[int, float]]:
    """Numbers and robust z-scores (median and MAD, at least `least_spread`) beyond the limit."""
    if len(values) < LEAST_SCANS:
        return []
    deviations = values - np.median(values)
    spread = max(1.4826 * float(np.median(np.abs(deviations))), least_spread)
    numbers = np.flatnonzero(np.abs(deviations) > _Z * spread)
    return [(int(n), float(deviations[n] / spread)) for n in numbers]


def _repaired(facts: Sequence[Facts]) -> list[Finding]:
    """Series with missing slices, and scans with other notes of the reader."""
    groups: dict[bool, list[Group]] = defaultdict(list)  # by whether slices are missing
    contrasts: dict[bool, set[str]] = defaultdict(set)
    for one in facts:
        is_incomplete = any(" missing" in note for note in one.notes)
        contrasts[is_incomplete].add(one.contrast)
        if one.notes:
            groups[is_incomplete].append(Group((one.name,), "; ".join(one.notes)))
    findings = []
    if groups[True]:
        lost = sorted(contrasts[True] - contrasts[False])
        key = "no-complete-series" if lost else "incomplete-series"
        findings.append(finding(key, groups[True], contrasts=" or ".join(lost)))
    if groups[False]:
        findings.append(finding("repaired", groups[False]))
    return findings


def find_misoriented(facts: Sequence[Facts]) -> list[Finding]:
    """Scans that match the others of their contrast better after a flip or rotation."""
    groups: list[Group] = []
    for scans in by_contrast(facts).values():
        flat = [one for one in scans if one.is_2d]
        groups += _misoriented(flat, [one.thumbnail for one in flat], _VIEWS_2D, _GAIN_2D)
        views = [(one, one.side_view) for one in scans if one.side_view is not None]
        groups += _misoriented([v[0] for v in views], [v[1] for v in views], _VIEWS_3D, _GAIN_3D)
    return [finding("orientation", groups)] if groups else []


def _misoriented(
    scans: list[Facts],
    images: list[_Thumbnail],
    views: tuple[tuple[str, _View], ...],
    least_gain: float,
) -> list[Group]:
    if len(scans) < LEAST_SCANS:
        return []
    count = min(_COMPARED, len(images))
    others = [int((k + 0.5) * len(images) / count) for k in range(count)]
    known = _vectors([images[n] for n in others], lambda image: image)
    unchanged = _match(images, known, others, lambda image: image)
    best: dict[int, tuple[float, str]] = {}
    for name, view in views:
        gains = unchanged - _match(images, known, others, view)
        # If most do not match better as they are, the images cannot tell.
        middle = float(np.median(gains))
        if middle < least_gain:
            continue
        for number in np.flatnonzero(gains < -max(least_gain, middle / 2)):
            gain = float(-gains[number])
            best[int(number)] = max(best.get(int(number), (0.0, "")), (gain, name))
    return [Group((scans[n].name,), name) for n, (_, name) in sorted(best.items())]


def _match(
    images: list[_Thumbnail], known: NDArray[np.float32], others: list[int], view: _View
) -> NDArray[np.float32]:
    """Mean correlation of each image, in this view, with the most similar of the others.

    Only with the most similar: slices from the top and the bottom of a head differ in any view.
    """
    matches = []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        correlations = _vectors(batch, view) @ known.T  # (images of the batch, others)
        itself = np.array(others) == np.arange(start, start + len(batch))[:, None]
        correlations[itself] = -1
        matches.append(np.sort(correlations, axis=1)[:, -_NEAREST:].mean(axis=1))
    return np.concatenate(matches)


def _vectors(images: list[_Thumbnail], view: _View) -> NDArray[np.float32]:
    """Each image, its head centred, as a vector of mean 0 and length 1."""
    values = np.stack([_centred(view(image)).ravel() for image in images]).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def _centred(image: _Thumbnail) -> _Thumbnail:
    head = image > _BACKGROUND
    if not head.any():
        return image
    middle = ndimage.center_of_mass(head)
    steps = [round((size - 1) / 2 - at) for size, at in zip(image.shape, middle, strict=True)]
    return np.roll(image, steps, (0, 1))


def _find_opposite_handedness(facts: Sequence[Facts]) -> list[Finding]:
    """Volumes whose axes have the opposite handedness to most others, by their headers only."""
    handed = [(one, _is_right_handed(one.orientation)) for one in facts if one.orientation]
    counts = Counter(right for _, right in handed)
    if len(counts) < 2 or len(handed) < LEAST_SCANS:
        return []
    rare, count = min(counts.items(), key=lambda item: item[1])
    if count > _RARE * len(handed):
        return []
    groups = [Group((one.name,), str(one.orientation)) for one, right in handed if right == rare]
    return [finding("handedness", groups)]


def _is_right_handed(orientation: str) -> bool:
    """Whether axes such as LAS are right-handed, as RAS is."""
    axes = [next(k for k, pair in enumerate(("RL", "AP", "SI")) if c in pair) for c in orientation]
    is_odd = sum(axes[i] > axes[j] for i in range(3) for j in range(i + 1, 3)) % 2 == 1
    return is_odd != (sum(letter in "LPI" for letter in orientation) % 2 == 0)
