"""Faults of single scans, told by the images and by how all others of their contrast look."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mrbridge.inspection.facts import BINS, Facts, by_contrast
from mrbridge.inspection.finding import Finding, Group
from mrbridge.inspection.turned import LEAST_SCANS, find_turned

_Z = 5.0  # robust standard deviations
_TEXTURE_FLOOR = 0.15  # the least such deviation, of the logarithm: factors below 2.1 are normal
_HISTOGRAM_FLOOR = 0.03  # likewise of the distance between histograms, in [-1, 1]
_CLEAR, _PLAIN = 0.15, 0.3
"""Tilt (see `facts.measure_tilt`) from which on a label is doubted, and from which on firmly. T1w
has -0.96 to -0.12 and T2w 0.10 to 0.99 in the 170 slices of five open data sets."""
_CUT = 0.25  # share of a volume's slices that must be cut off at a side
_MUCH_LARGER = 1.5


def find_faults(facts: Sequence[Facts]) -> list[Finding]:
    """All findings that need no comparison of each scan with each other one."""
    parts = (
        *(_unequal_counts, _wrong_labels, find_turned, _mirrored),
        *(_cut_off, _texture_outliers, _histogram_outliers, _mended),
    )
    return [finding for part in parts for finding in part(facts)]


def _unequal_counts(facts: Sequence[Facts]) -> list[Finding]:
    totals = Counter(one.contrast for one in facts)
    told = ", ".join(f"{count} {contrast}" for contrast, count in sorted(totals.items()))
    if len(totals) < 2:
        return [
            Finding(
                "a single contrast",
                "note",
                f"All scans are {next(iter(totals))}.",
                "Training needs two contrasts; translating needs one.",
            )
        ]
    persons: dict[tuple[str, str | None], Counter[str]] = defaultdict(Counter)
    for one in facts:
        if one.job.scan.subject is not None:
            persons[one.job.scan.subject, one.job.scan.session][one.contrast] += 1
    wanted = [
        c for c in totals if 2 * sum(c in counts for counts in persons.values()) > len(persons)
    ]
    if persons and len(wanted) > 1 and sum(map(len, persons.values())) > len(persons):
        return _incomplete(persons, wanted)
    if len(set(totals.values())) == 1:
        return []
    uneven = max(totals.values()) > _MUCH_LARGER * min(totals.values())
    return [
        Finding(
            "unequal counts",
            "warning" if uneven else "note",
            f"There are {told}.",
            "Unpaired training copes: an epoch goes once through the larger set.",
        )
    ]


def _incomplete(
    persons: dict[tuple[str, str | None], Counter[str]], wanted: list[str]
) -> list[Finding]:
    """Subjects (of one session each) without a contrast that most of them have, or with several."""
    groups = []
    for (subject, session), counts in persons.items():
        lacking = [contrast for contrast in sorted(wanted) if not counts[contrast]]
        several = [f"{counts[c]} {c}" for c in sorted(wanted) if counts[c] > 1]
        if lacking or several:
            name = subject if session is None else f"{subject}, session {session}"
            remark = " and ".join([*(f"no {c}" for c in lacking), *several])
            groups.append(Group((name,), remark))
    if not groups:
        return []
    return [
        Finding(
            "unequal counts",
            "note",
            f"{len(groups)} of {len(persons)} subjects' sessions lack a contrast that most have, "
            "or have one several times.",
            "They can be trained on; only complete ones can be scored.",
            tuple(groups),
        )
    ]


def _wrong_labels(facts: Sequence[Facts]) -> list[Finding]:
    groups = []
    for one in facts:
        sign = {"T1w": 1, "T2w": -1}.get(one.contrast)
        if sign is None or one.tilt is None or sign * one.tilt < _CLEAR:
            continue
        looks = "T2w" if one.contrast == "T1w" else "T1w"
        sure = "very likely" if sign * one.tilt >= _PLAIN else "perhaps"
        remark = f"called {one.contrast}, {sure} {looks} (tilt {one.tilt:+.2f})"
        groups.append(Group((one.name,), remark))
    if not groups:
        return []
    firm = any("very likely" in group.remark for group in groups)
    return [
        Finding(
            "doubtful contrast labels",
            "warning" if firm else "note",
            "Inside the head of these, the image is not what its name says: in T1w the darkest "
            "tissue (fluid) stands apart from the rest, in T2w the brightest. Only the middle "
            "slice is judged, so a slice without fluid, or great pathology, can mislead.",
            "Look at them, and rename what is wrong.",
            tuple(groups),
        )
    ]


def _mirrored(facts: Sequence[Facts]) -> list[Finding]:
    """Volumes that run to the other side than most do, by their headers only."""
    known = [one for one in facts if one.orientation is not None]
    sides = Counter(_handed(one) for one in known)
    if len(sides) < 2 or len(known) < LEAST_SCANS:
        return []
    rare, count = min(sides.items(), key=lambda item: item[1])
    if count > 0.2 * len(known):
        return []  # a mixture is a habit, not a slip
    groups = [Group((one.name,), str(one.orientation)) for one in known if _handed(one) == rare]
    return [
        Finding(
            "stored mirrored",
            "note",
            "The axes of these are of the other hand than those of the others, by their headers. "
            "mrbridge honours the header, so that nothing is wrong if the header is right.",
            "If somebody wrote the headers by hand, check left and right on a scan with a marker.",
            tuple(groups),
        )
    ]


def _handed(one: Facts) -> bool:
    """Whether the file's axes are right-handed, as RAS is: of three letters and their order."""
    letters = one.orientation or ""
    order = ["RL", "AP", "SI"]
    places = [next(k for k, pair in enumerate(order) if letter in pair) for letter in letters]
    odd = sum(places[i] > places[j] for i in range(3) for j in range(i + 1, 3)) % 2 == 1
    return odd != (sum(letter in "LPI" for letter in letters) % 2 == 0)


def _cut_off(facts: Sequence[Facts]) -> list[Finding]:
    groups = []
    for one in facts:
        sides = [side for side, share in one.cut.items() if share >= _CUT]
        if sides:
            slices = "" if one.is_picture else f" ({max(one.cut.values()):.0%} of the slices)"
            groups.append(Group((one.name,), f"{' and '.join(sides)}{slices}"))
    if not groups:
        return []
    return [
        Finding(
            "truncated field of view",
            "warning",
            "Anatomy runs into the side of the image.",
            "Leave them out where brain is missing; noses and necks do no harm.",
            tuple(groups),
        )
    ]


def _texture_outliers(facts: Sequence[Facts]) -> list[Finding]:
    """Noise and sharpness, compared among scans of one contrast and spacing."""
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
            for number, z in _outliers(values, _TEXTURE_FLOOR):
                factor = float(np.exp(values[number] - np.median(values)))
                word = high if z > 0 else low
                remark = f"{word} ({measure} {factor:.2g} times the median, z {z:+.1f})"
                remarks[known[number].name].append(remark)
    if not remarks:
        return []
    return [
        Finding(
            "noise and motion",
            "warning",
            "Noise or sharpness is far from that of the other scans of the contrast.",
            "Look at them, and leave out what is spoilt.",
            tuple(Group((name,), "; ".join(told)) for name, told in remarks.items()),
        )
    ]


def histogram_distances(scans: Sequence[Facts]) -> NDArray[np.float64]:
    """How far each histogram lies from the median of all: the Wasserstein distance in [-1, 1]."""
    sums = np.cumsum([one.histogram for one in scans], axis=1)
    result: NDArray[np.float64] = np.abs(sums - np.median(sums, axis=0)).sum(axis=1) * 2 / BINS
    return result


def _histogram_outliers(facts: Sequence[Facts]) -> list[Finding]:
    groups = []
    for scans in by_contrast(facts).values():
        distances = histogram_distances(scans)
        for number, z in _outliers(distances, _HISTOGRAM_FLOOR):
            if z > 0:
                groups.append(Group((scans[number].name,), f"z {z:+.1f}"))
    if not groups:
        return []
    return [
        Finding(
            "unusual intensities",
            "warning",
            "The histogram inside the head is far from that of the other scans of the contrast.",
            "Look at them: another contrast, contrast agent, a strong bias field, an artefact.",
            tuple(groups),
        )
    ]


def _outliers(values: NDArray[np.float64], floor: float) -> list[tuple[int, float]]:
    """Numbers and robust z-scores (by median and MAD, at least `floor`) beyond the limit."""
    if len(values) < LEAST_SCANS:
        return []
    apart = values - np.median(values)
    spread = max(1.4826 * float(np.median(np.abs(apart))), floor)
    return [(int(n), float(apart[n] / spread)) for n in np.flatnonzero(np.abs(apart) > _Z * spread)]


def _mended(facts: Sequence[Facts]) -> list[Finding]:
    gaps: dict[bool, list[Facts]] = {True: [], False: []}
    for one in facts:
        if one.notes:
            gaps[one.job.allow_gaps and any(" missing" in note for note in one.notes)].append(one)
    findings = []
    if gaps[True]:
        incomplete = set(gaps[True])
        whole = {one.contrast for one in facts if one not in incomplete}
        lost = sorted({one.contrast for one in gaps[True]} - whole)
        without = f", and no whole {' or '.join(lost)} series is left to prepare" if lost else ""
        findings.append(
            Finding(
                "incomplete series",
                "fault" if lost else "warning",
                f"Slices are missing{without}. They were interpolated for this page only.",
                "Fetch the series again. prepare leaves such series out; translate --allow-gaps "
                "fills them.",
                tuple(Group((one.name,), "; ".join(one.notes)) for one in gaps[True]),
            )
        )
    if gaps[False]:
        findings.append(
            Finding(
                "mended while reading",
                "note",
                "Something was missing or contradictory, and was mended or assumed.",
                "Check the files.",
                tuple(Group((one.name,), "; ".join(one.notes)) for one in gaps[False]),
            )
        )
    return findings
