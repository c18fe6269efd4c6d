"""The files of a translation: their names, contents and ownership, and what is reported of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mrbridge import __version__
from mrbridge.errors import OutputError
from mrbridge.inference.additional_scans import PlacedScan
from mrbridge.inference.synthesis import (
    Request,
    Rounding,
    Synthesis,
    report_verdict,
    synthesise,
)
from mrbridge.io import FORMATS, is_readable, write
from mrbridge.io.atomic import sha256_of, sidecar_path, stem_of, suffix_of
from mrbridge.io.bids_name import derivative_name, parse_name
from mrbridge.io.contrast import of_path
from mrbridge.io.formats import is_2d
from mrbridge.io.ownership import is_ours, must_be_ours
from mrbridge.manifest import COVERAGE
from mrbridge.reports import counted
from mrbridge.volume import CONTRASTS, Verdict

log = logging.getLogger(__name__)

NOTE = "Synthetic images, for research, not for diagnosis."


@dataclass(frozen=True, repr=False)
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
        uncertainty: the file or DICOM series of the uncertainty map; None if none was written.
        verdict: whether the model knows this kind of scan; None if it failed for another reason, or
            nothing is recorded of an output that was kept.
        notes: what reading repaired or assumed.
        source_sha256: SHA-256 of the source, where it was computed.
        additional: other scans of the person that it was made from, too.
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
    uncertainty: Path | None = None
    verdict: Verdict | None = None
    additional: tuple[PlacedScan, ...] = ()

    @classmethod
    def of(
        cls,
        request: Request,
        synthesis: Synthesis,
        source: Path,
        output: Path,
        uncertainty: Path | None,
    ) -> Translation:
        """The result for a scan that was translated and written; its verdict is reported."""
        report_verdict(synthesis, source)
        return cls(
            source,
            output,
            synthesis.contrast,
            request.bundle.hash,
            rounding=synthesis.rounding,
            notes=synthesis.notes,
            uncertainty=uncertainty,
            verdict=synthesis.verdict,
            additional=synthesis.additional,
        )

    @property
    def state(self) -> str:
        """`done`, `skipped` or `failed`."""
        return "failed" if self.output is None else "skipped" if self.skipped else "done"

    def __repr__(self) -> str:
        unusual = self.verdict is not None and self.verdict.level == "unusual"
        return f"{self.state}: {self.source} → {self.output or self.error}" + (
            f" ({self.verdict})" if unusual else ""
        )

    def _repr_html_(self) -> str:
        return Translations([self])._repr_html_()

    def as_json(self, root: Path, out: Path) -> dict[str, Any]:
        """The entry in `report.json`; paths are relative to input and output folder."""
        entry: dict[str, Any] = {"source": self.source.relative_to(root).as_posix()}
        if self.verdict is not None:
            entry["verdict"] = self.verdict.as_json()
        if self.output is None:
            return entry | {"contrast": self.contrast, "error": self.error}
        entry["source_sha256"] = self.source_sha256
        entry["output"] = self.output.relative_to(out).as_posix()
        entry |= {"contrast": self.contrast, "model": self.model}
        if self.additional:
            entry["additional"] = [one.report(root) for one in self.additional]
        if self.notes:
            entry["notes"] = list(self.notes)
        if self.uncertainty is not None:
            entry["uncertainty"] = self.uncertainty.relative_to(out).as_posix()
        if self.rounding is not None:
            entry["rounding"] = self.rounding.as_json()
        return entry


class Translations(list[Translation]):
    """The results of a call, one for each scan; a table in a notebook."""

    def __repr__(self) -> str:
        return "\n".join([counted(len(self), "scan"), *map(repr, self)])

    def _repr_html_(self) -> str:
        from mrbridge.reports import html_table

        rows = [
            (one.source, one.output or one.error, one.contrast or "", one.state, one.verdict or "")
            for one in self
        ]
        return html_table(rows, ("scan", "synthetic", "contrast", "state", "verdict"))


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
    stem = stem_of(source)
    before, _, last = stem.rpartition("_")
    known = before if last in CONTRASTS else stem
    return source.name if known and known in output.name else f"sha256:{sha256_of(source)}"


def provenance(
    request: Request, synthesis: Synthesis, source: str, name: Callable[[Path], str]
) -> dict[str, Any]:
    """The content of a sidecar.

    Args:
        source: the scan: a BIDS URI, a DICOM UID, or the result of `name_for_sidecar`.
        name: how files of additional scans are named, in the same way.
    """
    bundle = request.bundle
    additional = [(one.source(name), one) for one in synthesis.additional]
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
        "Sources": [source, *(other for other, _ in additional)],
        "SpatialReference": source,
        "GeneratedBy": [maker],
        "InputCheck": synthesis.verdict.as_json(),
    }
    if synthesis.source.contrast is None:
        sidecar["Description"] += " Nothing says which contrast its source is."
    if bundle.manifest.standard.brain != "none":
        sidecar["SkullStripped"] = True
    if additional:
        sidecar["AdditionalSources"] = [
            {"Source": name} | one.as_json() for name, one in additional
        ]
    if request.grid is not None:
        sidecar["Resolution"] = request.grid.words
    if synthesis.rounding is not None:
        sidecar["Rounding"] = synthesis.rounding.as_json()
    return sidecar


def check_output(source: Path, output: Path) -> None:
    """Refuse to replace anything but an earlier synthetic image.

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
    request: Request,
    synthesis: Synthesis,
    source: Path,
    output: Path,
    sidecar_of: Callable[[Path], dict[str, Any]],
) -> Translation:
    """Write a synthetic image, its uncertainty map, and their sidecars; 2D images have none.

    Args:
        source: the file of the scan.
        output: a file, which is replaced only if mrbridge wrote it.
        sidecar_of: returns the sidecar, from the path of the complete image.

    Raises:
        OutputError: the output cannot be written, or mrbridge did not write what is there.
    """
    is_2d, map_path = synthesis.source.is_2d, uncertainty_path(output)
    must_be_ours(output)
    if not is_2d:
        must_be_ours(sidecar_path(output))
    if synthesis.uncertainty is not None:
        must_be_ours(map_path)
    note = mark(synthesis.contrast)
    write(synthesis.volume, output, synthetic_note=note, sidecar=None if is_2d else sidecar_of)
    if synthesis.uncertainty is None:
        _remove_earlier_map(map_path)
        return Translation.of(request, synthesis, source, output, None)
    note = mark(f"{synthesis.contrast}-uncertainty")
    about = None if is_2d else lambda image: sidecar_of(image) | _ABOUT_UNCERTAINTY
    write(synthesis.uncertainty, map_path, synthetic_note=note, sidecar=about)
    return Translation.of(request, synthesis, source, output, map_path)


def _remove_earlier_map(path: Path) -> None:
    """Remove the uncertainty map of the image that was there before: `evaluate` and viewers would
    use it for the new image. A file that mrbridge did not write stays."""
    if not (path.is_file() and is_ours(path)):
        return
    path.unlink()
    sidecar = sidecar_path(path)
    if not is_2d(path) and sidecar.is_file() and is_ours(sidecar):
        sidecar.unlink()
    log.info("%s: removed: it was the uncertainty map of the earlier image", path.name)


_ABOUT_UNCERTAINTY = {
    "Description": "Uncertainty of a synthetic scan: half the width of the 90 % interval of each "
    "voxel, for research, not for diagnosis.",
    "Units": "those of the synthetic scan",
    "Coverage": COVERAGE,
}


def uncertainty_path(output: Path) -> Path:
    """The uncertainty map of a synthetic image, in the same folder.

    `desc-uncertainty` in place of `desc-synth` in BIDS names; otherwise the name of the image and
    `_uncertainty`.
    """
    bids = parse_name(output)
    if bids is not None and "desc" in bids.entities:
        entities = {**bids.entities, "desc": "uncertainty"}
        return output.with_name(str(replace(bids, entities=entities)))
    return output.with_name(f"{stem_of(output)}_uncertainty{suffix_of(output)}")


def translate_file(request: Request, path: Path, out: Path) -> Translation:
    """Translate one file to the file `out`, or into the folder `out`.

    Raises:
        InputError: it does not exist, cannot be read, or is not a scan to translate.
        OutputError: the output cannot be written, is not the name of an image, or would replace
            what mrbridge did not write.
        SettingsError: it is a 2D image, and the number type is not float32.
    """
    known = of_path(Path(path.parent.resolve().name, path.name)).contrast
    if out.is_dir() or not out.suffix:
        out = out / output_name(request, path, request.target_for(known))
    elif not is_readable(out):
        raise OutputError(
            "has an unknown format",
            path=out,
            remedy=f"Name a folder (a new one has no dot in its name), or {', '.join(FORMATS)}.",
        )
    return translate_to(request, path, out, known)


def translate_to(request: Request, path: Path, output: Path, known: str | None) -> Translation:
    """Read, translate and write one file, with the errors of `translate_file`. `known` is the
    contrast of the scan, if its name or folders say it; the file itself takes precedence."""
    check_output(path, output)
    scan = request.read(path)
    scan = replace(scan, contrast=scan.contrast or (None if scan.other else known))
    synthesis = synthesise(request, scan, path)

    def named(scan: Path) -> str:
        return name_for_sidecar(scan, output)

    sidecar = provenance(request, synthesis, named(path), named)
    return write_synthesis(request, synthesis, path, output, lambda image: sidecar)


def output_name(request: Request, path: Path, to: str) -> str:
    """BIDS names become those of derivatives; others stay, so that files of two folders match."""
    bids = parse_name(path)
    if bids is None:
        return path.name
    return derivative_name(bids, to, None if request.grid is None else request.grid.label)
