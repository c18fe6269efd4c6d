"""A BIDS data set in, its derivatives out: scan by scan, what is done already stays unchanged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mrbridge import __version__
from mrbridge.bundle import Bundle
from mrbridge.errors import InputError, Interrupted, MrbridgeError, OutputError
from mrbridge.inference.derivatives import (
    ELSEWHERE,
    REPORT,
    check_place,
    describe,
    difference,
    fingerprint,
    uri,
    with_fingerprint,
)
from mrbridge.inference.integers import Rounding
from mrbridge.inference.outputs import write_synthesis
from mrbridge.inference.source_facts import skull_stripped, still_true
from mrbridge.inference.synthesis import Synthesis, provenance, sidecar_path
from mrbridge.io.bids import NOT_RAW, find_scans
from mrbridge.io.bids_metadata import read_metadata
from mrbridge.io.bids_name import derivative_name, parse_name
from mrbridge.io.bids_selection import Selection
from mrbridge.io.formats import unreadable_folders
from mrbridge.io.ownership import must_be_ours
from mrbridge.io.safety import sweep, write_json, write_text
from mrbridge.io.scans import FoundScans, Scan, log_left_out, outside, prefer_raw, why_left_out
from mrbridge.io.transfer import fetch, release_when_done
from mrbridge.json_text import parse_json
from mrbridge.progress import track
from mrbridge.scale import Workers, map_scans

log = logging.getLogger(__name__)

Maker = Callable[[Path, bool], Synthesis]
"""Reads and translates a scan, of which a sidecar may say that it is synthetic."""

TABLE = Path("logs", "group.tsv")
"""Where the state of every scan is written."""

SLOW_IMPORTS = ("mrbridge.inference.engine", "mrbridge.inference.engines.torch_engine")


@dataclass(frozen=True)
class Plan:
    """What is to be done with a data set.

    Attributes:
        root: the BIDS data set.
        out: the data set of derivatives.
        bundle: the model.
        to: the contrast to make; None makes the model's target.
        selection: which scans.
        options: what besides scan and model decides over a result, for its fingerprint.
        force: also what its name says to be something else.
    """

    root: Path
    out: Path
    bundle: Bundle
    to: str | None
    selection: Selection = field(default_factory=Selection)
    options: dict[str, Any] = field(default_factory=dict)
    force: bool = False

    @property
    def contrasts(self) -> tuple[str, str]:
        """What is taken and what is made."""
        source, target = self.bundle.source, self.bundle.target
        return (source, target) if self.to in (None, target) else (target, source)


@dataclass(frozen=True)
class Outcome:
    """What became of one scan.

    Attributes:
        source: the scan.
        output: its synthesis; None if it failed.
        contrast: what was to be made.
        skipped: whether it was there already.
        error: why it failed.
        made_of: what the synthesis follows from.
        rounding: what became of its intensities, where it was made now and of integers.
        notes: what reading mended or assumed, where it was read now.
    """

    source: Path
    output: Path | None
    contrast: str
    skipped: bool = False
    error: str | None = None
    made_of: dict[str, Any] = field(default_factory=dict)
    rounding: Rounding | None = None
    notes: tuple[str, ...] = ()


def translate_data_set(
    plan: Plan, make: Maker, *, overwrite: bool = False, workers: Workers = 1
) -> list[Outcome]:
    """Translate the scans of a data set; what fails does not stop the others.

    Args:
        plan: what is to be done.
        make: reads and translates one scan; picklable where others work.
        overwrite: make again what mrbridge made there, too.
        workers: who does the work, see `mrbridge.scale.map_scans`.

    Raises:
        InputError: there is nothing to translate.
        OutputError: the derivatives cannot be written there.
    """
    check_place(plan.root, plan.out)
    found = _find(plan)
    log_left_out(found.ignored, plan.root)
    describe(plan.root, plan.out)
    done = [
        Outcome(path, None, plan.contrasts[1], error=reason)
        for path, reason in unreadable_folders(plan.root, NOT_RAW)
    ]
    taken: set[Path] = set()
    items: list[tuple[Scan, bool]] = []
    for scan in found.scans:
        sidecar = sidecar_path(_output(plan, scan))
        items.append((scan, sidecar in taken))
        taken.add(sidecar)
    function = partial(_translate, plan, make, overwrite)
    outcomes = map_scans(function, items, workers=workers, label="translate", imports=SLOW_IMPORTS)
    interrupted = False
    try:
        for (scan, _), result in release_when_done(outcomes, items, partial(_touched, plan)):
            if isinstance(result, MrbridgeError):
                result.path = result.path or scan.path
                log.error("%s", result)
                result = Outcome(scan.path, None, plan.contrasts[1], error=result.what)
            done.append(result)
    except KeyboardInterrupt:
        interrupted = True
    sweep(plan.out / REPORT.parent)
    report = _report(plan, done, found)
    write_json(plan.out / REPORT, report | ({"interrupted": True} if interrupted else {}))
    if interrupted:
        raise Interrupted(
            f"interrupted after {len(done)} of {len(items)} scans",
            path=plan.out / REPORT,
            remedy="Run it again: it goes on from here.",
            result=done,
        )
    return done


def check_data_set(plan: Plan) -> list[tuple[Scan, str]]:
    """Look whether every scan has its synthesis, and write a table of it.

    Returns:
        Every scan and its state: `done`, `missing`, or how its synthesis differs from the one that
        would be made now.

    Raises:
        InputError: there is nothing to translate.
        OutputError: the table cannot be written.
    """
    check_place(plan.root, plan.out)
    must_be_ours(plan.out / TABLE)
    found = _find(plan)
    states: list[tuple[Scan, str]] = []
    rows = ["participant_id\tsession_id\tsource\toutput\tstate"]
    for scan in track(found.scans, "check", len(found.scans)):
        output = _output(plan, scan)
        try:
            other = difference(output, fingerprint(scan.path, plan.bundle.hash, plan.options))
        except InputError as error:
            other = error.what
        state = "missing" if other is None else other or "done"
        states.append((scan, state))
        cells = (
            f"sub-{scan.subject}",
            f"ses-{scan.session}" if scan.session else "n/a",
            scan.path.relative_to(plan.root).as_posix(),
            output.relative_to(plan.out).as_posix(),
            state,
        )
        rows.append("\t".join(cells))
    write_text(plan.out / TABLE, "\n".join(rows) + "\n")
    return states


def _find(plan: Plan) -> FoundScans:
    """The scans to translate, and what is left out.

    Raises:
        InputError: there are none.
    """
    taken, made = plan.contrasts
    everything = find_scans(
        plan.root,
        taken,
        made,
        datatypes=plan.selection.datatypes(taken),
        raw_first=False,
        force=plan.force,
    )
    found = FoundScans(
        [scan for scan in everything.scans if scan.contrast == taken],
        everything.ignored
        + [
            (scan.path, f"is {scan.contrast}, not {taken}")
            for scan in everything.scans
            if scan.contrast != taken
        ],
    )
    if not found.scans:
        others = len(everything.scans)
        remedy = f"To make {taken} from its {others} {made} scans, say --to {taken}."
        raise InputError(
            f"holds no {taken} scan to make {made} from{why_left_out(everything.ignored)}",
            path=plan.root,
            remedy=remedy if others else "Name a BIDS data set with scans of this contrast.",
        )
    chosen = plan.selection.apply(found, plan.root)
    if not chosen.scans:
        raise InputError(
            f"has no {taken} scan that fits what was asked for ({len(found.scans)} do not)",
            path=plan.root,
            remedy="Look at the participants, the sessions and the filter file.",
        )
    _warn_of_gaps(plan, chosen)
    return outside(prefer_raw(chosen), plan.out)


def _warn_of_gaps(plan: Plan, chosen: FoundScans) -> None:
    taken = plan.contrasts[0]
    having = {scan.subject for scan in chosen.scans}
    for label in plan.selection.participants:
        if label not in having:
            log.warning("sub-%s: has no %s scan that fits what was asked for", label, taken)
    if plan.selection.origin is not None and taken not in plan.selection.queries:
        log.warning(
            "%s: has no query '%s', so it leaves out nothing", plan.selection.origin, taken.lower()
        )


def _output(plan: Plan, scan: Scan) -> Path:
    name = parse_name(scan.path)
    assert name is not None  # the finder takes no other names
    folder = plan.out / scan.path.relative_to(plan.root).parent
    return folder / derivative_name(name, plan.contrasts[1])


def _touched(plan: Plan, item: tuple[Scan, bool]) -> list[Path]:
    return [item[0].path, _output(plan, item[0])]


def _translate(plan: Plan, make: Maker, overwrite: bool, item: tuple[Scan, bool]) -> Outcome:
    """Translate a scan, unless it is done, or its place is taken by another one."""
    scan, is_taken = item
    output = _output(plan, scan)
    sweep(output.parent)
    if is_taken:
        raise OutputError(f"{output.name} is made of another scan already", path=scan.path)
    made_of = fingerprint(scan.path, plan.bundle.hash, plan.options)
    other = difference(output, made_of)
    metadata = read_metadata(scan.path, plan.root)
    facts = still_true(metadata)
    if plan.bundle.manifest.standard.brain != "none":
        facts["SkullStripped"] = True  # whatever the source is
    if other == "" and not overwrite:
        _refresh(sidecar_path(output), facts)
        return Outcome(scan.path, output, plan.contrasts[1], skipped=True, made_of=made_of)
    if other == ELSEWHERE:
        raise OutputError(
            f"is there already, {other}", path=output, remedy="Move it away, or name another place."
        )
    if other and not overwrite:
        raise OutputError(
            f"is there already, {other}", path=output, remedy="Replace it with --overwrite."
        )
    must_be_ours(sidecar_path(output))
    synthesis = make(scan.path, metadata.get("SyntheticData") is True)
    told = provenance(plan.bundle, synthesis, uri(scan.path, plan.root))
    told |= facts
    if "SkullStripped" not in told and (measured := skull_stripped(synthesis.source)) is not None:
        told["SkullStripped"] = measured
    if "SkullStripped" not in told:
        log.warning(
            "%s: nothing tells whether the skull was removed, which the standard wants to be "
            'told. State it, as in T1w.json: {"SkullStripped": true}, and run this again',
            scan.name,
        )
    write_synthesis(synthesis, output, lambda: with_fingerprint(told, made_of, output))
    return Outcome(
        scan.path,
        output,
        synthesis.contrast,
        made_of=made_of,
        rounding=synthesis.rounding,
        notes=synthesis.source.notes,
    )


def _refresh(sidecar: Path, facts: dict[str, Any]) -> None:
    """Let a sidecar say what its source's say by now."""
    fetch(sidecar)
    told = parse_json(sidecar.read_text(encoding="utf-8"), _null)
    if {**told, **facts} != told:
        write_json(sidecar, {**told, **facts})


def _report(plan: Plan, done: list[Outcome], found: FoundScans) -> dict[str, Any]:
    """This run's outcomes, beside those of scans that earlier runs took."""
    rows: dict[str, list[dict[str, Any]]] = {"done": [], "skipped": [], "failed": []}
    for item in done:
        row: dict[str, Any] = {"source": item.source.relative_to(plan.root).as_posix()}
        if item.output is None:
            rows["failed"].append(row | {"contrast": item.contrast, "error": item.error})
            continue
        row["source_sha256"] = item.made_of["Source"]
        row["output"] = item.output.relative_to(plan.out).as_posix()
        row["contrast"] = item.contrast
        row["model"] = item.made_of["Model"]
        if item.notes:
            row["notes"] = list(item.notes)
        if item.rounding is not None:
            row["rounding"] = item.rounding.told()
        rows["skipped" if item.skipped else "done"].append(row)
    seen = {row["source"] for part in rows.values() for row in part}
    earlier = _earlier(plan.out / REPORT)
    return {
        "synthetic": True,
        "note": "Synthetic images, for research, not for diagnosis.",
        "created_by": f"mrbridge {__version__}",
        "model": plan.bundle.hash,
        **{
            key: [row for row in earlier.get(key, []) if row.get("source") not in seen] + part
            for key, part in rows.items()
        },
        "ignored": [
            {"source": path.relative_to(plan.root).as_posix(), "reason": reason}
            for path, reason in found.ignored
        ],
    }


def _null(constant: str) -> None:
    """What becomes of NaN, which JSON does not have."""


def _earlier(report: Path) -> dict[str, list[dict[str, Any]]]:
    """What an earlier run reported; nothing where it cannot be read."""
    fetch(report)
    try:
        told = parse_json(report.read_text(encoding="utf-8"), _null)
        return {
            key: [row for row in told[key] if isinstance(row, dict)]
            for key in ("done", "skipped", "failed")
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}
