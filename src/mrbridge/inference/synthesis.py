"""One synthesis, and what is written down of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrbridge import __version__
from mrbridge.bundle import Bundle
from mrbridge.inference.integers import Rounding
from mrbridge.io.safety import sha256_of, suffix_of
from mrbridge.volume import CONTRASTS, Volume


@dataclass(frozen=True)
class Synthesis:
    """A scan and what was made of it.

    Attributes:
        source: the scan as it was read.
        made: the synthesis on its grid.
        contrast: of the synthesis.
        planes: in which the scan was cut.
        rounding: what became of its intensities, where it is of integers.
    """

    source: Volume
    made: Volume
    contrast: str
    planes: tuple[str, ...]
    rounding: Rounding | None


def note(contrast: str) -> str:
    """The mark that every file carries in itself."""
    return f"synthetic {contrast}, mrbridge {__version__}, research only, not for diagnosis"


def sidecar_path(image: Path) -> Path:
    """Where the sidecar of an image lies."""
    return image.with_name(image.name[: -len(suffix_of(image))] + ".json")


def name_for_sidecar(source: Path, output: Path) -> str:
    """How the sidecar of a synthesis names a local source: by its file name where the output's
    name tells as much, else by its SHA-256.

    Files are often called after the patient. Who names the output otherwise has chosen what it
    tells.

    Raises:
        InputError: the source cannot be read.
    """
    stem = source.name[: -len(suffix_of(source))]
    before, _, last = stem.rpartition("_")
    known = before if last in CONTRASTS else stem
    return source.name if known and known in output.name else f"sha256:{sha256_of(source)}"


def provenance(bundle: Bundle, synthesis: Synthesis, source: str) -> dict[str, Any]:
    """What the sidecar of a synthesis says.

    Args:
        bundle: the model.
        synthesis: what it made.
        source: the scan that it was made of: a BIDS URI, or as `name_for_sidecar` tells.
    """
    maker: dict[str, Any] = {
        "Name": "mrbridge",
        "Version": __version__,
        "Model": bundle.hash,
        "Preset": bundle.manifest.preset,
    }
    if not synthesis.source.is_picture:
        maker["Planes"] = list(synthesis.planes)
    if bundle.manifest.scores:
        maker["HeldOutScores"] = bundle.manifest.scores
    told: dict[str, Any] = {
        "SyntheticData": True,
        "Description": f"Synthetic {synthesis.contrast}, for research, not for diagnosis.",
        "Sources": [source],
        "SpatialReference": source,
        "GeneratedBy": [maker],
    }
    if synthesis.source.contrast is None:
        told["Description"] += " Nothing says which contrast its source is."
    if bundle.manifest.standard.brain != "none":
        told["SkullStripped"] = True
    if synthesis.rounding is not None:
        told["Rounding"] = synthesis.rounding.told()
    return told
