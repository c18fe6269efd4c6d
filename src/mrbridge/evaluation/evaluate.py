"""The verb `evaluate`: scores, figures and a report for a model, or for syntheses at hand."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from os.path import lexists as exists
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrbridge import __version__
from mrbridge.errors import (
    InputError,
    Interrupted,
    MrbridgeError,
    OutputError,
    SettingsError,
    SomeScansFailed,
)
from mrbridge.evaluation import figures, summary
from mrbridge.evaluation.cases import Case, Direction, FoundCases, find_pairs, find_syntheses
from mrbridge.evaluation.cases import with_masks as give_masks
from mrbridge.evaluation.report import write_report
from mrbridge.evaluation.result import Evaluation, Mode
from mrbridge.evaluation.scoring import (
    Job,
    TranslatorLike,
    fit_floors,
    open_translator,
    place_case,
    sample_case,
    score_case,
    values_per_case,
)
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.evaluation.summary import Scored
from mrbridge.io.bids import NOT_RAW
from mrbridge.io.formats import unreadable_folders
from mrbridge.io.ownership import is_ours, must_be_ours
from mrbridge.io.places import here
from mrbridge.io.safety import sweep, write_json, write_text
from mrbridge.io.scans import log_left_out
from mrbridge.io.transfer import not_fetched, remove
from mrbridge.json_text import parse_json
from mrbridge.models import unnamed
from mrbridge.scale import Workers, map_scans, reachable

if TYPE_CHECKING:
    from mrbridge.bundle import Bundle

__all__ = ["EvaluateSettings", "Evaluation", "evaluate"]

log = logging.getLogger(__name__)

REPORT = "report.json"
"""What was scored, where a signal ended it."""

_OURS = re.compile(r"_(slices|by-slice|by-case|joint-histogram)\.png$")


def evaluate(
    model: Bundle | str | Path | TranslatorLike | None = None,
    pairs: str | Path | Sequence[str | Path] | None = None,
    real: str | Path | None = None,
    synthetic: str | Path | None = None,
    mask: str | Path | None = None,
    *,
    out: str | Path,
    settings: EvaluateSettings | None = None,
    device: str = "auto",
    workers: Workers = 1,
    force: bool = False,
) -> Evaluation:
    """Score a model on pairs of true scans, or ready syntheses against true scans.

    Either `pairs` and a `model`: every scan is translated into the other contrast and compared with
    the true one, beside a monotone intensity mapping (the floor) and the unchanged input (the
    copy). Where no subject has both contrasts, only what needs no pairs is measured. Or `real` and
    `synthetic`: the scores of what is there.

    Args:
        model: the path of a run or bundle, `shipped`, a bundle, or a
            `mrbridge.inference.engine.Translator`; None takes the shipped model for `pairs`.
        pairs: a BIDS data set, a folder, two folders or a table, as for `prepare`.
        real: a true scan, or a folder of them.
        synthetic: its synthesis, or a folder, matched by file names or BIDS entities.
        mask: a mask for all, or a folder of masks, matched likewise; else `settings.mask` decides.
        out: the folder to write to.
        settings: how to score.
        device: `auto`, `cpu` or `cuda`.
        workers: processes, or the address of a Dask scheduler, whose workers see the same files
            at the same absolute paths; each loads the model from its path. A model that has none
            is used only in this process.
        force: also score what its name or header says to be something else, such as a mask.

    Returns:
        The scores; files lie in `out`.

    Raises:
        SettingsError: neither or both of the two ways are asked for.
        InputError: nothing could be scored.
        SomeScansFailed: some cases could not be scored; all results of the others are written.
    """
    settings = settings or EvaluateSettings()
    out = Path(reachable(here(out), workers))
    translator: TranslatorLike | None = None
    pairs, real, synthetic, mask = (
        reachable(here(given), workers) for given in (pairs, real, synthetic, mask)
    )
    if pairs is not None and real is None and synthetic is None:
        translator = open_translator(unnamed() if model is None else model, device)
        source, target = translator.bundle.source, translator.bundle.target
        if translator.bundle.path is None:
            workers = 1
        found = find_pairs(pairs, source, target, force=force)
        both = [Direction(source, target), Direction(target, source)]
    elif real is not None and synthetic is not None and model is None and pairs is None:
        both = []
        found = find_syntheses(real, synthetic, force=force)
    else:
        raise SettingsError(
            "what to score is not clear",
            remedy="Give pairs, with or without a model, or true and synthetic scans.",
        )
    for name in ("report.html", "scores.csv", "scores.json"):
        must_be_ours(out / name)
    mode, cases, left_out = _what_to_score(found, both)
    log_left_out([(Path(name), reason) for name, reason in left_out], Path())
    if mask is not None:
        cases = give_masks(cases, mask)
    elif settings.mask != "brain":
        cases = [replace(case, mask=None) for case in cases]
    jobs = [
        Job(
            case,
            tuple(d for d in both if d.source in case.images)
            or (Direction(None, next(iter(case.images))),),
            settings,
            translator,
            sampled=max(1, settings.wasserstein_slices // len(cases)),
            values=values_per_case(len(cases)),
        )
        for case in cases
    ]
    _make_ready(out)
    scored: list[Scored] = []
    failures = [
        (_below(path, root), reason)
        for root in (pairs, real, synthetic)
        if isinstance(root, Path)
        for path, reason in unreadable_folders(root, NOT_RAW)
    ]
    try:
        _run(jobs, mode, mask is not None, out, workers, scored, failures)
    except KeyboardInterrupt:
        partial = {
            "created_by": f"mrbridge {__version__}",
            "done": [{"case": one.case.name, "scores": _scores(one)} for one in scored],
            "failed": [{"case": name, "error": reason} for name, reason in failures],
            "interrupted": True,
        }
        write_json(out / REPORT, partial)
        raise Interrupted(
            f"interrupted after {len(scored) + len(failures)} of {len(jobs)} cases",
            path=out / REPORT,
            remedy="It has their scores.",
            counts={"done": len(scored), "failed": len(failures), "cases": len(jobs)},
        ) from None
    if not scored:
        name, reason = failures[0]
        raise InputError(
            f"none of the {len(cases)} cases could be scored; {name}: {reason}",
            remedy="Mend the scans, or name others.",
        )
    directions = tuple(dict.fromkeys(d for job in jobs for d in job.directions))
    means = summary.summarise(scored)
    result = Evaluation(
        out=out,
        mode=mode,
        directions=directions,
        cases=tuple(scored),
        summary=summary.finite(means),
        cycles=summary.finite(summary.summarise_cycles(scored)),
        wasserstein=summary.wasserstein(scored, directions, settings.seed),
        verdicts=tuple(summary.judge(scored, direction, means) for direction in directions),
        figures=_draw_overall(scored, directions, out / "figures"),
        failures=tuple(failures),
        left_out=tuple(left_out),
        remarks=tuple(found.remarks),
        settings=settings,
        masks=settings.mask if mask is None else "given",
        model_sha256=None if translator is None else translator.bundle.hash,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _remove_interrupted(out)
    write_text(out / "scores.csv", summary.score_table(scored))
    write_json(out / "scores.json", result.as_json())
    write_report(result)
    _remove_old_figures(result)
    if failures:
        told = "; ".join(f"{name}: {reason}" for name, reason in failures)
        raise SomeScansFailed(
            f"{len(failures)} of {len(cases)} cases could not be scored ({told})",
            path=out,
            remedy="The others are scored.",
            result=result,
        )
    return result


def _what_to_score(
    found: FoundCases, directions: Sequence[Direction]
) -> tuple[Mode, list[Case], list[tuple[str, str]]]:
    if not directions:
        return "files", found.cases, found.left_out
    if not found.cases:
        return "unpaired", found.singles, found.left_out
    alone = [
        (path.name, f"its subject has no other contrast than {contrast}")
        for case in found.singles
        for contrast, path in case.images.items()
    ]
    return "pairs", found.cases, found.left_out + alone


def _make_ready(out: Path) -> None:
    """Refuse a place that cannot be written before anything is scored.

    Raises:
        OutputError: it cannot.
    """
    sweep(out)
    sweep(out / "figures")
    nearest = next(folder for folder in (out.absolute(), *out.absolute().parents) if exists(folder))
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror})",
            path=out,
            remedy="Check the free space and the permissions, or choose another place.",
        ) from None


def _below(path: Path, root: Path) -> str:
    return root.name if path == root else str(path.relative_to(root))


def _scores(one: Scored) -> dict[str, Any]:
    return {key: summary.finite(found.scores) for key, found in one.found.items()}


def _remove_interrupted(out: Path) -> None:
    """The report of an earlier evaluation that was interrupted is out of date."""
    try:
        there = parse_json((out / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(there, dict) and there.get("interrupted") is True:
        remove(out / REPORT)


def _run(
    jobs: Sequence[Job],
    mode: Mode,
    masked: bool,
    out: Path,
    workers: Workers,
    scored: list[Scored],
    failures: list[tuple[str, str]],
) -> None:
    """Score cases into `scored`; what fails goes to `failures`."""
    ready = []
    for job in jobs:
        if masked and job.case.mask is None:
            failures.append((job.case.name, "no mask goes by its name"))
        else:
            ready.append(job)
    if mode != "unpaired":
        ready = _placed(ready, failures, workers)
    floor_on: dict[str, str] = {}
    if mode == "pairs":
        sampled = []
        for job, values in map_scans(sample_case, ready, workers=workers, label="reading pairs"):
            if isinstance(values, MrbridgeError):
                failures.append(_failure(job, values))
            else:
                sampled.append((job, values))
        floors = fit_floors([job.case for job, _ in sampled], [values for _, values in sampled])
        ready = [replace(job, floors=f) for (job, _), (f, _) in zip(sampled, floors, strict=True)]
        floor_on = {job.case.name: on for job, (_, on) in zip(ready, floors, strict=True)}
    ready = _with_figures(ready, out)
    _check_figures(ready, out)
    for job, found in map_scans(score_case, ready, workers=workers, label="scoring"):
        if isinstance(found, MrbridgeError):
            failures.append(_failure(job, found))
        else:
            scored.append(Scored(job.case, found, floor_on.get(job.case.name), job.placement))


def _placed(jobs: Sequence[Job], failures: list[tuple[str, str]], workers: Workers) -> list[Job]:
    """The jobs whose scans lie on one grid, or are known to come onto one; the others fail."""
    placed = []
    for job, found in map_scans(place_case, jobs, workers=workers, label="bringing pairs together"):
        if isinstance(found, MrbridgeError):
            failures.append(_failure(job, found))
        else:
            placed.append(replace(job, placement=found))
    return placed


def _with_figures(jobs: Sequence[Job], out: Path) -> list[Job]:
    """The jobs; the first of them are told where to draw."""
    shown, names = [], set()
    for number, job in enumerate(jobs):
        if number < job.settings.shown_cases:
            stem = re.sub(r"[^\w.+-]+", "-", job.case.name)[:80].strip("-.") or "case"
            stem = f"{stem}-{number + 1}" if stem in names else stem
            names.add(stem)
            job = replace(job, figures=out / "figures" / stem)
        shown.append(job)
    return shown


def _check_figures(jobs: Sequence[Job], out: Path) -> None:
    """Refuse to draw over what mrbridge did not make."""
    if is_ours(out / "scores.json"):
        return  # an earlier evaluation's, whose figures had no mark in older versions
    stems = ["all", *(job.figures.name for job in jobs if job.figures is not None)]
    for stem in stems:
        for path in (out / "figures").glob(f"{stem}_*.png"):
            if _OURS.search(path.name):
                must_be_ours(path)


def _failure(job: Job, error: MrbridgeError) -> tuple[str, str]:
    """Case and reason, without the path, which may tell a name that a report must not tell.

    Raises:
        OutputError: the failure is one of the output, which the others would meet too.
    """
    if isinstance(error, OutputError):
        raise error
    if error.path is not None and not_fetched(error.path) is not None:
        log.error("%s", error)  # with the command that fetches it
    return job.case.name, f"{error.path.name} {error.what}" if error.path else error.what


def _draw_overall(
    scored: Sequence[Scored], directions: Sequence[Direction], folder: Path
) -> dict[str, dict[str, Path]]:
    """Figures of all cases together: direction, kind, path."""
    drawn: dict[str, dict[str, Path]] = {}
    for direction in directions:
        key = direction.key
        cases = [one for one in scored if key in one.found and one.found[key].scores]
        if not cases:
            continue
        paths = drawn[key] = {"joint": folder / f"all_{key}_joint-histogram.png"}
        counts = [c for one in cases if (c := one.found[key].counts) is not None]
        figures.draw_joint_histogram(np.sum(counts, axis=0), direction, paths["joint"])
        if len(cases) > 1:
            paths["by_case"] = folder / f"all_{key}_by-case.png"
            values = {
                method: {
                    measure: [one.found[key].scores[method]["fit"][measure] for one in cases]
                    for measure in ("psnr", "ssim")
                }
                for method in cases[0].found[key].scores
            }
            figures.draw_by_case([one.case.name for one in cases], values, paths["by_case"])
    return drawn


def _remove_old_figures(result: Evaluation) -> None:
    """Figures of an earlier evaluation in this folder would pass for ours."""
    ours = {path for paths in result.figures.values() for path in paths.values()}
    for one in result.cases:
        for found in one.found.values():
            ours.update(found.pictures.values())
    for path in (result.out / "figures").glob("*.png"):
        if _OURS.search(path.name) and path not in ours and is_ours(path):
            remove(path)
