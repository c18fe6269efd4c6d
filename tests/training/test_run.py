"""What a training leaves on disk."""

from __future__ import annotations

import csv
import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mrbridge
from mrbridge import cli
from mrbridge.bundle import Bundle, load_bundle, read_manifest, save_bundle
from mrbridge.dataset import loader
from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.store import Store, array_path
from mrbridge.errors import (
    MrbridgeError,
    MrbridgeWarning,
    OutputError,
    SettingsError,
    StoreError,
)
from mrbridge.io.temporary import temporary_name
from mrbridge.settings import read_yaml
from mrbridge.training import loop
from mrbridge.training.checkpoint import copy_checkpoint, load_checkpoint, save_checkpoint
from mrbridge.training.folder import check_unused
from mrbridge.training.run import Run, train
from mrbridge.training.settings import PRESETS, TrainSettings, preset, resolve
from mrbridge.training.validation import criterion

pytestmark = pytest.mark.usefixtures("quick_phantom")


@pytest.fixture(scope="module")
def run(
    small_store: Store, tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """Three epochs, validated after the second and at the end."""
    out = tmp_path_factory.mktemp("runs") / "run"
    played = {"adversarial_weight": 1.0, "cycle_weight": 10.0, "identity_weight": 1.0}
    settings = tiny(epochs=3, validate_every=2, simulated_weight=0.0, warm_up=0.0, **played)
    return train(small_store, out, settings, device="cpu")


def test_sample_sheets_from_the_untrained_networks_on(run: Run) -> None:
    sheets = sorted((run.path / "samples").iterdir())
    assert [sheet.name for sheet in sheets] == [f"epoch_{epoch:04d}.png" for epoch in (0, 2, 3)]
    images = [np.asarray(Image.open(sheet)) for sheet in sheets]
    assert len({image.shape for image in images}) == 1
    assert images[0].shape[1] > 8 * 32
    # The first column shows the same real slices in every sheet, the second what was made.
    for sheet in images[1:]:
        np.testing.assert_array_equal(sheet[52:, 4:36], images[0][52:, 4:36])
        assert not np.array_equal(sheet[52:, 40:72], images[0][52:, 40:72])


def test_the_animation_has_all_frames(run: Run) -> None:
    with Image.open(run.path / "progress.gif") as animation:
        assert animation.format == "GIF"
        assert animation.n_frames == 3  # type: ignore[attr-defined]
        assert animation.width == 960


def test_metrics_hold_a_row_an_epoch(run: Run) -> None:
    with open(run.path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    losses = (
        *("generators", "adversarial", "cycle", "identity", "back_translation"),
        *("source_critic", "target_critic"),
    )
    for row in rows:
        for name in (*losses, "learning_rate", "seconds", "images_per_second"):
            assert float(row[name]) >= 0
    scores = (
        *("swd_to_target", "swd_to_source", "psnr_target", "psnr_source", "criterion"),
        *("ssim_target", "ssim_source", "cycle_psnr_source", "cycle_ssim_target"),
        *("guard_agreement_to_target", "guard_likeness_to_source", "guard_verdict_to_target"),
    )
    for name in scores:
        assert rows[0][name] == "", "the first epoch was not validated"
        assert np.isfinite([float(row[name]) for row in rows[1:]]).all()
    rate = run.settings.learning_rate
    assert float(rows[0]["learning_rate"]) == pytest.approx(rate)
    assert float(rows[2]["learning_rate"]) < rate


def test_tensorboard_events_can_be_read(run: Run) -> None:
    events = EventAccumulator(str(run.path / "tensorboard"), {"images": 0, "histograms": 0})
    events.Reload()
    tags = events.Tags()
    expected = {"cycle", "learning_rate", "psnr_target", "guard_likeness_to_source"}
    assert expected <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("cycle")] == [1, 2, 3]
    assert [event.step for event in events.Images("samples")] == [0, 2, 3]
    assert "intensity/synthetic/target" in tags["histograms"]


def test_settings_round_trip(run: Run) -> None:
    assert TrainSettings.build(read_yaml(run.path / "settings.yaml")) == run.settings


def test_nothing_temporary_is_left(run: Run) -> None:
    assert list(run.path.rglob(".*")) == []


def looks_right(row: dict[str, float]) -> bool:
    return not (row["guard_verdict_to_target"] or row["guard_verdict_to_source"])


def test_the_bundle_describes_its_origin(run: Run, small_store: Store) -> None:
    bundle = load_bundle(run.path)
    manifest = bundle.manifest
    assert (manifest.source, manifest.target, manifest.preset) == ("T1w", "T2w", "bridge")
    assert manifest.planes == "all"
    assert manifest.least_size == run.settings.networks.image_size
    assert manifest.networks == run.settings.networks
    assert manifest.typical == small_store.manifest.typical
    assert manifest.trained["validation"] == "held-out slices"
    assert manifest.trained["scans"] == {"T1w": 2, "T2w": 2}
    best = max(run.rows[1:], key=lambda row: (looks_right(row), row["criterion"]))
    assert manifest.trained["epochs"] == best["epoch"]
    assert manifest.scores["psnr_target"] == best["psnr_target"]


def test_the_bundle_holds_the_averages_of_the_best_checkpoint(run: Run) -> None:
    bundle = load_bundle(run.path)
    networks = load_checkpoint(run.path / "checkpoints" / "best.ckpt")["networks"]
    for name in ("to_target", "to_source"):
        for key, value in bundle.generator_weights(name).items():
            assert torch.equal(value, networks[f"ema_{name}.{key}"])


def test_only_a_better_state_is_shipped(
    small_store: Store,
    tiny: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = iter([1.0, 3.0, 2.0, float("nan"), 4.0])
    monkeypatch.setattr(loop, "criterion", lambda *_: next(scores))
    shipped = []
    for stop in range(1, 6):
        changes = {"stop_after_epochs": stop}
        settings = tiny(epochs=5, steps_per_epoch=1, **changes)
        train(
            small_store,
            tmp_path / "run",
            settings if stop == 1 else changes,
            resume=stop > 1,
            device="cpu",
        )
        best = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")["step"]
        shipped.append((best, read_manifest(tmp_path / "run").trained["steps"]))
    assert shipped == [(1, 1), (2, 2), (2, 2), (2, 2), (5, 5)]


def test_scores_that_are_not_finite_do_not_end_a_training(
    small_store: Store, tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = {"psnr_target": float("inf"), "swd_to_source": 3.0, "swd_to_target": float("nan")}
    monkeypatch.setattr(loop, "validation_scores", lambda *_: dict(result))
    done = train(small_store, tmp_path / "run", tiny(epochs=1), device="cpu")
    assert read_manifest(done.path).scores == {"swd_to_source": 3.0}


def test_pairs_do_not_decide_what_is_best() -> None:
    apart = {"swd_to_target": 3.0, "swd_to_source": 5.0}
    apart |= {"cycle_psnr_source": 20.0, "cycle_psnr_target": 22.0}
    for anchored, expected in ((False, -4.0), (True, 21.0)):
        assert criterion(apart, anchored) == expected
        pairs = {"psnr_target": 30.0, "psnr_source": 30.0}
        assert criterion(apart | pairs, anchored) == expected
        nearer = {"swd_to_target": 2.0, "cycle_psnr_target": 23.0}
        assert criterion(apart | nearer, anchored) > expected, "closer is better"


def test_runs_with_a_wise_ft_weight_are_chosen_by_the_cycle(
    small_store: Store, tiny: Callable[..., Any], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    networks = tiny_bundle.manifest.networks.model_dump(mode="json")
    for share in (0.0, 0.5):
        settings = tiny("bridge", epochs=2, simulated_weight=0.0, wise_ft_weight=share)
        settings = settings.changed({"networks": networks})
        out = tmp_path / str(share)
        run = train(small_store, out, settings, device="cpu", start=tiny_bundle.path)
        for row in run.rows:
            assert row["criterion"] == criterion(row, anchored=share > 0)
            assert (row["criterion"] > 0) == (share > 0)


def test_training_by_the_clock_ends_in_time(
    small_store: Store, tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = itertools.count()  # a clock on which a tenth of a second passes between two looks
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(looks) / 10))
    done = train(small_store, tmp_path / "run", tiny(minutes=0.05), device="cpu")
    assert 3 <= done.rows[-1]["seconds"] < 4
    assert done.rows[-1]["learning_rate"] < 0.5 * done.settings.learning_rate
    assert "criterion" in done.rows[-1]


def test_an_epoch_cut_by_the_clock_is_completed(
    small_store: Store, tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, count = itertools.count(), loop.RunRecorder.after_step
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(looks) / 10))

    def all_ones(self: Any, losses: Any) -> None:
        count(self, dict.fromkeys(losses, torch.ones(())))

    monkeypatch.setattr(loop.RunRecorder, "after_step", all_ones)
    settings = tiny("unet", steps_per_epoch=10**6, minutes=0.02)
    (cut,) = train(small_store, tmp_path / "measured", settings, device="cpu").rows
    length = int(cut["step"]) - 3  # the clock ends its second epoch after a few steps
    settings = settings.changed({"steps_per_epoch": length})
    run = train(small_store, tmp_path / "run", settings, device="cpu")
    assert len(run.rows) == 2
    assert length < run.rows[-1]["step"] < 2 * length
    longer = train(small_store, run.path, resume=True, minutes=0.05, device="cpu")
    assert [row["epoch"] for row in longer.rows[:3]] == [1, 2, 3]
    assert longer.rows[1]["step"] == 2 * length
    with (run.path / "metrics.csv").open() as file:
        assert [float(row["epoch"]) for row in csv.DictReader(file)] == [
            row["epoch"] for row in longer.rows
        ]
    means = [row["cycle"] for row in (*run.rows, *longer.rows)]
    assert means == [1.0] * len(means)


def test_pictures_train_without_pairs(
    picture_store: Store, tiny_networks: dict[str, Any], tmp_path: Path
) -> None:
    changes = {"epochs": 1, "steps_per_epoch": 2, "simulated_subjects": 1, "validation_slices": 3}
    done = train(picture_store, tmp_path / "run", device="cpu", networks=tiny_networks, **changes)
    assert (done.settings.preset, done.settings.epochs) == ("bridge", 1)
    assert "psnr_target" not in done.rows[-1]
    assert np.isfinite(done.rows[-1]["criterion"])
    assert load_bundle(done.path).manifest.pictures


def test_a_store_without_validation_split_is_named(
    small_store: Store, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    records = [
        record.model_copy(update={"segments": {"train": [(0, record.shape[0])]}})
        for record in small_store.manifest.records
    ]
    manifest = small_store.manifest.model_copy(update={"records": records})
    store = Store(small_store.path, manifest)
    with pytest.warns(MrbridgeWarning, match="no validation split"):
        done = train(store, tmp_path / "run", tiny(epochs=1), device="cpu")
    assert read_manifest(done.path).trained["validation"] == "training slices"


@pytest.mark.parametrize("spare_from", [1, 10_000], ids=["process", "thread"])
def test_a_damaged_store_is_reported_in_one_line(
    spare_from: int,
    bids_scans: Path,
    tiny: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loader, "_SPARE_FROM", spare_from)
    store = prepare(bids_scans, tmp_path / "store")
    record = store.records(contrast="T2w", split="train")[0]
    for chunk in (array_path(store.path, record.id) / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"damaged")
    with pytest.raises(StoreError) as caught:
        train(store, tmp_path / "run", tiny(simulated_weight=0.0), device="cpu")
    result = str(caught.value)
    assert f"{record.id}.zarr: is damaged or missing. Run mrbridge prepare again." in result
    assert "\n" not in result
    assert "Traceback" not in result


def other_contrasts(store: Store, source: str, target: str) -> Store:
    """A store whose T1w and T2w are called something else."""
    names = {"T1w": source, "T2w": target}
    prepared = store.manifest.settings.model_copy(update={"source": source, "target": target})
    records = [
        record.model_copy(update={"contrast": names[record.contrast]})
        for record in store.manifest.records
    ]
    typical = {names[contrast]: recipe for contrast, recipe in store.manifest.typical.items()}
    changes = {"settings": prepared, "records": records, "typical": typical}
    return Store(store.path, store.manifest.model_copy(update=changes))


@pytest.mark.parametrize("pair", [("T1w", "FLAIR"), ("FLAIR", "PDw")])
def test_contrasts_of_which_no_model_is_shipped(
    pair: tuple[str, str],
    small_store: Store,
    as_shipped: Bundle,
    tiny: Callable[..., Any],
    make_scan: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the default preset, from random weights and simulated pairs, and a line says so."""
    (tmp_path / "shipped").mkdir()  # a folder of this name changes nothing
    monkeypatch.chdir(tmp_path)
    store = other_contrasts(small_store, *pair)
    with caplog.at_level("INFO", "mrbridge"):
        train(store, tmp_path / "run", tiny("bridge", epochs=1), device="cpu")
    result = [message for message in caplog.messages if "random weights" in message]
    assert len(result) == 1
    assert f"not of {pair[0]} and {pair[1]}" in result[0]
    assert (tmp_path / "run" / "simulated.npz").exists()
    bundle = load_bundle(tmp_path / "run")
    assert (bundle.source, bundle.target) == pair
    # It can be resumed, and both ways can be translated.
    train(store, tmp_path / "run", resume=True, epochs=2, device="cpu")
    names = {"T1w": "T1w", "T2w": "T2w", "FLAIR": "T2w", "PDw": "T2w"}
    for given, made in (pair, pair[::-1]):
        scan = replace(make_scan(9, names[given]), contrast=given)
        assert mrbridge.translate(scan, model=tmp_path / "run", device="cpu").contrast == made


def test_impossible_simulated_pairs_are_refused_if_requested(
    small_store: Store,
    tiny: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = other_contrasts(small_store, "T1w", "CT")
    with pytest.raises(SettingsError, match=r"CT cannot be simulated.*simulated_weight"):
        train(store, tmp_path / "run", tiny("bridge", simulated_weight=0.5), device="cpu")
    with pytest.raises(SettingsError, match="other contrasts"):
        train(store, tmp_path / "run", tiny("bridge"), device="cpu", start="shipped")
    monkeypatch.setattr(Store, "open", lambda path: store)
    given = ["--set", "simulated_weight=0.1"]  # as the preset has it, but stated explicitly
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train", str(store.path), "-o", str(tmp_path / "run"), *given])
    assert "CT cannot be simulated" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_reversed_contrasts_start_from_the_shipped_model(
    small_store: Store,
    as_shipped: Bundle,
    tiny: Callable[..., Any],
    tmp_path: Path,
) -> None:
    names = {"source": "T2w", "target": "T1w"}
    prepared = small_store.manifest.settings.model_copy(update=names)
    manifest = small_store.manifest.model_copy(update={"settings": prepared})
    settings = tiny("bridge", epochs=1, simulated_weight=0.0, learning_rate=1e-12).changed(
        {"networks": as_shipped.manifest.networks.model_dump(mode="json")}
    )
    train(Store(small_store.path, manifest), tmp_path / "run", settings, device="cpu")
    ours, theirs = load_bundle(tmp_path / "run"), as_shipped
    for contrast in ("T1w", "T2w"):
        expected = theirs.build(theirs.generator_that_makes(contrast)).state_dict()
        for name, value in ours.build(ours.generator_that_makes(contrast)).state_dict().items():
            torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("names", [("T1w", "T2w"), ("T2w", "T1w")])
def test_uncertainty_is_calibrated_on_held_out_pairs(
    names: tuple[str, str],
    small_store: Store,
    certain_bundle: Bundle,
    tiny: Callable[..., Any],
    make_scan: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """A training from a model with scale heads keeps them, resumed or not."""
    save_bundle(certain_bundle.manifest, certain_bundle.weights, tmp_path / "initial")
    update = dict(zip(("source", "target"), names, strict=True))
    prepared = small_store.manifest.settings.model_copy(update=update)
    store = Store(small_store.path, small_store.manifest.model_copy(update={"settings": prepared}))
    settings = tiny("bridge", epochs=2, simulated_weight=0.0).changed(
        {"networks": certain_bundle.manifest.networks.model_dump(mode="json")}
    )
    for run, stop in (("whole", None), ("halves", 1)):
        train(
            store,
            tmp_path / run,
            settings.changed({"stop_after_epochs": stop}),
            start=tmp_path / "initial",
            device="cpu",
        )
    train(store, tmp_path / "halves", resume=True, device="cpu", stop_after_epochs=None)
    whole, halves = (load_bundle(tmp_path / run) for run in ("whole", "halves"))
    known = whole.manifest.uncertainty
    assert known is not None
    assert known == halves.manifest.uncertainty
    assert whole.hash == halves.hash
    assert "held-out pairs" in known.calibrated_on
    # The heads predict 0.05: nine in ten errors of the validation slices are smaller than the
    # factor times that, so untrained generators, which are far off, have a large one.
    assert all(factor > 3 for factor in known.factor.values())
    scan = make_scan(5, "T1w")
    made = mrbridge.translate(scan, model=whole, to="T2w", uncertainty=True)
    assert made.uncertainty.max() > 0


def test_without_pairs_uncertainty_is_not_calibrated(
    small_store: Store, certain_bundle: Bundle, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    save_bundle(certain_bundle.manifest, certain_bundle.weights, tmp_path / "initial")
    networks = {"networks": certain_bundle.manifest.networks.model_dump(mode="json")}
    settings = tiny("bridge", epochs=1, simulated_weight=0.0).changed(networks)
    absent = {one.id for one in small_store.records(contrast="T2w", split="val")}
    unpaired = [one for one in small_store.manifest.records if one.id not in absent]
    store = Store(small_store.path, small_store.manifest.model_copy(update={"records": unpaired}))
    with pytest.warns(MrbridgeWarning):  # validation by training slices
        train(store, tmp_path / "run", settings, start=tmp_path / "initial", device="cpu")
    bundle = load_bundle(tmp_path / "run")
    assert bundle.manifest.uncertainty is None
    assert not any("scale" in name for name in bundle.weights)


class TestCheckpoint:
    def test_round_trip(self, tmp_path: Path, compare: Any) -> None:
        state = {"step": 3, "t": torch.arange(4), "list": [1.5, None, "x", {"a": True}]}
        save_checkpoint(state, tmp_path / "new" / "last.ckpt")
        assert compare.values(load_checkpoint(tmp_path / "new" / "last.ckpt"), state) == []

    def test_objects_are_never_executed(self, tmp_path: Path) -> None:
        torch.save({"step": Trap(tmp_path / "sprung")}, tmp_path / "last.ckpt")
        with pytest.raises(MrbridgeError, match="damaged"):
            load_checkpoint(tmp_path / "last.ckpt")
        assert not (tmp_path / "sprung").exists()

    def test_an_old_one_stays_when_writing_fails(self, tmp_path: Path) -> None:
        path = tmp_path / "last.ckpt"
        save_checkpoint({"step": 1}, path)
        with pytest.raises(Exception, match=r"pickle|local object"):  # by version of Python
            save_checkpoint({"step": lambda: None}, path)
        assert load_checkpoint(path) == {"step": 1}
        assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]

    def test_a_second_name_parts_at_the_next_save(self, tmp_path: Path) -> None:
        last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
        save_checkpoint({"step": 1}, last)
        copy_checkpoint(last, best)
        save_checkpoint({"step": 2}, last)
        assert (load_checkpoint(last), load_checkpoint(best)) == ({"step": 2}, {"step": 1})
        copy_checkpoint(last, best)
        assert load_checkpoint(best) == {"step": 2}


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


class TestSettings:
    def test_layers_override_the_preset(self) -> None:
        made = resolve({"preset": "unet", "epochs": 7, "networks": {"generator": {"features": 8}}})
        assert (made.preset, made.epochs, made.adversarial) == ("unet", 7, "bce")
        assert made.networks.generator.features == 8
        assert made.networks.generator.levels == 8
        assert resolve({"preset": "resnet"}).networks.generator.kind == "resnet"
        assert resolve() == PRESETS["bridge"]

    def test_settings_of_older_versions(self) -> None:
        old = {"structure_weight": 0.0, "beginning_share": 0.5}
        assert resolve(old) == resolve({"wise_ft_weight": 0.5})
        with pytest.raises(SettingsError, match="guard=restart was removed"):
            resolve({"guard": "restart"})

    def test_unknown_presets_name_the_nearest(self) -> None:
        with pytest.raises(MrbridgeError, match="did you mean 'resunet'"):
            preset("resunett")

    @pytest.mark.parametrize(
        ("change", "near"),
        [
            ({"epoch": 3}, "epochs"),
            ({"learning_rat": 3}, "learning_rate"),
            ({"augment": {"gama": 3}}, r"augment\.gamma"),
            ({"networks": {"imagesize": 64}}, r"networks\.image_size"),
            ({"networks": {"generator": {"feature": 64}}}, r"networks\.generator\.features"),
        ],
    )
    def test_unknown_keys_name_the_nearest(self, change: dict[str, Any], near: str) -> None:
        with pytest.raises(MrbridgeError, match=f"did you mean '.*{near}'"):
            resolve({"preset": "unet"}, change)

    def test_the_original_presets(self) -> None:
        unet, resunet, resnet = (PRESETS[name] for name in ("unet", "resunet", "resnet"))
        for settings in (unet, resunet, resnet):
            assert (settings.learning_rate, settings.betas) == (2e-4, (0.5, 0.999))
            assert (settings.batch_size, settings.pool_size) == (1, 50)
            assert settings.cycle_weight == 10
            assert settings.simulated_weight == settings.warm_up == 0, "trained as published"
            assert settings.adversarial_weight == 1
        assert unet.adversarial == "bce"
        assert (unet.identity_weight, resunet.identity_weight) == (5, 5)
        assert (resnet.adversarial, resnet.identity_weight) == ("least_squares", 1)


def test_a_run_killed_before_its_first_checkpoint_can_start_again(
    small_store: Store, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "samples").mkdir(parents=True)
    (run / "samples" / "epoch_0000.png").write_bytes(b"half")
    with pytest.raises(OutputError, match="not empty"):
        train(small_store, run, tiny("unet"), device="cpu")  # not known to be a run
    (run / "samples" / "epoch_0000.png").unlink()
    (run / ".~000000-1-00000000.yaml").write_text("half")  # as a kill leaves it
    assert train(small_store, run, tiny("unet"), device="cpu").rows
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(OutputError, match="not empty"):
        train(small_store, run, tiny("unet"), device="cpu")  # the bundle is worth something
    shutil.rmtree(run / "bundle")
    assert train(small_store, run, tiny("unet"), device="cpu").rows
    with pytest.raises(OutputError, match="--resume"):
        train(small_store, run, tiny("unet"), device="cpu")


@pytest.mark.usefixtures("quick_phantom")
def test_a_resumed_run_does_not_simulate_again(
    small_store: Store,
    tmp_path: Path,
    tiny: Callable[..., TrainSettings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train(small_store, tmp_path / "run", tiny(simulated_weight=1.0, epochs=1), device="cpu")

    def forbidden(*_: object) -> None:
        raise AssertionError("simulated again")

    monkeypatch.setattr("mrbridge.dataset.simulated.varied_subject", forbidden)
    more = train(small_store, tmp_path / "run", resume=True, epochs=2, device="cpu")
    assert more.rows[-1]["epoch"] == 2


def test_a_run_killed_while_it_wrote_its_first_checkpoint_can_start_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "settings.yaml").touch()
    (tmp_path / "checkpoints" / temporary_name(".ckpt")).touch()
    check_unused(tmp_path)
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(OutputError, match=r"is not empty.*--resume"):
        check_unused(tmp_path)
