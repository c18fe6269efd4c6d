"""The quality benchmark: its intensity baseline, its sets, its scores and its runs in stages."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.research import (
    four_contrasts,
    planes,
    quality,
    quality_results,
    quality_scores,
    quality_sets,
    shipped_model,
)
from scipy import ndimage

from mrbridge import io
from mrbridge.bundle import Bundle, load_bundle
from mrbridge.dataset.sampling import SliceBank
from mrbridge.dataset.store import Store
from mrbridge.training.checkpoint import load_checkpoint
from mrbridge.training.examples import choose_pairs
from mrbridge.training.run import train
from mrbridge.training.settings import resolve
from mrbridge.volume import Volume


def case(name: str, seed: int) -> Any:
    """A pair of scans of which one is a falling curve of the other."""
    t1w = np.random.default_rng(seed).uniform(0.1, 1, (10, 10, 9)).astype(np.float32)
    t2w = (1.2 - t1w**2).astype(np.float32)
    scans = {
        contrast: Volume(voxels, np.eye(4), contrast=contrast)
        for contrast, voxels in (("T1w", t1w), ("T2w", t2w))
    }
    return quality_sets.Case(name, scans, t1w > 0)


def test_the_floor_knows_a_curve_that_others_follow_too() -> None:
    result = quality_scores.floor([case("one", 1), case("two", 2)], "fit")
    for direction in ("to T2w", "to T1w"):
        psnr, ssim = result[direction]["mean"]
        assert psnr > 30
        assert ssim > 0.95
        assert set(result[direction]) == {"mean", "one", "two"}


def test_the_floor_of_one_case_comes_from_the_others() -> None:
    strange = case("strange", 3)
    strange.scans["T2w"] = strange.scans["T1w"]
    result = quality_scores.floor([case("one", 1), strange], "fit")
    assert result["to T2w"]["strange"][0] < 20


def test_a_curve_of_any_shape_may_turn_back() -> None:
    cases = [case("one", 1), case("two", 2)]
    for known in cases:
        t1w, t2w = known.scans["T1w"], known.scans["T2w"]
        t2w.voxels[:] = np.square(np.round(t1w.voxels, 2) - 0.55)
    rising_or_falling = quality_scores.floor(cases, "fit")["to T2w"]["mean"][0]
    assert (
        quality_scores.floor(cases, "fit", any_shape=True)["to T2w"]["mean"][0]
        > rising_or_falling + 10
    )


def test_slices_of_one_patient_have_partners_that_no_name_tells(tmp_path: Path) -> None:
    """Every slice has a colour of its own, which tells its place; at the top lies the front."""
    scan = np.tile(np.arange(150, dtype=np.float32), (6, 8, 1))
    scan[:, -1] *= 0.5
    for contrast in ("T1", "T2"):
        path = tmp_path / "open-ms-mni" / "patient07" / f"{contrast}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        io.write(Volume(scan, np.diag([-1.0, 1.0, 1.0, 1.0])), path)
    cases, folders = quality_sets.sliced(tmp_path, tmp_path / "out")
    assert len(cases) == 50
    colours = [int(case.scans["T1w"].voxels[-1, 0, 0]) for case in cases]
    assert len(set(colours)) == 50
    assert (np.diff([int(case.scans["T1w"].voxels[0, 0, 0]) for case in cases]) > 0).all()
    assert all(
        case.scans["T2w"].voxels[0, 0, 0] < c for case, c in zip(cases, colours, strict=True)
    )
    numbers = {
        contrast: {
            colours.index(int(io.read(path).voxels[-1, 0, 0])): path.name
            for path in folder.iterdir()
        }
        for contrast, folder in zip(("T1w", "T2w"), folders, strict=True)
    }
    partners = set(numbers["T1w"]) & set(numbers["T2w"])
    assert (len(numbers["T1w"]), len(numbers["T2w"]), len(partners)) == (40, 40, 30)
    apart = {int(numbers["T1w"][n][5:7]) - int(numbers["T2w"][n][5:7]) for n in partners}
    assert len(apart) > 10, "the numbers of partners have nothing to do with one another"


def test_a_stranger_is_scored_by_a_training_that_may_learn_from_no_pairs(
    make_scan: Callable[..., Volume], tmp_path: Path
) -> None:
    for seed, patient in enumerate(("patient07", "patient19")):
        folder = tmp_path / "open-ms-mni" / patient
        folder.mkdir(parents=True)
        for contrast in ("T1", "T2"):
            scan = make_scan(seed, f"{contrast}w", shape=(24, 28, 20), spacing=3.0)
            io.write(scan, folder / f"{contrast}.nii.gz")
    (tmp_path / "made").mkdir()
    at = quality.bench(tmp_path, tmp_path / "made", "stranger")
    assert [case.name for case in at.cases] == ["patient19"]
    assert {
        record.subject
        for record in at.store.records("T1w", "train") + at.store.records("T2w", "train")
    } == {"patient07"}
    banks = (SliceBank(at.store, "T1w", "train", 32), SliceBank(at.store, "T2w", "train", 32))
    assert all(len(bank) > 0 for bank in banks)
    assert choose_pairs(resolve(), at.store, banks) == []
    assert choose_pairs(resolve({"supervision": "weak"}), at.store, banks)


def test_checkpoints_are_validations_with_pairs() -> None:
    row = {
        f"{name}_{side}": value
        for name, value in (
            ("psnr", 18.0),
            ("ssim", 0.6),
            ("cycle_psnr", 20.0),
            ("cycle_ssim", 0.7),
        )
        for side in ("target", "source")
    }
    row |= {"swd_to_target": 10.0, "swd_to_source": 20.0, "criterion": 1.5, "seconds": 90.0}
    kept = quality.checkpoints([{"epoch": 1.0}, row])
    assert len(kept) == 1
    assert kept[0]["minus_swd"] == -15
    assert kept[0]["psnr"] == 18
    assert kept[0]["minutes"] == 1.5


def test_a_run_in_stages_is_the_run_in_one_go(
    tiny: Any, small_store: Store, tmp_path: Path
) -> None:
    kept = {"preset", "minutes", "stop_after_epochs", "seed", "guard"}
    changes = tiny("unet", epochs=5).model_dump(mode="json", exclude=kept)
    arm = quality.Arm(changes, start="scratch", preset="unet")

    def stages(folder: str, score_every: int | None) -> Iterator[Any]:
        given = Namespace(recipe=True, score_every=score_every)
        return quality._train(given, "arm", arm, 0, small_store, tmp_path / folder)

    (whole,) = stages("one", None)
    next(stages("two", 2))  # and stopped there
    went_on = list(stages("two", 1))
    assert [int(run.rows[-1]["epoch"]) for run in went_on] == [3, 4, 5]
    weights = [load_bundle(run.path).weights for run in (whole, went_on[-1])]
    assert all(torch.equal(w, weights[1][name]) for name, w in weights[0].items())
    (again,) = stages("two", 2)  # nothing is left to do
    assert int(again.rows[-1]["epoch"]) == 5


def test_shares_lie_between_the_shipped_model_and_the_end_of_a_run(
    tiny: Any,
    tiny_bundle: Bundle,
    small_store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    networks = tiny_bundle.manifest.networks.model_dump(mode="json")
    settings = tiny("bridge", simulated_weight=0.0).changed({"networks": networks})
    run = train(small_store, tmp_path / "run", settings, device="cpu", start=tiny_bundle.path).path
    monkeypatch.setattr(quality, "SHIPPED", tiny_bundle.path)
    shares = quality.by_share(lambda path: dict(load_bundle(path).weights), run, (0.0, 1.0))
    result = {one["share"]: one["scores"] for one in shares}
    last = load_checkpoint(run / "checkpoints" / "last.ckpt")["networks"]
    for name, first in tiny_bundle.weights.items():
        assert torch.equal(result[1.0][name], first)
        assert torch.equal(result[0.0][name], last[f"ema_{name}"])


def test_a_person_counts_once_whatever_the_visits() -> None:
    def row(case: str, psnr: float) -> dict[str, str]:
        result = {"case": case, "subject": case.split("_")[0], "direction": "T1w_to_T2w"}
        return result | {"psnr": str(psnr), "ssim": "0.5"}

    rows = [row("a_1", 10.0), row("a_2", 12.0), row("b_1", 20.0), row("adi_1", 99.0)]
    rows += [row("a_3", 50.0) | {"direction": "T2w_to_T1w"}]
    result = quality_scores._by_person(rows[:3] + rows[4:], "T2w", "whole-heads")
    assert result == {"mean": [15.5, 0.5], "a": [11.0, 0.5], "b": [20.0, 0.5]}
    healthy = quality_scores._by_person(rows, "T2w", "healthy-head")
    assert healthy == {"mean": [99.0, 0.5], "adi": [99.0, 0.5]}
    other = quality_scores._by_person([*rows, row("patient04_1", 7.0)], "T2w", "stranger-head")
    assert other == {"mean": [7.0, 0.5], "patient04": [7.0, 0.5]}
    brains = [row("apart_avisit1", 10.0), row("apart_avisit2", 12.0), row("apart_adivisit1", 5.0)]
    result = quality_scores._by_person([*rows, *brains], "T2w", "other-brains")
    assert result == {"mean": [8.0, 0.5], "a": [11.0, 0.5], "adi": [5.0, 0.5]}


def test_cases_that_were_scored_apart_are_joined() -> None:
    parts = [
        {"to T2w": {"mean": [1.0, 0.1], "a": [1.0, 0.1]}},
        {"to T2w": {"mean": [3.0, 0.5], "b": [3.0, 0.5]}},
    ]
    joined = quality_scores.joined(parts)
    assert joined == {"to T2w": {"mean": [2.0, 0.3], "a": [1.0, 0.1], "b": [3.0, 0.5]}}


@pytest.mark.slow
def test_a_scan_is_bent_onto_another_of_another_contrast(make_scan: Callable[..., Volume]) -> None:
    shape = (24, 28, 20)
    fixed, truth = (make_scan(1, c, shape=shape, spacing=3.0) for c in ("T1w", "T2w"))
    places = np.indices(shape).astype(float)
    places += 1.25 * np.sin(places[[1, 2, 0]] / 4.5)  # voxels
    moving = replace(truth, voxels=ndimage.map_coordinates(truth.voxels, places, order=1))
    made = quality_sets.bent(moving, fixed)
    assert made.voxels.shape == shape
    assert (made.voxels[fixed.voxels == 0] == 0).all()
    inside = truth.voxels > 0

    def likeness(voxels: np.ndarray) -> float:
        return float(np.corrcoef(voxels[inside], truth.voxels[inside])[0, 1])

    assert likeness(made.voxels) > likeness(moving.voxels) + 0.1


def test_of_each_arm_the_last_run_is_drawn_that_is_not_much_shorter() -> None:
    lines = [
        {
            "set": "ms",
            "arm": "bridge",
            "seed": 0,
            "checkpoints": [{"minutes": minutes, "psnr": psnr, "ssim": 0.5}],
        }
        for minutes, psnr in ((30, 17.0), (20, 18.0), (16, 19.0), (6, 20.0))
    ]
    assert quality_results._curves(lines, "ms") == {"bridge": [(16, 19.0, 0.5)]}


def test_thicker_slices_stay_where_they_were() -> None:
    """The mean of two slices lies between them, and covers what they covered."""
    affine = np.diag([2.0, -1.0, 3.0, 1.0])
    affine[:3, 3] = 5, 6, 7
    voxels = np.arange(2 * 3 * 7).reshape(2, 3, 7)
    thick = planes.thicker(Volume(voxels, affine), 2)
    assert thick.voxels.shape == (2, 3, 3)
    np.testing.assert_array_equal(thick.voxels[..., 1], voxels[..., 2:4].mean(-1))
    np.testing.assert_allclose(thick.affine @ (0, 0, 1, 1), affine @ (0, 0, 2.5, 1))
    turned = Volume(voxels.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]])
    again = planes.thicker(turned, 2)
    np.testing.assert_array_equal(again.voxels, thick.voxels.transpose(2, 0, 1))


@pytest.mark.parametrize(
    "name", sorted(module.stem for module in Path(quality.__file__).parent.glob("[a-z]*.py"))
)
def test_every_research_script_can_be_imported(name: str) -> None:
    """Most of them run for hours: at least a renamed function must not break them unnoticed."""
    assert import_module(f"benchmarks.research.{name}")


def test_training_slices_of_the_shipped_model_are_cropped_to_the_head(tmp_path: Path) -> None:
    groups = np.full((9, 4, 256, 256), -1, np.float16)
    groups[:, :, 90:190, 60:150] = 0.2
    np.save(tmp_path / "0000.npy", groups)
    examples = shipped_model.Examples([tmp_path / "0000.npy"], seed=0, painted=0.0, mixed=0.0)
    batches = [examples.batch(step) for step in range(12)]
    shapes = {tuple(batch.shape[2:]) for batch in batches}
    assert len(shapes) > 1
    for batch in batches:
        assert batch.shape[:2] == (2, 5)
        assert all(size % 64 == 0 and 128 <= size <= 256 for size in batch.shape[2:])
        assert ((batch[:, 1] > -0.5).sum(dim=(1, 2)) > 5000).all()  # nothing of the head is lost


@pytest.mark.slow
def test_training_of_four_contrasts_begins_with_the_weights_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "subjects").mkdir()
    groups = np.full((9, 8, 256, 256), -1, np.float16)
    groups[:, :, 90:190, 60:150] = 0.2
    np.save(tmp_path / "subjects" / "0000.npy", groups)
    options = ["--work", tmp_path, "--start", "shipped", "--out", tmp_path / "bundle"]
    options += ["--steps", 1, "--rate", 1e-9]
    monkeypatch.setattr("sys.argv", ["four_contrasts", *map(str, options)])
    four_contrasts.main()
    shipped, trained = load_bundle("shipped").weights, load_bundle(tmp_path / "bundle").weights
    for name, weight in shipped.items():
        torch.testing.assert_close(trained[name], weight, msg=name)
