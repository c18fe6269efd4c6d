"""A reader study: blinded scans, what is asked about them, the key, and the answers of raters.

Nothing but the anatomy may tell a real scan from a synthetic one. The two scans of a person have
one grid (both are interpolated, if they had two), one field of view (what both call the head;
synthetic scans have no noise around it), 256 grey levels over their own range, and the same header.

The answers of each rater are a CSV, which they may look at and continue.
"""

from __future__ import annotations

import csv
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge import __version__
from mrbridge.errors import (
    InputError,
    MrbridgeError,
    OutputError,
    SettingsError,
    SomeScansFailed,
    must_be_new,
)
from mrbridge.evaluation.cases import Case, find_synthetic
from mrbridge.evaluation.partners import with_files, with_found_files
from mrbridge.io import read
from mrbridge.io.atomic import atomic_folder, read_json, write_json, write_text
from mrbridge.io.ownership import check_only
from mrbridge.preprocessing.foreground import Head
from mrbridge.preprocessing.registration import register
from mrbridge.preprocessing.resample import empty_grid, grid_difference, resample, stored_like
from mrbridge.progress import track
from mrbridge.reports import counted, csv_table
from mrbridge.study.settings import StudySettings
from mrbridge.viewer import as_image
from mrbridge.volume import Volume

STUDY, KEY = "study.json", "key.json"
"""What raters may see, and what they may not."""

_RANGE = 99.5  # the percentile of the head that is white
_EDGE_MM, _APART_MM = 15.0, 10.0  # of positions without a lesion: from the surface, from lesions
_SMALLEST_ML = 0.01
_COMMON_MM = 1.0  # voxels of the grid of scans that had two grids

COLUMNS = ("scan", "question", "answer", "seconds")
ORIGIN, QUALITY = "origin", "quality"
ORIGINS, QUALITIES, PRESENCE = ("real", "synthetic"), ("1", "2", "3", "4", "5"), ("yes", "no")


@dataclass(frozen=True)
class Spot:
    """A position at which raters are asked whether there is a lesion.

    Attributes:
        lesion: the number of the lesion, from 1; None if there is none.
        position_mm: RAS+.
        volume_ml: of the lesion.
    """

    lesion: int | None
    position_mm: tuple[float, float, float]
    volume_ml: float | None


@dataclass(frozen=True)
class Study:
    """A study, as it was set up.

    Attributes:
        items: the blinded scans: name to the positions to ask about, each with its name.
    """

    path: Path
    seed: int
    items: dict[str, dict[str, list[float]]]

    @classmethod
    def open(cls, path: str | Path) -> Study:
        """Open a study; InputError if it is not one."""
        path = Path(path)
        try:
            content = read_json(path / STUDY)
            return cls(path, int(content["seed"]), dict(content["items"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"is not a reader study ({STUDY} cannot be read)",
                path=path,
                remedy="Set one up with mrbridge study setup.",
            ) from error

    def order_for(self, rater: str) -> list[str]:
        """The scans in the random order of a rater."""
        names = sorted(self.items)
        rng = np.random.default_rng([self.seed, zlib.crc32(rater.encode())])
        return [names[k] for k in rng.permutation(len(names))]

    def image(self, item: str) -> Path:
        """The file of a scan."""
        return self.path / "images" / f"{item}.nii"

    @property
    def key(self) -> dict[str, Any]:
        """What is what: `scans` and `spots` by their names; InputError if it is not there."""
        try:
            return dict(read_json(self.path / KEY))
        except (OSError, ValueError) as error:
            raise InputError(
                "cannot be read, and without it nothing can be analysed",
                path=self.path / KEY,
                remedy="Put it back.",
            ) from error


def setup(
    real: str | Path,
    synthetic: str | Path | None,
    out: str | Path,
    *,
    lesions: str | Path | None = None,
    settings: StudySettings | None = None,
    overwrite: bool = False,
) -> Study:
    """Set up a reader study.

    Args:
        real: a folder of real scans.
        synthetic: a folder of synthetic ones, each of a person and contrast of `real`; None: the
            scans of `real` with `desc-synth` in their names.
        out: the folder of the study, with the blinded scans and the key.
        lesions: lesion masks on the grids of the scans, a file or a folder; otherwise those of BIDS
            derivatives are used where they exist.
        overwrite: replace an earlier study; its answers are lost.

    Raises:
        InputError: no two scans belong together.
        OutputError: the folder is not empty, or is a study that has answers.
        SomeScansFailed: some people's scans cannot be used; the study has the others.
    """
    out, settings = Path(out), settings or StudySettings()
    _must_be_replaceable(out, overwrite)
    cases = find_synthetic(real, real if synthetic is None else synthetic).cases
    if lesions is not None:
        cases = with_files(cases, lesions, "lesions")
    rng = np.random.default_rng(settings.seed)
    taken: set[str] = set()
    failures: list[tuple[str, str]] = []
    items: dict[str, dict[str, list[float]]] = {}
    key: dict[str, dict[str, Any]] = {"scans": {}, "spots": {}}
    with atomic_folder(out) as folder:
        (folder / "images").mkdir(parents=True)
        (folder / "answers").mkdir()
        for case in track(cases, "Blinding"):
            try:
                pair, spots = _prepared(with_found_files(case), settings, rng)
            except MrbridgeError as error:
                failures.append((case.name, str(error)))
                continue
            # By the images, too: answers to a study of other images do not fit this one.
            digests = [zlib.crc32(volume.voxels.tobytes()) for volume in pair.values()]
            names = _random_names(np.random.default_rng([settings.seed, *digests]), taken)
            for kind, volume in pair.items():
                item = next(names)
                nib.save(as_image(volume), folder / "images" / f"{item}.nii")
                key["scans"][item] = {"person": case.name, "is": kind}
                asked = {next(names): spot for spot in spots}
                items[item] = {name: list(spot.position_mm) for name, spot in asked.items()}
                key["spots"] |= {
                    name: {"scan": item, **asdict(spot)} for name, spot in asked.items()
                }
        if not items:
            people = counted(len(cases), "person", "people")
            raise InputError(
                f"of {people}, none can be used; {failures[0][0]}: {failures[0][1]}",
                remedy="Correct the scans, or choose others.",
            )
        made = {"created_by": f"mrbridge {__version__}", "seed": settings.seed}
        write_json(folder / STUDY, made | {"items": dict(sorted(items.items()))})
        write_json(folder / KEY, {"created_by": made["created_by"], **key})
    study = Study.open(out)
    if failures:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures)
        raise SomeScansFailed(
            f"{len(failures)} of {len(cases)} people cannot be used ({reasons})",
            path=out,
            remedy="The study has the others.",
            result=study,
        )
    return study


def _must_be_replaceable(out: Path, overwrite: bool) -> None:
    if not overwrite or not out.exists():
        must_be_new(out)
        return
    if any((out / "answers").glob("*.csv")):
        raise OutputError(
            "is a study that has answers", path=out, remedy="Choose another folder, or delete it."
        )
    check_only(out, ("images/*.nii", STUDY, KEY, "report.html", "analysis.json"))


def _random_names(rng: np.random.Generator, taken: set[str]) -> Iterator[str]:
    while True:
        name = rng.bytes(4).hex()
        if name not in taken:
            taken.add(name)
            yield name


def _prepared(
    case: Case, settings: StudySettings, rng: np.random.Generator
) -> tuple[dict[str, Volume], list[Spot]]:
    """The two scans of a person, alike in all but what they show, in random order; positions.

    Raises:
        InputError: a scan cannot be read, or they cannot be registered.
    """
    assert case.synthetic is not None
    (path,) = case.images.values()
    real, synthetic = read(path), read(case.synthetic, force=True)
    mask = None if case.lesions is None else read(case.lesions, force=True)
    synthetic = stored_like(synthetic, real)
    difference = grid_difference(real, synthetic)
    if difference is not None:
        if real.affine is None or synthetic.affine is None:
            raise InputError(
                f"is on another grid than its synthetic image ({difference})",
                path=path,
                remedy="Use 2D images of one size.",
            )
        transform = register(real, synthetic, "rigid", settings.seed).transform
        onto = _common_grid(synthetic)
        if mask is not None:
            is_of_real = grid_difference(stored_like(mask, real), real) is None
            mask = resample(mask, onto, transform if is_of_real else None, "nearest")
        real, synthetic = resample(real, onto, transform), resample(synthetic, onto)
    elif mask is not None and grid_difference(mask, real) is not None:
        mask = resample(mask, real, None, "nearest")
    head = Head(real).mask & Head(synthetic).mask
    if not head.any():
        raise InputError("shows nothing that its synthetic image shows", path=path, remedy="Look.")
    pair = {"real": _blinded(real, head), "synthetic": _blinded(synthetic, head)}
    spots = [] if mask is None else _spots(mask.voxels > 0, head, real, settings.spots, rng)
    return dict(sorted(pair.items(), reverse=bool(rng.integers(2)))), spots


def _common_grid(volume: Volume) -> Volume:
    """A grid along the axes of the body that holds a scan."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(volume.voxels.shape) - 1)
    assert volume.affine is not None
    places = apply_affine(volume.affine, corners)
    low, high = places.min(axis=0), places.max(axis=0)
    affine = np.diag([_COMMON_MM] * 3 + [1.0])
    affine[:3, 3] = low
    return empty_grid(tuple(int(n) for n in np.ceil((high - low) / _COMMON_MM) + 1), affine)


def _blinded(volume: Volume, head: NDArray[np.bool_]) -> Volume:
    """The head in 256 grey levels, without a header."""
    values = np.asarray(volume.voxels, np.float32)
    low, high = 0.0, float(np.percentile(values[head], _RANGE))
    grey = np.clip((values - low) / max(high - low, 1e-9), 0, 1) * 255
    return Volume(np.where(head, grey.round(), 0).astype(np.uint8), volume.affine)


def _spots(
    lesions: NDArray[np.bool_],
    head: NDArray[np.bool_],
    volume: Volume,
    most: int,
    rng: np.random.Generator,
) -> list[Spot]:
    """The largest lesions, and as many positions deep in the head without one; shuffled."""
    assert volume.affine is not None
    assert volume.spacing is not None
    labels, count = ndimage.label(lesions, np.ones((3, 3, 3)))
    ml = float(np.prod(volume.spacing)) / 1000
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:] * ml
    chosen = [k for k in np.argsort(-sizes) if sizes[k] >= _SMALLEST_ML][:most]

    def position(index: NDArray[Any]) -> tuple[float, float, float]:
        x, y, z = apply_affine(volume.affine, index).round(2).tolist()
        return x, y, z

    spots = []
    for number, k in enumerate(chosen, 1):
        voxels = np.argwhere(labels == k + 1)
        middle = voxels[np.linalg.norm(voxels - voxels.mean(axis=0), axis=1).argmin()]
        spots.append(Spot(number, position(middle), round(float(sizes[k]), 4)))
    depth = ndimage.distance_transform_edt(head, volume.spacing)
    deep = depth > min(_EDGE_MM, depth.max() / 2)
    away = ndimage.distance_transform_edt(~lesions, volume.spacing) > _APART_MM
    free = np.argwhere(deep & away)
    for index in rng.choice(free, min(len(chosen), len(free)), replace=False):
        spots.append(Spot(None, position(index), None))
    return [spots[k] for k in rng.permutation(len(spots))]


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        scan: the blinded name.
        question: `origin`, `quality`, or the name of a position.
        answer: `real` or `synthetic`; 1 (unusable) to 5 (excellent); `yes` or `no`.
        seconds: from the first view of the scan to the last answer about it.
    """

    scan: str
    question: str
    answer: str
    seconds: float


def path_for(study: Study, rater: str) -> Path:
    """The file of a rater; SettingsError if the name cannot be part of a file's name."""
    if not re.fullmatch(r"[\w-]{1,40}", rater):
        raise SettingsError(
            f"'{rater[:40]}' cannot name a rater", remedy="Use letters, digits, - and _."
        )
    return study.path / "answers" / f"{rater}.csv"


def allowed(study: Study, scan: str) -> dict[str, tuple[str, ...]]:
    """The questions about a scan, with the possible answers."""
    spots: dict[str, tuple[str, ...]] = dict.fromkeys(study.items[scan], PRESENCE)
    return {ORIGIN: ORIGINS, QUALITY: QUALITIES} | spots


def read_answers(study: Study, path: Path) -> list[Answer]:
    """The answers of a file, none if it does not exist; InputError if it is not a file of answers
    to this study."""
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        answers = [
            Answer(row["scan"], row["question"], row["answer"], float(row["seconds"]))
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(
            f"does not have the columns {', '.join(COLUMNS)}",
            path=path,
            remedy="Move it out of the folder.",
        ) from error
    for line, one in enumerate(answers, 2):
        known = allowed(study, one.scan) if one.scan in study.items else {}
        if one.answer not in known.get(one.question, ()):
            raise InputError(
                f"line {line} is not an answer to a question of this study",
                path=path,
                remedy="Correct the line, or move the file out of the folder.",
            )
    twice = [key for key, n in Counter((a.scan, a.question) for a in answers).items() if n > 1]
    if twice:
        raise InputError(
            f"answers a question about {twice[0][0]} twice",
            path=path,
            remedy="Remove one of the two lines.",
        )
    return answers


def add_answers(study: Study, path: Path, scan: str, given: dict[str, str], seconds: float) -> None:
    """Keep the answers about one scan; ValueError if some are missing, impossible, or were given
    before."""
    questions = allowed(study, scan)
    if given.keys() != questions.keys() or any(v not in questions[k] for k, v in given.items()):
        raise ValueError("every question needs one of its answers")
    answers = read_answers(study, path)
    if any(one.scan == scan for one in answers):
        raise ValueError("this scan was judged already")
    answers += [Answer(scan, k, given[k], round(seconds, 1)) for k in questions]
    write_text(path, csv_table(COLUMNS, map(astuple, answers)))
