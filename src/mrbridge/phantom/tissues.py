"""Relaxation of the tissues of the head at 3 T, each figure with its source.

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

from dataclasses import dataclass


@dataclass(frozen=True)
class Tissue:
    """T1 and T2 in milliseconds, proton density as a share of that of water."""

    t1: float
    t2: float
    density: float


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
# of white matter's (see lesions.py).
LESION = Tissue(t1=900, t2=237, density=0.76)


@dataclass(frozen=True)
class Matter:
    """Grey and white matter of a subject, before regions and iron differ.

    Attributes:
        grey, white: the tissues.
        atrophy: logarithm of how much fluid there is in sulci, against the template; None draws it.
        fat: as a fast spin echo sees it.
        inflow: share of blood in arteries and in vessels of the sulci that comes unsaturated into
            the slice of a gradient echo; None draws it.
    """

    grey: Tissue = GREY_MATTER
    white: Tissue = WHITE_MATTER
    atrophy: float | None = None
    fat: Tissue = FAT_IN_FAST_SPIN_ECHO
    inflow: float | None = None


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
