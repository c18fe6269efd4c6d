"""Additional scans of a person, for models that make a contrast from several."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrbridge.errors import InputError, SettingsError, warn
from mrbridge.inference.in_memory import as_volume
from mrbridge.io import is_dicom
from mrbridge.io.remote import localise
from mrbridge.preprocessing.foreground import black_background
from mrbridge.preprocessing.geometry import to_slices
from mrbridge.preprocessing.registration import Registration, register
from mrbridge.preprocessing.resample import grid_difference, resample, stored_like
from mrbridge.volume import Volume

if TYPE_CHECKING:
    from mrbridge.inference.synthesis import Request

log = logging.getLogger(__name__)

SEED = 0
"""Of registration, so that it is reproducible."""


@dataclass(frozen=True)
class AdditionalScan:
    """An additional scan as it was named.

    Attributes:
        scan: its file, a folder or zip with a DICOM series, or the scan itself.
        contrast: if it was named; otherwise the file says it.
        is_needed: False leaves it out with a warning if it cannot be used.
    """

    scan: Path | Volume
    contrast: str | None = None
    is_needed: bool = True

    @property
    def path(self) -> Path | None:
        """Its file."""
        return self.scan if isinstance(self.scan, Path) else None

    @property
    def shown(self) -> str:
        """Its name in messages; folders of DICOM studies may bear the names of patients."""
        if self.contrast is not None:
            return f"the additional {self.contrast} scan"
        is_named = isinstance(self.scan, Path) and not is_dicom(self.scan)
        return f"the additional scan {self.scan.name}" if is_named else "the additional scan"  # type: ignore[union-attr]


@dataclass(frozen=True, eq=False)
class PlacedScan:
    """An additional scan on the grid of the scan to translate.

    Attributes:
        contrast: its own.
        volume: on that grid.
        file: where it came from; None for an object.
        uid: of the DICOM series; None for others.
        registration: to the scan to translate; None if both are on one grid.
    """

    contrast: str
    volume: Volume
    file: Path | None = None
    uid: str | None = None
    registration: Registration | None = None

    def source(self, name: Callable[[Path], str]) -> str:
        """How sidecars name it: `name` of its file, a DICOM UID, or that it was in memory."""
        if self.uid is not None:
            return f"urn:oid:{self.uid}"
        return "a scan in memory" if self.file is None else name(self.file)

    def report(self, root: Path) -> dict[str, Any]:
        """The entry in `report.json`, files relative to the folder of the scans."""
        entry = {"source": self.source(lambda file: file.relative_to(root).as_posix())}
        for key, value in self.as_json().items():
            entry[re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower()] = value
        return entry

    def as_json(self) -> dict[str, Any]:
        """The entry in sidecars, without the source."""
        entry: dict[str, Any] = {"Contrast": self.contrast, "Registered": False}
        if self.registration is not None:
            entry["Registered"] = True
            entry["DisplacementMillimetres"] = round(self.registration.displacement_mm, 3)
            entry["UncertaintyMillimetres"] = round(self.registration.residual_mm, 3)
        return entry


def parse(named: Mapping[str, Any] | Sequence[Any]) -> tuple[AdditionalScan, ...]:
    """Additional scans as users name them: by contrast; or a sequence of scans, or of paths or URLs
    such as `FLAIR=scan.nii.gz`. SettingsError if one has no path, InputError if an object is not a
    scan."""
    if isinstance(named, str | Path):
        named = [named]
    pairs = list(named.items()) if isinstance(named, Mapping) else [(None, one) for one in named]
    result = []
    for contrast, scan in pairs:
        if not isinstance(scan, str | Path):
            result.append(AdditionalScan(as_volume(scan), contrast))
            continue
        before, sign, after = str(scan).partition("=")
        if contrast is None and sign and before.isalnum() and not Path(scan).exists():
            contrast, scan = before, after
        if not str(scan):
            raise SettingsError(f"--also {contrast}= names no scan", remedy="Name its file.")
        result.append(AdditionalScan(Path(localise(scan)), contrast))
    return tuple(result)


def place(request: Request, scan: Volume, to: str) -> tuple[PlacedScan, ...]:
    """Read additional scans, and bring them onto the grid of the scan to translate.

    One that is on another grid is registered to the scan (rigidly: both show one head) and
    resampled once.

    Raises:
        InputError: one cannot be read, has no or the wrong contrast, or cannot be registered.
    """
    placed: list[PlacedScan] = []
    taken = {scan.contrast}
    for one in request.additional:
        try:
            read = _read(request, one, to, taken)
            other = read.volume
            if other.contrast in taken:
                raise InputError(
                    f"is {other.contrast}, as another of the scans is",
                    remedy="Name one scan of each contrast.",
                )
            taken.add(other.contrast)
            placed.append(_on_grid_of(scan, read, one.shown))
        except InputError as error:
            if not one.is_needed:
                log.warning("%s is left out: it %s", one.shown, error.what)
                continue
            if one.path is None or is_dicom(one.path):
                raise type(error)(f"{one.shown} {error.what}", remedy=error.remedy) from None
            error.path = error.path or one.path
            raise
    return tuple(placed)


def _read(
    request: Request, one: AdditionalScan, to: str, taken: Collection[str | None]
) -> PlacedScan:
    """An additional scan as it is; of a DICOM study, a series of a contrast that is not yet taken.
    InputError if it cannot be read, or the model cannot take it."""
    force, uid = request.settings.force, None
    wanted = [contrast for contrast in request.bundle.contrasts if contrast != to]
    if isinstance(one.scan, Volume):
        scan = one.scan
    elif is_dicom(one.scan):
        from mrbridge.io.dicom import choose_series, find_series, nameless, read_series

        with nameless(one.scan):
            left = [contrast for contrast in wanted if contrast not in taken]
            named = [one.contrast] if one.contrast else left
            chosen = choose_series(find_series(one.scan), named, None, force=force)
            scan = read_series(chosen, allow_gaps=request.settings.allow_gaps)
        uid = chosen.uid
    else:
        scan = request.read(one.scan, is_additional=True)
    if scan.other is not None and not force:
        raise InputError(scan.other, remedy="Name another scan, or use --force.")
    if scan.synthetic and not force:
        raise InputError("is synthetic", remedy="Name a scan that was acquired, or use --force.")
    contrast = one.contrast or scan.contrast
    if contrast is None:
        raise InputError(
            "has a contrast that nothing identifies",
            remedy="Name it, as in --also FLAIR=PATH, or name the file after it.",
        )
    if scan.contrast not in (None, contrast) and not force:
        raise InputError(
            f"is {scan.contrast}, not {contrast}", remedy="Name its contrast, or use --force."
        )
    if contrast not in wanted:
        what = "is the contrast to synthesise" if contrast == to else "is not one the model takes"
        raise InputError(f"is {contrast}, which {what}", remedy=f"Name {' or '.join(wanted)}.")
    return PlacedScan(contrast, replace(scan, contrast=contrast), one.path, uid)


def _on_grid_of(scan: Volume, other: PlacedScan, shown: str) -> PlacedScan:
    """An additional scan on the grid of the scan to translate; InputError if it cannot be
    registered."""
    other = replace(other, volume=stored_like(other.volume, scan))
    if grid_difference(scan, other.volume) is None:
        from mrbridge.dataset.pairs import show_one_head  # not for models of one scan

        slices = [to_slices(black_background(one), None) for one in (scan, other.volume)]
        if not show_one_head(slices[0][0], slices[1][0], slices[0][1].spacing):
            warn(
                f"{shown} does not show the anatomy of the scan, though both are on one grid: it "
                "is of another person, or the head moved"
            )
        return other
    try:
        found = register(other.volume, scan, "rigid", SEED)
    except InputError as error:
        raise InputError(
            f"is on another grid, and cannot be registered to the scan ({error.what})",
            remedy="Leave it out, or register it by other means.",
        ) from None
    log.info(
        "%s: registered to the scan: moved by up to %.1f mm (uncertain by %.2f mm)",
        *(shown, found.displacement_mm, found.residual_mm),
    )
    volume = replace(resample(other.volume, scan, found.transform), header=None)
    return replace(other, volume=volume, registration=found)
