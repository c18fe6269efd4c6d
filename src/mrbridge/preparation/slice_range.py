"""Which part of a stack of slices to train on: `20%:80%` of the head, or `-40mm:60mm`."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrbridge.errors import InputError, SettingsError
from mrbridge.preparation.geometry import SliceGrid

_NUMBER = r"([+-]?\d+(?:\.\d+)?)"
_RANGE = re.compile(rf"\s*{_NUMBER}\s*(%|mm)\s*:\s*{_NUMBER}\s*(%|mm)\s*")


@dataclass(frozen=True)
class SliceRange:
    """From one position to another, both included.

    Attributes:
        low, high: in per cent, 0 the lowest and 100 the highest slice that shows the head; or in
            millimetres along the third axis of the scan's own space (RAS+), whose zero is the
            scanner's isocentre, and the anterior commissure of scans in the space of a template.
        unit: `%` or `mm`.
    """

    low: float
    high: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> SliceRange:
        """Read `LOW:HIGH`, each with its unit.

        Raises:
            SettingsError: it is no such range, or an empty one.
        """
        match = _RANGE.fullmatch(text)
        remedy = "Write 20%:80% or -40mm:60mm."
        if match is None or match[2] != match[4]:
            raise SettingsError(f"'{text}' is not a range of slices", remedy=remedy)
        found = cls(float(match[1]), float(match[3]), match[2])
        if not found.low < found.high:
            raise SettingsError(f"the range of slices '{text}' is empty", remedy=remedy)
        if found.unit == "%" and (found.low < 0 or found.high > 100):
            raise SettingsError(f"'{text}' goes beyond 0% or 100%", remedy=remedy)
        return found

    def holds(self, filled: NDArray[np.bool_], grid: SliceGrid) -> NDArray[np.bool_]:
        """Which slices lie in it, by their centres.

        Args:
            filled: shape (slices,), from inferior to superior: which show the head.
            grid: theirs.

        Raises:
            InputError: pictures, which lie nowhere in a head.
        """
        if grid.affine is None:
            raise InputError(
                "is a picture: where in the head it lies is not known", remedy="Leave out --slices."
            )
        numbers = np.arange(len(filled))
        if self.unit == "mm":
            middle = (np.array(grid.full[1:]) - 1) / 2
            positions = grid.affine[2, 0] * numbers + grid.affine[2, 1:3] @ middle
            positions = positions + grid.affine[2, 3]
        else:
            shown = np.flatnonzero(filled)
            if not shown.size:
                return np.zeros(len(filled), bool)
            positions = (numbers - shown[0] + 0.5) / (shown[-1] - shown[0] + 1) * 100
        return np.asarray((positions >= self.low) & (positions <= self.high))
