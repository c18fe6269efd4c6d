"""One scan: whether it may be translated, into what; its translation; and the files it becomes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrbridge import __version__
from mrbridge.bundle import COVERAGE, Bundle
from mrbridge.errors import InputError, OutputError, SettingsError
from mrbridge.inference.input_check import check
from mrbridge.inference.settings import TranslateSettings
from mrbridge.inference.translator import Translator
from mrbridge.io import FORMATS, is_readable, read, write
from mrbridge.io.atomic import sha256_of, sidecar_path, suffix_of
from mrbridge.io.bids_name import derivative_name, parse_name
from mrbridge.io.contrast import of_path
from mrbridge.io.formats import is_2d
from mrbridge.io.ownership import must_be_ours
from mrbridge.preprocessing.intensity import IntensityNormalisation
from mrbridge.preprocessing.skull_strip import read_brain_mask
from mrbridge.volume import CONTRASTS, Verdict, Volume

log = logging.getLogger(__name__)

NOTE = "Synthetic images, for research, not for diagnosis."

_LEVELS = 1000
"""With fewer grey levels than this over the intensity range, detail is lost."""


@dataclass(frozen=True)
class Request:
    """The model and the settings with which every scan of a call is translated. Picklable.

    Attributes:
        translator: the model on its device.
        settings: what to synthesise, and from which scans.
        match: a scan whose intensity range the results get; None: the typical range.
    """

    translator: Translator
    settings: TranslateSettings
    match: Volume | None = None

    def target_for(self, known: str | None) -> str:
        """The contrast to synthesise from a scan whose contrast is known, or not (None)."""
        bundle = self.translator.bundle
        return self.settings.to or (bundle.source if known == bundle.target else bundle.target)

    def assumption(self, to: str) -> str:
        """The warning about a scan of unknown contrast that is translated into `to`."""
        bundle = self.translator.bundle
        assumed = bundle.source if to == bundle.target else bundle.target
        return f"nothing identifies its contrast; assuming it is {assumed}"


@dataclass(frozen=True)
class Rounding:
    """How intensities became integers. Files of integers have slope 1 and intercept 0.

    Attributes:
        dtype: the number type.
        factor: what intensities were multiplied by before rounding.
        clipped: number of voxels outside the range of the type, which were set to its end.
    """

    dtype: str
    factor: float
    clipped: int

    def as_json(self) -> dict[str, Any]:
        """The entry in sidecars and reports."""
        return {"NumberType": self.dtype, "Factor": self.factor, "ClippedVoxels": self.clipped}


@dataclass(frozen=True)
class Synthesis:
    """A scan and its translation.

    Attributes:
        source: the scan as it was read.
        volume: the synthetic scan on the same grid.
        contrast: contrast of the synthetic scan.
        planes: planes in which the scan was sliced.
        rounding: how intensities became integers; None for float32.
        verdict: whether the model knows such a scan.
        uncertainty: the uncertainty map, float32 in the units of `volume`; None unless it was
            asked for.
    """

    source: Volume
    volume: Volume
    contrast: str
    planes: tuple[str, ...]
    rounding: Rounding | None
    verdict: Verdict
    uncertainty: Volume | None = None


def synthesise(request: Request, scan: Volume, path: Path | None) -> Synthesis:
    """Translate a scan.

    Args:
        request: the model and the settings.
        scan: the scan, as `io.read` returns it.
        path: its file, for messages and its brain mask; None for an object.

    Raises:
        ScanRefused: it is synthetic, of the wanted contrast already, or of a contrast that the
            model does not take, or does not look like a scan that the model knows.
        InputError: it cannot be translated.
        SettingsError: it is a 2D image, and the number type is not float32.
    """
    translator, dtype = request.translator, request.settings.dtype
    to = translator.choose_contrast(scan, request.settings.to)
    if dtype != "float32" and scan.is_2d:
        raise SettingsError("a 2D image keeps its bit depth", path=path, remedy="Leave out dtype.")
    mask = brain_mask(translator, path)
    try:
        verdict = _checked(request, scan, to, path)
        result = translator.result(
            scan, to, match=request.match, mask=mask, uncertainty=request.settings.uncertainty
        )
    except InputError as error:  # of the voxels, which do not know their file
        raise type(error)(error.what, path=error.path or path, remedy=error.remedy) from error
    volume, rounding = result.volume, None
    if dtype != "float32":
        volume, rounding = to_integers(volume, dtype, translator.range_of(to, request.match))
        log.info(
            "%s: rounded to %s after multiplication by %g, %d voxels clipped",
            "the scan" if path is None else path.name,
            *(rounding.dtype, rounding.factor, rounding.clipped),
        )
    uncertainty = result.uncertainty
    if uncertainty is not None and rounding is not None:
        uncertainty = replace(uncertainty, voxels=uncertainty.voxels * np.float32(rounding.factor))
    return Synthesis(scan, volume, to, result.planes, rounding, verdict, uncertainty)


def to_integers(
    volume: Volume, dtype: str, range_out: IntensityNormalisation
) -> tuple[Volume, Rounding]:
    """Round a synthetic scan to integers; zero stays zero.

    Args:
        volume: float32 voxels.
        dtype: a number type of integers.
        range_out: the intensity range of synthetic scans, the same for all that are compared.
    """
    limits = np.iinfo(dtype)
    factor = integer_factor(max(abs(range_out.low), abs(range_out.high)), int(limits.max))
    values = np.rint(volume.voxels.astype(np.float64) * factor)
    clipped = int(np.count_nonzero((values < limits.min) | (values > limits.max)))
    voxels = np.clip(values, limits.min, limits.max).astype(dtype)
    return replace(volume, voxels=voxels), Rounding(dtype, factor, clipped)


def integer_factor(top: float, limit: int) -> float:
    """The factor for intensities up to `top` that are stored as integers up to `limit`.

    1 if that leaves a thousand grey levels and all fit; otherwise the nearest power of ten of which
    both are true; otherwise the factor that uses the whole range of the type.
    """
    exponent = 0
    if top > limit:
        exponent = math.floor(math.log10(limit / top))
    elif top < _LEVELS:
        exponent = math.ceil(math.log10(_LEVELS / top))
    factor = 10.0**exponent
    return factor if min(_LEVELS, limit) <= factor * top <= limit else limit / top


def _checked(request: Request, scan: Volume, to: str, path: Path | None) -> Verdict:
    """Whether the model knows such a scan.

    Raises:
        ScanRefused: it does not, and the scan is not forced.
        InputError: its size cannot be that of a head.
    """
    bundle = request.translator.bundle
    contrasts = bundle.source, bundle.target
    verdict = check(scan, to, contrasts, force=request.settings.force)
    if scan.contrast is None and not scan.other and path is not None:
        log.warning("%s: %s", _name(path), request.assumption(to))
    return verdict


def report_verdict(synthesis: Synthesis, path: Path | None) -> None:
    """Log a verdict that is not `usual`, after the translation was written."""
    verdict = synthesis.verdict
    if verdict.level != "usual":
        how = "unusual" if verdict.level == "unusual" else "refused, and translated by --force"
        log.warning("%s: %s: %s", _name(path), how, "; ".join(verdict.reasons))


def _name(path: Path | None) -> str:
    """A scan in messages: the folder of a DICOM study may bear the name of the patient.

    Bytes that are not text become escapes, since logs go to places that only take UTF-8.
    """
    if path is None:
        return "the scan"
    name = path.name.encode("utf-8", "backslashreplace").decode()
    return name if is_readable(path) else "the series"


def brain_mask(translator: Translator, path: Path | None) -> Volume | None:
    """The brain mask next to a scan, for models of scans that were masked in that way."""
    if path is None or not path.is_file():
        return None
    return read_brain_mask(path, translator.bundle.manifest.standard)


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
        verdict: whether the model knows such a scan; None if it failed for another reason, or
            nothing is recorded of an output that was kept.
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
    uncertainty: Path | None = None
    verdict: Verdict | None = None

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
        return "\n".join([f"{len(self)} scan{'s' * (len(self) != 1)}", *map(repr, self)])

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
        "InputCheck": synthesis.verdict.as_json(),
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
    is_2d = synthesis.source.is_2d
    if not is_2d:
        must_be_ours(sidecar_path(output))
    map_path = uncertainty_path(output)
    if synthesis.uncertainty is not None:
        must_be_ours(map_path)
    write(synthesis.volume, output, synthetic_note=note, sidecar=None if is_2d else sidecar_of)
    if synthesis.uncertainty is None:
        return
    note = mark(f"{synthesis.contrast}-uncertainty")
    about = None if is_2d else lambda image: sidecar_of(image) | _ABOUT_UNCERTAINTY
    write(synthesis.uncertainty, map_path, synthetic_note=note, sidecar=about)


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
    suffix = suffix_of(output)
    bids = parse_name(output)
    if bids is not None and "desc" in bids.entities:
        entities = {**bids.entities, "desc": "uncertainty"}
        return output.with_name(str(replace(bids, entities=entities)))
    return output.with_name(f"{output.name.removesuffix(suffix)}_uncertainty{suffix}")


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
        out = out / output_name(path, request.target_for(known))
    elif not is_readable(out):
        raise OutputError(
            "has an unknown format", path=out, remedy=f"Name a folder, or {', '.join(FORMATS)}."
        )
    return translate_to(request, path, out, known)


def translate_to(request: Request, path: Path, output: Path, known: str | None) -> Translation:
    """Read, translate and write one file.

    Args:
        request: the model and the settings.
        path: the scan.
        output: the synthetic image.
        known: the contrast of the scan, if its name or folders say it; the file itself takes
            precedence.

    Raises:
        InputError, OutputError, SettingsError: see `translate_file`.
    """
    check_output(path, output)
    scan = read(path, volume=request.settings.volume, assume=request.settings.assume)
    scan = replace(scan, contrast=scan.contrast or (None if scan.other else known))
    synthesis = synthesise(request, scan, path)
    bundle, to = request.translator.bundle, synthesis.contrast
    source = name_for_sidecar(path, output)
    write_synthesis(synthesis, output, lambda image: provenance(bundle, synthesis, source))
    report_verdict(synthesis, path)
    notes = scan.notes
    if scan.contrast is None:
        notes += (request.assumption(to),)
    made = uncertainty_path(output) if request.settings.uncertainty else None
    return Translation(
        path,
        output,
        to,
        bundle.hash,
        rounding=synthesis.rounding,
        notes=notes,
        uncertainty=made,
        verdict=synthesis.verdict,
    )


def output_name(path: Path, to: str) -> str:
    """BIDS names become those of derivatives; others stay, so that files of two folders match."""
    bids = parse_name(path)
    return path.name if bids is None else derivative_name(bids, to)
