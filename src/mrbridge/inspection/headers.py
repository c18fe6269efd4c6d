"""The scans of a folder, file, table or store, from their headers only."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from mrbridge.errors import InputError
from mrbridge.io import image2d, is_dicom, is_readable, nifti
from mrbridge.io.bids import find_all_scans, is_bids
from mrbridge.io.contrast import of_path
from mrbridge.io.formats import is_2d, walk
from mrbridge.io.names import natural_key
from mrbridge.io.remote import fetch
from mrbridge.text import shown

if TYPE_CHECKING:
    from mrbridge.io.dicom import Series

_PIPE_WIDTH = 10_000  # characters in a line
_ROWS = 100  # of the printed table


@dataclass(frozen=True)
class Item:
    """A series or a file, from its header.

    Attributes:
        name: the value of `--series` for a series, the path below the folder for a file.
        kind: such as `anatomical` or `localizer`.
        contrast, reason: a BIDS suffix, and what it was derived from.
        shape: of the image (i, j, k); None if not known.
        spacing_mm: along i, j, k.
        uid, description: of the series, from the scanner.
        problem: why it cannot be used as it is; None if it can.
        notes: what was assumed or left out.
    """

    name: str
    kind: str
    contrast: str | None
    reason: str
    shape: tuple[int, ...] | None
    spacing_mm: tuple[float, ...] | None
    uid: str | None = None
    description: str = ""
    gaps: int = 0
    problem: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """The scans of a dataset, and other files, each with the reason why it is ignored.

    Attributes:
        form: `dicom`, `files`, `table` or `store`.
        splits: of a store, the slices of each contrast in each split and in none.
    """

    form: str
    items: list[Item]
    ignored: list[tuple[str, str]]
    splits: dict[str, dict[str, int]] | None = None


def list_headers(path: Path) -> Listing:
    """Read the headers of all scans; of volumes nothing but the header.

    Raises:
        InputError: the path cannot be read.
        StoreError: a store is damaged.
    """
    if holds_store(path):
        return _store(path)
    if path.suffix.lower() in (".csv", ".tsv") and path.is_file():
        return _scans(path, "table", path.parent)
    if is_dicom(path):
        return _dicom(path)
    return _scans(path, "files", path) if path.is_dir() and is_bids(path) else _files(path)


def holds_store(path: Path) -> bool:
    """Whether a folder is a prepared store."""
    if not (path / "manifest.json").is_file():
        return False
    from mrbridge.dataset.store import is_store

    return is_store(path)


def below(file: Path, root: Path) -> str:
    """The name of a file in reports: its path below the folder, if it is there."""
    if file == root:
        return file.name
    return str(file.relative_to(root)) if file.is_relative_to(root) else shown(file)


def _store(path: Path) -> Listing:
    from mrbridge.dataset.store import Store

    store = Store.open(path)
    items = [
        Item(
            name=record.id,
            kind="picture" if record.is_2d else "volume",
            contrast=record.contrast,
            reason="as it was prepared",
            shape=(*record.shape[1:], record.shape[0]),
            spacing_mm=record.spacing_mm and (*record.spacing_mm[1:], record.spacing_mm[0]),
        )
        for record in store.manifest.records
    ]
    left_out = [*store.manifest.failures, *store.manifest.ignored]
    ignored = [(remark.name, remark.reason) for remark in left_out]
    return Listing("store", items, ignored, store.split_counts())


def _scans(path: Path, form: str, root: Path) -> Listing:
    """The scans that a table or a BIDS dataset names."""
    found = find_all_scans(path)
    reason = "by the table" if form == "table" else "by its name"
    items = [
        replace(_file_item(scan.path, root), contrast=scan.contrast, reason=reason)
        for scan in found.scans
    ]
    return Listing(form, items, [(below(file, root), why) for file, why in found.ignored])


def _dicom(path: Path) -> Listing:
    from mrbridge.io.dicom import find_series

    listing = find_series(path)
    ignored = [(below(file, path), reason) for file, reason in listing.ignored]
    ignored += [(below(error.path or path, path), error.what) for error in listing.damaged]
    items = [_series_item(one) for one in listing.series]
    if listing.damaged:
        problem = (
            "another file of the folder is damaged, and may be a slice of it. "
            "Download or export it again, or remove it."
        )
        items = [
            replace(item, problem=problem) if series.is_image else item
            for item, series in zip(items, listing.series, strict=True)
        ]
    return Listing("dicom", items, ignored)


def _series_item(series: Series) -> Item:
    first, geometry = series.slices[0], series.geometry
    shape = spacing = None
    if geometry is not None:
        columns, rows = int(first.number("Columns") or 0), int(first.number("Rows") or 0)
        shape = columns, rows, len(geometry.order) - series.gaps
        spacing = tuple(round(step, 4) for step in geometry.spacing)
    return Item(
        name=series.label,
        uid=series.uid,
        description=series.description,
        kind=series.kind,
        contrast=series.contrast,
        reason=series.identity.reason,
        shape=shape,
        spacing_mm=spacing,
        gaps=series.gaps,
        problem=series.why_not,
        notes=(series.detail, *series.notes) if series.detail else series.notes,
    )


def _files(path: Path) -> Listing:
    items, ignored = [], []
    for file in sorted(walk(path) if path.is_dir() else [path], key=natural_key):
        if is_readable(file):
            items.append(_file_item(file, path))
        else:
            ignored.append((below(file, path), "is not a scan in a known format"))
    return Listing("files", items, ignored)


def _file_item(file: Path, root: Path) -> Item:
    shape: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None
    problem: str | None = None
    other: str | None = None
    try:
        fetch(file)
        if is_2d(file):
            volume = image2d.read(file)
            shape, synthetic = volume.voxels.shape, volume.synthetic
        else:
            shape, steps, synthetic, other = nifti.read_header(file)
            spacing = tuple(round(step, 4) for step in steps)
    except InputError as error:
        problem = str(InputError(error.what, remedy=error.remedy))
    except OSError:
        problem = "cannot be read"
    else:
        why = "is synthetic" if synthetic else other
        problem = f"{why}; use --force to take it anyway" if why else None
    if shape is not None and len(shape) > 3:
        problem = other or f"holds {shape[3]} volumes; --volume chooses one"
    folder = root.parent if file == root else root
    relative = file.relative_to(folder) if file.is_relative_to(folder) else file.name
    identity = of_path(Path(folder.resolve().name, relative))  # the folder may name the contrast
    if problem is None and identity.objection:
        problem = f"{identity.objection}; use --force to take it anyway"
    kind = identity.kind or ("picture" if is_2d(file) else "volume")
    return Item(
        name=below(file, root),
        kind=kind,
        contrast=identity.contrast,
        reason=identity.reason,
        shape=shape,
        spacing_mm=spacing,
        problem=problem,
    )


def table_of(items: Sequence[Item], form: str) -> str:
    """The items as a table for the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if form == "dicom":
        table = Table("series", "description", "contrast", "size", "slices", "mm", "gaps", "usable")
    else:
        table = Table("file", "contrast", "size", "slices", "mm", "usable")
    for item in items[:_ROWS]:
        # Names and descriptions are not markup.
        table.add_row(*[Text(cell) for cell in _cells(item, form)])
    page = StringIO()
    # Nothing is truncated in a file or a pipe, so that its content can be searched.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_WIDTH
    Console(file=page, width=width).print(table)
    more = len(items) - _ROWS
    return page.getvalue().rstrip() + (f"\nand {more} more; --json lists all" if more > 0 else "")


def _cells(item: Item, form: str) -> Iterator[str]:
    yield item.name
    if form == "dicom":
        yield item.description
    yield item.contrast or ("-" if item.kind in ("anatomical", "volume", "picture") else item.kind)
    yield "-" if item.shape is None else " x ".join(map(str, item.shape[:2]))
    yield "-" if item.shape is None else str(item.shape[2] if len(item.shape) > 2 else 1)
    yield "-" if item.spacing_mm is None else " x ".join(f"{mm:.3g}" for mm in item.spacing_mm)
    if form == "dicom":
        yield str(item.gaps) if item.shape else "-"
    problem = item.problem or ""
    yield "with --allow-gaps" if "--allow-gaps" in problem else "no" if problem else "yes"
