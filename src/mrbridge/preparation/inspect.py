"""What lies in a folder, table or store: series or files, contrasts, sizes, spacings, faults.

Of volumes only headers are read; `mrbridge.inspection` looks at the images.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrbridge.errors import InputError, must_exist
from mrbridge.io import is_dicom, is_readable, nifti, picture
from mrbridge.io.bids import find_all_scans, is_bids
from mrbridge.io.contrast import of_path
from mrbridge.io.formats import is_picture, walk
from mrbridge.io.names import natural_key
from mrbridge.io.places import here
from mrbridge.io.scans import why_left_out
from mrbridge.io.transfer import fetch
from mrbridge.urls import shown

if TYPE_CHECKING:
    from mrbridge.io.dicom import Series

_UNLIMITED = 10_000  # characters in a line
_ROWS = 100  # of the table in words


@dataclass(frozen=True)
class Item:
    """A series or a file.

    Attributes:
        name: what `--series` calls the series, or the file below the folder.
        uid: of the series; None for a file.
        description: what the scanner called it.
        kind: what it is, such as `anatomical` or `localiser`.
        contrast, reason: the guess, and why.
        shape: of the image (i, j, k); None where it has none.
        spacing_mm: along i, j, k.
        gaps: slices that are missing.
        problem: why it cannot be used as it is; None if it can.
        notes: what was assumed or left out of it, in words.
    """

    name: str
    uid: str | None
    description: str
    kind: str
    contrast: str | None
    reason: str
    shape: tuple[int, ...] | None
    spacing_mm: tuple[float, ...] | None
    gaps: int
    problem: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """What there is.

    Attributes:
        path: what was looked at.
        form: `dicom`, `files`, `table` or `store`.
        items: in the order of their numbers or names.
        ignored: other files, each with the reason.
        splits: of a store, the slices of each contrast in each split and in none.
    """

    path: Path
    form: str
    items: list[Item]
    ignored: list[tuple[str, str]]
    splits: dict[str, dict[str, int]] | None = None

    def told(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "path": shown(self.path),
            "form": self.form,
            "items": [asdict(item) for item in self.items],
            "ignored": told_of_ignored(self.form, self.ignored),
        } | ({} if self.splits is None else {"splits": self.splits})

    def words(self) -> str:
        """A table, then what is wrong, then what was ignored."""
        usable = sum(item.problem is None for item in self.items)
        noun = {"dicom": "series", "store": "scans"}.get(self.form, "files")
        lines = [
            _table(self),
            f"{usable} of {len(self.items)} {noun} can be used as they are",
        ]
        counts = Counter(item.contrast or "of no known contrast" for item in self.items)
        told = ", ".join(f"{count} {contrast}" for contrast, count in sorted(counts.items()))
        lines[-1] += f": {told}" if self.form != "dicom" else ""
        for item in self.items:
            if item.contrast and self.form == "dicom":
                lines.append(f"  {item.name}: {item.contrast}, {item.reason}")
            lines += [f"  {item.name}: {told}" for told in (*item.notes, item.problem) if told]
        if self.splits is not None:
            from mrbridge.preparation.store import splits_in_words

            lines.append(f"Splits: {splits_in_words(self.splits)}")
        reasons = Counter(reason for _, reason in self.ignored)
        for reason, count in reasons.most_common():
            lines.append(f"left out ({reason}): {count} file{'s' if count > 1 else ''}")
        return "\n".join(lines)


def told_of_ignored(form: str, ignored: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Files that are left out, for JSON, which is kept.

    Those of DICOM are counted by reason: scanners and archives call files after the patient.
    """
    if form != "dicom":
        return [{"file": name, "reason": reason} for name, reason in ignored]
    counts = Counter(reason for _, reason in ignored)
    return [{"files": count, "reason": reason} for reason, count in counts.items()]


def inspect(path: str | Path) -> Inspection:
    """Look at a folder, a zip, a table, a store or a file.

    Raises:
        InputError: there is nothing to look at.
        StoreError: a store is damaged.
    """
    path = Path(here(path))
    must_exist(path)
    if _is_store(path):
        found = _store(path)
    elif path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        found = _of_scans(path, "table", path.parent)
    elif path.is_dir() and not is_dicom(path) and is_bids(path):
        found = _of_scans(path, "files", path)
    else:
        found = _dicom(path) if is_dicom(path) else _files(path)
    if not found.items:
        raise InputError(
            f"holds no scan{why_left_out(found.ignored)}",
            path=path,
            remedy="Name a folder or file of scans.",
        )
    return found


def _is_store(path: Path) -> bool:
    if not (path / "manifest.json").is_file():
        return False
    from mrbridge.preparation.store import is_store

    return is_store(path)


def _store(path: Path) -> Inspection:
    from mrbridge.preparation.store import Store

    store = Store.open(path)
    manifest = store.manifest
    items = [
        Item(
            name=record.id,
            uid=None,
            description="",
            kind="picture" if record.is_picture else "volume",
            contrast=record.contrast,
            reason="as it was prepared",
            shape=(*record.shape[1:], record.shape[0]),
            spacing_mm=record.spacing_mm and (*record.spacing_mm[1:], record.spacing_mm[0]),
            gaps=0,
            problem=None,
        )
        for record in manifest.records
    ]
    left = [*manifest.failures, *manifest.ignored]
    ignored = [(remark.name, remark.reason) for remark in left]
    return Inspection(path, "store", items, ignored, store.split_counts())


def _of_scans(path: Path, form: str, root: Path) -> Inspection:
    """Scans that a table or a BIDS data set tells of."""
    found = find_all_scans(path)
    reason = "by the table" if form == "table" else "by its name"
    items = [
        replace(_file_item(scan.path, root), contrast=scan.contrast, reason=reason)
        for scan in found.scans
    ]
    return Inspection(path, form, items, [(_below(f, root), r) for f, r in found.ignored])


def _dicom(path: Path) -> Inspection:
    from mrbridge.io.dicom import find_series

    listing = find_series(path)
    ignored = [(_below(file, path), reason) for file, reason in listing.ignored]
    ignored += [(_below(error.path or path, path), error.what) for error in listing.damaged]
    items = [_series_item(one) for one in listing.series]
    if listing.damaged:
        told = "a file beside it is damaged, and may be a slice of it. Get it again, or remove it."
        items = [
            replace(item, problem=told) if series.is_image else item
            for item, series in zip(items, listing.series, strict=True)
        ]
    return Inspection(path, "dicom", items, ignored)


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
        reason=series.contrast_reason,
        shape=shape,
        spacing_mm=spacing,
        gaps=series.gaps,
        problem=series.why_not,
        notes=(series.detail, *series.notes) if series.detail else series.notes,
    )


def _files(path: Path) -> Inspection:
    items, ignored = [], []
    for file in sorted(walk(path, links=True) if path.is_dir() else [path], key=natural_key):
        if is_readable(file):
            items.append(_file_item(file, path))
        else:
            ignored.append((_below(file, path), "is not a scan in a known format"))
    return Inspection(path, "files", items, ignored)


def _file_item(file: Path, root: Path) -> Item:
    shape: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None
    problem = None
    try:
        fetch(file)
        if is_picture(file):
            shape = picture.read_shape(file)
        else:
            shape, steps = nifti.read_header(file)
            spacing = tuple(round(step, 4) for step in steps)
    except InputError as error:
        problem = str(InputError(error.what, remedy=error.remedy))
    except OSError:
        problem = "cannot be read"
    if shape is not None and len(shape) > 3:
        problem = f"holds {shape[3]} volumes; --volume chooses one"
    below = file.relative_to(root) if file.is_relative_to(root) else file.name
    folder = root if file != root else root.parent
    identity = of_path(Path(folder.resolve().name, below if file != root else file.name))
    if problem is None and identity.is_other:
        problem = f"{identity.reason}; --force takes it all the same"
    kind = identity.kind or ("picture" if is_picture(file) else "volume")
    return Item(
        name=_below(file, root),
        uid=None,
        description="",
        kind=kind,
        contrast=identity.contrast,
        reason=identity.reason,
        shape=shape,
        spacing_mm=spacing,
        gaps=0,
        problem=problem,
    )


def _below(file: Path, root: Path) -> str:
    if file == root:
        return file.name
    return str(file.relative_to(root)) if file.is_relative_to(root) else shown(file)


def _table(found: Inspection) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if found.form == "dicom":
        table = Table("series", "description", "contrast", "size", "slices", "mm", "gaps", "usable")
    else:
        table = Table("file", "contrast", "size", "slices", "mm", "usable")
    for item in found.items[:_ROWS]:
        # What strangers wrote is no markup.
        table.add_row(*[Text(cell) for cell in _cells(item, found.form)])
    page = StringIO()
    # In a file or a pipe nothing is cut off: whoever reads it there may search for it.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNLIMITED
    Console(file=page, width=width).print(table)
    more = len(found.items) - _ROWS
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
