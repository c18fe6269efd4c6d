"""The brain of the ICBM 152 template (Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033).

Its files come with nilearn, whose import takes seconds.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
from numpy.typing import NDArray

_FILE = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"


def icbm152(name: Literal["t1", "gm", "wm"]) -> NDArray[np.uint8]:
    """T1w intensity, or the share of grey or white matter, (x, y, z) of 1 mm; 255 stands for 1.

    The first voxel lies at (-98, -134, -72) mm RAS+.
    """
    spec = find_spec("nilearn")
    assert spec is not None
    assert spec.origin is not None
    image = nibabel.load(Path(spec.origin).parent / _FILE.format(name))
    return np.asanyarray(image.dataobj)
