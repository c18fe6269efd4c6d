"""File names of the Brain Imaging Data Structure (BIDS).

Source: https://bids-specification.readthedocs.io.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

BIDS_VERSION = "1.10.0"
"""The version of the standard that mrbridge's datasets follow."""

_BIDS = re.compile(r"^((?:[a-zA-Z]+-[a-zA-Z0-9+]+_)+)([a-zA-Z0-9]+)(\.[a-zA-Z0-9.]+)$")

ENTITIES = (
    *("sub", "tpl", "ses", "cohort", "sample", "task", "tracksys", "acq", "nuc", "voi", "ce"),
    *("trc", "stain", "rec", "dir", "run", "mod", "echo", "flip", "inv", "mt", "part", "proc"),
    *("hemi", "space", "split", "recording", "chunk", "atlas", "seg", "scale", "res", "den"),
    *("label", "desc"),
)
"""The entities in the order that the standard prescribes for names
(bids-specification, `src/schema/rules/entities.yaml`)."""


@dataclass(frozen=True)
class BidsName:
    """The parts of a BIDS file name.

    Attributes:
        entities: such as {"sub": "01", "ses": "2", "run": "1"}, in their order.
        suffix: such as T1w.
        extension: with its first dot, such as .nii.gz.
    """

    entities: dict[str, str]
    suffix: str
    extension: str

    def __str__(self) -> str:
        parts = [f"{key}-{value}" for key, value in self.entities.items()]
        return "_".join([*parts, self.suffix]) + self.extension


def parse_name(path: str | Path) -> BidsName | None:
    """The parts of a BIDS name; None if it is not one (it must begin with `sub-`)."""
    match = _BIDS.match(Path(path).name)
    if match is None:
        return None
    pairs = [part.partition("-")[::2] for part in match[1].rstrip("_").split("_")]
    if pairs[0][0] != "sub":
        return None
    return BidsName(dict(pairs), match[2], match[3])


def derivative_name(name: BidsName, contrast: str, resolution: str | None = None) -> str:
    """The name of a synthetic scan: all entities of its source, `desc-synth`, the new suffix.

    A raw file can never have this name (BIDS derivatives, `desc` entity). Entities stand in the
    order of the standard; those that it does not know stand before `desc`.

    Args:
        resolution: the entity `res`, such as `1mm`, of a scan on another grid than its source.
    """
    entities = {**name.entities, "desc": "synth"} | ({"res": resolution} if resolution else {})
    places = {key: place for place, key in enumerate(ENTITIES)}
    ordered = sorted(entities, key=lambda key: places.get(key, len(ENTITIES) - 1.5))
    return str(BidsName({key: entities[key] for key in ordered}, contrast, name.extension))
