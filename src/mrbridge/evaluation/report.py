"""The report of an evaluation: one page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from mrbridge import __version__
from mrbridge.evaluation.cases import Direction
from mrbridge.evaluation.markup import (
    DIGITS,
    HEADINGS,
    number,
    score_cells,
    score_table,
)
from mrbridge.evaluation.registered import registered_remark, registered_section
from mrbridge.evaluation.result import Evaluation
from mrbridge.evaluation.summary import MEASURES, METHODS, Scored
from mrbridge.io.formats import is_picture
from mrbridge.io.safety import write_text
from mrbridge.page import counted, figure, page, words_table

_OUTCOMES = {
    "better": "Better than the floor",
    "mixed": "No clear winner",
    "worse": "Warning: not better than the floor",
    "unknown": "Not compared with a floor",
}
_METHODS = {
    "model": "model",
    "floor": "floor (monotone mapping)",
    "copy": "copy (unchanged input)",
    "real": "true scans among themselves",
}
_NAMED = 4  # files named for each reason
_MODES = {
    "pairs": "Every scan was translated into the other contrast and compared with the true one.",
    "unpaired": "No subject has scans of both contrasts, so no synthesis can be compared with its "
    "true scan. What follows says whether the syntheses look like true scans as a "
    "set, and whether the way back returns the input; not whether they are right.",
    "files": "Syntheses that were at hand were compared with the true scans.",
}
_MASKS = {
    "foreground": "inside the foreground of the true scan, found by its intensities",
    "whole": "over the whole image, background included",
    "brain": "inside the brain masks of the data set's derivatives",
    "given": "inside the masks that were given",
}


def write_report(result: Evaluation) -> None:
    """Write `report.html`: verdict, tables, figures, method, limits. No script, no link outside.

    Raises:
        OutputError: it cannot be written.
    """
    first = result.directions[0]
    title = (
        f"Synthesis of {first.target}"
        if first.source is None
        else f"{first.source} ↔ {first.target} synthesis"
    )
    sections = [
        _head(result, title),
        _scores(result),
        _overall(result),
        _cases(result),
        _without_pairs(result),
        registered_section(result),
        _not_scored(result),
        _method(result),
        _limits(),
        _provenance(result),
    ]
    write_text(result.report, page(f"{title}: evaluation", sections))


def _head(result: Evaluation, title: str) -> str:
    verdicts = "".join(
        f'<div class="verdict {verdict.outcome}"><strong>{_OUTCOMES[verdict.outcome]}</strong>'
        f"{escape(verdict.text)}</div>\n"
        for verdict in result.verdicts
    )
    paths = [path for one in result.cases for path in one.case.images.values()]
    extent = counted(len(result.cases), "picture" if all(map(is_picture, paths)) else "case")
    subjects = {one.case.subject for one in result.cases}
    if len(subjects) < len(result.cases):
        extent += f" of {counted(len(subjects), 'subject')}"
    remarks = "".join(f"<p>{escape(remark)}</p>\n" for remark in result.remarks)
    failed = ""
    if result.failures:
        failed = (
            f"<p><strong>{len(result.failures)} could not be scored</strong>; they are named "
            "below.</p>\n"
        )
    return (
        f"<h1>{escape(title)}: how good is it?</h1>\n"
        f'<p class="faint">{extent}, {escape(result.date[:10])}, mrbridge {__version__}</p>\n'
        '<p class="notice">Synthetic images: for research, not for diagnosis.</p>\n'
        f"{verdicts}<p>{_MODES[result.mode]}</p>\n{registered_remark(result)}{remarks}{failed}"
    )


def _scores(result: Evaluation) -> str:
    if not result.summary:
        return ""
    parts = ["<h2>Scores</h2>\n"]
    for direction in result.directions:
        if direction.key not in result.summary:
            continue
        table = result.summary[direction.key]
        rows = [
            (method, [_method_name(method, result), *score_cells(table[method])])
            for method in METHODS
            if method in table
        ]
        parts.append(f"<h3>{escape(direction.label)}</h3>\n{score_table(rows)}")
    note = (
        "<p class='faint'>Mean ± standard deviation over subjects. ↑ larger is better, ↓ smaller "
        "is better. <em>Fitted</em>, the main number: the synthesis is first brought to the true "
        "scan by one scale and one offset, since MR intensities have no unit. <em>Plain</em>: "
        "each image by its own 99.5th percentile.</p>\n"
    )
    return "".join([*parts, note])


def _method_name(method: str, result: Evaluation) -> str:
    return "synthesis" if result.mode == "files" and method == "model" else _METHODS[method]


def _overall(result: Evaluation) -> str:
    if not result.figures:
        return ""
    parts = ["<h2>All cases together</h2>\n"]
    for direction in result.directions:
        paths = result.figures.get(direction.key, {})
        if "by_case" in paths:
            caption = f"{direction.label}: each case by each method, fitted."
            parts.append(figure(paths["by_case"].read_bytes(), caption))
    joint = [
        figure(
            result.figures[direction.key]["joint"].read_bytes(),
            f"{direction.label}: which true intensity (across) became which synthetic one (up), "
            "fitted; colours count voxels on a logarithmic scale. A perfect synthesis lies on "
            "the line.",
        )
        for direction in result.directions
        if direction.key in result.figures
    ]
    parts.append(f'<div class="beside">{"".join(joint)}</div>\n')
    return "".join(parts)


def _cases(result: Evaluation) -> str:
    if not result.summary:
        return ""
    parts = ["<h2>Case by case</h2>\n"]
    for direction in result.directions:
        cases = [one for one in result.cases if _scored(one, direction)]
        if cases:
            parts.append(f"<h3>{escape(direction.label)}</h3>\n{_case_table(cases, direction)}")
    shown = [one for one in result.cases if any(found.pictures for found in one.found.values())]
    if len(shown) < len(result.cases):
        parts.append(
            f'<p class="faint">Pictures of the first {len(shown)} of {len(result.cases)} '
            "follow.</p>\n"
        )
    for one in shown:
        for direction in result.directions:
            if direction.key in one.found and one.found[direction.key].pictures:
                parts.append(_pictures(one, direction))
    return "".join(parts)


def _scored(one: Scored, direction: Direction) -> bool:
    return direction.key in one.found and bool(one.found[direction.key].scores)


def _case_table(cases: Sequence[Scored], direction: Direction) -> str:
    methods = [m for m in METHODS if m in cases[0].found[direction.key].scores]
    groups = "".join(
        f'<th class="group" colspan="{len(methods)}">{HEADINGS[measure]}</th>'
        for measure in MEASURES
    )
    heads = "".join(
        f"<th{' class=first' if k == 0 else ''}>{method}</th>"
        for _ in MEASURES
        for k, method in enumerate(methods if len(methods) > 1 else [""])
    )
    rows = []
    for one in cases:
        scores = one.found[direction.key].scores
        cells = "".join(
            f"<td{' class=first' if k == 0 else ''}>"
            f"{number(scores[method]['fit'][measure], DIGITS[measure])}</td>"
            for measure in MEASURES
            for k, method in enumerate(methods)
        )
        rows.append(f"<tr><td>{escape(one.case.name)}</td>{cells}</tr>\n")
    return (
        f'<div class="wide"><table>\n<thead><tr><th></th>{groups}</tr>\n'
        f"<tr><th>case (fitted)</th>{heads}</tr></thead>\n"
        f"<tbody>\n{''.join(rows)}</tbody></table></div>\n"
    )


def _pictures(one: Scored, direction: Direction) -> str:
    found = one.found[direction.key]
    volume = len(found.slices) > 1
    sides = " As a radiologist looks at it: the patient's right is on the left." if volume else ""
    which = "The slice in the middle and the one with the lowest SSIM. " if volume else ""
    caption = (
        f"{which}The difference is shown where it was scored: red where the synthesis is too "
        f"bright, blue where it is too dark.{sides}"
    )
    parts = [
        f"<h3>{escape(one.case.name)}, {escape(direction.label)}</h3>\n",
        figure(found.pictures["slices"].read_bytes(), caption),
    ]
    if "by_slice" in found.pictures:
        parts.append(
            figure(
                found.pictures["by_slice"].read_bytes(),
                "Score of each slice with enough anatomy to judge.",
            )
        )
    return "".join(parts)


def _without_pairs(result: Evaluation) -> str:
    parts = []
    if result.wasserstein:
        columns = [m for m in _METHODS if any(m in row for row in result.wasserstein.values())]
        heads = "".join(f"<th>{_method_name(method, result)}</th>" for method in columns)
        rows = "".join(
            f"<tr><td>{escape(direction.label)}</td>"
            + "".join(
                f"<td>{number(row[m], 1) if m in row else '–'}</td>"
                for row in [result.wasserstein[direction.key]]
                for m in columns
            )
            + "</tr>\n"
            for direction in result.directions
            if direction.key in result.wasserstein
        )
        parts.append(
            "<h3>Do they look like true scans, as a set?</h3>\n"
            f'<div class="wide"><table>\n<thead><tr><th></th>{heads}</tr></thead>\n'
            f"<tbody>\n{rows}</tbody></table></div>\n"
            '<p class="faint">Sliced Wasserstein distance over a Laplacian pyramid (times 1000) '
            "between syntheses and true scans; smaller is better. It compares textures, not "
            "anatomy. It depends on the number of slices: compare it only within this table.</p>\n"
        )
    if result.cycles:
        parts.append(_cycles(result))
    return "".join(["<h2>Without looking at pairs</h2>\n", *parts]) if parts else ""


def _cycles(result: Evaluation) -> str:
    rows = []
    for direction in result.directions:
        if direction.key in result.cycles:
            way = f"{direction.source} → {direction.target} → {direction.source}"
            table = result.cycles[direction.key]
            rows.append(("", [way, *score_cells(table["cycle"])]))
            rows.append(("", [f"{way}, with noise", *score_cells(table["noisy"])]))
    return (
        "<h3>Does the way back return the input?</h3>\n"
        + score_table(rows)
        + '<p class="faint">A good cycle proves nothing by itself: a model can hide the input in '
        "the synthesis as faint noise (Chu et al. 2017). Hence the second line, with noise of "
        f"{100 * result.settings.noise:g} % of the synthesis' 99.5th percentile on the way. A "
        "deep fall from the first line to the second is the mark of such hiding.</p>\n"
    )


def _not_scored(result: Evaluation) -> str:
    parts = []
    if result.failures:
        parts += ["<h2>Could not be scored</h2>\n", words_table(result.failures)]
    if result.left_out:
        names: dict[str, list[str]] = {}
        for name, reason in result.left_out:
            names.setdefault(reason, []).append(name)
        rows = [(_some(files), reason) for reason, files in names.items()]
        parts += ["<h2>Left out</h2>\n", words_table(rows)]
    return "".join(parts)


def _some(names: Sequence[str]) -> str:
    """The first few different names, and how many files there are in all."""
    different = list(dict.fromkeys(names))
    shown = ", ".join(different[:_NAMED])
    more = ", …" if len(different) > _NAMED else ""
    return shown + more + (f" ({len(names)} files)" if len(names) > 1 else "")


def _method(result: Evaluation) -> str:
    fitted_on = {one.floor_on for one in result.cases} - {None}
    floor = ""
    if fitted_on:
        whom = (
            "on the pairs of the other subjects"
            if fitted_on == {"others"}
            else "on the very pair that it is scored on, for want of others; that flatters it"
        )
        floor = (
            "<li><strong>Floor</strong>: the best rising or falling curve from input to target "
            f"intensity, by least squares (isotonic regression), fitted {whom}. A model that "
            "does not beat it has learned no more than a change of brightness.</li>\n"
            "<li><strong>Copy</strong>: the input itself, as if nothing were done.</li>\n"
        )
    return (
        "<h2>How it was scored</h2>\n<ul>\n"
        f"<li>Scores count {_MASKS[result.masks]}, per case in three dimensions (a picture in "
        "two), then averaged over subjects.</li>\n"
        "<li>The true scan is scaled by its 99.5th percentile inside the mask; the data range is "
        "1.</li>\n"
        "<li><strong>Fitted</strong>: the synthesis is brought to it by least squares with one "
        "scale (not below zero) and one offset. <strong>Plain</strong>: it is scaled by its own "
        "percentile.</li>\n"
        "<li><strong>PSNR</strong>: peak signal-to-noise ratio in decibels. "
        "<strong>MAE</strong>: mean absolute error, 0.05 is 5 % of the range. "
        "<strong>SSIM</strong>: structural similarity (Wang et al. 2004), Gaussian window of "
        "1.5 voxels, 1 for equal images.</li>\n"
        f"{floor}</ul>\n"
    )


def _limits() -> str:
    return (
        "<h2>What this does not tell</h2>\n<ul>\n"
        "<li>These scores average over many voxels and like smooth images. A small lesion that is "
        "missing, or one that was invented, hardly changes them: look at the pictures.</li>\n"
        "<li>What the input does not show cannot be synthesised; it can only be guessed from "
        "what is usual.</li>\n"
        "<li>Scores hold for scans like these. Other scanners, sequences, ages and diseases "
        "may fail without any sign of it in the image.</li>\n"
        "<li>This page does not know which subjects the model was trained on. Scores of those "
        "are too good.</li>\n"
        "<li>Pairs that are a little out of register lower all scores, of floor and model "
        "alike.</li>\n</ul>\n"
    )


def _provenance(result: Evaluation) -> str:
    entries = {
        "mrbridge": __version__,
        "date": result.date,
        "model (SHA-256 of its weights)": result.model_sha256 or "none: syntheses were given",
        "settings": ", ".join(f"{k} = {v}" for k, v in result.settings.model_dump().items()),
        "files beside this page": "scores.csv, scores.json, figures/",
    }
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>\n" for k, v in entries.items())
    return f"<h2>Where this comes from</h2>\n<dl>\n{items}</dl>\n"
