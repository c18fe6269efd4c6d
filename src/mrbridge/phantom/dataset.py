"""A BIDS dataset of simulated subjects on disk."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mrbridge.errors import OutputError, must_be_here
from mrbridge.io import write
from mrbridge.io.atomic import atomic_folder, sha256_of, write_json, write_text
from mrbridge.io.bids_name import BIDS_VERSION
from mrbridge.io.ownership import check_only, is_our_json
from mrbridge.io.temporary import sweep
from mrbridge.json_text import parse_json
from mrbridge.parallel import map_scans
from mrbridge.phantom.labels import label_maps
from mrbridge.phantom.settings import PhantomSettings
from mrbridge.phantom.signals import FastSpinEcho, FluidAttenuated, GradientEcho, PulseSequence
from mrbridge.phantom.subjects import simulate
from mrbridge.volume import CONTRASTS, Volume

SETTINGS_FILE = Path("code", "phantom.json")
"""The settings of a dataset, in its folder."""

FILES = (
    *("dataset_description.json", "participants.tsv", "participants.json", "README"),
    *(SETTINGS_FILE.as_posix(), "derivatives/phantom/dataset_description.json"),
    *(f"sub-*/anat/sub-*_{name}.{kind}" for name in CONTRASTS for kind in ("json", "nii.gz")),
    *("derivatives/phantom/sub-*_mask.json", "derivatives/phantom/sub-*_mask.nii.gz"),
)
"""The files of a dataset, as patterns."""

_ORIGIN = (
    "Simulated. The anatomy is derived from the ICBM 152 nonlinear symmetric 2009a template "
    "(copyright 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological "
    "Institute, McGill University), as distributed with nilearn; its terms, which permit use and "
    "distribution with this notice, apply to that part. No subject is a real person."
)
_ORIGIN_OF_LABELS = (
    "Simulated. The anatomy is derived from label maps that the user named; their terms apply. The "
    "face and skull of maps without labels for them are derived from the ICBM 152 template."
)
_HOW_ACQUIRED: dict[type, dict[str, Any]] = {
    GradientEcho: {
        "ScanningSequence": "GR",
        "SequenceVariant": "SP",
        "MRAcquisitionType": "3D",
        "PulseSequenceType": "spoiled gradient echo",
    },
    FastSpinEcho: {
        "ScanningSequence": "SE",
        "SequenceVariant": "SK",
        "MRAcquisitionType": "2D",
        "PulseSequenceType": "fast spin echo",
    },
    FluidAttenuated: {
        "ScanningSequence": ["SE", "IR"],
        "SequenceVariant": "SK",
        "MRAcquisitionType": "2D",
        "PulseSequenceType": "fluid-attenuated inversion recovery",
    },
}
_CITATIONS = [
    "Fonov et al. 2011, NeuroImage 54:313-327, doi:10.1016/j.neuroimage.2010.07.033",
    "Fonov et al. 2009, NeuroImage 47:S102, doi:10.1016/S1053-8119(09)70884-5",
]


def write_bids(
    out: str | Path, settings: PhantomSettings, *, workers: int = 1, overwrite: bool = False
) -> Path:
    """Write a dataset: scans of `settings.subjects` subjects, masks among its derivatives.

    The folder is complete or absent: it is written under another name next to `out` and renamed. If
    `out` already holds the dataset of the same settings and version, nothing is done.

    Args:
        out: folder of the dataset; absent, empty, or an earlier dataset of this kind.
        settings: subjects and scanner.
        workers: processes; the files do not depend on it.
        overwrite: replace an earlier dataset of other settings.

    Returns:
        `out`.

    Raises:
        OutputError: `out` holds anything else, or cannot be written.
    """
    must_be_here(out)
    out = Path(out)
    if _is_complete(out, _stamp(settings), overwrite):
        return out
    if out.parent.is_dir():
        sweep(out.parent)
    with atomic_folder(out) as folder:
        _describe(folder, settings)
        work = partial(_write_subject, folder, settings)
        for _, failure in map_scans(
            work, range(settings.subjects), workers=workers, label="phantom"
        ):
            if failure is not None:
                raise failure
        write_json(folder / SETTINGS_FILE, _stamp(settings))
    return out


def _stamp(settings: PhantomSettings) -> dict[str, Any]:
    """What a dataset depends on; label maps count by their content, not by their place."""
    values = settings.model_dump(mode="json")
    if settings.labels is not None:
        values["labels"] = [sha256_of(path) for path in label_maps(settings.labels)]
    return {"mrbridge": version("mrbridge"), "settings": values}


def _is_complete(out: Path, stamp: dict[str, Any], overwrite: bool) -> bool:
    """Whether `out` is complete already; refuses what must not be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        there = parse_json((out / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        there = None
    if not is_our_json(there):
        raise OutputError(
            "holds something other than a simulated data set",
            path=out,
            remedy="Choose an empty or new folder.",
        )
    if there == stamp and not overwrite:
        return True
    if not overwrite:
        raise OutputError(
            "holds a simulated data set of other settings",
            path=out,
            remedy="Choose another folder, or replace it with --overwrite.",
        )
    check_only(out, FILES)
    return False


def _write_subject(folder: Path, settings: PhantomSettings, index: int) -> None:
    subject = simulate(settings, index)
    name = f"sub-{subject.label}"
    raw = folder / name / "anat"
    derived = folder / "derivatives" / "phantom" / name / "anat"
    for contrast, scan in subject.scans.items():
        write(scan, raw / f"{name}_{contrast}.nii.gz")
        write_json(raw / f"{name}_{contrast}.json", _sidecar(scan, subject.sequences[contrast]))
    masks = (
        ("desc-brain", "Brain", subject.brain_mask),
        ("label-lesion", "Lesion", subject.lesions),
    )
    for entity, kind, volume in masks:
        write(volume, derived / f"{name}_{entity}_mask.nii.gz")
        sources = [f"bids:raw:{name}/anat/{name}_{scan}.nii.gz" for scan in subject.scans]
        write_json(derived / f"{name}_{entity}_mask.json", {"Type": kind, "Sources": sources})


def _sidecar(scan: Volume, sequence: PulseSequence) -> dict[str, Any]:
    spacing = scan.spacing
    assert spacing is not None  # simulated volumes have an affine
    fields: dict[str, Any] = {
        "Simulated": True,
        "Manufacturer": "mrbridge phantom (simulated)",
        "MagneticFieldStrength": 3,
        "SliceThickness": round(spacing[2], 6),
        **_HOW_ACQUIRED[type(sequence)],
    }
    # BIDS has seconds, sequences have milliseconds.
    times = {"RepetitionTime": "tr", "EchoTime": "te", "InversionTime": "ti"}
    for field, name in times.items():
        if hasattr(sequence, name):
            fields[field] = round(getattr(sequence, name) / 1000, 6)
    return {**fields, "FlipAngle": sequence.flip_degrees}


def _describe(folder: Path, settings: PhantomSettings) -> None:
    generator = {
        "Name": "mrbridge",
        "Version": version("mrbridge"),
        "Description": f"mrbridge phantom, seed {settings.seed}: simulated subjects",
    }
    shared = {
        "BIDSVersion": BIDS_VERSION,
        "GeneratedBy": [generator],
        "License": _origin(settings),
    }
    write_json(
        folder / "dataset_description.json",
        {
            "Name": "mrbridge phantom (simulated)",
            "DatasetType": "raw",
            **shared,
            "ReferencesAndLinks": _CITATIONS if settings.labels is None else [],
        },
    )
    write_json(
        folder / "derivatives" / "phantom" / "dataset_description.json",
        {
            "Name": "mrbridge phantom: masks (simulated)",
            "DatasetType": "derivative",
            **shared,
            "DatasetLinks": {"raw": "../.."},
        },
    )
    labels = [f"sub-{index + 1:02d}" for index in range(settings.subjects)]
    rows = ["participant_id\tsimulated", *(f"{label}\tyes" for label in labels)]
    write_text(folder / "participants.tsv", "\n".join(rows) + "\n")
    write_json(
        folder / "participants.json",
        {
            "simulated": {
                "Description": "Whether the subject was simulated rather than scanned",
                "Levels": {"yes": "simulated"},
            }
        },
    )
    write_text(folder / "README", _readme(settings))


def _origin(settings: PhantomSettings) -> str:
    return _ORIGIN if settings.labels is None else _ORIGIN_OF_LABELS


def _readme(settings: PhantomSettings) -> str:
    return f"""# Simulated subjects

{settings.subjects} simulated heads, {", ".join(settings.contrasts)} in register, made by mrbridge
{version("mrbridge")} (`mrbridge phantom`, seed {settings.seed}).
All options: `{SETTINGS_FILE.as_posix()}`.
Masks of the brain and of lesions: `derivatives/phantom`.

{_origin(settings)}

For research and tests, not for diagnosis.
"""
