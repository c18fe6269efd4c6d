"""The prepared data set on disk: the one owner of its format.

    STORE/manifest.json          what is there, readable; written last
    STORE/scans/<id>.zarr        one array a scan, float16 (slices, rows, columns) in [-1, 1],
                                 a chunk a slice, all in one file, its record among the attributes

Zarr is imported where an array is opened: that there is no store is told before.
"""  # fmt: skip

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator, model_validator

from mrbridge.errors import StoreError, must_exist
from mrbridge.io.names import series_name
from mrbridge.io.remote import fetch, localise
from mrbridge.io.safety import atomic_folder, read_json, write_json
from mrbridge.io.temporary import is_temporary
from mrbridge.preparation.intensity import IntensityRecipe
from mrbridge.preparation.settings import PrepareSettings
from mrbridge.settings import Settings

log = logging.getLogger(__name__)

FORMAT = "mrbridge-store"
_MAX_SIZE = 1 << 16
"""The most slices, rows and columns that an array may have."""

_REMEDY = "Run mrbridge prepare again."

Range = tuple[int, int]


class ScanRecord(Settings):
    """What the store knows of one scan.

    Attributes:
        id: names the array; made from subject, session, contrast and file name.
        subject, session: None where nothing told them.
        contrast: a BIDS suffix.
        name: the file's name.
        source_sha256: of the file's bytes.
        key: hash of the file and of the settings that shape the array: what resuming compares.
        data_sha256: of the array's bytes.
        shape: (slices, rows, columns) of the array.
        spacing_mm: between slices, rows, columns; None for pictures.
        slice_indices: where in the scan's full stack of slices (inferior to superior) each one lay.
        origin: row and column of its full slices at which the array begins, in the array's pixels.
        grid_hash: equal for scans on one grid.
        recipe: the intensity range.
        affine: (4, 4), from a pixel's slice in the full stack, and its row and column in the array,
            to RAS+ mm: of the scanner, of the subject's source scan, or of the template; None for
            pictures.
        registration: how the scan was brought onto the grid of its subject's source scan: the
            file's name, and what `Registration.as_json` tells; None where it was not.
        alignment: how the scan, or the source scan that it was registered to, was brought to lie
            along the template's axes, as `Alignment.as_json` tells; None where it was not.
        noise: standard deviation of the noise that was taken away, in the file's unit; None where
            it was left.
        brain_litres: the volume of the brain, where all else was taken away; None where it was not.
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
    recipe: IntensityRecipe
    affine: list[list[float]] | None = None
    registration: dict[str, Any] | None = None
    alignment: dict[str, Any] | None = None
    noise: float | None = None
    brain_litres: float | None = None
    segments: dict[str, list[Range]] = Field(default_factory=dict)

    @field_validator("id")
    @classmethod
    def _check_id(cls, id: str) -> str:
        if not id or id.startswith(".") or any(sign in id for sign in "/\\\0"):
            raise ValueError("the id of a scan is not a file name")
        return id

    @model_validator(mode="after")
    def _check_numbers(self) -> ScanRecord:
        """Whatever is read of the array lies within it."""
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
    def is_picture(self) -> bool:
        """Whether it came from a picture."""
        return self.spacing_mm is None

    def positions(self, split: str) -> list[int]:
        """The slices of the array that belong to `split`."""
        return [i for start, stop in self.segments.get(split, []) for i in range(start, stop)]


class Remark(Settings):
    """A file that is not in the store, and why."""

    name: str
    reason: str


class Manifest(Settings):
    """What a store holds; `typical` is the median recipe of each contrast's training scans."""

    format: Literal["mrbridge-store"] = "mrbridge-store"
    version: Literal[1] = 1
    settings: PrepareSettings
    records: list[ScanRecord]
    failures: list[Remark]
    ignored: list[Remark]
    typical: dict[str, IntensityRecipe]

    @model_validator(mode="after")
    def _check_records(self) -> Manifest:
        if not self.records:
            raise ValueError("it lists no scan")
        if len({record.id for record in self.records}) < len(self.records):
            raise ValueError("it lists a scan twice")
        contrasts = {self.settings.source, self.settings.target}
        if not contrasts <= self.typical.keys():
            raise ValueError("it lacks the intensities of a contrast")
        return self


class Store:
    """A prepared data set, open for reading."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._arrays: dict[str, Any] = {}

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
            raise StoreError("is not a store, or an unfinished one", path=path, remedy=_REMEDY)
        try:
            told = read_json(file)
            is_ours = isinstance(told, dict) and told.get("format") == FORMAT
            if not is_ours and not (path / "scans").is_dir():
                raise StoreError(
                    "holds a manifest.json of another program, and no store",
                    path=path,
                    remedy=_REMEDY,
                )
            manifest = Manifest.model_validate(told)
        except (OSError, ValueError) as error:
            raise StoreError(f"is damaged ({_why(error)})", path=file, remedy=_REMEDY) from None
        store = cls(path, manifest)
        for record in manifest.records:
            if not (array_path(path, record.id) / "zarr.json").is_file():
                raise _damaged(path, record)
        return store

    def records(self, contrast: str | None = None, split: str | None = None) -> list[ScanRecord]:
        """The scans, those of one contrast, those with slices in one split; in a fixed order."""
        return [
            record
            for record in self.manifest.records
            if (contrast is None or record.contrast == contrast)
            and (split is None or record.segments.get(split))
        ]

    def counts(self) -> dict[str, dict[str, int]]:
        """Slices of each subject by contrast; scans of nobody count as those of `unknown`."""
        result: dict[str, dict[str, int]] = {}
        for record in self.records():
            of_one = result.setdefault(record.subject or "unknown", {})
            of_one[record.contrast] = of_one.get(record.contrast, 0) + record.shape[0]
        return result

    def split_counts(self) -> dict[str, dict[str, int]]:
        """Slices of each contrast in `train`, `val`, `test`, and in `none` of them: those lie
        between a block for validation and what trains."""
        settings = self.manifest.settings
        result = {}
        for contrast in (settings.source, settings.target):
            records = self.records(contrast)
            counts = {
                split: sum(len(record.positions(split)) for record in records)
                for split in ("train", "val", "test")
            }
            every = sum(record.shape[0] for record in records)
            result[contrast] = counts | {"none": every - sum(counts.values())}
        return result

    def slices(self, record: ScanRecord) -> NDArray[np.float16]:
        """All slices of a scan: float16, (slices, rows, columns), in [-1, 1].

        Raises:
            StoreError: they are not what preparation wrote.
        """
        return _checked(self._read(record, slice(None)), self.path, record)

    def slice(self, record: ScanRecord, index: int) -> NDArray[np.float16]:
        """One slice of a scan: float16, (rows, columns), in [-1, 1].

        Raises:
            StoreError: it is missing or cannot be read.
        """
        values = self._read(record, index)
        # zarr gives the fill value, NaN here, for chunks that are not there.
        if np.isnan(values).any():
            raise _damaged(self.path, record)
        return values

    def pairs(self, split: str) -> list[tuple[ScanRecord, ScanRecord, list[tuple[int, int]]]]:
        """Scans of one subject and session on one grid, in both contrasts.

        Returns:
            For each pair the source's and the target's record, and (source slice, target slice)
            for all slices of the split that show the same anatomy. Pictures pair by name within a
            subject, and never without one.
        """
        settings = self.manifest.settings
        targets: dict[tuple[str, ...], ScanRecord] = {}
        for record in reversed(self.records(settings.target, split)):
            if record.subject is not None:
                targets[_anatomy(record)] = record
        pairs = []
        for source in self.records(settings.source, split):
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

    def _array(self, record: ScanRecord) -> Any:
        if record.id not in self._arrays:
            self._arrays[record.id] = _open_array(self.path, record)
        return self._arrays[record.id]

    def _read(self, record: ScanRecord, where: Any) -> NDArray[np.float16]:
        array = self._array(record)
        try:
            return np.asarray(array[where])
        except IndexError:
            raise
        except Exception:  # a damaged chunk: zstd, the codec or the file system complains
            raise _damaged(self.path, record) from None


def splits_in_words(counts: dict[str, dict[str, int]]) -> str:
    """What `Store.split_counts` gives, as a phrase."""
    told = [
        f"{contrast} {of_one['train']} slices to train, {of_one['val']} to validate, "
        f"{of_one['test']} to test" + (f", {of_one['none']} in no split" if of_one["none"] else "")
        for contrast, of_one in counts.items()
    ]
    unused = any(of_one["none"] for of_one in counts.values())
    gap = " (the gap beside the slices to validate)" if unused else ""
    return ", ".join(told) + gap


def read_slices(store: Path, record: ScanRecord) -> NDArray[np.float16]:
    """All slices of one scan, as `Store.slices`, of a store that is not open.

    Raises:
        StoreError: they are not what preparation wrote.
    """
    array = _open_array(store, record)
    try:
        values = np.asarray(array[:])
    except Exception:  # as in Store._read
        raise _damaged(store, record) from None
    return _checked(values, store, record)


def _open_array(store: Path, record: ScanRecord) -> Any:
    import zarr

    fetch(array_path(store, record.id))
    try:
        array = zarr.open_array(array_path(store, record.id), mode="r")
    except Exception:  # zarr raises what its many parts raise
        raise _damaged(store, record) from None
    if array.shape != record.shape or array.dtype != np.float16:
        raise _damaged(store, record)
    told = array.attrs.get("mrbridge")
    if isinstance(told, dict) and told.get("data_sha256") != record.data_sha256:
        raise StoreError(
            "is not the array that the manifest describes",
            path=array_path(store, record.id),
            remedy=_REMEDY,
        )
    if not _has_checksums(array):
        log.debug("%s: has no checksums of single slices", array_path(store, record.id))
    return array


def _has_checksums(array: Any) -> bool:
    """Whether each slice of an array has a checksum, which older stores have not."""
    codecs = array.metadata.to_dict()["codecs"]
    return "crc32c" in json.dumps([one["configuration"].get("codecs") for one in codecs])


def _checked(values: NDArray[np.float16], store: Path, record: ScanRecord) -> NDArray[np.float16]:
    if data_hash(values) != record.data_sha256:
        raise _damaged(store, record)
    return values


def _why(error: Exception) -> str:
    """The first thing that is wrong with a manifest, in few words."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:4])
        words = first["msg"].removeprefix("Value error, ")
        return f"{where}: {words}" if where else words
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _damaged(store: Path, record: ScanRecord) -> StoreError:
    return StoreError("is damaged or missing", path=array_path(store, record.id), remedy=_REMEDY)


def array_path(store: Path, id: str) -> Path:
    """Where a scan's array lies."""
    return store / "scans" / f"{id}.zarr"


def data_hash(values: NDArray[np.float16]) -> str:
    """The SHA-256 of an array's bytes, little-endian, in C order."""
    return hashlib.sha256(np.ascontiguousarray(values, "<f2").data).hexdigest()


def write_scan(store: Path, record: ScanRecord, values: NDArray[np.float16]) -> None:
    """Write one scan's array, atomically, in place of an older one.

    Raises:
        OutputError: it cannot be written.
    """
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
            # With a checksum of each slice: whoever reads one does not read the others.
            compressors=[ZstdCodec(), Crc32cCodec()],
            dtype="float16",
            fill_value=float("nan"),
            attributes={"mrbridge": record.model_dump(mode="json", exclude={"segments"})},
            overwrite=True,
        )
        array[:] = values


def read_scan(store: Path, id: str, key: str) -> ScanRecord | None:
    """The record of a scan that was prepared from the same file with the same settings and is
    whole; None otherwise, however damaged it is.
    """
    import zarr

    fetch(array_path(store, id))
    try:
        array = zarr.open_array(array_path(store, id), mode="r")
        record = ScanRecord.model_validate(array.attrs["mrbridge"])
        if record.key != key or array.shape != record.shape:
            return None
        return record if data_hash(np.asarray(array[:])) == record.data_sha256 else None
    except Exception:  # absent or damaged in any way: it is made anew
        return None


def read_array(store: Path, record: ScanRecord) -> NDArray[np.float16]:
    """The slices of a scan that was just written, before there is a manifest."""
    import zarr

    fetch(array_path(store, record.id))
    return np.asarray(zarr.open_array(array_path(store, record.id), mode="r")[:])


def write_manifest(store: Path, manifest: Manifest) -> None:
    """Write the manifest, which makes the store whole.

    Raises:
        OutputError: it cannot be written.
    """
    write_json(store / "manifest.json", manifest.model_dump(mode="json"))


def is_store(path: Path) -> bool:
    """Whether a folder is a store, finished or not, that preparation may write into: its manifest
    says so, or there is nothing but arrays of ours."""
    if not any(path.iterdir()):
        return True
    entries = [entry for entry in path.iterdir() if not is_temporary(entry)]
    try:
        told = read_json(path / "manifest.json")
        return isinstance(told, dict) and told.get("format") == FORMAT
    except (OSError, ValueError):
        pass
    if not {entry.name for entry in entries} <= {"scans", "manifest.json", "report.json"}:
        return False
    arrays = list((path / "scans").glob("*")) if (path / "scans").is_dir() else []
    arrays = [one for one in arrays if not is_temporary(one) and not _is_empty(one)]
    if not all(map(is_our_array, arrays)):
        return False
    return bool(arrays) or not {"manifest.json", "report.json"} & {one.name for one in entries}


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(one.is_file() for one in path.rglob("*"))


def is_our_array(path: Path) -> bool:
    """Whether preparation wrote an array, as its attributes say."""
    try:
        told = read_json(path / "zarr.json")
        return isinstance(told["attributes"]["mrbridge"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _anatomy(record: ScanRecord) -> tuple[str, ...]:
    name = series_name(record.name) if record.is_picture else ""
    return (str(record.subject), str(record.session), record.grid_hash, name)
