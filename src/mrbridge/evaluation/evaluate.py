"""The verb `evaluate`: scores, figures and a report for a model, or for synthetic images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mrbridge.errors import (
    InputError,
    Interrupted,
    MrbridgeError,
    OutputError,
    SomeScansFailed,
    warn,
)
from mrbridge.evaluation import summary
from mrbridge.evaluation.cases import Case, Direction, MatchedCases, find_pairs, find_synthetic
from mrbridge.evaluation.lesions import NO_RING
from mrbridge.evaluation.partners import Extra, with_files, with_found_files
from mrbridge.evaluation.result import (
    REPORT,
    Evaluation,
    Mode,
    Scored,
    check_figures,
    check_place,
    draw_overall,
    finite,
    interrupted,
    with_figures,
    worst_and_median,
    write_result,
)
from mrbridge.evaluation.scoring import (
    Job,
    TranslatorLike,
    fit_baselines,
    sample_case,
    score_case,
    voxels_per_case,
)
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.io.atomic import sha256_of, write_json
from mrbridge.io.bids import NOT_RAW
from mrbridge.io.contrast import recognised
from mrbridge.io.formats import unreadable_folders
from mrbridge.io.remote import localise, not_fetched
from mrbridge.io.scans import log_left_out
from mrbridge.models import unnamed
from mrbridge.parallel import Workers, map_scans, reachable
from mrbridge.quiet import each_warning_once
from mrbridge.reports import counted, some, some_files
from mrbridge.settings import checked

if TYPE_CHECKING:
    from mrbridge.bundle import Bundle

__all__ = ["EvaluateSettings", "Evaluation", "evaluate", "score"]

log = logging.getLogger(__name__)

_EMBEDDED = 20  # cases whose images for the viewer are kept until the worst one is known

_Result = TypeVar("_Result")
_Failures = list[tuple[str, str]]  # case or folder, reason


@checked
def evaluate(
    model: Bundle | str | Path | TranslatorLike | None,
    pairs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    mask: str | Path | None = None,
    lesions: str | Path | None = None,
    settings: EvaluateSettings | None = None,
    device: str = "auto",
    workers: Workers = 1,
    force: bool = False,
) -> Evaluation:
    """Score a model on pairs of real scans.

    Every scan is translated into the other contrast and compared with the real one, next to a
    monotone intensity mapping (the baseline) and the unchanged input. If no subject has both
    contrasts, only measures that need no pairs are computed.

    Args:
        model: the path of a run or bundle, `shipped`, a bundle, or a
            `mrbridge.inference.translator.Translator`; None is the shipped model.
        pairs: a BIDS dataset, a folder, two folders or a table, as for `prepare`.
        out: the folder for tables, figures and `report.html`; None writes nothing.
        mask: a mask for all, or a folder of masks, matched by file names or BIDS entities;
            otherwise `settings.mask` decides.
        lesions: a lesion mask for all, or a folder of them, matched in the same way; otherwise
            those of BIDS derivatives (`…_label-lesion_mask.nii.gz`) are used where they exist.
        settings: by default, those of the verb.
        device: `auto`, `cpu` or `cuda`.
        workers: processes, or the address of a Dask scheduler whose workers have access to the same
            files at the same absolute paths.
        force: also score files whose name or header says that they are something else.

    Raises:
        InputError: nothing could be scored.
        SomeScansFailed: some cases could not be scored; the results of the others are written.
    """
    from mrbridge.bundle import Bundle
    from mrbridge.inference.translator import Translator

    named = unnamed() if model is None else model
    translator = Translator(named, device) if isinstance(named, Bundle | str | Path) else named
    settings = settings or EvaluateSettings()
    for contrast in settings.contrasts:
        translator.bundle.must_make(contrast)
    source, target = settings.contrasts or (translator.bundle.source, translator.bundle.target)
    if translator.bundle.manifest.standard.foreground != "head":
        settings = settings.changed({"tissues": False})
    pairs = _local(pairs, workers)
    with recognised((source, target)):
        matched = find_pairs(pairs, source, target, force=force)
        return _evaluate(
            _with_remark(matched, set(translator.bundle.manifest.trained_on)),
            [pairs],
            [Direction(source, target), Direction(target, source)],
            translator,
            out=_local(out, workers),
            extra={"mask": mask, "lesions": lesions},
            settings=settings,
            workers=workers,
            force=force,
        )


@checked
def score(
    real: str | Path,
    synthetic: str | Path,
    mask: str | Path | None = None,
    out: str | Path | None = None,
    *,
    source: str | Path | None = None,
    lesions: str | Path | None = None,
    uncertainty: str | Path | None = None,
    settings: EvaluateSettings | None = None,
    workers: Workers = 1,
    force: bool = False,
) -> Evaluation:
    """Score synthetic images against real scans.

    Args:
        real: a real scan, or a folder of them.
        synthetic: its synthetic image, or a folder, matched by file names or BIDS entities.
        source: the scan that the synthetic image was made from, or a folder of them: for the
            baselines, and for how visible lesions are in it.
        uncertainty: its uncertainty map, or a folder of them; otherwise the one that `translate
            --uncertainty` wrote next to it, if there is one.
        mask, out, lesions, settings, workers, force: as for `evaluate`.

    Raises:
        InputError: nothing could be scored.
        SomeScansFailed: some cases could not be scored; the results of the others are written.
    """
    real, synthetic = _local(real, workers), _local(synthetic, workers)
    return _evaluate(
        find_synthetic(real, synthetic, force=force),
        [real, synthetic],
        out=_local(out, workers),
        extra={"mask": mask, "source": source, "lesions": lesions, "uncertainty": uncertainty},
        settings=settings or EvaluateSettings(),
        workers=workers,
        force=force,
    )


def _evaluate(
    matched: MatchedCases,
    sources: Sequence[Any],
    directions: Sequence[Direction] = (),
    translator: TranslatorLike | None = None,
    *,
    out: Path | None,
    extra: Mapping[Extra, str | Path | None],
    settings: EvaluateSettings,
    workers: Workers,
    force: bool,
) -> Evaluation:
    """Score cases, with masks and other files by what they are, and write the results."""
    mask = extra["mask"]
    mode, cases, left_out = _what_to_score(matched, directions)
    log_left_out([(Path(name), reason) for name, reason in left_out], Path())
    if mask is None and settings.mask != "brain":
        cases = [replace(case, mask=None) for case in cases]
    remarks = list(matched.remarks)
    for what, named in extra.items():
        place = _local(named, workers)
        if place is not None:
            cases = with_files(cases, place, what)
            remarks += _unmatched(cases, what, place)
    cases = [case if mode == "unpaired" else with_found_files(case) for case in cases]
    jobs = [
        Job(
            case,
            tuple(direction for direction in directions if direction.source in case.images)
            or (Direction(case.source_contrast, next(iter(case.images))),),
            settings,
            translator,
            samples=max(1, settings.wasserstein_slices // len(cases)),
            voxels=voxels_per_case(len(cases)),
            force=force,
        )
        for case in cases
    ]
    if out is not None:
        check_place(out)
    scored: list[Scored] = []
    failures = _unreadable_folders(sources)
    try:
        with each_warning_once():  # a scan is read several times
            _score(jobs, mode, mask is not None, out, workers, scored, failures)
    except KeyboardInterrupt:
        if out is not None:
            write_json(out / REPORT, interrupted(scored, failures))
        raise Interrupted(
            f"interrupted after {len(scored) + len(failures)} of {len(jobs)} cases",
            path=None if out is None else out / REPORT,
            remedy="Nothing is written." if out is None else "It has their scores.",
            counts={"done": len(scored), "failed": len(failures), "cases": len(jobs)},
        ) from None
    if not scored:
        name, reason = failures[0]
        raise InputError(
            f"of {counted(len(cases), 'case')}, none could be scored; {name}: {reason}",
            remedy="Correct the scans, or choose others.",
        )
    doubts, lesions_left_out = summary.doubts(scored), summary.lesions_left_out(scored)
    for remark in (*doubts, *(one for one in lesions_left_out if NO_RING in one)):
        warn(remark)  # not of small lesions, by definition
    remarks += [*doubts, *lesions_left_out]
    used = tuple(dict.fromkeys(direction for job in jobs for direction in job.directions))
    means = summary.summarise(scored)
    measures, lesions = summary.summarise_measures(scored), summary.lesion_counts(scored)
    verdicts = tuple(summary.judge(scored, direction, means) for direction in used)
    result = Evaluation(
        out=out,
        mode=mode,
        directions=used,
        cases=tuple(scored),
        summary=finite(means),
        cycles=finite(summary.summarise(scored, "cycle")),
        wasserstein=summary.wasserstein(scored, used, settings.seed),
        verdicts=verdicts,
        measures=finite(measures),
        agreement=finite(summary.agreement(scored)),
        lesions=lesions,
        uses=tuple(
            use
            for verdict in verdicts
            if verdict.direction in measures
            for use in summary.judge_uses(
                verdict.direction,
                verdict.outcome,
                measures[verdict.direction],
                lesions.get(verdict.direction),
                flattered=any(one.baseline_on == "itself" for one in scored),
            )
        ),
        figures={} if out is None else draw_overall(scored, used, out / "figures"),
        failures=tuple(failures),
        left_out=tuple(left_out),
        remarks=tuple(remarks),
        settings=settings,
        masks=settings.mask if mask is None else "given",
        model_sha256=None if translator is None else translator.bundle.hash,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if out is not None:
        write_result(result, out)
    if failures:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures)
        raise SomeScansFailed(
            f"{len(failures)} of {len(cases)} cases could not be scored ({reasons})",
            path=out,
            remedy="The others are scored.",
            result=result,
        )
    return result


def _with_remark(matched: MatchedCases, trained_on: Collection[str]) -> MatchedCases:
    """Cases, with a remark and a warning if the model was trained on some of them."""
    cases = matched.cases or matched.singles
    seen = [case.name for case in cases if _is_among(case, trained_on)] if trained_on else []
    if not seen:
        return matched
    remark = (
        f"The model was trained on scans of {len(seen)} of the {len(cases)} cases ({some(seen)}): "
        "their scores are inflated. A table (subject, session, contrast, path) of other scans "
        "avoids it."
    )
    warn(remark)
    return replace(matched, remarks=[*matched.remarks, remark])


def _is_among(case: Case, trained_on: Collection[str]) -> bool:
    with suppress(InputError):  # reported where it is scored
        return any(sha256_of(path)[:16] in trained_on for path in case.images.values())
    return False


def _unmatched(cases: Sequence[Case], what: Extra, place: Path) -> list[str]:
    """A remark on cases without a file, which are scored without it (a mask is necessary);
    InputError if no case has one."""
    without = [case.name for case in cases if getattr(case, what) is None]
    if what == "mask" or not without:
        return []
    noun = {"lesions": "lesion mask", "source": "source", "uncertainty": "uncertainty map"}[what]
    if len(without) == len(cases):
        raise InputError(
            f"contains no {noun} that matches a case",
            path=place,
            remedy="Use equal file names, BIDS names, or one file.",
        )
    return [f"No {noun} matches {some_files(without)}."]


def _what_to_score(
    matched: MatchedCases, directions: Sequence[Direction]
) -> tuple[Mode, list[Case], list[tuple[str, str]]]:
    if not directions:
        return "files", matched.cases, matched.left_out
    if not matched.cases:
        return "unpaired", matched.singles, matched.left_out
    singles = [
        (path.name, f"its subject has no other contrast than {contrast}")
        for case in matched.singles
        for contrast, path in case.images.items()
    ]
    return "pairs", matched.cases, matched.left_out + singles


def _local(path: Any, workers: Workers) -> Any:
    """A path as this process and the workers see it; None, or several paths, too."""
    local = reachable(localise(path), workers)
    return Path(local) if isinstance(local, str) else local


def _unreadable_folders(roots: Sequence[Any]) -> _Failures:
    return [
        (root.name if path == root else str(path.relative_to(root)), reason)
        for root in roots
        if isinstance(root, Path)
        for path, reason in unreadable_folders(root, NOT_RAW)
    ]


def _score(
    jobs: Sequence[Job],
    mode: Mode,
    masked: bool,
    out: Path | None,
    workers: Workers,
    scored: list[Scored],
    failures: _Failures,
) -> None:
    """Score cases into `scored`; cases that fail go into `failures`."""

    def successes(
        function: Callable[[Job], _Result], jobs: Sequence[Job], label: str
    ) -> Iterator[tuple[Job, _Result]]:
        for job, result in map_scans(function, jobs, workers=workers, label=label):
            if isinstance(result, MrbridgeError):
                failures.append(_failure(job, result))
            else:
                yield job, result

    if masked:
        without = [job.case.name for job in jobs if job.case.mask is None]
        failures += [(name, "no mask matches its name") for name in without]
        jobs = [job for job in jobs if job.case.mask is not None]
    if mode != "unpaired":
        read = list(successes(sample_case, jobs, "Reading pairs"))
        jobs = [replace(job, registration=registration) for job, (registration, _) in read]
        if mode == "pairs" or any(job.case.source is not None for job in jobs):
            samples = [of_case for _, (_, of_case) in read]
            baselines = fit_baselines([job.case for job in jobs], samples)
            jobs = [
                replace(job, baselines=of_case, baseline_on=on) if of_case else job
                for job, (of_case, on) in zip(jobs, baselines, strict=True)
            ]
    if out is not None:
        jobs = with_figures(jobs, out / "figures")
        check_figures(jobs, out)
    embeds = out is not None and bool(jobs) and jobs[0].settings.shown_cases > 0
    in_first_pass = embeds and len(jobs) <= _EMBEDDED
    for job, results in successes(
        score_case, [replace(job, embeds=in_first_pass) for job in jobs], "Scoring"
    ):
        scored.append(Scored(job.case, results, job.baseline_on, job.registration))
    if embeds and not in_first_pass:
        # The images of all cases would take too much memory: those that are shown are made again.
        wanted = {one.case.name for _, _, one in worst_and_median(scored)}
        again = [replace(job, embeds=True, figures=None) for job in jobs if job.case.name in wanted]
        for job, results in successes(score_case, again, "Preparing images"):
            number = next(k for k, one in enumerate(scored) if one.case.name == job.case.name)
            seen = {
                key: replace(one, embedded=results[key].embedded)
                for key, one in scored[number].results.items()
            }
            scored[number] = replace(scored[number], results=seen)


def _failure(job: Job, error: MrbridgeError) -> tuple[str, str]:
    """Case and reason, without the folder, which may hold a name that a report must not show.

    Raises:
        OutputError: the output cannot be written, so all other cases would fail too.
    """
    if isinstance(error, OutputError):
        raise error
    if error.path is not None and not_fetched(error.path) is not None:
        log.error("%s", error)  # with the command that fetches it
    return job.case.name, f"{error.path.name} {error.what}" if error.path else error.what
