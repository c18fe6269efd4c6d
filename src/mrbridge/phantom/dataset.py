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
from mrbridge.io.metadata import filled_texts
from mrbridge.io.ownership import check_only, is_our_json
from mrbridge.io.temporary import sweep
from mrbridge.parallel import map_scans
from mrbridge.phantom.labels import label_maps
from mrbridge.phantom.settings import PhantomSettings
from mrbridge.phantom.signals import PulseSequence
from mrbridge.phantom.subjects import simulate
from mrbridge.settings import Positive, checked
from mrbridge.text import parse_json
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


@checked
def write_bids(
    out: str | Path, settings: PhantomSettings, *, workers: Positive = 1, overwrite: bool = False
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
    acquired = _texts(settings)["sequences"]
    for contrast, scan in subject.scans.items():
        write(scan, raw / f"{name}_{contrast}.nii.gz")
        sequence = subject.sequences[contrast]
        sidecar = _sidecar(scan, sequence, acquired[type(sequence).__name__])
        write_json(raw / f"{name}_{contrast}.json", sidecar)
    masks = (
        ("desc-brain", "Brain", subject.brain_mask),
        ("label-lesion", "Lesion", subject.lesions),
    )
    for entity, kind, volume in masks:
        write(volume, derived / f"{name}_{entity}_mask.nii.gz")
        sources = [f"bids:raw:{name}/anat/{name}_{scan}.nii.gz" for scan in subject.scans]
        write_json(derived / f"{name}_{entity}_mask.json", {"Type": kind, "Sources": sources})


def _sidecar(scan: Volume, sequence: PulseSequence, acquired: dict[str, Any]) -> dict[str, Any]:
    spacing = scan.spacing
    assert spacing is not None  # simulated volumes have an affine
    fields: dict[str, Any] = {
        "Simulated": True,
        "Manufacturer": "mrbridge phantom (simulated)",
        "MagneticFieldStrength": 3,
        "SliceThickness": round(spacing[2], 6),
        **acquired,
    }
    # BIDS has seconds, sequences have milliseconds.
    times = {"RepetitionTime": "tr", "EchoTime": "te", "InversionTime": "ti"}
    for field, name in times.items():
        if hasattr(sequence, name):
            fields[field] = round(getattr(sequence, name) / 1000, 6)
    return {**fields, "FlipAngle": sequence.flip_degrees}


def _texts(settings: PhantomSettings) -> dict[str, Any]:
    """The content of `dataset.toml` for these settings."""
    heads = "template" if settings.labels is None else "labels"
    values = {
        "subjects": settings.subjects,
        "contrasts": ", ".join(settings.contrasts),
        "seed": settings.seed,
        "settings_file": SETTINGS_FILE.as_posix(),
        "bids_version": BIDS_VERSION,
        "version": version("mrbridge"),
    }
    file = Path(__file__).with_name("dataset.toml")
    texts = filled_texts(file, **values, origin=filled_texts(file)["origins"][heads])
    texts["raw"]["ReferencesAndLinks"] = texts["raw"]["ReferencesAndLinks"][heads]
    return texts


def _describe(folder: Path, settings: PhantomSettings) -> None:
    texts = _texts(settings)
    write_json(folder / "dataset_description.json", texts["raw"])
    derived = folder / "derivatives" / "phantom" / "dataset_description.json"
    write_json(derived, texts["derivatives"])
    labels = [f"sub-{index + 1:02d}" for index in range(settings.subjects)]
    rows = ["participant_id\tsimulated", *(f"{label}\tyes" for label in labels)]
    write_text(folder / "participants.tsv", "\n".join(rows) + "\n")
    write_json(folder / "participants.json", texts["participants"])
    write_text(folder / "README", texts["readme"])
