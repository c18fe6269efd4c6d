"""Where a scan goes beside its subject's scan of the source contrast, for training on pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mrbridge.errors import MrbridgeError
from mrbridge.io import read
from mrbridge.io.scans import Scan
from mrbridge.preparation.align import Alignment, aligned
from mrbridge.preparation.crop import Crop, head_crop
from mrbridge.preparation.placement import Placement, grid_of
from mrbridge.preparation.resample import grid_difference
from mrbridge.preparation.settings import PrepareSettings
from mrbridge.volume import Volume


@dataclass(frozen=True)
class Place:
    """Where a scan goes because of its subject's other scan, and how that was found.

    Attributes:
        placement: None where it stays where it is.
        crop: the part of the other scan that holds the head, where this one lies on its grid or is
            brought there: cropped apart, their slices would no longer match. Else None.
        grid: of that whole scan; None likewise.
        registration: to the other scan, as the store's record tells it.
        alignment: of the other scan with the template.
    """

    placement: Placement | None = None
    crop: Crop | None = None
    grid: Volume | None = None
    registration: dict[str, Any] | None = None
    alignment: Alignment | None = None


def place_beside(
    volume: Volume, reference: Scan, settings: PrepareSettings, registers: bool
) -> Place:
    """Onto the grid that the reference gets: its own, or one along the template's axes.

    Args:
        volume: the scan.
        reference: the other one.
        settings: how both are prepared.
        registers: whether the scan is registered; otherwise it only gets the same crop as a
            reference that lies on its grid.

    Raises:
        InputError: registration or alignment did not converge.
    """
    standard = settings.standard
    if not registers:
        return _on_one_grid(volume, reference, standard.margin_mm)
    from mrbridge.preparation.register import Kind, register

    fixed = read(reference.path, series=reference.series, files=reference.files)
    kind: Kind = "affine" if settings.registration == "affine" else "rigid"
    found = register(volume, fixed, kind, settings.seed)
    told = {"reference": reference.name} | found.as_json()
    crop, own = (head_crop(scan, standard.margin_mm) for scan in (fixed, volume))
    head, source = crop(fixed), grid_of(own(volume))
    if standard.align == "none":
        placement = Placement(found.transform, grid_of(head), source)
        return Place(placement, crop, grid_of(fixed), told)
    alignment, there = aligned(head, standard.align, standard.spacing_mm)
    transform = there.transform @ found.transform
    return Place(Placement(transform, there.onto, source), None, None, told, alignment)


def _on_one_grid(volume: Volume, reference: Scan, margin_mm: float) -> Place:
    """The crop of the reference, where that can be read and lies on the scan's own grid."""
    try:
        other = read(reference.path, series=reference.series, files=reference.files)
    except MrbridgeError:  # which is told of the reference itself
        return Place()
    if grid_difference(volume, other) is not None:
        return Place()
    return Place(crop=head_crop(other, margin_mm), grid=grid_of(other))
