"""A run that was stopped and resumed equals one that was not, bit for bit."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mrbridge.bundle import load_bundle
from mrbridge.dataset import loader
from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.settings import PrepareSettings
from mrbridge.dataset.store import Store
from mrbridge.errors import (
    InputError,
    Interrupted,
    MrbridgeWarning,
    OutputError,
    SettingsError,
    SizeError,
)
from mrbridge.training.checkpoint import load_checkpoint, save_checkpoint
from mrbridge.training.model import TranslationModel
from mrbridge.training.run import train
from mrbridge.training.settings import PRESETS, TrainSettings

pytestmark = pytest.mark.usefixtures("quick_phantom")

SMALL: dict[str, dict[str, Any]] = {
    # Five halvings bring 32x32 to 1x1, as eight bring 256x256.
    "unet": {"levels": 5, "features": 4, "max_features": 8},
    "resunet": {"features": 4, "max_features": 8, "blocks": 2},
    "resnet": {"features": 4, "blocks": 2},
}


def shrunken(preset: str, **changes: Any) -> TrainSettings:
    """A preset with its own losses, weights and augmentation, and few features."""
    settings = PRESETS[preset]
    kind = settings.networks.generator.kind
    networks = {
        "image_size": 32,
        "generator": {"kind": kind, **SMALL[kind]},
        "critic": {"features": 4, "strided": 1},
    }
    small = {
        "epochs": 4,
        "steps_per_epoch": 3,
        "batch_size": 2,
        "pool_size": 3,
        "validation_slices": 2,
        "sample_slices": 1,
        "simulated_subjects": 1,
    }
    return settings.changed({"networks": networks, **small, **changes})


QUICK = ("bridge", "unet")
SLOW = [pytest.param(one, marks=pytest.mark.slow) for one in PRESETS if one not in QUICK]


@pytest.mark.parametrize("preset", [*QUICK, *SLOW])
def test_two_and_two_epochs_are_four(
    preset: str,
    small_store: Store,
    tmp_path: Path,
    compare: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = shrunken(preset)
    whole = train(small_store, tmp_path / "whole", settings, device="cpu")
    halves = settings.changed({"stop_after_epochs": 2})
    first = train(small_store, tmp_path / "halves", halves, device="cpu")
    assert [row["epoch"] for row in first.rows] == [1, 2]
    assert compare.runs(whole.path, first.path), "half a run cannot equal the whole one"
    # Nor does it matter whether batches are made here or in a process of their own.
    monkeypatch.setattr(loader, "_SPARE_FROM", 1 if loader._SPARE_FROM > 1 else 10_000)
    second = train(small_store, tmp_path / "halves", resume=True, device="cpu")
    assert [row["epoch"] for row in second.rows] == [1, 2, 3, 4]
    assert compare.runs(whole.path, second.path) == []
    assert second.settings == settings


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_signal_in_an_epoch_changes_nothing(
    precision: str,
    small_store: Store,
    tmp_path: Path,
    compare: SimpleNamespace,
    signal_at: Callable[..., None],
) -> None:
    settings = shrunken("unet", precision=precision, epochs=3, simulated_weight=2.0, warm_up=0.5)
    whole = train(small_store, tmp_path / "whole", settings, device="cpu")
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    signal_at(4, signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped at step 5") as caught:
        train(small_store, tmp_path / "broken", settings, device="cpu")
    assert caught.value.exit_code == 3
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    signal_at(7, signal.SIGINT)
    with pytest.raises(Interrupted, match="stopped at step 8"):
        train(small_store, tmp_path / "broken", resume=True, device="cpu")
    signal_at(-1)
    resumed = train(small_store, tmp_path / "broken", resume=True, device="cpu")
    assert compare.runs(whole.path, resumed.path) == []


def test_another_seed_is_another_run(
    small_store: Store, tmp_path: Path, compare: SimpleNamespace
) -> None:
    runs = [
        train(small_store, tmp_path / name, shrunken("bridge", epochs=1, seed=seed), device="cpu")
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert compare.runs(runs[0].path, runs[1].path) == []
    assert compare.runs(runs[0].path, runs[2].path) != []


def test_a_signal_in_the_first_epoch_leaves_a_checkpoint(
    small_store: Store, tmp_path: Path, signal_at: Callable[..., None]
) -> None:
    signal_at(0, signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped at step 1"):
        train(small_store, tmp_path / "run", shrunken("bridge"), device="cpu")
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["step"] == 1


def test_a_second_interrupt_ends_at_once(
    small_store: Store, tmp_path: Path, signal_at: Callable[..., None]
) -> None:
    signal_at(1, signal.SIGINT, signal.SIGINT)
    with pytest.raises(Interrupted, match="at once"):
        train(small_store, tmp_path / "run", shrunken("bridge"), device="cpu")
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["step"] == 0


def test_a_signal_that_the_caller_ignores_stays_ignored(
    small_store: Store, tmp_path: Path, signal_at: Callable[..., None]
) -> None:
    """As in the background of a shell script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal_at(0, signal.SIGINT)
    run = train(small_store, tmp_path / "run", shrunken("bridge", epochs=1), device="cpu")
    assert load_checkpoint(run.path / "checkpoints" / "last.ckpt")["step"] > 1


def test_a_pause_between_validations_leaves_a_checkpoint(
    small_store: Store, tmp_path: Path, compare: SimpleNamespace
) -> None:
    settings = shrunken("bridge", validate_every=2)
    whole = train(small_store, tmp_path / "whole", settings, device="cpu")
    train(small_store, tmp_path / "run", settings.changed({"stop_after_epochs": 1}), device="cpu")
    resumed = train(small_store, tmp_path / "run", resume=True, device="cpu")
    assert compare.runs(whole.path, resumed.path) == []
    assert "criterion" not in resumed.rows[0]
    assert "criterion" in resumed.rows[1]


def test_a_checkpoint_with_unused_critics(
    small_store: Store, tmp_path: Path, compare: SimpleNamespace
) -> None:
    """Older versions built critics for every training, and never used those of `bridge`."""
    settings = shrunken("bridge")
    whole = train(small_store, tmp_path / "whole", settings, device="cpu")
    file = tmp_path / "run" / "checkpoints" / "last.ckpt"
    train(small_store, tmp_path / "run", settings.changed({"stop_after_epochs": 2}), device="cpu")
    state = load_checkpoint(file)
    assert not any("critic" in name for name in state["networks"])
    assert len(state["optimizers"]) == 1
    judged = TranslationModel(settings.changed({"adversarial_weight": 1.0})).state_dict()
    state["networks"] |= {name: value for name, value in judged.items() if "critic" in name}
    state["optimizers"] *= 2
    save_checkpoint(state, file)
    resumed = train(small_store, tmp_path / "run", resume=True, device="cpu")
    assert compare.runs(whole.path, resumed.path) == []


def test_a_complete_run_has_nothing_to_resume_and_can_be_extended(
    small_store: Store, tmp_path: Path
) -> None:
    done = train(small_store, tmp_path / "run", shrunken("bridge", epochs=1), device="cpu")
    before = (done.path / "checkpoints" / "last.ckpt").read_bytes()
    again = train(small_store, done.path, resume=True, device="cpu")
    assert again.rows == done.rows
    assert (done.path / "checkpoints" / "last.ckpt").read_bytes() == before
    longer = train(small_store, done.path, resume=True, epochs=2, device="cpu")
    assert [row["epoch"] for row in longer.rows] == [1, 2]
    assert longer.settings.epochs == 2


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run of one epoch is, once a test has asked for it."""
    return tmp_path_factory.mktemp("once") / "run"


class TestRefusals:
    @pytest.fixture
    def run(self, once: Path, small_store: Store, tmp_path: Path) -> Path:
        if not once.exists():
            train(small_store, once, shrunken("bridge", epochs=1), device="cpu")
        return Path(shutil.copytree(once, tmp_path / "run"))

    def test_a_folder_that_is_not_empty(self, small_store: Store, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(OutputError, match=r"not empty.*--resume"):
            train(small_store, tmp_path, shrunken("bridge"), device="cpu")
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_resuming_without_a_run(self, small_store: Store, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no checkpoint"):
            train(small_store, tmp_path / "absent", resume=True, device="cpu")
        assert not (tmp_path / "absent").exists()

    def test_changed_settings_are_named(self, small_store: Store, run: Path) -> None:
        changes = {"seed": 3, "networks": {"image_size": 64}, "epochs": 9}
        with pytest.raises(SettingsError, match="keeps its networks, seed"):
            train(small_store, run, resume=True, **changes, device="cpu")

    def test_equal_settings_are_accepted(self, small_store: Store, run: Path) -> None:
        changes = {"preset": "bridge", "batch_size": 2, "networks": {"image_size": 32}}
        before = (run / "settings.yaml").read_bytes()
        again = train(small_store, run, resume=True, **changes, device="cpu")
        assert [row["epoch"] for row in again.rows] == [1]
        assert (run / "settings.yaml").read_bytes() == before

    def test_weights_that_pairs_reduce_are_not_a_change(
        self, small_store: Store, tmp_path: Path
    ) -> None:
        asked = {"supervision": "weak", "cycle_weight": 10.0, "steps_per_epoch": 2}
        settings = shrunken("bridge", epochs=2, stop_after_epochs=1, **asked)
        whole = train(small_store, tmp_path / "run", settings, device="cpu", start="scratch")
        assert "cycle" not in whole.rows[0]
        run = train(small_store, whole.path, resume=True, **asked, device="cpu")
        assert "cycle" not in run.rows[1]
        assert run.settings.cycle_weight == 10

    def test_a_run_that_names_removed_settings(self, small_store: Store, run: Path) -> None:
        """Settings of older runs name the structure loss, usually with weight 0."""
        file = run / "settings.yaml"
        kept = file.read_text()
        old = kept.replace("wise_ft_weight", "beginning_share")
        file.write_text(old + "structure_weight: 0.0\n")
        longer = train(small_store, run, resume=True, epochs=2, device="cpu")
        assert [row["epoch"] for row in longer.rows] == [1, 2]
        file.write_text(kept.replace("guard: warn", "guard: restart"))
        with pytest.raises(SettingsError, match="guard=restart was removed") as caught:
            train(small_store, run, resume=True, device="cpu")
        assert caught.value.path == file
        file.write_text(kept + "structure_weight: 0.2\n")
        with pytest.raises(SettingsError, match="structure loss was removed") as caught:
            train(small_store, run, resume=True, device="cpu")
        assert caught.value.path == file

    def test_critics_that_the_run_did_not_have(self, small_store: Store, tmp_path: Path) -> None:
        """As when pairs had taken all weight, and the store holds scans without partners by now."""
        settings = shrunken("unet", epochs=2, stop_after_epochs=1)
        run = train(small_store, tmp_path / "run", settings, device="cpu").path
        file = run / "checkpoints" / "last.ckpt"
        state = load_checkpoint(file)
        state["networks"] = {k: v for k, v in state["networks"].items() if "critic" not in k}
        save_checkpoint(state, file)
        with pytest.raises(SettingsError, match="trained without critics"):
            train(small_store, run, resume=True, device="cpu")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"source": "T2w", "target": "T1w"}, "translates T1w to T2w, not T2w to T1w"),
            ({"standard": {"intensity": {"method": "zscore"}}}, "other preprocessing"),
        ],
    )
    def test_a_store_with_other_preprocessing_or_contrasts(
        self, run: Path, bids_scans: Path, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        settings = PrepareSettings().changed(changes)
        other = prepare(bids_scans, tmp_path / "other", settings)
        before = (run / "checkpoints" / "last.ckpt").read_bytes()
        with pytest.raises(SettingsError, match=message):
            train(other, run, resume=True, epochs=2, device="cpu")
        assert (run / "checkpoints" / "last.ckpt").read_bytes() == before

    def test_a_store_of_other_scans(self, run: Path, bids_scans: Path, tmp_path: Path) -> None:
        fewer = tmp_path / "fewer"
        shutil.copytree(bids_scans, fewer)
        shutil.rmtree(fewer / "sub-01")  # of the test, so that the others stay where they are
        store = prepare(fewer, tmp_path / "store", PrepareSettings(seed=3))
        with pytest.warns(MrbridgeWarning, match="other scans than this run was trained on"):
            train(store, run, resume=True, epochs=2, device="cpu")

    def test_a_store_with_another_split(
        self, run: Path, bids_scans: Path, small_store: Store, tmp_path: Path
    ) -> None:
        """What was trained on is held out now, for a resumed run and one that starts from it."""
        other = prepare(bids_scans, tmp_path / "store", PrepareSettings(seed=1))
        trained = {one.short_hash for one in small_store.records(split="train")}
        held = [one for one in other.records() if "train" not in one.segments]
        seen = [one for one in held if one.short_hash in trained]
        assert seen
        message = f"was trained on {len(seen)} of the {len(held)} scans that the store holds out"
        with pytest.warns(MrbridgeWarning, match=f"the initial model {message}"):
            train(other, tmp_path / "new", shrunken("bridge", epochs=1), start=run, device="cpu")
        with (
            pytest.warns(MrbridgeWarning, match="splits them otherwise"),
            pytest.warns(MrbridgeWarning, match=f"this run {message}"),
        ):
            train(other, run, resume=True, epochs=2, device="cpu")
        both = trained | {one.short_hash for one in other.records(split="train")}
        for folder in (run, tmp_path / "new"):
            state = load_checkpoint(folder / "checkpoints" / "last.ckpt")
            assert set(state["keeper"]["data"]["trained_on"]) == both
            assert trained <= set(load_bundle(folder).manifest.trained_on) <= both

    def test_more_epochs_raise_the_learning_rate(
        self, small_store: Store, run: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The decay is that of the longer training, and a warning says so."""
        message = "the learning rate rises again"
        first = train(small_store, run, resume=True, epochs=1, device="cpu")
        assert message not in caplog.text
        longer = train(small_store, run, resume=True, epochs=4, device="cpu")
        rates = [row["learning_rate"] for row in (first.rows[-1], longer.rows[1])]
        assert rates[0] < rates[1]
        assert f"{message}, from {rates[0]:.3g} to {rates[1]:.3g}" in caplog.text

    def test_epochs_of_a_run_by_the_clock(self, small_store: Store, tmp_path: Path) -> None:
        settings = shrunken("unet", minutes=0.001)
        run = train(small_store, tmp_path / "run", settings, device="cpu")
        with pytest.raises(SettingsError, match=r"trains for 0\.001 minutes.*minutes=null"):
            train(small_store, run.path, resume=True, epochs=50, device="cpu")
        epochs = int(run.rows[-1]["epoch"]) + 1
        more = train(small_store, run.path, resume=True, epochs=epochs, minutes=None, device="cpu")
        assert more.rows[-1]["epoch"] == epochs

    def test_a_misspelt_setting(self, small_store: Store, run: Path) -> None:
        with pytest.raises(SettingsError, match="did you mean 'epochs'"):
            train(small_store, run, resume=True, epoch=3, device="cpu")

    def test_a_damaged_checkpoint(self, small_store: Store, run: Path) -> None:
        path = run / "checkpoints" / "last.ckpt"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(InputError, match=r"damaged.*best\.ckpt"):
            train(small_store, run, resume=True, device="cpu")

    def test_an_impossible_image_size_leaves_no_run(
        self, small_store: Store, tmp_path: Path
    ) -> None:
        with pytest.raises(SizeError, match="multiple of 32"):
            train(
                small_store,
                tmp_path / "odd",
                shrunken("unet").changed({"networks": {"image_size": 40}}),
                device="cpu",
            )
        assert not (tmp_path / "odd").exists()
