"""The verbs demo, phantom, prepare and inspect."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrbridge.console import answer, as_far_as_done
from mrbridge.errors import (
    must_be_new,
    must_exist,
)
from mrbridge.options import (
    Dask,
    Force,
    OverwriteAll,
    OverwritePhantom,
    OverwriteStore,
    OverwriteTable,
    Workers,
    verb,
    who_works,
)
from mrbridge.place_options import place_argument, place_option
from mrbridge.quick_imports import quick_imports

if TYPE_CHECKING:
    from mrbridge.dataset.settings import PrepareSettings
    from mrbridge.phantom.settings import PhantomSettings

_MOST_REASONS = 10  # shown on the terminal; the store has all


@verb()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="A new folder.")],
    minutes: Annotated[float, typer.Option(min=0.2, help="How long all of it may take.")] = 5,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Another seed, other subjects.")
    ] = 0,
    overwrite: OverwriteAll = False,
) -> None:
    """Run the whole chain on simulated subjects.

    It simulates, prepares, trains, translates and evaluates.
    """
    if not overwrite:
        must_be_new(out)
    with quick_imports():
        from mrbridge.demo import run_demo
        from mrbridge.hardware import keep_memory

    keep_memory()
    summary = run_demo(out, minutes=minutes, seed=seed, overwrite=overwrite)
    answer(summary, f"{summary['note']}\nThe report: {out / 'report.html'}")


@verb("mrbridge.phantom.settings.PhantomSettings", "subjects", "seed", "labels", "pathology")
def phantom(
    out: Annotated[Path, typer.Option("-o", "--out", help="The BIDS dataset to write.")],
    settings: PhantomSettings,
    workers: Workers = 1,
    overwrite: OverwritePhantom = False,
) -> None:
    """Simulate T1w and T2w scans in register, as a BIDS dataset."""
    with quick_imports():
        from mrbridge.phantom import write_bids

    path = write_bids(out, settings, workers=workers, overwrite=overwrite)
    answer(
        {"path": str(path), "subjects": settings.subjects},
        f"{settings.subjects} subjects in {path}",
    )


@verb(
    "mrbridge.dataset.settings.PrepareSettings",
    *("source", "target", "registration", "standard.brain", "standard.brain_mask"),
    *("standard.align", "standard.denoise", "standard.bias", "standard.intensity.method", "slices"),
)
def prepare(
    source_paths: Annotated[
        list[Path],
        place_argument(
            "SRC…",
            help="A BIDS dataset; a folder with a folder for each contrast; two folders, source "
            "contrast first; a folder or zip of DICOM files; or a CSV table (subject, session, "
            "contrast, path). Any by path or URL, such as s3://bucket/bids.",
        ),
    ],
    out: Annotated[Path, place_option("-o", "--out", help="The prepared dataset.")],
    settings: PrepareSettings,
    force: Force = False,
    overwrite: OverwriteStore = False,
    workers: Workers = 1,
    dask: Dask = None,
) -> None:
    """Prepare scans for training.

    A second run prepares only what changed.

    Subjects are held out whole. With too few of them, each series of 8 or more slices gives up a
    block for validation; up to 3 slices on either side of it, at most a fifth of the series in all,
    are in no split (--set gap=0: none are).
    """
    for path in source_paths:
        must_exist(path)
    crew = who_works(workers, dask)
    with quick_imports():
        from mrbridge.dataset.prepare import prepare as run
        from mrbridge.dataset.store import splits_in_words

    paths = source_paths[0] if len(source_paths) == 1 else source_paths
    store, failure = as_far_as_done(
        lambda: run(paths, out, settings, workers=crew, overwrite=overwrite, force=force)
    )
    manifest = store.manifest
    result: dict[str, Any] = {
        "path": str(store.path),
        "ignored": len(manifest.ignored),
        "ignored_because": Counter(remark.reason for remark in manifest.ignored),
        "failed": {remark.name: remark.reason for remark in manifest.failures},
    }
    result |= store.split_counts()
    result["subjects"] = store.counts()
    words = splits_in_words(store.split_counts())
    words += f"; {_spread_of(result['subjects'])}"
    words += f"; {result['ignored']} file{'' if result['ignored'] == 1 else 's'} ignored"
    reasons = result["ignored_because"].most_common(_MOST_REASONS)
    because = "".join(f"\n{count} ignored: {reason}" for reason, count in reasons)
    answer(result, f"{store.path}: {words}{because}")
    if failure:
        raise failure


def _spread_of(counts: dict[str, dict[str, int]]) -> str:
    """How many slices subjects have, in words."""
    if counts.keys() == {"unknown"}:
        return "no subjects known"
    sums = sorted(sum(of_one.values()) for of_one in counts.values())
    several = f"{sums[0]} to {sums[-1]}" if sums[0] < sums[-1] else str(sums[0])
    return f"{len(sums)} subject{'s' if len(sums) > 1 else ''} of {several} slices"


@verb()
def inspect(
    path: Annotated[
        Path,
        place_argument(
            "SRC|STORE",
            help="A BIDS dataset, a folder of NIfTI files or 2D images, a table, a folder or zip "
            "of DICOM files, one scan, or a prepared store.",
        ),
    ],
    out: Annotated[
        Path | None,
        place_option(
            "-o",
            "--out",
            help="Also look at the images, and write this page (.html).",
        ),
    ] = None,
    fix: Annotated[
        Path | None,
        place_option(
            help="Also look at the images, and write a table (.csv) for prepare that leaves out "
            "exact copies and what cannot be read. The source is not changed.",
        ),
    ] = None,
    overwrite: OverwriteTable = False,
    workers: Workers = 1,
    dask: Dask = None,
) -> None:
    """List scans from their headers, or check a dataset.

    With -o or --fix the images are read and checked, too.
    """
    must_exist(path)
    crew = who_works(workers, dask)
    with quick_imports():
        from mrbridge.inspection.inspect import inspect as run

    result = run(path, out, fix, crew, overwrite=overwrite)
    answer(result.as_json(), str(result))
