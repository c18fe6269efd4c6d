"""What all kinds of input share in translation: the wish, what it becomes, what is said of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrbridge import __version__
from mrbridge.errors import InputError
from mrbridge.inference.engine import Translator
from mrbridge.volume import Volume


@dataclass(frozen=True)
class Translation:
    """One scan of a batch.

    Attributes:
        source: the file that was read.
        output: the file that was written, None if it failed.
        contrast: what was to be made.
        model: SHA-256 of the weights that made it, or were to.
        error: why it failed, None if it did not.
    """

    source: Path
    output: Path | None
    contrast: str | None
    model: str
    error: str | None = None


@dataclass(frozen=True)
class Job:
    """What is to be made, by what; see `translate` for the rest."""

    translator: Translator
    to: str | None
    match: Volume | None
    force: bool
    volume: int | None
    assume: str | None

    def contrast_of(self, known: str | None) -> str:
        """The contrast to make of a scan of a known or unknown contrast."""
        bundle = self.translator.bundle
        return self.to or (bundle.source if known == bundle.target else bundle.target)


def check(job: Job, scan: Volume, path: Path | None) -> str:
    """The contrast to make of a scan, if it is fit for that."""
    bundle = job.translator.bundle
    to = job.translator.choose_contrast(scan, job.to)
    if job.force:
        return to
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
    return to


def sidecar(output: Path) -> Path:
    """The JSON file beside a NIfTI file."""
    return output.with_name(output.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def note(to: str) -> str:
    """What marks a file as synthetic, in 79 letters: NIfTI has no more."""
    return f"synthetic {to}, mrbridge {__version__}, research only, not for diagnosis"


def provenance(job: Job, source: str, to: str) -> dict[str, Any]:
    """What the sidecar says, in the words of BIDS; `source` names what was translated."""
    bundle = job.translator.bundle
    return {
        "SyntheticData": True,
        "Description": f"Synthetic {to}, for research, not for diagnosis.",
        "Sources": [source],
        "SpatialReference": source,
        "GeneratedBy": [
            {
                "Name": "mrbridge",
                "Version": __version__,
                "Model": bundle.hash,
                "Preset": bundle.manifest.preset,
            }
        ],
    }
