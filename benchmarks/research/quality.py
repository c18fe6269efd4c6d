"""How well arms translate real scans that no arm was shown as pairs: one JSON line an arm.

    python -m benchmarks.research.quality --data ../shared/data [--set ms] [--minutes 20] [--recipe]
        [--seeds 0 1 2] [--arms shipped bridge …] [--shares 0 0.5] [--models RUN …]
        [--out benchmarks/research/results/quality.jsonl]
    python -m benchmarks.research.quality --summary benchmarks/research/results/quality.jsonl
        [--figure docs/explanation/pictures/training.svg]

Sets: `ms` trains on the T1w of patient07 and the T2w of patient19 of open-ms-mni, `ms-swapped` the
other way round; both score both patients: of each pair, a training saw one scan, never both.
`seed-png` trains on the two folders of slices and scores the pairs that are hidden in them;
`mni-slices` trains on two folders of slices of patient07, of which three in four have a partner,
and scores these and their like.
`evaluate` registers and scores inside the foreground: in `whole-heads` the visits of open-ms-raw
(mean over patients), trained on the T1w of one visit of one of them and the T2w of one of the
other; in `healthy-head` the adult of adi-brain-dicom, trained alike; in `other-brains` the brains
of all three, trained as `ms`. These score the floor and the shipped model unless `--arms`
says more.
In `stranger` and `stranger-head` a training has both contrasts of only one patient, of open-ms-mni
or two visits of open-ms-raw, learns from no pairs, and is scored on the other patient, of whom it
saw nothing.
Arms of pairs are trained once for each patient, on the pair of the other one, for the minutes each;
arms of pseudo-pairs on the scans of `ms`, each next to the other patient's scan, registered
non-rigidly to it.
`preset …` are the original presets with their own networks, losses and weights. Scores are those
of docs/explanation/scoring.md: kind `fit` inside the brain, in three dimensions, for patients; kind
`plain` over whole slices for 2D images. Every arm starts from the same store; threads are those of
the environment (OMP_NUM_THREADS).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.harness import keep_line
from benchmarks.research.quality_results import figure, summary
from benchmarks.research.quality_scores import (
    REGISTERED,
    floor,
    joined,
    registered_scores,
    registered_table,
    scores,
)
from benchmarks.research.quality_sets import (
    PICTURES,
    Case,
    alone_store,
    heads_store,
    pairs_store,
    patients,
    patients_store,
    pseudo_pairs_store,
)
from mrbridge.bundle import load_bundle, save_bundle
from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.store import Store
from mrbridge.models import SHIPPED
from mrbridge.training.checkpoint import load_checkpoint
from mrbridge.training.run import Run, train
from mrbridge.training.settings import resolve

SETS = ("ms", "ms-swapped", "stranger", *PICTURES, *REGISTERED)

PAIRED: dict[str, Any] = {"supervision": "paired"}
FROM_SCRATCH: dict[str, Any] = PAIRED | {"learning_rate": 1e-3}


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
        changes: of the preset.
        start: where it begins.
        shown: `scans` of one contrast of each patient; their `pseudo-pairs`, each scan next to
            the other patient's, registered non-rigidly to it; or `pairs`: of the one patient when
            the other is scored.
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
    "bridge, simulated weight 0.3": Arm({"simulated_weight": 0.3}),
    "bridge without simulated subjects": Arm({"simulated_weight": 0.0}),
    "bridge without back-translation": Arm({"back_translation_weight": 0.0}),
    "bridge without found pairs": Arm({"find_pairs": False}),
    "bridge from scratch": Arm({"learning_rate": 1e-3}, start="scratch"),
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

CHEAP = ["floor", "shipped"]
CURVES = ("floor", "curve of any shape")
NEED_PATIENTS = [name for name, arm in ARMS.items() if arm is not None and arm.shown != "scans"]

Scores = dict[str, Any]
"""PSNR and SSIM by direction: of each case or person, and their mean."""


@dataclass(frozen=True)
class Bench:
    """A set: what it trains on, and how it scores.

    Attributes:
        name: of the set.
        kind: of its scores.
        store: to train on.
        cases: that are scored; none where `evaluate` scores.
        score: of a model.
        curve: scores of the best rising or falling one, or of one of any shape.
    """

    name: str
    kind: str
    store: Store
    cases: list[Case]
    score: Callable[[Path | str], Scores]
    curve: Callable[[bool], Scores]


def bench(data: Path, folder: Path, name: str) -> Bench:
    """The set of this name; `folder` is for what it has to make."""
    if name in REGISTERED:
        table = registered_table(data, folder / "scored", name)
        if name == "other-brains":
            store = patients_store(data, folder, swapped=False)
        else:
            store = heads_store(data, folder, same_patient=name == "stranger-head")
        score = partial(registered_scores, table, name)
        return Bench(name, "fit", store, [], score, lambda _: score(SHIPPED, "floor"))
    kind = "plain" if name in PICTURES else "fit"
    if name in PICTURES:
        cases, folders = PICTURES[name](data, folder / "slices")
        store = prepare(folders, folder / "store")
    elif name == "stranger":
        cases, store = list(patients(data))[1:], alone_store(data, folder)
    else:
        cases = list(patients(data))
        store = patients_store(data, folder, swapped=name == "ms-swapped")
    score = partial(scores, cases, kind=kind)
    return Bench(name, kind, store, cases, score, partial(floor, cases, kind))


def by_share(
    score: Callable[[Path], Scores], run: Path, shares: Iterable[float]
) -> list[dict[str, Any]]:
    """Scores of the last state of a run that began with the shipped model, by the share of it that
    is kept, whatever the run's own was."""
    first, last = load_bundle(SHIPPED).weights, _last_weights(run)
    result = []
    for share in shares:
        weights = {name: torch.lerp(w, first[name].float(), share) for name, w in last.items()}
        result.append({"share": share, "scores": _weights_scores(score, run, weights)})
    return result


def _last_weights(run: Path) -> dict[str, torch.Tensor]:
    """The averaged generators at the end of a run, by the names that a bundle gives them."""
    last = load_checkpoint(run / "checkpoints" / "last.ckpt")["networks"]
    return {name.removeprefix("ema_"): w for name, w in last.items() if name.startswith("ema_")}


def _weights_scores(
    score: Callable[[Path], Scores], run: Path, weights: dict[str, torch.Tensor]
) -> Scores:
    """Scores of other weights in the bundle of a run."""
    with tempfile.TemporaryDirectory() as name:
        save_bundle(load_bundle(run).manifest, weights, Path(name) / "bundle")
        return score(Path(name) / "bundle")


def checkpoints(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """The unpaired measures of each validation, and its paired scores, mean of both directions."""
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
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), help="all that a set has")
    parser.add_argument(
        "--models", type=Path, nargs="*", default=[], help="other runs, which are scored too"
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
    with tempfile.TemporaryDirectory() as name:
        folder = given.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        at = bench(given.data, folder, given.set)
        usual = CHEAP if given.set in REGISTERED else list(ARMS)
        for arm in usual if given.arms is None else given.arms:
            if arm == "curve of any shape" and not at.cases:
                print(f"{arm}: {given.set} has only the floor of evaluate")
                continue
            if arm in CURVES and len(at.cases) == 1:
                print(f"{arm}: that of ms, as the other patient taught it")
                continue
            if arm in NEED_PATIENTS and given.set not in ("ms", "ms-swapped"):
                print(f"{arm}: {given.set} has no pairs of two patients to learn from")
                continue
            for seed in given.seeds if ARMS[arm] else [0]:
                _run(given, arm, seed, at, folder)
        for model in given.models:
            line: dict[str, Any] = {
                "planes": load_bundle(model).manifest.planes,
                "scores": at.score(model),
            }
            if given.shares:
                line["by share"] = by_share(at.score, model, given.shares)
            keep_line(_line(at, model.name) | line, given.out)


def _line(at: Bench, arm: str) -> dict[str, Any]:
    return {
        "benchmark": "quality",
        "set": at.name,
        "arm": arm,
        "kind": at.kind,
        "threads": torch.get_num_threads(),
    }


def _train(
    given: argparse.Namespace, name: str, arm: Arm, seed: int, store: Store, folder: Path
) -> Iterator[Run]:
    """The run of an arm: after every so many epochs, if that is wished, and when it has ended."""
    changes = {"seed": seed, "guard": "warn"}
    if not given.recipe:
        changes |= {"minutes": given.minutes, "steps_per_epoch": 60}
    settings = resolve({"preset": arm.preset}, arm.changes, changes)
    path = folder / f"{name}-{seed}".replace(" ", "-").replace(",", "")
    epoch = 0
    while True:
        end = (epoch // given.score_every + 1) * given.score_every if given.score_every else None
        until = {"stop_after_epochs": end}
        if (path / "checkpoints" / "last.ckpt").is_file():
            run = train(store, path, until, resume=True, device="cpu")
        else:
            run = train(store, path, settings.changed(until), device="cpu", start=arm.start)
        before, epoch = epoch, int(run.rows[-1]["epoch"])
        if epoch > before:
            yield run
        if end is None or epoch < end or epoch == before:
            return


def _run(given: argparse.Namespace, name: str, seed: int, at: Bench, folder: Path) -> None:
    """One arm with one seed: its line."""
    arm, store = ARMS[name], at.store
    line = _line(at, name)
    if arm is None:
        is_curve = name != "shipped"
        line |= {} if is_curve else {"planes": load_bundle(SHIPPED).manifest.planes}
        any_shape = name == "curve of any shape"
        line["scores"] = at.curve(any_shape) if is_curve else at.score(SHIPPED)
    else:
        line |= {"minutes": None if given.recipe else given.minutes, "seed": seed}
        began = time.monotonic()
        if arm.shown == "pseudo-pairs":
            folder = folder / "pseudo-pairs"
            store = pseudo_pairs_store(given.data, folder, at.name == "ms-swapped")
        if arm.shown == "pairs":
            parts = []
            for case in at.cases:
                inside = folder / f"pairs-{case.name}-{'-'.join(name.split())}-{seed}"
                trained_on = pairs_store(given.data, inside, case.name)
                *_, run = _train(given, name, arm, seed, trained_on, inside)
                parts.append(scores([case], run.path, at.kind))
            line["scores"] = joined(parts)
        else:
            points = []
            for run in _train(given, name, arm, seed, store, folder):
                if given.score_every:
                    points.append(_on_the_way(run, at.score(run.path)))
            line |= {"on the way": points} if points else {}
            line["kept what it began with"] = run.kept_beginning
            line["planes"] = run.settings.planes
            line["weights"] = {
                "simulated": run.settings.simulated_weight,
                "beginning": run.settings.wise_ft_weight,
            }
            line["scores"] = at.score(run.path)
            if kept := checkpoints(run.rows):
                line["beginning share"] = run.settings.wise_ft_weight * (arm.start != "scratch")
                line["checkpoints"] = kept
            if arm.start == "scratch":
                line["last state"] = _weights_scores(at.score, run.path, _last_weights(run.path))
            if given.shares and arm.start == "shipped":
                line["by share"] = by_share(at.score, run.path, given.shares)
        line["seconds with everything"] = round(time.monotonic() - began)
        line["steps"] = int(run.rows[-1]["step"])
    keep_line(line, given.out)


def _on_the_way(run: Run, scores: dict[str, Any]) -> dict[str, Any]:
    """What the bundle of a run is worth so far: mean scores by direction."""
    last = run.rows[-1]
    means = {to: of["mean"] for to, of in scores.items()}
    return {"minutes": round(last["seconds"] / 60, 2), "step": int(last["step"]), "scores": means}


if __name__ == "__main__":
    main()
