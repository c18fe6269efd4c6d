"""Whether the model knows this kind of scan: usual, unusual, or refused, with the reasons in words.

First what file and header say (already synthetic, another contrast, a mask), then what the image
shows (`appearance`). The limits are physical: the order of the tissues' intensities defines a
contrast, and the size of a brain an adult. They were set wide and checked on real scans, to which
nothing was fitted; docs/explanation/trust.md has the figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from mrbridge.errors import ScanRefused
from mrbridge.inference.appearance import MARGIN_MM, Appearance, measure
from mrbridge.inference.head_position import template
from mrbridge.preprocessing.foreground import FoundHead, Head, black_background, crop_to_head
from mrbridge.volume import CONTRASTS, Verdict, Volume

UNUSUAL, REFUSED = 1.0, 2.0
"""Scores from which on a scan is unusual, or refused."""

_DOUBT = 1.9
"""The highest score of signs that scans of patients may show, too: never refused."""


@dataclass(frozen=True)
class Sign:
    """One sign that a scan is not what the model knows.

    Attributes:
        kind: a short name, such as `contrast`.
        score: below 1 usual, from 1 unusual, from 2 refused.
        reason: in words; completes a sentence that begins with the scan.
    """

    kind: str
    score: float
    reason: str


def verdict_of(signs: list[Sign], measured: Appearance | None) -> Verdict:
    """The verdict that follows from signs: that of the strongest, with all reasons from there."""
    strong = sorted((one for one in signs if one.score >= UNUSUAL), key=lambda one: -one.score)
    worst = strong[0].score if strong else 0.0
    level: Literal["usual", "unusual", "refused"]
    level = "refused" if worst >= REFUSED else "unusual" if worst >= UNUSUAL else "usual"
    reasons = tuple(one.reason for one in strong)
    return Verdict(level, reasons, {} if measured is None else measured.as_json())


def check(
    scan: Volume,
    to: str,
    contrasts: tuple[str, ...],
    *,
    is_head: bool = True,
    force: bool = False,
) -> tuple[Verdict, FoundHead]:
    """Judge a scan that is to be translated.

    Args:
        contrasts: those of the model. A scan of unknown contrast is taken for the other one of the
            first two if `to` is one of them; else it remains unknown, which is unusual.
        is_head: whether the model is one of heads; otherwise only masks are recognised by their
            look.
        force: whether a refused scan is translated all the same.

    Returns:
        The verdict, and the head in the scan, which preprocessing needs, too.

    Raises:
        ScanRefused: it is refused, and not forced.
        InputError: its size cannot be that of a head.
    """
    by_header = _by_header(scan, to, contrasts)
    if by_header is not None and not force:
        raise ScanRefused(by_header[0], remedy=by_header[1])
    contrast = scan.contrast
    if contrast is None and to in contrasts[:2]:
        contrast = next(one for one in contrasts if one != to)
    with ThreadPoolExecutor(1) as pool:
        if is_head and not scan.is_2d:
            pool.submit(template)  # a third of a second, the first time
        found = crop_to_head(black_background(scan, contrast), MARGIN_MM)
    if is_head:
        verdict = _check_head(found.head, contrast, scan.contrast is not None)
    else:
        verdict = verdict_of(list(_not_a_scan(measure(found.head, anatomy=False))), None)
    if verdict.level == "refused" and not force:
        raise ScanRefused(
            "; ".join(verdict.reasons),
            remedy="Look at it, name another scan, or use --force.",
        )
    if by_header is None:
        return verdict, found
    reasons = by_header[0], *verdict.reasons
    return replace(verdict, level="refused", reasons=reasons), found


def _by_header(scan: Volume, to: str, contrasts: tuple[str, ...]) -> tuple[str, str] | None:
    """Why a scan is refused by what its file says, and the remedy; None if it is not."""
    other = "Name another scan, or use --force."
    if scan.other:
        return scan.other, other
    if scan.synthetic:
        return "is synthetic already", "Use --force to translate it anyway."
    if scan.contrast == to:
        return f"is {to} already", "Choose --to, or use --force."
    if scan.contrast not in (None, *contrasts):
        known = f"{', '.join(contrasts[:-1])} and {contrasts[-1]}"
        return f"is {scan.contrast}; this model takes {known}", other
    return None


def check_image(volume: Volume, contrast: str, known: bool = True) -> Verdict:
    """Judge a scan by what its image shows. `contrast` is that of the scan, or the one that it is
    taken for; `known`: whether its name or header says so. InputError if its size cannot be that of
    a head."""
    head = crop_to_head(black_background(volume, contrast), MARGIN_MM).head
    return _check_head(head, contrast, known)


def _check_head(head: Head, contrast: str | None, known: bool) -> Verdict:
    measured = measure(head)
    found = list(signs(measured, contrast or "unknown", known, head.volume.is_2d))
    if contrast is None:
        found.append(Sign("contrast", UNUSUAL, "has a contrast that nothing identifies"))
    return verdict_of(found, measured)


def signs(
    seen: Appearance, contrast: str, known: bool = True, is_2d: bool = False
) -> Iterator[Sign]:
    """The signs that a scan is not what the model knows; those below 1 tell how near it came.

    Args:
        seen: what its image shows.
        contrast: T1w, T2w, PDw or FLAIR, or another one, of which the contrast is not judged.
        known: whether its name or header says the contrast.
        is_2d: whether it is a 2D image.
    """
    yield from _not_a_scan(seen)
    tissues = _contrast(seen, contrast, known, is_2d) if contrast in CONTRASTS else ()
    for one in (*_not_a_head(seen), *tissues, *_quality(seen)):
        yield replace(one, score=min(one.score, _DOUBT))


def _graded(value: float, usual: float, unusual: float, refused: float) -> float:
    """0 up to `usual`, 1 at `unusual`, 2 at `refused`, straight lines between; at most 4."""
    if (value > unusual) == (refused > unusual):
        return min(1 + (value - unusual) / (refused - unusual), 4.0)
    return max((value - usual) / (unusual - usual), 0.0)


def _not_a_scan(seen: Appearance) -> Iterator[Sign]:
    if not seen.values:  # nothing but background, which is refused elsewhere
        return
    yield Sign(
        "mask",
        # Both: images of few grey levels have flat parts, and enlarged ones equal neighbours.
        min(_graded(seen.flat, 0.0, 0.50, 0.85), _graded(-seen.values, -100, -40, -30)),
        f"is a mask or a label map by its look (number of intensities: {seen.values}, voxels that "
        f"equal their neighbours: {seen.flat:.0%})",
    )


def _not_a_head(seen: Appearance) -> Iterator[Sign]:
    if seen.extent_mm is not None:
        yield Sign(
            "extent",
            _graded(-seen.extent_mm, -160, -110, -60),
            f"shows an object of {seen.extent_mm:.0f} mm, too small for an adult's head",
        )
    if seen.information is None or seen.size is None or seen.seen is None:
        return
    yield Sign(
        "object",
        _graded(-seen.information, -0.40, -0.15, -0.07),
        "does not look like a head: it shares hardly any anatomy with the template (mutual "
        f"information {seen.information:.2f} nats)",
    )
    yield Sign(
        "orientation",
        _graded(seen.turned, 1.0, 1.15, 1.4) if seen.turn != "upright" else 0.0,
        f"looks {seen.turn}: check the orientation in its header",
    )
    yield Sign(
        "size",
        max(_graded(-seen.size, -0.88, -0.77, -0.66), _graded(seen.size, 0.95, 1.10, 1.25)),
        f"shows a brain {seen.size:.2f} times the template's size along each axis (adults: 0.8 to "
        "1.05); it may be a child's, or the voxel size may be wrong",
    )
    yield Sign(
        "field of view",
        _graded(-seen.seen, -1.0, -0.93, -0.50),
        f"shows only {seen.seen:.0%} of the brain: the field of view cuts it off",
    )


def _contrast(seen: Appearance, contrast: str, known: bool, is_2d: bool) -> Iterator[Sign]:
    says = f"but its name or header says {contrast}" if known else f"but is taken for {contrast}"
    if is_2d or seen.information is None:
        if seen.skewness is not None and contrast in ("T1w", "T2w"):
            sign = 1 if contrast == "T1w" else -1
            other = "T2w" if contrast == "T1w" else "T1w"
            yield Sign(
                "contrast",
                _graded(sign * seen.skewness, -0.5, 0.0, 0.35),
                f"looks like {other} ({'bright' if sign > 0 else 'dark'} pixels are the rarer "
                f"ones), {says}",
            )
        return
    values = seen.grey, seen.ventricles, seen.low, seen.high, seen.skewness
    if any(value is None for value in values):
        return
    grey, ventricles, low, high, skewness = (float(value or 0.0) for value in values)
    look = _look(grey, ventricles, low, high, skewness, seen.size or 1.0)
    figures = f"relative to white matter: grey matter {grey:.2f}, ventricles {ventricles:.2f}"
    if contrast == "T1w":
        # Grey matter lies between white matter and fluid; in FLAIR and in infants it does not.
        between = (1 - grey) / max(1 - low, 0.05)
        scores: tuple[float, ...] = (
            # 0 if grey matter is as bright as white; spin echoes come near.
            _graded(-between, -0.20, -0.10, 0.0),
            _graded(low, 0.40, 0.74, 0.88),
            _graded(high, 1.15, 1.50, 1.80),
            _graded(skewness, -0.4, 0.0, 0.25),
        )
    elif contrast == "FLAIR":
        # Fluid is darker than both, and grey matter is not darker than white.
        scores = (
            _graded(ventricles, 0.88, 1.00, 1.30),
            _graded(-grey, -0.95, -0.90, -0.75),
            _graded(high, 1.60, 2.00, 2.60),
        )
    elif contrast == "PDw":
        # Grey matter is brighter than white; fluid is near both, by the repetition time.
        scores = (
            _graded(-grey, -1.02, -0.97, -0.85),
            _graded(-low, -0.60, -0.48, -0.30),
            _graded(-ventricles, -0.80, -0.65, -0.45),
            _graded(high, 1.40, 1.75, 2.30),
        )
    else:
        # Fluid is by far the brightest; grey matter is brighter than white.
        scores = (
            _graded(-high, -2.6, -1.80, -1.50),
            _graded(-ventricles, -2.2, -1.45, -1.15),
            _graded(-grey, -1.25, -0.99, -0.90),
            _graded(-skewness, -0.5, -0.15, 0.05),
        )
    what = f"looks like {look}, {says}"
    if look.startswith(contrast):
        what = f"has other intensities than {contrast} scans usually have"
    yield Sign("contrast", max(scores), f"{what} ({figures})")
    if contrast in ("T1w", "T2w") and seen.lesion_ml is not None and seen.lesion_at is not None:
        # Without a large lesion it was at most 2 ml in real scans, and 6 in simulated ones.
        where = "({}, {}, {}) mm".format(*seen.lesion_at)
        yield Sign(
            "lesion",
            _graded(seen.lesion_ml, 4.0, 7.0, 40.0),
            f"has at least {seen.lesion_ml:.0f} ml of white matter on one side, around {where}, "
            "that looks like another tissue, perhaps a lesion: synthetic intensities may be wrong "
            "there",
        )
    if contrast == "T1w" and seen.highest is not None:
        # Only unusual: fresh blood and inflow are bright as well.
        yield Sign(
            "agent",
            _graded(seen.highest, 1.2, 1.45, 1.70),
            "has spots in the brain that are far brighter than white matter "
            f"({seen.highest:.2f} times): perhaps a contrast agent, blood, or inflow in vessels",
        )


def _look(
    grey: float, ventricles: float, low: float, high: float, skewness: float, size: float
) -> str:
    """What the intensities of tissues look like, in words."""
    if low > 0.85 and high < 1.2:
        return "CT, or an image without contrast between tissues"
    if ventricles > 1.5 and skewness > 0:
        return "T2w"
    if ventricles > 0.95 or low > 0.7:
        return "PDw or T2*w"
    if grey > 0.96:
        return "a T1w of an infant, or FLAIR" if size < 0.78 else "FLAIR, or a T1w of an infant"
    return "T1w" if skewness < 0 else "another contrast"


def _quality(seen: Appearance) -> Iterator[Sign]:
    """Faults of the acquisition: unusual, and hardly ever refused."""
    if seen.noise is not None:
        share = f"noise: {seen.noise:.0%} of white matter's intensity"
        yield Sign("noise", _graded(seen.noise, 0.03, 0.12, 0.40), f"is noisy ({share})")
    if seen.spikes is not None:
        yield Sign(
            "spikes",
            _graded(seen.spikes, 3.8, 7.0, 20.0),
            "has stripes of a single spatial frequency, as from spikes in k-space",
        )
    if seen.ghosts is not None:
        yield Sign(
            "ghosts",
            _graded(seen.ghosts, 0.02, 0.08, 0.40),
            "has signal in the air around the head: ghosting, motion, or wrap-around",
        )
    if seen.jump is not None:
        yield Sign(
            "slices",
            _graded(seen.jump, 1.5, 3.5, 12.0),
            f"has neighbouring slices that differ {seen.jump:.1f} times as much as others: slices "
            "may be missing or out of order, or the head moved",
        )
    if seen.empty:
        yield Sign(
            "slices",
            _graded(seen.empty, 0, 1, 10),
            f"has {seen.empty} empty slice{'s' * (seen.empty > 1)} between others",
        )
    yield Sign(
        "wrap",
        _graded(seen.touches, 0.0, 0.3, 1.2),
        "reaches opposite edges of the image: the field of view is too small, or it wraps around",
    )
