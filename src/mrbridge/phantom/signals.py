"""Relaxation of the tissues of the head, and the sequences of a simulated scanner.

Signal equations: Haacke et al., Magnetic Resonance Imaging: Physical Principles and Sequence Design
(1999), sections 8.2 (spin echo, inversion recovery) and 18.1 (spoiled gradient echo, the Ernst
formula); Deichmann et al. 2000 (NeuroImage 12:112, doi:10.1006/nimg.2000.0601), inversion before a
train of gradient echoes; Hajnal et al. 1992 (J Comput Assist Tomogr 16:841), fluid-attenuated
inversion recovery.

Relaxation at 3 T, each figure with its source:
Stanisz 2005: Stanisz et al., Magn Reson Med 54:507 (3 T, table 1).
Wansapura 1999: Wansapura et al., J Magn Reson Imaging 9:531 (3 T).
Rooney 2007: Rooney et al., Magn Reson Med 57:308 (0.2 to 7 T).
de Bazelaire 2004: de Bazelaire et al., Radiology 230:652 (3 T).
BrainWeb: Kwan, Evans and Pike, IEEE Trans Med Imaging 18:1085, 1999, and the table of tissue
    parameters of the BrainWeb simulator (1.5 T; proton densities hold at any field strength).
Hallgren 1958: Hallgren and Sourander, J Neurochem 3:41 (non-haem iron, mg/100 g fresh weight).
Henkelman 1992: Henkelman et al., J Magn Reson Imaging 2:533.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

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


def inversion_spin_echo(
    density: Real, t1: Real, t2: Real, *, tr: float, ti: float, te: float
) -> Any:
    """Magnitude of a 180-90-180 degree spin echo after an inversion.

    density * |1 - 2 exp(-TI / T1) + 2 exp(-(TR - TE/2) / T1) - exp(-TR / T1)| * exp(-TE / T2)

    Arguments as for `spin_echo`; `ti` is the time from the inversion to the excitation, ms.
    """
    recovery = 1 - 2 * np.exp(-ti / t1) + 2 * np.exp(-(tr - te / 2) / t1) - np.exp(-tr / t1)
    return density * np.abs(recovery) * np.exp(-te / t2)


@dataclass(frozen=True)
class Tissue:
    """T1 and T2 in milliseconds, proton density as a share of that of water: numbers, or arrays
    that broadcast together."""

    t1: Any
    t2: Any
    density: Any


class PulseSequence(ABC):
    """A pulse sequence."""

    refocused: ClassVar[bool] = False
    """Whether a pulse makes a spin echo, which undoes static dephasing: blood that has flowed on
    until then is lost to it."""

    echo_train: ClassVar[bool] = False
    """Whether many refocusing pulses follow each excitation, which makes fat bright."""

    flip_degrees: float
    """Angle of the excitation."""

    @abstractmethod
    def signal(self, tissue: Tissue) -> Any:
        """What a tissue gives: a number or an array, as the tissue's."""


@dataclass(frozen=True)
class GradientEcho(PulseSequence):
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

    def signal(self, tissue: Tissue) -> Any:
        t2_star = 1 / (1 / tissue.t2 + STATIC_DEPHASING)
        times = {"tr": self.tr, "te": self.te, "flip_degrees": self.flip_degrees}
        return spoiled_gradient_echo(tissue.density, tissue.t1, t2_star, **times)


@dataclass(frozen=True)
class PreparedGradientEcho(PulseSequence):
    """A gradient echo after an inversion (MPRAGE). Times in ms.

    Attributes:
        tr: between two inversions.
        ti: from the inversion to the middle of the train, where the contrast is decided.
        spacing: between two pulses of the train.
        pulses: of the train.
        te, flip_degrees: of each of them.
    """

    tr: float
    ti: float
    spacing: float
    pulses: int
    te: float
    flip_degrees: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> PreparedGradientEcho:
        """Parameters within the range of clinical protocols at 3 T (a choice)."""
        return cls(
            tr=rng.uniform(1700, 2500),
            ti=rng.uniform(820, 1100),
            spacing=rng.uniform(6.5, 8.5),
            pulses=int(rng.integers(140, 190)),
            te=rng.uniform(2.2, 4.0),
            flip_degrees=rng.uniform(7, 12),
        )

    def signal(self, tissue: Tissue) -> Any:
        """The magnitude, in the steady state of many inversions."""
        t1, train = tissue.t1, self.spacing * self.pulses
        before = np.exp(-(self.ti - train / 2) / t1)
        after = np.exp(-(self.tr - self.ti - train / 2) / t1)
        cosine = np.cos(np.deg2rad(self.flip_degrees))
        e1 = np.exp(-self.spacing / t1)
        steady = (1 - e1) / (1 - cosine * e1)
        half = (cosine * e1) ** (self.pulses / 2)
        # Linear in what is left from the inversion before: m = left + slope * m is solved for m.
        left = 1 + (steady + (1 - before - steady) * half**2 - 1) * after
        inverted = left / (1 + before * half**2 * after)
        first = 1 - (1 + inverted) * before
        middle = steady + (first - steady) * half
        decay = np.exp(-self.te * (1 / tissue.t2 + STATIC_DEPHASING))
        return tissue.density * np.abs(middle) * np.sin(np.deg2rad(self.flip_degrees)) * decay


@dataclass(frozen=True)
class ConventionalSpinEcho(PulseSequence):
    """A T1-weighted 2D spin echo. Times in ms."""

    refocused: ClassVar[bool] = True
    tr: float
    te: float
    flip_degrees: float = 90.0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> ConventionalSpinEcho:
        """Parameters within the range of clinical protocols (a choice)."""
        return cls(tr=rng.uniform(400, 750), te=rng.uniform(8, 18))

    def signal(self, tissue: Tissue) -> Any:
        return spin_echo(tissue.density, tissue.t1, tissue.t2, tr=self.tr, te=self.te)


@dataclass(frozen=True)
class InversionSpinEcho(PulseSequence):
    """A T1-weighted 2D spin echo after an inversion (TIRM, T1-FLAIR). Times in ms."""

    refocused: ClassVar[bool] = True
    tr: float
    ti: float
    te: float
    flip_degrees: float = 90.0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> InversionSpinEcho:
        """Parameters within the range of clinical protocols, which null fluid (a choice)."""
        return cls(tr=rng.uniform(1700, 2200), ti=rng.uniform(850, 1000), te=rng.uniform(8, 25))

    def signal(self, tissue: Tissue) -> Any:
        times = {"tr": self.tr, "ti": self.ti, "te": self.te}
        return inversion_spin_echo(tissue.density, tissue.t1, tissue.t2, **times)


@dataclass(frozen=True)
class FastSpinEcho(ConventionalSpinEcho):
    """A fast spin echo, `te` being its effective echo time: T2-weighted, or PD-weighted if short.

    Times in ms.
    """

    echo_train: ClassVar[bool] = True

    @classmethod
    def draw(cls, rng: np.random.Generator) -> FastSpinEcho:
        """Parameters within the range of clinical T2-weighted protocols at 3 T (a choice)."""
        return cls(tr=round(rng.uniform(4000, 6500)), te=round(rng.uniform(82, 108), 1))

    @classmethod
    def draw_proton_density(cls, rng: np.random.Generator) -> FastSpinEcho:
        """Parameters within the range of clinical PD-weighted protocols (a choice)."""
        return cls(tr=round(rng.uniform(2400, 5000)), te=round(rng.uniform(8, 30), 1))


@dataclass(frozen=True)
class FluidAttenuated(InversionSpinEcho):
    """A FLAIR: a fast spin echo after an inversion that nulls fluid. Times in ms."""

    echo_train: ClassVar[bool] = True

    @classmethod
    def draw(cls, rng: np.random.Generator) -> FluidAttenuated:
        """Parameters within the range of clinical protocols, near the null of fluid (a choice)."""
        tr = round(rng.uniform(7500, 11_000))
        ti = round(null_of_fluid(tr) * rng.uniform(0.94, 1.03))
        return cls(tr=tr, ti=ti, te=round(rng.uniform(85, 140), 1))


def null_of_fluid(tr: float) -> float:
    """The inversion time, ms, at which cerebrospinal fluid gives no signal, if TE is short.

    T1 * ln(2 / (1 + exp(-TR / T1)))
    """
    return float(FLUID.t1 * np.log(2 / (1 + np.exp(-tr / FLUID.t1))))


# T1: chosen between 1331 (Wansapura 1999) and 1820 (Stanisz 2005). T2: 99 (Stanisz 2005).
# Density: 0.86 (BrainWeb).
GREY_MATTER = Tissue(t1=1550, t2=99, density=0.86)

# T1: chosen between 832 (Wansapura 1999) and 1084 (Stanisz 2005). T2: chosen between 69
# (Stanisz 2005) and 79.6 (Wansapura 1999). Density: 0.77 (BrainWeb).
WHITE_MATTER = Tissue(t1=850, t2=74, density=0.77)


# T1: 4070 (Rooney 2007, at 1.5 T; it hardly depends on field strength). T2: a choice between the
# 329 of BrainWeb, which includes motion, and about 2000 of resting fluid. Density: 1 (BrainWeb).
FLUID = Tissue(t1=4070, t2=1400, density=1.0)

# T1 and T2: 1932 and 275 (Stanisz 2005). Density: a choice.
BLOOD = Tissue(t1=1932, t2=275, density=0.9)

# T1 and T2: 1412 and 50 (Stanisz 2005). Density: 1 (BrainWeb).
MUSCLE = Tissue(t1=1412, t2=50, density=1.0)

# T1: 382 (de Bazelaire 2004, subcutaneous fat). T2: 68 there. Density: 1 in BrainWeb; less here
# (a choice), since connective tissue takes part of the room, and since clinical T1w scans show fat
# about three times as bright as the middle of the head, not five times.
FAT = Tissue(t1=382, t2=68, density=0.55)

# Trains of refocusing pulses make fat bright (Henkelman 1992). T2 and density are a choice: scalp
# then comes to 2.5 times the signal of white matter in T2w, where the whole heads of open-ms-raw
# have 2.3 to 2.6 (75th percentile of a ring below the skin).
FAT_IN_FAST_SPIN_ECHO = Tissue(t1=382, t2=175, density=0.9)

# T1 and T2: 586 and 49 (de Bazelaire 2004, vertebral marrow). Density: a choice: bone trabeculae
# take part of the room.
MARROW = Tissue(t1=586, t2=49, density=0.85)

# As muscle (BrainWeb has one class for both); the shorter T1 and T2 are those of BrainWeb.
SKIN = Tissue(t1=900, t2=47, density=0.8)

# Dense connective tissue, dark in T2w, no brighter than grey matter in T1w: all three are choices.
DURA = Tissue(t1=1000, t2=25, density=0.5)

# Tissue and fluid mixed: all three are choices.
CHOROID_PLEXUS = Tissue(t1=1500, t2=160, density=0.9)

# T2 and density: 237 and 0.76 (BrainWeb, MS lesion). T1 is drawn lesion by lesion as a multiple
# of white matter's (`Lesions` in pathology.py).
LESION = Tissue(t1=900, t2=237, density=0.76)


@dataclass(frozen=True)
class Matter:
    """Grey and white matter of a subject, before regions and iron differ.

    Attributes:
        atrophy: logarithm of how much fluid there is in sulci, against the template; None draws it.
        fat: as a fast spin echo sees it.
        inflow: share of blood in arteries and in vessels of the sulci that comes unsaturated into
            the slice of a gradient echo; None draws it.
        population: whether relaxation differs by region in the same way in everybody.
    """

    grey: Tissue = GREY_MATTER
    white: Tissue = WHITE_MATTER
    atrophy: float | None = None
    fat: Tissue = FAT_IN_FAST_SPIN_ECHO
    inflow: float | None = None
    population: bool = True


TYPICAL = Matter()


# 1/T2* - 1/T2 in 1/ms. White matter: T2* 44.7 and T2 79.6 (Wansapura 1999) give 0.0098.
STATIC_DEPHASING = 0.0098

# Iron, mg/100 g (Hallgren 1958): what grey matter at large has, and the nuclei that have more.
IRON_OF_CORTEX = 4.0  # chosen between 2.9 (prefrontal) and 5.0 (motor cortex)
IRON_OF_NUCLEI = {
    "pallidum": 21.3,
    "red_nucleus": 19.5,
    "substantia_nigra": 18.5,
    "putamen": 13.3,
    "dentate": 10.4,
    "caudate": 9.3,
    "thalamus": 4.8,
}

# Added 1/T2 in 1/ms per mg/100 g at 3 T: a choice that brings the pallidum to a T2 of about 53 ms.
IRON_RELAXIVITY = 0.0005
