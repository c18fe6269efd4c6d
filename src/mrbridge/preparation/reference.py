"""Bringing a scan to its subject's scan of the source contrast, for training on pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mrbridge.io import read
from mrbridge.io.bids import Scan
from mrbridge.preparation.align import Alignment, aligned
from mrbridge.preparation.placement import Placement, grid_of
from mrbridge.preparation.settings import PrepareSettings
from mrbridge.volume import Volume


@dataclass(frozen=True)
class Place:
    """Where a scan goes because of its subject's other scan, and how that was found.

    Attributes:
        placement: None where it stays where it is.
        registration: to the other scan, as the store's record tells it.
        alignment: of the other scan with the template.
    """

    placement: Placement | None = None
    registration: dict[str, Any] | None = None
    alignment: Alignment | None = None


def place_beside(volume: Volume, reference: Scan, settings: PrepareSettings) -> Place:
    """Onto the grid that the reference gets: its own, or one along the template's axes.

    Raises:
        InputError: registration or alignment did not converge.
    """
    from mrbridge.preparation.register import Kind, register

    fixed = read(reference.path, series=reference.series, files=reference.files)
    kind: Kind = "affine" if settings.registration == "affine" else "rigid"
    found = register(volume, fixed, kind, settings.seed)
    told = {"reference": reference.name} | found.as_json()
    standard = settings.standard
    if standard.align == "none":
        return Place(Placement(found.transform, grid_of(fixed), grid_of(volume)), told)
    alignment, there = aligned(fixed, standard.align, standard.spacing_mm)
    transform = there.transform @ found.transform
    return Place(Placement(transform, there.onto, grid_of(volume)), told, alignment)
