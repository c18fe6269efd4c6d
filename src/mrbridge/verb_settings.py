"""One model for each verb, with its name: its arguments and options, from which help and
documentation derive.

Importing them takes neither PyTorch nor NumPy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mrbridge.errors import SettingsError
from mrbridge.models import SHIPPED
from mrbridge.settings import Option, VerbSettings

Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    Field(description="Device for the computation; cuda is experimental."),
]
Model = Annotated[
    Path | None,
    Option(("-m", "--model"), "MODEL", "the shipped model"),
    Field(description="A run or a bundle."),
]
Force = Annotated[
    bool,
    Field(
        description="Also use scans that their name or header identifies as something else: a "
        "mask, a map, a scan after a contrast agent."
    ),
]
AllowCode = Annotated[
    bool,
    Field(
        description="Import code that the model names and that is installed here "
        "(docs/how-to/extend.md). Only for models that you trust."
    ),
]
Place = Annotated[Path | None, Option(place=True)]
Lesions = Annotated[
    Path | None, Option(place=True, default="those of the dataset's BIDS derivatives")
]
StorePlace = Annotated[Path, Option(metavar="STORE", place=True, argument=True)]
_OUT = Option(("-o", "--out"))
_OUT_PLACE = Option(("-o", "--out"), place=True)


def _overwrite(otherwise: str) -> str:
    """The description of `--overwrite`; `otherwise` says what the verb does without it."""
    return f"Replace files that mrbridge wrote, never others. Without it, {otherwise}."


OverwriteFolder = Annotated[
    bool, Field(description=_overwrite("a folder that is not empty is refused"))
]
OverwriteFiles = Annotated[
    bool,
    Field(
        description="Has no effect here: files that mrbridge wrote are always replaced, others "
        "never."
    ),
]


class Processes(VerbSettings):
    """Options of verbs whose work is done by several processes."""

    workers: int = Field(1, ge=1, description="Number of processes.")


class Parallel(Processes):
    """Options of verbs whose scans are shared out among processes or a cluster."""

    dask: Annotated[str | None, Option(metavar="ADDRESS")] = Field(
        None,
        description="Address of a Dask scheduler whose workers do the work, such as "
        "tcp://host:8786.",
    )

    @property
    def crew(self) -> int | str:
        """The workers for `mrbridge.parallel.map_scans`; SettingsError if both processes and a
        cluster are asked for."""
        if self.dask is not None and self.workers != 1:
            raise SettingsError("--workers and --dask exclude each other", remedy="Leave one out.")
        return self.workers if self.dask is None else self.dask


class Demo(VerbSettings):
    out: Annotated[Path, _OUT] = Field(description="A new folder.")
    minutes: float = Field(5, ge=0.2, description="Time for the whole demo, in minutes.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of subjects, splits and training.")
    overwrite: OverwriteFolder = False


class Phantom(Processes):
    stage = "mrbridge.phantom.settings:PhantomSettings"
    setting_keys = ("contrasts", "subjects", "seed", "labels", "pathology")

    out: Annotated[Path, _OUT] = Field(description="The BIDS dataset to write.")
    overwrite: bool = Field(
        False, description=_overwrite("the same dataset is kept, another one refused")
    )


class Ixi(VerbSettings):
    stage = "mrbridge.download.settings:DownloadSettings"
    setting_keys = ("contrast", "subjects", "mirror", "dry_run", "overwrite", "workers")

    out: Annotated[Path, _OUT] = Field(
        description="A new folder, or one in which to resume a download."
    )


class OpenNeuro(Ixi):
    dataset: Annotated[str, Option(metavar="DATASET", argument=True)] = Field(
        description="Accession number, such as ds002330."
    )
    version: Annotated[str | None, Option(default="newest")] = Field(
        None, description="Version of the dataset, such as 1.1.0."
    )


class Prepare(Parallel):
    stage = "mrbridge.dataset.settings:PrepareSettings"
    setting_keys = (
        *("source", "target", "registration"),
        *("standard.foreground", "standard.brain", "standard.brain_mask"),
        *("standard.align", "standard.denoise", "standard.bias", "standard.intensity.method"),
        "slices",
    )

    sources: Annotated[tuple[Path, ...], Option(metavar="SRC…", place=True, argument=True)] = Field(
        description="A BIDS dataset; a folder with a folder for each contrast; two folders, source "
        "contrast first; a folder or zip of DICOM files; or a CSV table (subject, session, "
        "contrast, path). Any by path or URL, such as s3://bucket/bids.",
    )
    out: Annotated[Path, _OUT_PLACE] = Field(description="The prepared dataset.")
    force: Force = False
    overwrite: bool = Field(False, description=_overwrite("only changes are prepared"))


class Inspect(Parallel):
    path: Annotated[Path, Option(metavar="SRC|STORE", place=True, argument=True)] = Field(
        description="A BIDS dataset, a folder of NIfTI files or 2D images, a table, a folder or "
        "zip of DICOM files, one scan, or a prepared store."
    )
    out: Annotated[Path | None, _OUT_PLACE] = Field(
        None, description="Also check the images, and write this report (.html)."
    )
    fix: Place = Field(
        None,
        description="Also check the images, and write a table (.csv) for prepare without exact "
        "duplicates and unreadable files. The source is not changed.",
    )
    overwrite: bool = Field(False, description=_overwrite("a page is replaced, a table is not"))


class Train(VerbSettings):
    stage = "mrbridge.training.settings:TrainSettings"
    setting_keys = ("preset",)

    store: StorePlace = Field(description="A prepared store, by path or URL.")
    out: Annotated[Path, _OUT] = Field(description="The run's folder.")
    start: Annotated[
        str | None,
        Option(
            ("--from",),
            "MODEL",
            "shipped if it has the preset's networks and the store's contrasts, otherwise scratch",
        ),
    ] = Field(None, description="Initial weights: shipped, scratch (random), a run or a bundle.")
    resume: bool = Field(False, description="Resume a run that was stopped.")
    device: Device = "auto"
    devices: int = Field(
        1, ge=1, description="Number of processes that train together, each on its own device."
    )
    overwrite: OverwriteFolder = False
    allow_code: bool = Field(
        False,
        description="Import code that the store, the resumed run or the initial model names "
        "(docs/how-to/extend.md). What --set and --config name is imported in any case.",
    )


class SeveralTrainings(VerbSettings):
    """Options of verbs that train many times on one store."""

    start: Annotated[str | None, Option(("--from",), "MODEL", "as of train")] = Field(
        None, description="Initial weights: shipped, scratch (random), a run or a bundle."
    )
    device: Device = "auto"
    allow_code: bool = Field(
        False,
        description="Import code that the store or the initial model names "
        "(docs/how-to/extend.md). What you name in settings is imported in any case.",
    )


class Tune(Processes, SeveralTrainings):
    stage = "mrbridge.training.settings:TrainSettings"
    setting_keys = ("preset",)

    store: StorePlace = Field(
        description="A prepared store with a validation split, by path or URL."
    )
    out: Annotated[Path, _OUT] = Field(description="The folder of the search.")
    trials: int = Field(
        20, ge=1, description="Number of trainings, with those that the folder has already."
    )
    minutes: float = Field(10, gt=0, description="Time of training for each trial, in minutes.")
    space: Annotated[
        Path | None,
        Option(metavar="FILE", default="learning rate, loss weights, EMA and augmentation"),
    ] = Field(
        None,
        description="YAML file of the settings that differ between trials: key: [values], or "
        "key: {low: 1, high: 9}, with log: true if wanted.",
    )
    score: Literal["criterion", "psnr"] = Field(
        "criterion",
        description="What is maximised: the criterion by which a training chooses its best state, "
        "which needs no pairs; or the mean PSNR of both directions on validation pairs.",
    )
    overwrite: bool = Field(False, description=_overwrite("the search is continued"))


class Benchmark(SeveralTrainings):
    stage = "mrbridge.training.settings:TrainSettings"
    setting_keys = ()

    store: StorePlace = Field(
        description="A prepared store with a test split (or a validation split), by path or URL."
    )
    out: Annotated[Path, _OUT] = Field(description="The folder of the benchmark.")
    arms: Annotated[tuple[str, ...], Option(metavar="ARM…")] = Field(
        description="What is compared: presets, and YAML files of settings, as for train --config."
    )
    minutes: float = Field(
        10, gt=0, description="Time of training for each arm and seed, in minutes."
    )
    seeds: int = Field(3, ge=1, description="Number of trainings of each arm.")
    overwrite: bool = Field(False, description=_overwrite("the benchmark is continued"))


class Translate(Parallel):
    stage = "mrbridge.inference.settings:TranslateSettings"

    image: Annotated[Path, Option(("-i", "--in"), place=True)] = Field(
        description="A 2D image, a NIfTI file, a folder of them, a BIDS dataset, or a DICOM folder "
        "or zip."
    )
    out: Annotated[Path, _OUT_PLACE] = Field(description="A file for a file, otherwise a folder.")
    model: Model = None
    match: Place = Field(None, description="Match the intensity range of the result to this scan.")
    also: Annotated[tuple[str, ...], Option(metavar="[CONTRAST=]SCAN…")] = Field(
        (),
        description="Other scans of the same person from which the result is made, too, if the "
        "model takes several, as in FLAIR=scan.nii.gz. They are registered if they are on another "
        "grid. Of a BIDS dataset, the scans of a session are found.",
    )
    grid: Annotated[Path | None, Option(place=True, default="the grid of the scan")] = Field(
        None, description="Write the result on the grid of this scan, which is in the same space."
    )
    device: Device = "auto"
    allow_code: AllowCode = False


class Evaluate(Parallel):
    stage = "mrbridge.evaluation.settings:EvaluateSettings"
    setting_keys = ("contrasts", "registration", "registration_error")

    out: Annotated[Path, _OUT_PLACE] = Field(description="Folder for tables and report.")
    model: Model = None
    pairs: Place = Field(None, description="Scans with both contrasts: BIDS, folder or table.")
    real: Place = Field(None, description="Real scans: a file or a folder.")
    synthetic: Place = Field(None, description="Synthetic images to score against --real.")
    mask: Place = Field(
        None, description="Score only inside this mask: a file, or a folder of them."
    )
    lesions: Lesions = Field(
        None,
        description="Also report which lesions of this mask were kept, lost or invented: a file, "
        "or a folder of them.",
    )
    source: Place = Field(
        None,
        description="The scans that --synthetic was made from: for the monotone baseline, and for "
        "how visible lesions are in them.",
    )
    uncertainty: Annotated[Path | None, Option(place=True, default="those next to --synthetic")] = (
        Field(
            None,
            description="Uncertainty maps of --synthetic (half the width of the 90 % interval of "
            "every voxel), to report how far to believe them.",
        )
    )
    force: Force = False
    overwrite: OverwriteFiles = False
    device: Device = "auto"
    allow_code: AllowCode = False


class Export(VerbSettings):
    model: Annotated[Path, Option(("-m", "--model"), "MODEL")] = Field(
        description="A run, a bundle or shipped."
    )
    out: Annotated[Path, _OUT] = Field(description="The folder of the files.")
    to: Literal["onnx", "monai", "huggingface"] = Field(
        "onnx",
        description="Format: onnx; monai, a MONAI bundle; or huggingface, the bundle with a model "
        "card for Hugging Face.",
    )
    overwrite: OverwriteFiles = False
    allow_code: AllowCode = False


class Info(VerbSettings):
    model: Annotated[str, Option(metavar="MODEL|PRESET", argument=True)] = Field(
        SHIPPED, description="A run, a bundle, shipped or a preset."
    )
    schema_of: Annotated[str | None, Option(("--schema",), "VERB")] = Field(
        None, description="Show the JSON schema of a verb's options and settings instead."
    )
    allow_code: AllowCode = False


class Serve(VerbSettings):
    stage = "mrbridge.web.settings:ServeSettings"
    setting_keys = ("host", "port")

    model: Annotated[tuple[Path, ...], Option(("-m", "--model"), "MODEL…", "the shipped model")] = (
        Field((), description="Runs or bundles, among which the page lets users choose.")
    )
    run: Annotated[tuple[Path, ...], Option(("--run",), "RUN…", "none")] = Field(
        (), description="Folders of trainings that the page shows, while they train or afterwards."
    )
    device: Device = "auto"
    allow_code: AllowCode = False


class View(VerbSettings):
    scan: Annotated[Path, Option(metavar="SCAN", place=True, argument=True)] = Field(
        description="A NIfTI file, a 2D image, or a folder or zip with one DICOM series."
    )
    synthetic: Annotated[Path | None, Option(metavar="SYNTHETIC", place=True, argument=True)] = (
        Field(None, description="Its synthetic image.")
    )
    truth: Place = Field(None, description="The true scan of the contrast of the synthetic image.")
    uncertainty: Place = Field(None, description="The uncertainty map of the synthetic image.")
    out: Annotated[Path, _OUT_PLACE] = Field(description="The page to write (.html).")
    overwrite: OverwriteFiles = False


class Setup(VerbSettings):
    stage = "mrbridge.study.settings:StudySettings"

    real: Annotated[Path, Option(place=True)] = Field(description="A folder of real scans.")
    synthetic: Annotated[
        Path | None, Option(place=True, default="those of --real with desc-synth in their names")
    ] = Field(None, description="A folder of synthetic ones of the same people and contrast.")
    lesions: Lesions = Field(
        None,
        description="Lesion masks: a file, or a folder of them. Raters are asked whether the "
        "lesions are there.",
    )
    out: Annotated[Path, _OUT] = Field(description="The folder of the study.")
    overwrite: bool = Field(
        False,
        description=_overwrite("a folder that is not empty is refused")
        + " A study that has answers is always kept.",
    )


StudyFolder = Annotated[
    Path,
    Option(metavar="STUDY", argument=True),
    Field(description="The folder that mrbridge study setup wrote."),
]


class Rate(VerbSettings):
    stage = "mrbridge.web.settings:Address"

    study: StudyFolder
    rater: str = Field(
        description="A code for the rater, which names the file of the answers. The same code "
        "continues."
    )


class Analyse(VerbSettings):
    study: StudyFolder


class Doctor(VerbSettings):
    """It has no options of its own."""


VERBS: dict[str, type[VerbSettings]] = {
    model.__name__.lower(): model
    for model in (
        *(Demo, Phantom, Ixi, OpenNeuro, Prepare, Inspect, Train, Tune, Benchmark, Translate),
        *(Evaluate, Export, Info, Serve, View, Setup, Rate, Analyse, Doctor),
    )
}
"""The model of every verb of `mrbridge`."""


def schema(verb: str) -> dict[str, object]:
    """The JSON schemas of a verb's options, and of the settings of `--config` (None without);
    SettingsError if there is no such verb."""
    if verb not in VERBS:
        raise SettingsError(
            f"there is no verb '{verb}'", remedy=f"Choose one of {', '.join(VERBS)}."
        )
    stage = VERBS[verb].stage_settings()
    return {
        "verb": verb,
        "options": VERBS[verb].model_json_schema() | {"description": f"Options of `{verb}`."},
        "settings": None if stage is None else stage.model_json_schema(),
    }
