"""Which state of a training is the best, when it ends early, and what a run does about it."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console, Group
from rich.live import Live

from mrbridge import models, progress
from mrbridge.bundle import Bundle, load_bundle, read_manifest, save_bundle
from mrbridge.dataset.store import Store
from mrbridge.errors import Interrupted, SettingsError
from mrbridge.networks.build import build_generator
from mrbridge.training import loop
from mrbridge.training.checkpoint import load_checkpoint
from mrbridge.training.loop import RunRecorder
from mrbridge.training.monitor import HELD, EarlyStopping, Reading, Reference, Verdict
from mrbridge.training.run import Run, train

NAN = float("nan")
DIRECTIONS = ("to_target", "to_source")


def best_of(stopping: EarlyStopping, *validations: tuple[float, bool]) -> list[bool]:
    return [stopping.update(criterion, is_right) for criterion, is_right in validations]


class TestBest:
    def test_only_what_is_better(self) -> None:
        stopping = EarlyStopping()
        result = best_of(stopping, (1.0, True), (3.0, True), (3.0, True), (2.0, True), (4.0, True))
        assert result == [True, True, False, False, True]
        assert stopping.best == 4.0

    def test_what_looks_right_is_better_than_what_does_not(self) -> None:
        stopping = EarlyStopping()
        result = best_of(
            stopping, (9.0, False), (8.0, False), (1.0, True), (9.5, False), (2.0, True)
        )
        assert result == [True, False, True, False, True]
        assert stopping.best == 2.0

    def test_numbers_that_are_not_finite_are_better_than_nothing_only(self) -> None:
        stopping = EarlyStopping()
        assert best_of(stopping, (NAN, True), (NAN, True), (1.0, True), (NAN, True)) == [
            *(True, True, True, False)
        ]

    @pytest.mark.parametrize("criterion", [2.0, NAN])
    def test_the_initial_model_gives_way_only_to_a_better_state(self, criterion: float) -> None:
        stopping = EarlyStopping()
        stopping.start_from(criterion)
        assert stopping.best_is_initial
        assert best_of(stopping, (NAN, True), (-math.inf, True), (9.0, False)) == [False] * 3
        assert stopping.best_is_initial
        assert best_of(stopping, (3.0, True)) == [True]
        assert not stopping.best_is_initial


class TestEnd:
    def test_a_plateau(self, tiny: Callable[..., Any]) -> None:
        stopping, settings = EarlyStopping(), tiny(patience=2)
        ends = []
        for criterion in (1.0, 0.5, 2.0, 1.5, 2.0):
            stopping.update(criterion, True)
            ends.append(stopping.reason_to_stop(settings) is not None)
        assert ends == [False, False, False, False, True]
        assert stopping.reason_to_stop(tiny()) is None, "without patience it continues"
        assert stopping.reason_to_stop(tiny(patience=3)) is None

    def test_a_verdict_has_to_hold(self, tiny: Callable[..., Any]) -> None:
        stopping, settings = EarlyStopping(), tiny(guard="stop")
        ends = []
        for is_right in (False, True, False, False):
            stopping.update(1.0, is_right)
            ends.append(stopping.reason_to_stop(settings) is not None)
        assert ends == [False, False, False, True]
        assert stopping.reason_to_stop(tiny(guard="warn")) is None

    def test_verdicts_that_do_not_count_yet(self, tiny: Callable[..., Any]) -> None:
        stopping = EarlyStopping()
        for _ in range(2 * HELD):
            stopping.update(1.0, False, counts=False)
        assert stopping.reason_to_stop(tiny(guard="stop")) is None


def test_a_failure_is_new_once() -> None:
    stopping = EarlyStopping()
    assert stopping.failures is None
    assert stopping.new_failures({"to_target": "a"}) == ["a"]
    assert stopping.new_failures({"to_target": "a", "to_source": "b"}) == ["b"]
    assert stopping.new_failures({"to_target": "c", "to_source": "b"}) == ["c"]
    assert stopping.new_failures({}) == []
    assert stopping.failures == {}
    assert stopping.new_failures({"to_target": "a"}) == ["a"]


def test_its_state_round_trips() -> None:
    stopping = EarlyStopping()
    stopping.start_from(1.0)
    stopping.update(2.0, False)
    stopping.new_failures({"to_target": "a"})
    again = EarlyStopping.from_state(asdict(stopping))
    assert again == stopping
    assert again != EarlyStopping()


def test_states_of_older_versions() -> None:
    old: dict[str, Any] = {
        "best": 2.0,
        "best_is_right": True,
        "keeps_beginning": True,
        "since_best": 1,
    }
    old |= {"held": 0, "restarts": 0, "standing": {"to_target": "a"}}
    stopping = EarlyStopping.from_state(old)
    assert (stopping.best, stopping.best_is_initial, stopping.since_best) == (2.0, True, 1)
    assert stopping.failures == {"to_target": "a"}
    with pytest.raises(SettingsError, match="guard=restart, which was removed"):
        EarlyStopping.from_state(old | {"restarts": 1})


# -- Trainings -------------------------------------------------------------------------------------


@pytest.fixture
def training(small_store: Store, tiny: Callable[..., Any], tmp_path: Path) -> Callable[..., Run]:
    """Train and resume `tmp_path / "run"`: `training(epochs=3)`, `training(resume=True)`.

    Without simulated pairs, with the generators of the tiny bundle.
    """

    def run(
        *, start: Path | str = "scratch", resume: bool = False, name: str = "run", **changes: Any
    ) -> Run:
        out = tmp_path / name
        if resume:
            return train(small_store, out, resume=True, device="cpu", **changes)
        small = {"simulated_weight": 0.0, "warm_up": 0.0, "pool_size": 2, "epochs": 6, **changes}
        return train(small_store, out, tiny("unet", **small), device="cpu", start=start)

    return run


@pytest.fixture
def fake_monitor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Fake the monitor: `fake_monitor(verdicts, criteria)`, one of each for every validation.

    A verdict is `R`, right, or `W`, wrong; the last ones hold for all later validations. An initial
    model takes a criterion too, and no verdict.
    """

    def put(verdicts: str, criteria: Sequence[float] = (1.0,)) -> None:
        letters = chain(verdicts, repeat(verdicts[-1]))
        numbers = chain(criteria, repeat(criteria[-1]))

        def readings(*_: Any) -> dict[str, Reading]:
            verdict = Verdict.INVERTED if next(letters) == "W" else None
            return {"to_target": Reading(0.9, 0.8, 0.1, verdict)}

        monkeypatch.setattr(loop, "read_both", readings)
        monkeypatch.setattr(loop, "criterion", lambda *_: next(numbers))

    return put


def steps_of(run: Path, name: str) -> int:
    return int(load_checkpoint(run / "checkpoints" / f"{name}.ckpt")["step"])


def has_weights_of(run: Path, other: Bundle) -> bool:
    """Whether the run's bundle holds the generators of another bundle."""
    weights = load_bundle(run).weights
    return all(torch.equal(value, other.weights[name].float()) for name, value in weights.items())


def test_verdicts_are_recorded_and_warned_of_once(
    training: Callable[..., Run],
    fake_monitor: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake_monitor("RWWRW")
    caplog.set_level(logging.INFO, "mrbridge")
    run = training(epochs=5)
    assert len(run.rows) == 5, "by default the monitor only warns"
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert [message.split(":")[0] for message in warned] == ["T1w to T2w looks inverted"] * 2
    epochs = [m for m in caplog.messages if m.startswith("epoch ")]
    assert ["inverted" in line for line in epochs] == [False, True, True, False, True]
    assert not any("guard_" in line for line in epochs), "the numbers are in metrics.csv"
    with open(run.path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["guard_verdict_to_target"] for row in rows] == ["0", "1", "1", "0", "1"]


def test_the_live_view_shows_the_verdict(
    training: Callable[..., Run],
    fake_monitor: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_monitor("RW")
    shown: list[str] = []

    def show(_: Live, view: Group) -> None:
        page = Console(width=120, record=True, file=io.StringIO())
        page.print(view)
        shown.append(page.export_text())

    monkeypatch.setattr(progress, "wanted", lambda: True)
    monkeypatch.setattr(Live, "start", lambda _: None)
    monkeypatch.setattr(Live, "update", show)
    training(epochs=2)
    before, *between, last = shown
    assert "Monitor" not in before
    assert all("Monitor: nothing wrong" in text for text in between[:2])
    assert "Monitor: T1w to T2w looks inverted" in last
    assert "epoch 1 of 2, step 1 of 2" in before
    assert "Best so far: epoch 1, 1 validation ago" in last
    assert "PSNR T1w→T2w" in last
    assert "100%" in last
    assert "psnr_" not in last


class TestStop:
    def test_two_verdicts_in_a_row_end_the_training(
        self,
        training: Callable[..., Run],
        fake_monitor: Callable[..., None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        fake_monitor("RWRWW", [1, 2, 3, 4, 5])
        run = training(guard="stop")
        assert [row["epoch"] for row in run.rows] == [1, 2, 3, 4, 5]
        assert "ends here: it has gone wrong in 2 validations" in caplog.text
        assert read_manifest(run.path).trained["epochs"] == 3, "the last state that was right"
        assert (steps_of(run.path, "best"), steps_of(run.path, "last")) == (6, 10)
        assert training(resume=True).rows == run.rows, "it is complete"
        more = training(resume=True, guard="warn")
        assert [row["epoch"] for row in more.rows] == [1, 2, 3, 4, 5, 6]

    def test_random_weights_have_a_grace_period(
        self, training: Callable[..., Run], fake_monitor: Callable[..., None]
    ) -> None:
        fake_monitor("W")
        run = training(guard="stop", epochs=30, steps_per_epoch=1)
        assert len(run.rows) == 4, "epochs 3 and 4 are the first two after a tenth of 30"

    def test_a_trained_model_has_none(
        self, training: Callable[..., Run], fake_monitor: Callable[..., None], tiny_bundle: Bundle
    ) -> None:
        fake_monitor("W")
        once = {"steps_per_epoch": 1, "stop_after_epochs": 1}
        training(guard="stop", epochs=30, start=tiny_bundle.path, **once)
        assert len(training(resume=True).rows) == 2

    def test_a_plateau_ends_the_training(
        self,
        training: Callable[..., Run],
        fake_monitor: Callable[..., None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        fake_monitor("R", [1, 2, 0, 1, 9])
        run = training(patience=2)
        assert len(run.rows) == 4
        assert "ends here: no validation was better in the last 2" in caplog.text
        assert training(resume=True).rows == run.rows
        fake_monitor("R", [9])
        assert len(training(resume=True, patience=3).rows) == 6
        assert read_manifest(run.path).trained["epochs"] == 5


class TestInitialModel:
    @pytest.fixture
    def from_bundle(self, training: Callable[..., Run], tiny_bundle: Bundle) -> Callable[..., Run]:
        return partial(training, start=tiny_bundle.path, epochs=3)

    def test_it_is_the_first_bundle(
        self,
        from_bundle: Callable[..., Run],
        tiny_bundle: Bundle,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        seen: list[dict[str, Any]] = []
        original = RunRecorder.progress

        def watched(self: RunRecorder) -> float:
            if not seen:
                seen.append(read_manifest(tmp_path / "run").trained)
                assert has_weights_of(tmp_path / "run", tiny_bundle)
                assert steps_of(tmp_path / "run", "best") == 0
            return original(self)

        monkeypatch.setattr(RunRecorder, "progress", watched)
        from_bundle()
        assert (seen[0]["epochs"], seen[0]["steps"]) == (0, 0)
        assert seen[0]["kept"] == "the initial model"

    def test_it_stays_unless_a_state_is_better(
        self,
        from_bundle: Callable[..., Run],
        training: Callable[..., Run],
        fake_monitor: Callable[..., None],
        tiny_bundle: Bundle,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        fake_monitor("RRW", [2.0, 1.0, 2.0, 3.0])  # worse, equal, better but wrong
        run = from_bundle()
        assert run.kept_beginning
        assert has_weights_of(run.path, tiny_bundle)
        manifest = read_manifest(run.path)
        assert manifest.trained["kept"] == "the initial model"
        assert manifest.least_size == tiny_bundle.manifest.least_size
        assert caplog.text.count("training did not improve on the initial model") == 1
        assert [row["criterion"] for row in run.rows] == [1, 2, 3]
        assert training(resume=True).kept_beginning

    def test_it_stays_if_the_first_session_wrote_no_bundle(
        self,
        from_bundle: Callable[..., Run],
        training: Callable[..., Run],
        fake_monitor: Callable[..., None],
        tiny_bundle: Bundle,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        fake_monitor("R", [2.0, 1.0])

        def stop(*_: Any) -> None:
            raise Interrupted("stopped")

        with monkeypatch.context() as patch:
            patch.setattr(RunRecorder, "_save_bundle", stop)
            with pytest.raises(Interrupted):
                from_bundle()
        fake_monitor("R", [2.0, 1.0])
        run = training(resume=True)
        assert run.kept_beginning
        assert read_manifest(run.path).least_size == tiny_bundle.manifest.least_size

    def test_a_better_state_replaces_it(
        self,
        from_bundle: Callable[..., Run],
        fake_monitor: Callable[..., None],
        tiny_bundle: Bundle,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        fake_monitor("R", [2.0, 1.0, 2.5, 2.2])
        run = from_bundle()
        assert not run.kept_beginning
        assert not has_weights_of(run.path, tiny_bundle)
        manifest = read_manifest(run.path)
        assert manifest.trained["epochs"] == 2
        assert "kept" not in manifest.trained
        size = run.settings.networks.image_size
        assert manifest.least_size == size != tiny_bundle.manifest.least_size
        assert "did not improve" not in caplog.text

    def test_a_pause_warns_of_nothing(
        self,
        from_bundle: Callable[..., Run],
        training: Callable[..., Run],
        fake_monitor: Callable[..., None],
        tiny_bundle: Bundle,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        fake_monitor("R", [2.0, 1.0])
        run = from_bundle(stop_after_epochs=1)
        assert "did not improve" not in caplog.text
        assert training(resume=True).kept_beginning
        assert "did not improve" in caplog.text
        assert has_weights_of(run.path, tiny_bundle)

    def test_the_real_criterion_prefers_it_to_ruined_weights(
        self, from_bundle: Callable[..., Run], tiny_bundle: Bundle
    ) -> None:
        run = from_bundle(learning_rate=1.0, critic_rate=1e-3)
        assert run.kept_beginning
        assert has_weights_of(run.path, tiny_bundle)

    def test_random_weights_are_not_an_initial_model(self, training: Callable[..., Run]) -> None:
        run = training(epochs=1)
        assert not run.kept_beginning
        assert "kept" not in read_manifest(run.path).trained


class TestReference:
    def reference(self, run: Run) -> Reference | None:
        state = load_checkpoint(run.path / "checkpoints" / "last.ckpt")["keeper"]["reference"]
        return None if state is None else Reference(**state)

    def test_the_initial_model_s_translations_stay_the_reference(
        self, training: Callable[..., Run], tiny_bundle: Bundle, compare: SimpleNamespace
    ) -> None:
        start = tiny_bundle.path
        whole = training(name="whole", epochs=2, start=start)
        first = self.reference(training(epochs=2, stop_after_epochs=1, start=start))
        run = training(resume=True)
        second = self.reference(run)
        assert first.name == second.name == "the initial model"
        assert torch.equal(first.to_target, second.to_target)
        assert compare.runs(whole.path, run.path) == []
        assert "guard_gradients_to_target" in whole.rows[0]

    def test_without_an_initial_model_it_is_the_shipped_one(
        self, training: Callable[..., Run], as_shipped: Bundle
    ) -> None:
        reference = self.reference(training(epochs=1))
        assert reference.name == "the shipped model"
        same = self.reference(training(name="again", epochs=1, start=as_shipped.path))
        for name in DIRECTIONS:
            np.testing.assert_allclose(getattr(reference, name), getattr(same, name), atol=2e-3)
        assert not np.allclose(reference.to_target, reference.to_source, atol=2e-3)

    @pytest.mark.parametrize("why", ["absent", "other contrasts", "other sizes"])
    def test_a_model_that_does_not_fit_is_not_the_reference(
        self,
        why: str,
        training: Callable[..., Run],
        tiny_bundle: Bundle,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        shipped = tmp_path / "shipped"
        if why == "other contrasts":
            manifest = tiny_bundle.manifest.model_copy(update={"target": "FLAIR"})
            save_bundle(manifest, tiny_bundle.weights, shipped)
        elif why == "other sizes":  # six levels take multiples of 64; the images here have 32
            large = tiny_bundle.manifest.networks.changed(
                {"image_size": 64, "generator": {"levels": 6}}
            )
            network = build_generator(large.generator, 64, torch.Generator().manual_seed(0))
            weights = {
                f"{n}.{k}": v.clone() for n in DIRECTIONS for k, v in network.state_dict().items()
            }
            manifest = tiny_bundle.manifest.model_copy(update={"networks": large})
            save_bundle(manifest, weights, shipped)
        monkeypatch.setattr(models, "shipped", lambda: models.locate(shipped))
        run = training(epochs=1)
        assert self.reference(run) is None
        assert "guard_gradients_to_target" not in run.rows[0]
        assert "guard_agreement_to_target" in run.rows[0]
