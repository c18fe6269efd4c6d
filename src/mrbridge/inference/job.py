"""One scan of the verb `translate`: what is asked, read, made and written."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrbridge.errors import InputError, SettingsError
from mrbridge.inference.engine import Translator
from mrbridge.inference.integers import Rounding, rounded
from mrbridge.inference.objects import as_volume
from mrbridge.inference.outputs import check_free, write_synthesis
from mrbridge.inference.synthesis import Synthesis, name_for_sidecar, provenance
from mrbridge.io import is_readable, read
from mrbridge.io.places import here
from mrbridge.preparation.brain import find_brain, mask_beside
from mrbridge.scale import Workers
from mrbridge.volume import Volume

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Translation:
    """One scan of a batch.

    Attributes:
        source: the file that was read.
        output: the file that was written, None if it failed.
        contrast: what was to be made.
        model: SHA-256 of the weights that made it, or were to.
        error: why it failed, None if it did not.
        skipped: whether the output was there already, made of the same.
        rounding: what became of its intensities, where it was made now and of integers.
        source_sha256: of the bytes that were translated, where they were summed up.
        notes: what reading mended or assumed, such as that nothing says which contrast it is.
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


@dataclass(frozen=True)
class Job:
    """What is asked of every scan; the attributes are those of `inference.translate.translate`."""

    translator: Translator
    to: str | None
    match: Volume | None
    force: bool
    volume: int | None
    assume: str | None
    dtype: str

    def contrast_of(self, known: str | None) -> str:
        """The contrast to make of a scan of a known or unknown contrast."""
        bundle = self.translator.bundle
        return self.to or (bundle.source if known == bundle.target else bundle.target)

    def taken_for(self, to: str) -> str:
        """What is said of a scan of unknown contrast, of which a contrast is made."""
        bundle = self.translator.bundle
        return f"assuming it is {bundle.source if to == bundle.target else bundle.target}"

    def workers(self, wanted: Workers) -> Workers:
        """Who works on it: only this process where the model is in its memory, and in no file."""
        return 1 if self.translator.bundle.path is None else wanted


def _contrast_for(job: Job, scan: Volume, path: Path | None) -> str:
    """The contrast to make of a scan, if it is fit for that."""
    bundle = job.translator.bundle
    to = job.translator.choose_contrast(scan, job.to)
    if job.force:
        return to
    if scan.other:
        raise InputError(scan.other, path=path, remedy="Name another scan, or use --force.")
    if scan.synthetic:
        raise InputError("is synthetic already", path=path, remedy="Use --force to go on.")
    if scan.contrast == to:
        raise InputError(f"is {to} already", path=path, remedy="Choose --to, or use --force.")
    if scan.contrast not in (None, bundle.source, bundle.target):
        raise InputError(
            f"is {scan.contrast}; this model takes {bundle.source} and {bundle.target}",
            path=path,
            remedy="Name another scan, or use --force.",
        )
    if scan.contrast is None and path is not None:
        # The folder of a DICOM study may be called after the patient.
        name = path.name if is_readable(path) else "the series"
        log.warning("%s: nothing says which contrast it is; %s", name, job.taken_for(to))
    return to


def translate_file(job: Job, path: Path, output: Path, contrast: str | None = None) -> Translation:
    """Read, translate and write one file, whose contrast its folders may have told.

    Raises:
        InputError: it cannot be read, or is not fit to be translated.
        OutputError: the output cannot be written, or would replace what is no synthesis.
        SettingsError: a picture is wanted in another type of numbers.
    """
    check_free(path, output)
    scan = read(path, volume=job.volume, assume=job.assume)
    scan = replace(scan, contrast=scan.contrast or (None if scan.other else contrast))
    synthesis = synthesise(job, scan, path)
    bundle, source = job.translator.bundle, name_for_sidecar(path, output)
    write_synthesis(synthesis, output, lambda: provenance(bundle, synthesis, source))
    rounding, to = synthesis.rounding, synthesis.contrast
    unknown = scan.contrast is None
    notes = scan.notes
    if unknown:
        notes += (f"nothing says which contrast it is; {job.taken_for(to)}",)
    model = job.translator.bundle.hash
    return Translation(path, output, to, model, rounding=rounding, notes=notes)


def synthesise(job: Job, scan: Volume, path: Path | None) -> Synthesis:
    """Translate one scan that was read, if it is fit for that.

    Raises:
        InputError: it is synthetic, of the wanted contrast already, or of another that is known.
        SettingsError: it is a picture, and wanted in another type of numbers.
    """
    to = _contrast_for(job, scan, path)
    if job.dtype != "float32" and scan.is_picture:
        raise SettingsError(
            "a picture keeps its depth", path=path, remedy="Leave the number type to volumes."
        )
    mask = _mask(job.translator, path)
    try:
        made, planes = job.translator.translate_and_tell(scan, to, match=job.match, mask=mask)
    except InputError as error:  # of the voxels, which know no file
        raise InputError(error.what, path=error.path or path, remedy=error.remedy) from error
    rounding: Rounding | None = None
    if job.dtype != "float32":
        made, rounding = rounded(made, job.dtype, job.translator.range_of(to, job.match))
        log.info(
            "%s: rounded to %s after multiplication with %g, %d voxels clipped",
            "the scan" if path is None else path.name,
            *(rounding.dtype, rounding.factor, rounding.clipped),
        )
    return Synthesis(scan, made, to, planes, rounding)


def reference_of(translator: Translator, match: Any) -> Volume:
    """What is to be matched, only its brain where a mask beside it and the model say so."""
    if not isinstance(match, str | Path):
        return as_volume(match)
    match = Path(here(match))
    scan, mask = read(match), _mask(translator, match)
    if mask is None:
        return scan
    inside = find_brain(scan, "mask", mask)
    return replace(scan, voxels=np.where(inside, scan.voxels, 0).astype(scan.voxels.dtype))


def _mask(translator: Translator, path: Path | None) -> Volume | None:
    """The brain mask that lies beside a scan, where the model was trained on brains so masked."""
    if path is None or not path.is_file():
        return None
    return mask_beside(path, translator.bundle.manifest.standard)
