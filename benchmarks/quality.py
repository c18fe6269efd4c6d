"""How well arms translate real scans that no arm was shown as pairs: one JSON line an arm.

    python benchmarks/quality.py --data ../shared/data [--set ms] [--minutes 20] [--recipe]
        [--seeds 0 1 2] [--arms shipped bridge …] [--shares 0 0.5]
        [--out benchmarks/results/quality.jsonl]
    python benchmarks/quality.py --summary benchmarks/results/quality.jsonl
        [--figure docs/explanation/quality.svg]

Sets: `ms` trains on the T1w of patient07 and the T2w of patient19 of open-ms-mni, `ms-swapped` the
other way round; both score both patients: of each pair, a training saw one scan, never both.
`seed-png` trains on the two folders of slices and scores the pairs that are hidden in them.
`whole-heads`, `healthy-head` and `other-brains` train nothing: `evaluate` scores the shipped
model, other runs (`--models`) and the floor on the visits of open-ms-raw (mean over patients), on
the adult of adi-brain-dicom, or on the brains of all three, registered, inside the foreground.
Arms of pairs are trained once for each patient, on the pair of the other one, for the minutes each;
arms of pseudo-pairs on the scans of `ms`, each beside the other patient's that was bent onto it.
`preset …` are the original presets with their own networks, losses and weights. Scores are those
of DESIGN, section 7: kind `fit` inside the brain, in three dimensions, for patients; kind `plain`
over whole slices for seed-png. Every arm starts from the same store; threads are those of the
environment (OMP_NUM_THREADS).
"""

from __future__ import annotations

import argparse
import csv
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from harness import keep_line
from mrbridge import io, metrics
from mrbridge.bundle import load_bundle, save_bundle
from mrbridge.inference.engine import Translator
from mrbridge.models import SHIPPED
from mrbridge.preparation.pipeline import prepare
from mrbridge.preparation.store import Store
from mrbridge.training.checkpoint import load_checkpoint
from mrbridge.training.run import Run, train
from mrbridge.training.settings import resolve
from mrbridge.volume import Volume
from quality_apart import SETS as APART
from quality_apart import scans_apart
from quality_pseudo import bent
from quality_results import figure, summary

SETS = ("ms", "ms-swapped", "seed-png", *APART)
TO = ("T2w", "T1w")
Row = tuple[str, str, Path, str]  # subject, contrast, scan, split
PATIENTS = ("patient07", "patient19")

NO_LESSONS: dict[str, Any] = {
    "back_translation_weight": 0.0,
    "simulated_weight": 0.0,
    "structure_weight": 0.0,
    "find_pairs": False,
}
PUBLISHED: dict[str, Any] = NO_LESSONS | {
    "adversarial_weight": 1.0,
    "cycle_weight": 10.0,
    "identity_weight": 5.0,
}

PAIRED: dict[str, Any] = {"supervision": "paired"}
FROM_SCRATCH: dict[str, Any] = PAIRED | {"learning_rate": 1e-3, "structure_weight": 0.0}


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
        changes: of the preset.
        start: where it begins.
        shown: `scans` of one contrast of each patient; their `pseudo-pairs`, each scan beside the
            other patient's that was bent onto it; or `pairs`: of the one patient when the other is
            scored.
        preset: of all that is not changed.
    """

    changes: dict[str, Any]
    start: str = "shipped"
    shown: Literal["scans", "pseudo-pairs", "pairs"] = "scans"
    preset: str = "bridge"


ARMS: dict[str, Arm | None] = {
    "floor": None,
    "curve of any shape": None,
    "shipped": None,
    "bridge": Arm({}),
    "bridge, simulated weight 1": Arm({"simulated_weight": 1.0}),
    "bridge without simulated subjects": Arm({"simulated_weight": 0.0}),
    "bridge without back-translation": Arm({"back_translation_weight": 0.0}),
    "bridge without found pairs": Arm({"find_pairs": False}),
    "bridge without its beginning's share": Arm({"beginning_share": 0.0}),
    "bridge without structure": Arm({"structure_weight": 0.0}),
    "bridge with critics": Arm({"adversarial_weight": 0.05}),
    "bridge from scratch": Arm({"learning_rate": 1e-3}, start="scratch"),
    "published objective": Arm(PUBLISHED, start="scratch"),
    "published objective from shipped": Arm(PUBLISHED),
    "pairs of the other patient, from scratch": Arm(FROM_SCRATCH, start="scratch", shown="pairs"),
    "pairs of the other patient": Arm(PAIRED, shown="pairs"),
    "pseudo-pairs, from scratch": Arm(FROM_SCRATCH, start="scratch", shown="pseudo-pairs"),
    "pseudo-pairs": Arm(PAIRED, shown="pseudo-pairs"),
    **{
        f"pairs of the other patient, small ResNet, {name}": Arm(
            PAIRED
            | {"learning_rate": 1e-3}
            | {"networks": {"generator": {"features": 32, "padding": padding}}},
            start="scratch",
            shown="pairs",
            preset="resnet",
        )
        for name, padding in (("reflected borders", "reflect"), ("zeros around", "zeros"))
    },
    "preset unet": Arm({}, start="scratch", preset="unet"),
    "preset resunet": Arm({}, start="scratch", preset="resunet"),
    "preset resnet": Arm({}, start="scratch", preset="resnet"),
}

NEED_PATIENTS = [name for name, arm in ARMS.items() if arm is not None and arm.shown != "scans"]


@dataclass(frozen=True)
class Case:
    """A pair of scans that is scored.

    Attributes:
        name: of the subject or slice.
        scans: by contrast.
        mask: where it counts; None: everywhere.
    """

    name: str
    scans: dict[str, Volume]
    mask: NDArray[np.bool_] | None


def patients(data: Path) -> Iterator[Case]:
    """Both patients, inside their brains."""
    for name in PATIENTS:
        folder = data / "open-ms-mni" / name
        scans = {f"{c}w": io.read(folder / f"{c}.nii.gz") for c in ("T1", "T2")}
        mask = (scans["T1w"].voxels > 0) & (scans["T2w"].voxels > 0)
        yield Case(name, scans, mask)


def hidden_pairs(data: Path) -> Iterator[Case]:
    """The pairs of seed-png, as its README tells them."""
    folders = {"T1w": data / "seed-png" / "TrainT1", "T2w": data / "seed-png" / "TrainT2"}
    found = {
        contrast: {int(re.findall(r"\d+", path.name)[-1]): path for path in folder.glob("*.png")}
        for contrast, folder in folders.items()
    }
    for number, path in sorted(found["T1w"].items()):
        partner = found["T2w"][number + (60 if number <= 40 else 70)]
        scans = {c: io.read(p) for c, p in (("T1w", path), ("T2w", partner))}
        yield Case(f"slice {number}", scans, None)


def patients_store(data: Path, folder: Path, swapped: bool) -> Store:
    """T1w of one patient and T2w of the other to train, the pairs of both to validate.

    Validation scores are told, and nothing is chosen by them.
    """
    source, target = PATIENTS[::-1] if swapped else PATIENTS
    rows = [
        ("source", "T1w", _scan(data, source, "T1w"), "train"),
        ("target", "T2w", _scan(data, target, "T2w"), "train"),
    ]
    return _prepared(folder, rows + _held_out(data))


def pseudo_pairs_store(data: Path, folder: Path, swapped: bool) -> Store:
    """The same scans to train, each with the other patient's bent onto it for its partner."""
    names = dict(zip(TO[::-1], PATIENTS[::-1] if swapped else PATIENTS, strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for fixed, moving in (("T1w", "T2w"), ("T2w", "T1w")):
        onto = _scan(data, names[fixed], fixed)
        made = folder / f"{names[moving]}_on_{names[fixed]}_{moving}.nii.gz"
        io.write(bent(io.read(_scan(data, names[moving], moving)), io.read(onto)), made)
        rows += [(fixed, fixed, onto, "train"), (fixed, moving, made, "train")]
    return _prepared(folder, rows + _held_out(data))


def pairs_store(data: Path, folder: Path, scored: str) -> Store:
    """The pair of the patient that is not `scored` to train, that of the other to validate."""
    rows = [
        (patient, contrast, _scan(data, patient, contrast), "val" if patient == scored else "train")
        for patient in PATIENTS
        for contrast in TO
    ]
    folder.mkdir(parents=True, exist_ok=True)
    return _prepared(folder, rows)


def _held_out(data: Path) -> list[Row]:
    return [
        (f"held{n}", contrast, _scan(data, patient, contrast), "val")
        for n, patient in enumerate(PATIENTS)
        for contrast in TO
    ]


def _scan(data: Path, patient: str, contrast: str) -> Path:
    return data / "open-ms-mni" / patient / f"{contrast.removesuffix('w')}.nii.gz"


def _prepared(folder: Path, rows: list[Row]) -> Store:
    """A store of these scans."""
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("subject", "session", "contrast", "path", "split"))
        for subject, contrast, path, split in rows:
            writer.writerow((subject, "1", contrast, path.resolve(), split))
    return prepare(folder / "table.csv", folder / "store")


def scores(cases: list[Case], model: Path | str, kind: str) -> dict[str, Any]:
    """PSNR and SSIM by direction: of each case and their mean."""
    translator = Translator(model)
    made = {
        (case.name, to): translator.translate(replace(case.scans[given], contrast=given), to)
        for case in cases
        for given, to in (("T1w", "T2w"), ("T2w", "T1w"))
    }
    return told_of(cases, {key: volume.voxels for key, volume in made.items()}, kind)


def floor(cases: list[Case], kind: str, any_shape: bool = False) -> dict[str, Any]:
    """The best rising or falling curve, or one of any shape, learned on the pairs of the others."""
    made = {}
    for case in cases:
        others = [other for other in cases if other is not case]
        for given, to in (("T1w", "T2w"), ("T2w", "T1w")):
            parts = [
                [metrics.scaled(other.scans[c].voxels, other.mask) for c in (given, to)]
                for other in others
            ]
            insides = [
                np.ones(p[0].shape, bool) if o.mask is None else o.mask
                for p, o in zip(parts, others, strict=True)
            ]
            values = [
                np.concatenate(
                    [part[side][inside] for part, inside in zip(parts, insides, strict=True)]
                )
                for side in (0, 1)
            ]
            curve = _any_curve(*values) if any_shape else metrics.fit_monotone(*values).apply
            made[case.name, to] = curve(metrics.scaled(case.scans[given].voxels, case.mask))
    return told_of(cases, made, kind)


def _any_curve(x: NDArray[Any], y: NDArray[Any]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """The mean of `y` by `x`, in 64 bins of equal numbers, straight lines between their middles."""
    edges = np.unique(np.quantile(x, np.linspace(0, 1, 65)[:-1]))
    which = np.searchsorted(edges, x, side="right") - 1
    sums = np.stack([np.bincount(which, values) for values in (np.ones_like(x), x, y)])
    counts, sums_x, sums_y = sums[:, sums[0] > 0]  # many equal values may leave a bin empty
    return partial(np.interp, xp=sums_x / counts, fp=sums_y / counts)


def told_of(cases: list[Case], made: dict[tuple[str, str], Any], kind: str) -> dict[str, Any]:
    """PSNR and SSIM by direction of what was made, by case and contrast, and their mean."""
    told: dict[str, Any] = {}
    for to in TO:
        each = {}
        for case in cases:
            real, synthetic = case.scans[to].voxels, made[case.name, to]
            found = metrics.scores(real, synthetic, case.mask)[kind]
            each[case.name] = [round(found["psnr"], 2), round(found["ssim"], 3)]
        mean = np.mean(list(each.values()), axis=0)
        told[f"to {to}"] = {"mean": [round(float(m), 3) for m in mean]}
        if len(each) <= 4:
            told[f"to {to}"] |= each
    return told


def by_share(
    cases: list[Case], run: Path, shares: Iterable[float], kind: str
) -> list[dict[str, Any]]:
    """Scores of the last state of a run that began with the shipped model, by the share of it that
    is kept, whatever the run's own was."""
    first, last = load_bundle(SHIPPED).weights, _last_weights(run)
    told = []
    for share in shares:
        weights = {name: torch.lerp(last[name], w.float(), share) for name, w in first.items()}
        told.append({"share": share, "scores": _weights_scores(cases, run, weights, kind)})
    return told


def _last_weights(run: Path) -> dict[str, torch.Tensor]:
    """The averaged generators at the end of a run, by the names that a bundle gives them."""
    last = load_checkpoint(run / "checkpoints" / "last.ckpt")["networks"]
    return {name.removeprefix("mean_"): w for name, w in last.items() if name.startswith("mean_")}


def _weights_scores(
    cases: list[Case], run: Path, weights: dict[str, torch.Tensor], kind: str
) -> dict[str, Any]:
    """Scores of other weights in the bundle of a run."""
    with tempfile.TemporaryDirectory() as name:
        save_bundle(load_bundle(run).manifest, weights, Path(name) / "bundle")
        return scores(cases, Path(name) / "bundle", kind)


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What was told of single cases as what is told of all."""
    told = {}
    for to in parts[0]:
        each = {name: got for part in parts for name, got in part[to].items() if name != "mean"}
        mean = np.mean(list(each.values()), axis=0)
        told[to] = {"mean": [round(float(m), 3) for m in mean]} | each
    return told


def checkpoints(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """What each validation told without pairs, and its paired scores, mean of both directions."""
    kept = []
    for row in rows:
        if "psnr_target" not in row:
            continue
        point = {
            name: round(0.5 * (row[f"{name}_target"] + row[f"{name}_source"]), 4)
            for name in ("psnr", "ssim", "cycle_psnr", "cycle_ssim")
        }
        swd = 0.5 * (row["swd_to_target"] + row["swd_to_source"])
        point |= {"minus_swd": round(-swd, 3), "criterion": round(row["criterion"], 4)}
        point["minutes"] = round(row["seconds"] / 60, 2)
        kept.append(point)
    return kept


def main() -> None:
    """Train and score the arms, or sum up their results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--set", choices=SETS, default="ms")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument(
        "--recipe", action="store_true", help="all epochs of the preset, however long they take"
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument(
        "--shares",
        type=float,
        nargs="*",
        default=[],
        help="of the beginning, with which the last state is scored too",
    )
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), help="all without it")
    parser.add_argument(
        "--models", type=Path, nargs="*", default=[], help="runs that sets without training score"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--keep",
        type=Path,
        help="folder for the runs, which go on there if they were stopped; removed without it",
    )
    parser.add_argument(
        "--score-every", type=int, metavar="EPOCHS", help="score what the run ships so far, too"
    )
    parser.add_argument("--summary", type=Path)
    parser.add_argument("--figure", type=Path, help="of the summary; an SVG file")
    given = parser.parse_args()
    if given.summary is not None:
        summary(given.summary)
        if given.figure is not None:
            figure(given.summary, given.figure)
        return
    if given.set in APART:
        models = [SHIPPED, *given.models]
        with tempfile.TemporaryDirectory() as name:
            for told in scans_apart(given.data, Path(name), given.set, models):
                keep_line(
                    {"benchmark": "quality", "set": given.set, "kind": "fit"} | told, given.out
                )
        return
    is_seed = given.set == "seed-png"
    cases = list((hidden_pairs if is_seed else patients)(given.data))
    kind = "plain" if is_seed else "fit"
    with tempfile.TemporaryDirectory() as name:
        folder = given.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        if is_seed:
            folders = [given.data / "seed-png" / f"Train{c}" for c in ("T1", "T2")]
            store = prepare(folders, folder / "store")
        else:
            store = patients_store(given.data, folder, given.set == "ms-swapped")
        for arm in given.arms or list(ARMS):
            if is_seed and arm in NEED_PATIENTS:
                print(f"{arm}: seed-png has no patients, and bridge finds its pairs itself")
                continue
            for seed in given.seeds if ARMS[arm] else [0]:
                _run(given, arm, seed, store, folder, cases, kind)


def _train(
    given: argparse.Namespace, name: str, arm: Arm, seed: int, store: Store, folder: Path
) -> Iterator[Run]:
    """The run of an arm: after every so many epochs, if that is wished, and when it has ended."""
    changes = {"seed": seed, "guard": "warn"}
    if not given.recipe:
        changes |= {"minutes": given.minutes, "steps_per_epoch": 60}
    settings = resolve(arm.preset, arm.changes, changes)
    path = folder / f"{name}-{seed}".replace(" ", "-").replace(",", "")
    epoch = 0
    while True:
        end = (epoch // given.score_every + 1) * given.score_every if given.score_every else None
        until = {"stop_after_epochs": end}
        if (path / "checkpoints" / "last.ckpt").is_file():
            run = train(store, path, resume=True, changes=until, device="cpu")
        else:
            run = train(store, path, settings.changed(until), device="cpu", start=arm.start)
        before, epoch = epoch, int(run.rows[-1]["epoch"])
        if epoch > before:
            yield run
        if end is None or epoch < end or epoch == before:
            return


def _run(
    given: argparse.Namespace,
    name: str,
    seed: int,
    store: Store,
    folder: Path,
    cases: list[Case],
    kind: str,
) -> None:
    """One arm with one seed: its line."""
    arm = ARMS[name]
    line: dict[str, Any] = {
        "benchmark": "quality",
        "set": given.set,
        "arm": name,
        "kind": kind,
        "threads": torch.get_num_threads(),
    }
    if arm is None:
        is_curve = name != "shipped"
        line |= {} if is_curve else {"planes": load_bundle(SHIPPED).manifest.planes}
        any_shape = name == "curve of any shape"
        line["scores"] = floor(cases, kind, any_shape) if is_curve else scores(cases, SHIPPED, kind)
    else:
        line |= {"minutes": None if given.recipe else given.minutes, "seed": seed}
        began = time.monotonic()
        if arm.shown == "pseudo-pairs":
            folder = folder / "pseudo-pairs"
            store = pseudo_pairs_store(given.data, folder, given.set == "ms-swapped")
        if arm.shown == "pairs":
            parts = []
            for case in cases:
                inside = folder / f"pairs-{case.name}-{'-'.join(name.split())}-{seed}"
                trained_on = pairs_store(given.data, inside, case.name)
                *_, run = _train(given, name, arm, seed, trained_on, inside)
                parts.append(scores([case], run.path, kind))
            line["scores"] = _joined(parts)
        else:
            points = []
            for run in _train(given, name, arm, seed, store, folder):
                if given.score_every:
                    points.append(_on_the_way(run, scores(cases, run.path, kind)))
            line |= {"on the way": points} if points else {}
            line["kept what it began with"] = run.kept_beginning
            line["planes"] = run.settings.planes
            line["beginning share"] = run.settings.beginning_share * (arm.start != "scratch")
            line["scores"] = scores(cases, run.path, kind)
            line["checkpoints"] = checkpoints(run.rows)
            if arm.start == "scratch":
                line["last state"] = _weights_scores(cases, run.path, _last_weights(run.path), kind)
            if given.shares and arm.start == "shipped":
                line["by share"] = by_share(cases, run.path, given.shares, kind)
        line["seconds with everything"] = round(time.monotonic() - began)
        line["steps"] = int(run.rows[-1]["step"])
    keep_line(line, given.out)


def _on_the_way(run: Run, told: dict[str, Any]) -> dict[str, Any]:
    """What the bundle of a run is worth so far: mean scores by direction."""
    last = run.rows[-1]
    means = {to: of["mean"] for to, of in told.items()}
    return {"minutes": round(last["seconds"] / 60, 2), "step": int(last["step"]), "scores": means}


if __name__ == "__main__":
    main()
