"""The prepared dataset on disk (store), and the only code that knows its format. Whatever writes
raises an OutputError if it cannot.

    STORE/manifest.json          the list of scans, readable; written last
    STORE/scans/<id>.zarr        one array per scan, float16 (slices, rows, columns) in [-1, 1],
                                 a chunk per slice, all in one file, its record in the attributes

Zarr is imported when an array is opened, so that a missing store is reported at once.
"""  # fmt: skip

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator, model_validator

from mrbridge.dataset.settings import PrepareSettings
from mrbridge.errors import StoreError, must_exist
from mrbridge.io.atomic import atomic_folder, read_json, write_json
from mrbridge.io.names import series_name
from mrbridge.io.remote import fetch, localise
from mrbridge.io.temporary import is_temporary
from mrbridge.preprocessing.intensity import IntensityNormalisation
from mrbridge.reports import counted, html_table
from mrbridge.settings import Settings

Range = tuple[int, int]
"""Half-open, of slices."""

FORMAT = "mrbridge-store"
_MAX_SIZE = 1 << 16  # slices, rows or columns of an array
_REMEDY = "Run mrbridge prepare again."


class ScanRecord(Settings):
    """One scan of a store.

    Attributes:
        id: name of the array; from subject, session, contrast and file name.
        subject, session: None if unknown.
        contrast: a BIDS suffix.
        name: the file's name.
        source_sha256: of the file's bytes.
        key: hash of the file and of the settings that shape the array: what resuming compares.
        data_sha256: of the array's bytes.
        shape: (slices, rows, columns) of the array.
        spacing_mm: between slices, rows, columns; None for 2D images.
        slice_indices: of each slice in the scan's full stack (inferior to superior).
        origin: row and column of its full slices at which the array begins, in the array's pixels.
        grid_hash: equal for scans on one grid.
        recipe: the intensity normalisation.
        affine: (4, 4), from a pixel's slice in the full stack, and its row and column in the array,
            to RAS+ mm: of the scanner, of the subject's source scan, or of the template; None for
            2D images.
        registration: to the subject's source scan: its file name and `Registration.as_json`; None
            without registration.
        alignment: with the template, of the scan or of the source scan that it was registered to:
            `Alignment.as_json`; None without alignment.
        noise: standard deviation of the noise that was removed, in the file's unit; None without
            denoising.
        brain_litres: the volume of the brain; None without skull stripping.
        skewness: of the intensities of its middle slice (`preprocessing.intensity.skewness`); None
            without a head.
        segments: split (`train`, `val`, `test`) to half-open ranges of the array's slices.
    """

    id: str
    subject: str | None
    session: str | None
    contrast: str
    name: str
    source_sha256: str
    key: str
    data_sha256: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None
    slice_indices: list[int]
    origin: tuple[float, float] = (0.0, 0.0)
    grid_hash: str
    recipe: IntensityNormalisation
    affine: list[list[float]] | None = None
    registration: dict[str, Any] | None = None
    alignment: dict[str, Any] | None = None
    noise: float | None = None
    brain_litres: float | None = None
    skewness: float | None = None
    segments: dict[str, list[Range]] = Field(default_factory=dict)

    @field_validator("id")
    @classmethod
    def _check_id(cls, id: str) -> str:
        if not id or id.startswith(".") or any(sign in id for sign in "/\\\0"):
            raise ValueError("the id of a scan is not a file name")
        return id

    @model_validator(mode="after")
    def _check_numbers(self) -> ScanRecord:
        """Whatever is read of the array is within it."""
        slices = self.shape[0]
        if min(self.shape) < 1 or max(self.shape) > _MAX_SIZE:
            raise ValueError(f"{self.id} has an impossible shape")
        if len(self.slice_indices) != slices:
            raise ValueError(f"{self.id} has {slices} slices and {len(self.slice_indices)} indices")
        for ranges in self.segments.values():
            if len(ranges) > slices or any(not 0 <= a <= b <= slices for a, b in ranges):
                raise ValueError(f"{self.id} has segments beyond its slices")
        return self

    @property
    def short_hash(self) -> str:
        """The first 16 digits of the file's SHA-256, as in `BundleManifest.trained_on`."""
        return self.source_sha256[:16]

    @property
    def is_2d(self) -> bool:
        """Whether it is a 2D image."""
        return self.spacing_mm is None

    def positions(self, split: str) -> list[int]:
        """The slices of the array that belong to `split`."""
        return [i for start, stop in self.segments.get(split, []) for i in range(start, stop)]


class Remark(Settings):
    """A file that is not in the store, and why."""

    name: str
    reason: str


class Manifest(Settings):
    """The contents of a store; `typical` is the median normalisation of each contrast's training
    scans."""

    format: Literal["mrbridge-store"] = "mrbridge-store"
    version: Literal[1] = 1
    settings: PrepareSettings
    records: list[ScanRecord]
    failures: list[Remark]
    ignored: list[Remark]
    typical: dict[str, IntensityNormalisation]

    @model_validator(mode="after")
    def _check_records(self) -> Manifest:
        if not self.records:
            raise ValueError("it lists no scans")
        if len({record.id for record in self.records}) < len(self.records):
            raise ValueError("it lists a scan twice")
        if not set(self.settings.contrasts) <= self.typical.keys():
            raise ValueError("it lacks the intensities of a contrast")
        return self


class Store:
    """A prepared dataset, open for reading."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._arrays: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Store({self.path}: {splits_in_words(self.split_counts())})"

    def _repr_html_(self) -> str:
        rows = [
            (name, *(counts[split] for split in ("train", "val", "test", "none")))
            for name, counts in self.split_counts().items()
        ]
        return html_table(rows, ("slices", "training", "validation", "test", "in no split"))

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a store, at a path or a URL.

        Raises:
            InputError: the URL cannot be reached.
            StoreError: absent, unfinished, or damaged.
        """
        path = Path(localise(path))
        file = path / "manifest.json"
        if not file.is_file():
            must_exist(path, StoreError, _REMEDY)
            raise StoreError(
                "is not a store, or preparation did not finish", path=path, remedy=_REMEDY
            )
        try:
            values = read_json(file)
            is_ours = isinstance(values, dict) and values.get("format") == FORMAT
            if not is_ours and not (path / "scans").is_dir():
                raise StoreError(
                    "holds the manifest.json of another program, not a store",
                    path=path,
                    remedy=_REMEDY,
                )
            manifest = Manifest.model_validate(values)
        except (OSError, ValueError) as error:
            raise StoreError(f"is damaged ({_why(error)})", path=file, remedy=_REMEDY) from None
        store = cls(path, manifest)
        for record in manifest.records:
            if not (array_path(path, record.id) / "zarr.json").is_file():
                raise _damaged(path, record)
        return store

    @property
    def contrasts(self) -> tuple[str, str]:
        """Source and target."""
        return self.manifest.settings.contrasts

    def records(self, contrast: str | None = None, split: str | None = None) -> list[ScanRecord]:
        """The scans, those of one contrast, those with slices in one split; in a fixed order."""
        return [
            record
            for record in self.manifest.records
            if (contrast is None or record.contrast == contrast)
            and (split is None or record.segments.get(split))
        ]

    def counts(self) -> dict[str, dict[str, int]]:
        """Slices of each subject by contrast; scans without a subject are those of `unknown`."""
        result: dict[str, Counter[str]] = defaultdict(Counter)
        for record in self.records():
            result[record.subject or "unknown"][record.contrast] += record.shape[0]
        return {subject: dict(counts) for subject, counts in result.items()}

    def split_counts(self) -> dict[str, dict[str, int]]:
        """Slices of each contrast in `train`, `val`, `test`, and in `none` of them: the gaps."""
        result = {}
        for contrast in self.contrasts:
            records = self.records(contrast)
            counts = {
                split: sum(len(record.positions(split)) for record in records)
                for split in ("train", "val", "test")
            }
            every = sum(record.shape[0] for record in records)
            result[contrast] = counts | {"none": every - sum(counts.values())}
        return result

    def slices(self, record: ScanRecord) -> NDArray[np.float16]:
        """As `read_slices`."""
        return read_slices(self.path, record)

    def slice(self, record: ScanRecord, index: int) -> NDArray[np.float16]:
        """One slice of a scan: float16, (rows, columns), in [-1, 1].

        Raises:
            StoreError: it is missing or cannot be read.
        """
        if record.id not in self._arrays:
            self._arrays[record.id] = _open_array(self.path, record)
        values = _read(self._arrays[record.id], index, self.path, record)
        # zarr gives the fill value, NaN here, for missing chunks.
        if np.isnan(values).any():
            raise _damaged(self.path, record)
        return values

    def pairs(self, split: str) -> list[tuple[ScanRecord, ScanRecord, list[tuple[int, int]]]]:
        """Scans of one subject and session on one grid, in both contrasts.

        Returns:
            For each pair the source's and the target's record, and (source slice, target slice)
            for all slices of the split that show the same anatomy. 2D images pair by name within a
            subject, and never without one.
        """
        source_contrast, target_contrast = self.contrasts
        targets: dict[tuple[str, ...], ScanRecord] = {}
        for record in reversed(self.records(target_contrast, split)):
            if record.subject is not None:
                targets[_anatomy(record)] = record
        pairs = []
        for source in self.records(source_contrast, split):
            target = targets.get(_anatomy(source)) if source.subject is not None else None
            if target is None:
                continue
            places = {target.slice_indices[i]: i for i in target.positions(split)}
            shared = [
                (i, places[source.slice_indices[i]])
                for i in source.positions(split)
                if source.slice_indices[i] in places
            ]
            if shared:
                pairs.append((source, target, shared))
        return pairs


def splits_in_words(counts: dict[str, dict[str, int]]) -> str:
    """`Store.split_counts` as a phrase."""
    parts = [
        f"{contrast} {counted(of_one['train'], 'slice')} to train, {of_one['val']} to validate, "
        f"{of_one['test']} to test" + (f", {of_one['none']} in no split" if of_one["none"] else "")
        for contrast, of_one in counts.items()
    ]
    unused = any(of_one["none"] for of_one in counts.values())
    return ", ".join(parts) + (" (the gap next to the slices to validate)" if unused else "")


def read_slices(store: Path, record: ScanRecord) -> NDArray[np.float16]:
    """All slices of one scan of a store, even without a manifest: float16, (slices, rows, columns),
    in [-1, 1].

    Raises:
        StoreError: they are not what preparation wrote.
    """
    values = _read(_open_array(store, record), slice(None), store, record)
    if data_hash(values) != record.data_sha256:
        raise _damaged(store, record)
    return values


def _open_array(store: Path, record: ScanRecord) -> Any:
    import zarr

    path = array_path(store, record.id)
    fetch(path)
    try:
        array = zarr.open_array(path, mode="r")
    except Exception:  # zarr raises errors of many kinds
        raise _damaged(store, record) from None
    if array.shape != record.shape or array.dtype != np.float16:
        raise _damaged(store, record)
    attributes = array.attrs.get("mrbridge")
    if isinstance(attributes, dict) and attributes.get("data_sha256") != record.data_sha256:
        raise StoreError("is not the array that the manifest describes", path=path, remedy=_REMEDY)
    return array


def _read(array: Any, where: Any, store: Path, record: ScanRecord) -> NDArray[np.float16]:
    try:
        return np.asarray(array[where])
    except IndexError:
        raise
    except Exception:  # a damaged chunk: zstd, the codec or the file system complains
        raise _damaged(store, record) from None


def _why(error: Exception) -> str:
    """The first problem of a manifest, in few words."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:4])
        words = first["msg"].removeprefix("Value error, ")
        return f"{where}: {words}" if where else words
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _damaged(store: Path, record: ScanRecord) -> StoreError:
    return StoreError("is damaged or missing", path=array_path(store, record.id), remedy=_REMEDY)


def array_path(store: Path, id: str) -> Path:
    """The path of a scan's array."""
    return store / "scans" / f"{id}.zarr"


def data_hash(values: NDArray[np.float16]) -> str:
    """The SHA-256 of an array's bytes, little-endian, in C order."""
    return hashlib.sha256(np.ascontiguousarray(values, "<f2").data).hexdigest()


def write_scan(store: Path, record: ScanRecord, values: NDArray[np.float16]) -> None:
    """Write one scan's array, atomically, replacing an older one."""
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    with atomic_folder(array_path(store, record.id)) as temporary:
        array = zarr.create_array(
            store=temporary,
            shape=values.shape,
            chunks=(1, *values.shape[1:]),
            # One file (a shard) for all slices, half the work of a file for each; and a cohort
            # would have hundreds of thousands of them.
            shards=values.shape,
            # With a checksum for each slice, since one may be read without the others.
            compressors=[ZstdCodec(level=1), Crc32cCodec()],
            dtype="float16",
            fill_value=float("nan"),
            attributes={"mrbridge": record.model_dump(mode="json", exclude={"segments"})},
            overwrite=True,
        )
        array[:] = values


def read_if_current(store: Path, id: str, key: str) -> ScanRecord | None:
    """The record of a scan that was prepared from the same file with the same settings and is
    intact; None otherwise, for any kind of damage."""
    import zarr

    path = array_path(store, id)
    fetch(path)
    try:
        array = zarr.open_array(path, mode="r")
        record = ScanRecord.model_validate(array.attrs["mrbridge"])
        if record.key != key or array.shape != record.shape:
            return None
        return record if data_hash(np.asarray(array[:])) == record.data_sha256 else None
    except Exception:  # absent or damaged in any way: it is prepared again
        return None


def write_manifest(store: Path, manifest: Manifest) -> None:
    """Write the manifest, which completes the store."""
    write_json(store / "manifest.json", manifest.model_dump(mode="json"))


def is_store(path: Path) -> bool:
    """Whether a folder is a store, finished or not, that preparation may write into: its manifest
    says so, or it holds only arrays that mrbridge wrote."""
    if not any(path.iterdir()):
        return True
    try:
        values = read_json(path / "manifest.json")
        return isinstance(values, dict) and values.get("format") == FORMAT
    except (OSError, ValueError):
        pass
    names = {entry.name for entry in path.iterdir() if not is_temporary(entry)}
    if not names <= {"scans", "manifest.json", "report.json"}:
        return False
    arrays = list((path / "scans").glob("*")) if (path / "scans").is_dir() else []
    arrays = [one for one in arrays if not is_temporary(one) and not _is_empty(one)]
    if not all(map(is_our_array, arrays)):
        return False
    return bool(arrays) or not {"manifest.json", "report.json"} & names


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(one.is_file() for one in path.rglob("*"))


def is_our_array(path: Path) -> bool:
    """Whether preparation wrote an array, as its attributes say."""
    try:
        values = read_json(path / "zarr.json")
        return isinstance(values["attributes"]["mrbridge"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _anatomy(record: ScanRecord) -> tuple[str, ...]:
    name = series_name(record.name) if record.is_2d else ""
    return (str(record.subject), str(record.session), record.grid_hash, name)
