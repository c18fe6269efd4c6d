"""The signal equations, and the sequences that a simulated scanner runs.

Sources: Haacke et al., Magnetic Resonance Imaging: Physical Principles and Sequence Design (1999),
sections 8.2 (spin echo) and 18.1 (spoiled gradient echo, the Ernst formula).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Real = NDArray[Any] | float | np.floating[Any]


def spin_echo(density: Real, t1: Real, t2: Real, *, tr: float, te: float) -> Any:
    """Signal of a 90-180 degree spin echo; of a fast spin echo with `te` as its effective TE.

    density * (1 - 2 exp(-(TR - TE/2) / T1) + exp(-TR / T1)) * exp(-TE / T2)

    Args:
        density: proton density. Arrays of any shape that broadcast together, or numbers.
        t1, t2: relaxation times, ms.
        tr, te: repetition and echo time, ms.
    """
    recovery = 1 - 2 * np.exp(-(tr - te / 2) / t1) + np.exp(-tr / t1)
    return density * recovery * np.exp(-te / t2)


def spoiled_gradient_echo(
    density: Real, t1: Real, t2_star: Real, *, tr: float, te: float, flip_degrees: float
) -> Any:
    """Steady-state signal of a gradient echo with perfect spoiling.

    density * sin(flip) * (1 - E1) / (1 - cos(flip) E1) * exp(-TE / T2*), E1 = exp(-TR / T1)

    Arguments as for `spin_echo`; `flip_degrees` is the excitation angle.
    """
    flip = np.deg2rad(flip_degrees)
    e1 = np.exp(-tr / t1)
    return density * np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1) * np.exp(-te / t2_star)


@dataclass(frozen=True)
class GradientEcho:
    """A T1-weighted 3D spoiled gradient echo. Times in ms."""

    tr: float
    te: float
    flip_degrees: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> GradientEcho:
        """Parameters within the range of clinical 3D T1-weighted protocols at 3 T (a choice)."""
        return cls(
            tr=round(rng.uniform(8.0, 11.0), 2),
            te=round(rng.uniform(2.5, 4.5), 2),
            flip_degrees=round(rng.uniform(16.0, 21.0), 1),
        )

    def signal(self, density: Real, t1: Real, t2: Real, static_dephasing: float) -> Any:
        """Signal of tissue with these properties; `static_dephasing` is 1/T2* - 1/T2 in 1/ms."""
        t2_star = 1 / (1 / t2 + static_dephasing)
        return spoiled_gradient_echo(
            density, t1, t2_star, tr=self.tr, te=self.te, flip_degrees=self.flip_degrees
        )


@dataclass(frozen=True)
class FastSpinEcho:
    """A T2-weighted fast spin echo, `te` being its effective echo time. Times in ms."""

    tr: float
    te: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> FastSpinEcho:
        """Parameters within the range of clinical T2-weighted protocols at 3 T (a choice)."""
        return cls(tr=round(rng.uniform(4000, 6500)), te=round(rng.uniform(82, 108), 1))

    def signal(self, density: Real, t1: Real, t2: Real) -> Any:
        """Signal of tissue with these properties."""
        return spin_echo(density, t1, t2, tr=self.tr, te=self.te)
