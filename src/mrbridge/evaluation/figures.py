"""The figures of an evaluation; matplotlib is used without its global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.evaluation.calibration import NOMINAL
from mrbridge.evaluation.cases import Direction
from mrbridge.evaluation.lesions import Lesion
from mrbridge.io.atomic import atomic_path
from mrbridge.io.ownership import FIGURE_MARK

HISTOGRAM_TOP = 1.2
"""The largest intensity of joint histograms, in units of the real scan's 99.5th percentile."""

COLOURS = {"model": "#1f6fb4", "floor": "#d1742a", "copy": "#8a8f98"}
"""Colour of each method; distinguishable by colour-blind readers."""

LABELS = {"model": "model", "floor": "monotone baseline", "copy": "unchanged input"}
"""Name of each method in legends."""

_HISTOGRAM_BINS = 120
_DIFFERENCE = 0.5  # at the ends of the colour bar; the same in all figures
_MARGIN = 0.04  # of the field of view, kept around the anatomy
_SMALL = 8
_AROUND_LESION_MM = 30.0


@dataclass(frozen=True)
class Panels:
    """Images side by side: stacks (slices, rows, columns), 1 is the 99.5th percentile.

    Attributes:
        spacing: mm between slices, rows, columns; None for 2D images.
    """

    direction: Direction
    source: NDArray[Any] | None
    synthetic: NDArray[Any]
    real: NDArray[Any]
    mask: NDArray[np.bool_]
    spacing: tuple[float, float, float] | None


def draw_slices(
    panels: Panels, slices: Sequence[int], scores: Mapping[str, Sequence[float]], path: Path
) -> None:
    """Input, synthetic image, real scan and difference of the middle and the worst of `slices`,
    with `scores` (`psnr` and `ssim`) of each."""
    middle, worst = len(slices) // 2, int(np.argmin(scores["ssim"]))
    rows = [("middle", middle), ("worst", worst)] if worst != middle else [("worst", worst)]
    if len(slices) == 1:
        rows = [("", 0)]
    target = panels.direction.target
    stacks = {f"synthetic {target}": panels.synthetic, f"real {target}": panels.real}
    if panels.source is not None:
        stacks = {f"input {panels.direction.source}": panels.source} | stacks
    window = _window(panels)
    aspect = 1.0 if panels.spacing is None else panels.spacing[1] / panels.spacing[2]
    height, width = (part.stop - part.start for part in window)
    columns = len(stacks) + 1
    panel = 2.5  # inches wide
    tall = panel * aspect * height / width + 0.12
    figure = _figure(panel * columns + 1.0, tall * len(rows) + 0.4)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (word, position) in zip(axes, rows, strict=True):
        number = slices[position]
        for axis, stack in zip(line, stacks.values(), strict=False):
            axis.imshow(stack[number][window], cmap="gray", vmin=0, vmax=1.05, aspect=aspect)
        difference = np.where(panels.mask, panels.synthetic - panels.real, np.nan)[number][window]
        shown = line[-1].imshow(
            difference, cmap="RdBu_r", vmin=-_DIFFERENCE, vmax=_DIFFERENCE, aspect=aspect
        )
        line[-1].set_facecolor("#d9dbde")
        place = f"{word} slice, {number + 1} of {len(panels.real)}\n" if word else ""
        line[0].set_ylabel(
            f"{place}PSNR {scores['psnr'][position]:.1f} dB, SSIM {scores['ssim'][position]:.3f}",
            fontsize=_SMALL,
        )
        if panels.spacing is not None:
            _mark_sides(line[0])
    for axis, title in zip(axes[0], [*stacks, "synthetic − real"], strict=True):
        axis.set_title(title, fontsize=_SMALL + 1)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=list(axes[:, -1]), fraction=0.05, pad=0.03, extend="both")
    bar.set_label("share of the real 99.5th percentile", fontsize=_SMALL - 1)
    bar.ax.tick_params(labelsize=_SMALL - 1)
    save(figure, path)


def draw_lesions(panels: Panels, lesions: Sequence[Lesion], path: Path) -> None:
    """Input, real scan and synthetic image around lesions, a line for each.

    Each stack of `panels` is scaled by its own percentile.
    """
    target = panels.direction.target
    stacks = {f"real {target}": panels.real, f"synthetic {target}": panels.synthetic}
    if panels.source is not None:
        stacks = {f"input {panels.direction.source}": panels.source} | stacks
    spacing = panels.spacing or (1.0, 1.0, 1.0)
    aspect = spacing[1] / spacing[2]
    half = [round(_AROUND_LESION_MM / step) for step in spacing[1:]]
    figure = _figure(2.0 * len(stacks) + 0.8, 2.0 * len(lesions) + 0.3)
    axes = figure.subplots(len(lesions), len(stacks), squeeze=False)
    for line, lesion in zip(axes, lesions, strict=True):
        radius = (750 * lesion.volume_ml / np.pi) ** (1 / 3) + 2  # mm, of a sphere and a margin
        for axis, stack in zip(line, stacks.values(), strict=True):
            axis.imshow(stack[lesion.slice], cmap="gray", vmin=0, vmax=1.05, aspect=aspect)
            axis.add_patch(
                Ellipse(
                    (lesion.column, lesion.row),
                    2 * radius / spacing[2],
                    2 * radius / spacing[1],
                    fill=False,
                    color=COLOURS["floor"],
                    linewidth=1.2,
                )
            )
            axis.set_xlim(lesion.column - half[1], lesion.column + half[1])
            axis.set_ylim(lesion.row + half[0], lesion.row - half[0])
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(
            f"{lesion.outcome.replace('_', ' ')}\n{lesion.volume_ml:.2f} ml\n"
            f"slice {lesion.slice + 1}",
            fontsize=_SMALL,
            rotation=0,
            ha="right",
            va="center",
        )
    for axis, title in zip(axes[0], stacks, strict=True):
        axis.set_title(title, fontsize=_SMALL + 1)
    save(figure, path)


def draw_reliability(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """What an uncertainty map states, and what was found, by `calibration.reliability`."""
    figure = _figure(9.5, 3.2)
    first, second = figure.subplots(1, 2)
    stated, found = ([row[key] for row in rows] for key in ("stated", "found"))
    top = 1.05 * max(*stated, *found, 1e-6)
    first.plot([0, top], [0, top], color=COLOURS["copy"], linewidth=1)
    first.plot(stated, found, "o-", color=COLOURS["model"], ms=4)
    second.axhline(NOMINAL, color=COLOURS["copy"], linewidth=1)
    tenths = np.arange(1, len(rows) + 1)
    second.bar(tenths, [row["coverage"] for row in rows], color=COLOURS["model"])
    second.set_ylim(0, 1)
    _tidy(first, "half width that the map states", "90 % quantile of the errors found")
    _tidy(second, "tenth of the voxels, by rising width", "coverage")
    save(figure, path)


def draw_by_slice(
    slices: Sequence[int], scores: Mapping[str, Mapping[str, Sequence[float]]], path: Path
) -> None:
    """PSNR and SSIM of each slice, inferior first, one line per method; scores by method, then
    `psnr` and `ssim`."""
    figure = _figure(9.5, 2.4)
    for axis, (measure, label) in zip(figure.subplots(1, 2), _MEASURES.items(), strict=True):
        for method in _methods(scores):
            axis.plot(
                [number + 1 for number in slices],
                scores[method][measure],
                color=COLOURS[method],
                linewidth=1.6 if method == "model" else 1.0,
                label=LABELS[method],
            )
        _tidy(axis, "slice, inferior to superior", label)
    if len(scores) > 1:
        figure.axes[0].legend(fontsize=_SMALL, frameon=False)
    save(figure, path)


def draw_by_case(
    names: Sequence[str], scores: Mapping[str, Mapping[str, Sequence[float]]], path: Path
) -> None:
    """PSNR and SSIM of each case, one row per case: whether the model is better in all cases.
    Scores by method, then `psnr` and `ssim`, in the order of `names`."""
    figure = _figure(9.5, 1.2 + min(0.24, 12 / len(names)) * len(names))
    places = np.arange(len(names))
    for axis, (measure, label) in zip(
        figure.subplots(1, 2, sharey=True), _MEASURES.items(), strict=True
    ):
        if "floor" in scores:
            axis.hlines(places, scores["floor"][measure], scores["model"][measure], color="#c9ccd1")
        for method in reversed(_methods(scores)):
            axis.plot(
                scores[method][measure],
                places,
                "o",
                color=COLOURS[method],
                ms=5,
                label=LABELS[method],
            )
        _tidy(axis, label)
    first = figure.axes[0]
    step = max(1, len(names) // 40)
    first.set_yticks(places[::step], [names[k] for k in places[::step]])
    for text in first.get_yticklabels():
        text.set_parse_math(False)  # a name may contain any character
    first.set_ylim(len(names) - 0.5, -0.5)
    handles, labels = first.get_legend_handles_labels() if len(scores) > 1 else ([], [])
    figure.legend(
        handles[::-1],
        labels[::-1],
        fontsize=_SMALL,
        frameon=False,
        ncols=3,
        loc="outside upper left",
    )
    save(figure, path)


def count_jointly(real: NDArray[Any], synthetic: NDArray[Any]) -> NDArray[np.int64]:
    """Joint histogram: counts (bins of `real`, bins of `synthetic`), 0 to 1.2."""
    edges = np.linspace(0, HISTOGRAM_TOP, _HISTOGRAM_BINS + 1)
    x, y = (np.clip(values, 0, HISTOGRAM_TOP) for values in (real, synthetic))
    return np.histogram2d(x, y, bins=(edges, edges))[0].astype(np.int64)


def draw_joint_histogram(counts: NDArray[np.int64], direction: Direction, path: Path) -> None:
    """Joint histogram of real and synthetic intensities, by `count_jointly`."""
    figure = _figure(4.7, 3.9)
    axis = figure.subplots()
    shown = axis.imshow(
        np.where(counts.T > 0, counts.T, np.nan),
        origin="lower",
        extent=(0, HISTOGRAM_TOP, 0, HISTOGRAM_TOP),
        norm=LogNorm(1, max(2, int(counts.max()))),
        cmap="viridis",
    )
    axis.plot([0, HISTOGRAM_TOP], [0, HISTOGRAM_TOP], color=COLOURS["floor"], linewidth=1)
    _tidy(axis, f"real {direction.target}", f"synthetic {direction.target}, fitted")
    axis.grid(False)
    bar = figure.colorbar(shown, ax=axis)
    bar.set_label("voxels", fontsize=_SMALL)
    bar.ax.tick_params(labelsize=_SMALL - 1)
    save(figure, path)


_MEASURES = {"psnr": "PSNR, dB", "ssim": "SSIM"}


def _methods(scores: Mapping[str, Any]) -> list[str]:
    return [method for method in COLOURS if method in scores]


def _window(panels: Panels) -> tuple[slice, slice]:
    """Rows and columns that contain the anatomy, with a margin."""
    anatomy = panels.mask.any(axis=0)

    def widened(part: slice, size: int) -> slice:
        margin = round(_MARGIN * size) + 1
        return slice(max(0, part.start - margin), min(size, part.stop + margin))

    rows, columns = ndimage.find_objects(anatomy.astype(np.uint8))[0]
    return widened(rows, anatomy.shape[0]), widened(columns, anatomy.shape[1])


def _mark_sides(axis: Any) -> None:
    """R and L, in radiological convention: columns run to the patient's left."""
    style = {"color": "white", "fontsize": _SMALL, "transform": axis.transAxes, "va": "top"}
    axis.text(0.02, 0.98, "R", ha="left", **style)
    axis.text(0.98, 0.98, "L", ha="right", **style)


def _tidy(axis: Any, x: str, y: str = "") -> None:
    axis.set_xlabel(x, fontsize=_SMALL)
    axis.set_ylabel(y, fontsize=_SMALL)
    axis.tick_params(labelsize=_SMALL)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(True, color="#e6e8eb", linewidth=0.7)
    axis.set_axisbelow(True)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, with the mark that it is ours."""
    with atomic_path(path) as temporary:
        # No date or version of software: equal input gives an equal file.
        figure.savefig(temporary, format="png", metadata=FIGURE_MARK)
