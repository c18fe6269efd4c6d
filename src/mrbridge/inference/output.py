"""Results of translations: files, sidecars, and what is reported of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrbridge import __version__
from mrbridge.bundle import Bundle
from mrbridge.errors import OutputError
from mrbridge.inference.synthesis import Rounding, Synthesis
from mrbridge.io import write
from mrbridge.io.atomic import sha256_of, sidecar_path, suffix_of
from mrbridge.io.formats import is_2d
from mrbridge.io.ownership import must_be_ours
from mrbridge.volume import CONTRASTS

NOTE = "Synthetic images, for research, not for diagnosis."


@dataclass(frozen=True)
class Translation:
    """The result for one scan.

    Attributes:
        source: the file that was read.
        output: the file or DICOM folder that was written; None if the scan failed.
        contrast: the contrast that was synthesised, or was to be.
        model: SHA-256 of the weights.
        error: why the scan failed; None if it did not.
        skipped: whether the output was there already, from the same scan, model and settings.
        rounding: how intensities became integers; None for float32 or an output that was kept.
        notes: what reading repaired or assumed.
        source_sha256: SHA-256 of the source, where it was computed.
    """

    source: Path
    output: Path | None
    contrast: str | None
    model: str
    error: str | None = None
    skipped: bool = False
    rounding: Rounding | None = None
    notes: tuple[str, ...] = ()
    source_sha256: str | None = None

    @property
    def state(self) -> str:
        """`done`, `skipped` or `failed`."""
        return "failed" if self.output is None else "skipped" if self.skipped else "done"

    def as_json(self, root: Path, out: Path) -> dict[str, Any]:
        """The entry in `report.json`; paths are relative to input and output folder."""
        entry: dict[str, Any] = {"source": self.source.relative_to(root).as_posix()}
        if self.output is None:
            return entry | {"contrast": self.contrast, "error": self.error}
        entry["source_sha256"] = self.source_sha256
        entry["output"] = self.output.relative_to(out).as_posix()
        entry |= {"contrast": self.contrast, "model": self.model}
        if self.notes:
            entry["notes"] = list(self.notes)
        if self.rounding is not None:
            entry["rounding"] = self.rounding.as_json()
        return entry


class Translations(list[Translation]):
    """The results of a call, one for each scan; a table in a notebook."""

    def __repr__(self) -> str:
        lines = [
            f"{one.state}: {one.source} → {one.error if one.output is None else one.output}"
            for one in self
        ]
        return "\n".join([f"{len(self)} scans", *lines])

    def _repr_html_(self) -> str:
        from html import escape

        head = "<tr><th>scan</th><th>synthetic</th><th>contrast</th><th>state</th></tr>"
        rows = (
            (one.source, one.output or one.error, one.contrast or "", one.state) for one in self
        )
        cells = ("".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows)
        return f"<table>{head}{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def mark(contrast: str) -> str:
    """The text by which every file says that it is synthetic."""
    return f"synthetic {contrast}, mrbridge {__version__}, research only, not for diagnosis"


def name_for_sidecar(source: Path, output: Path) -> str:
    """How the sidecar of a synthetic image names its source.

    By file name if the name of the output has it in it, otherwise by SHA-256: files often bear
    the names of patients, and a user who names the output differently may want to hide that.

    Raises:
        InputError: the source cannot be read.
    """
    stem = source.name[: -len(suffix_of(source))]
    before, _, last = stem.rpartition("_")
    known = before if last in CONTRASTS else stem
    return source.name if known and known in output.name else f"sha256:{sha256_of(source)}"


def provenance(bundle: Bundle, synthesis: Synthesis, source: str) -> dict[str, Any]:
    """The content of a sidecar.

    Args:
        bundle: the model.
        synthesis: the scan and its translation.
        source: the scan: a BIDS URI, a DICOM UID, or the result of `name_for_sidecar`.
    """
    maker: dict[str, Any] = {
        "Name": "mrbridge",
        "Version": __version__,
        "Model": bundle.hash,
        "Preset": bundle.manifest.preset,
    }
    if not synthesis.source.is_2d:
        maker["Planes"] = list(synthesis.planes)
    if bundle.manifest.scores:
        maker["HeldOutScores"] = bundle.manifest.scores
    sidecar: dict[str, Any] = {
        "SyntheticData": True,
        "Description": f"Synthetic {synthesis.contrast}, for research, not for diagnosis.",
        "Sources": [source],
        "SpatialReference": source,
        "GeneratedBy": [maker],
    }
    if synthesis.source.contrast is None:
        sidecar["Description"] += " Nothing says which contrast its source is."
    if bundle.manifest.standard.brain != "none":
        sidecar["SkullStripped"] = True
    if synthesis.rounding is not None:
        sidecar["Rounding"] = synthesis.rounding.as_json()
    return sidecar


def check_output(source: Path, output: Path) -> None:
    """Refuse to replace anything but an earlier synthetic image.

    Args:
        source: the scan to translate.
        output: the synthetic image.

    Raises:
        OutputError: this would replace the scan itself, another image or sidecar that mrbridge did
            not write, or give both the same sidecar.
    """
    if output.resolve() == source.resolve():
        raise OutputError(
            "the output would replace its source", path=source, remedy="Name another output."
        )
    must_be_ours(output)
    if is_2d(output):
        return
    sidecar = sidecar_path(output)
    if sidecar.resolve() == sidecar_path(source).resolve():
        raise OutputError(
            "would be the sidecar of both the source and the synthetic image",
            path=sidecar,
            remedy="Name another output.",
        )
    must_be_ours(sidecar)


def write_synthesis(
    synthesis: Synthesis, output: Path, sidecar_of: Callable[[Path], dict[str, Any]]
) -> None:
    """Write a synthetic image and its sidecar; 2D images have none.

    Args:
        synthesis: the scan and its translation.
        output: a file, which is replaced only if mrbridge wrote it.
        sidecar_of: returns the sidecar, from the path of the complete image.

    Raises:
        OutputError: the output cannot be written, or mrbridge did not write what is there.
    """
    note = mark(synthesis.contrast)
    must_be_ours(output)
    if synthesis.source.is_2d:
        write(synthesis.volume, output, synthetic_note=note)
        return
    must_be_ours(sidecar_path(output))
    write(synthesis.volume, output, synthetic_note=note, sidecar=sidecar_of)
