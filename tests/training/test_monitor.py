"""Collapse detection and early stopping, and what a training does about them."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats

from mrbridge import models
from mrbridge.bundle import Bundle, load_bundle, read_manifest, save_bundle
from mrbridge.dataset.store import Store
from mrbridge.errors import Interrupted
from mrbridge.networks import build_generator
from mrbridge.training import loop, monitor
from mrbridge.training.checkpoint import load_checkpoint
from mrbridge.training.logging import LiveView
from mrbridge.training.loop import RunKeeper
from mrbridge.training.monitor import Reading, Reference, Verdict, read
from mrbridge.training.run import Run, train
from mrbridge.training.settings import TrainSettings
from mrbridge.training.validation import ValidationImages
from mrbridge.volume import Volume

Stack = NDArray[np.float32]
DIRECTIONS = ("to_target", "to_source")


@pytest.fixture(scope="module")
def heads(make_scan: Callable[..., Volume]) -> dict[str, Stack]:
    """Slices of a head in both contrasts, (12, 80, 96), in [-1, 1]."""

    def stack(contrast: str) -> Stack:
        voxels = make_scan(3, contrast, shape=(80, 96, 12)).voxels.astype(np.float32)
        return np.moveaxis(2 * voxels / voxels.max() - 1, 2, 0)

    return {contrast: stack(contrast) for contrast in ("T1w", "T2w")}


@pytest.fixture(scope="module", params=[("T1w", "T2w"), ("T2w", "T1w")], ids="-".join)
def case(request: Any, heads: dict[str, Stack]) -> SimpleNamespace:
    """A direction: what is given, the reference, and changes of what is made.

    The reference is a blurred, paler version of the true image: no model makes the truth.
    """
    given, real = (heads[contrast] for contrast in request.param)
    inside = given > -0.95
    reference = ndimage.gaussian_filter(0.8 * real - 0.2, (0, 1, 1))

    def reversed_order(image: Stack) -> Stack:
        """The same intensities inside the head, the brightest where the darkest were."""
        made = image.copy()
        ranks = stats.rankdata(-image[inside], method="ordinal") - 1
        made[inside] = np.sort(image[inside])[ranks]
        return made

    def noisy(image: Stack, spread: float) -> Stack:
        noise = np.random.default_rng(0).normal(0, spread, image.shape)
        return np.clip(image + noise, -1, 1).astype(np.float32)

    return SimpleNamespace(
        given=given,
        real=real,
        inside=inside,
        reference=reference,
        reversed=reversed_order,
        noisy=noisy,
        read=lambda made, reference=reference: read(given, made, real, reference),
    )


class TestReading:
    def test_what_the_reference_makes_is_right(self, case: SimpleNamespace) -> None:
        result = case.read(case.reference)
        assert result.verdict is None
        assert result.agreement == pytest.approx(1)
        assert result.gradients == pytest.approx(1)

    def test_the_truth_is_right(self, case: SimpleNamespace) -> None:
        result = case.read(case.real)
        assert result.verdict is None
        assert 0.5 < result.agreement < 1
        assert result.mean_distance == 0
        assert case.read(case.real, None).verdict is None

    @pytest.mark.parametrize("like", ["reference", "real"])
    def test_tissues_in_reversed_order_are_inverted(self, case: SimpleNamespace, like: str) -> None:
        image = getattr(case, like)
        result = case.read(case.reversed(image))
        assert result.verdict == Verdict.INVERTED
        assert result.agreement < -0.3
        assert result.gradients is not None
        assert result.gradients < -0.3

    def test_a_negative_is_inverted_with_a_reference_or_without(
        self, case: SimpleNamespace
    ) -> None:
        assert case.read(-case.reference).verdict == Verdict.INVERTED
        result = case.read(-case.real, None)
        assert (result.verdict, result.gradients) == (Verdict.INVERTED, None)
        assert result.agreement == pytest.approx(-1)
        assert result.mean_distance > 5

    @pytest.mark.parametrize("with_reference", [True, False])
    @pytest.mark.parametrize(
        "change",
        [lambda x: x, lambda x: 2 * ((x + 1) / 2) ** 2 - 1, lambda x: 0.5 * x - 0.5],
        ids=["plain", "darker", "paler"],
    )
    def test_the_input_is_a_copy(
        self, case: SimpleNamespace, change: Callable[[Stack], Stack], with_reference: bool
    ) -> None:
        result = case.read(change(case.given), case.reference if with_reference else None)
        assert result.verdict == Verdict.COPY
        assert result.likeness == pytest.approx(1)
        assert result.nmi > 1.3

    @pytest.mark.parametrize("spread", [0.05, 0.15, 0.3])
    def test_noise_flips_nothing(self, case: SimpleNamespace, spread: float) -> None:
        assert case.read(case.noisy(case.reference, spread)).verdict is None
        wrong = case.reversed(case.reference)
        assert case.read(case.noisy(wrong, spread)).verdict == Verdict.INVERTED
        nothing = case.noisy(np.zeros_like(case.given), 1.0)
        result = case.read(nothing)
        assert result.verdict is None
        assert abs(result.agreement) < 0.05
        assert result.nmi == pytest.approx(1, abs=0.05)

    def test_a_copy_with_noise(self, case: SimpleNamespace) -> None:
        assert case.read(case.noisy(case.given, 0.05)).verdict == Verdict.COPY

    @pytest.mark.parametrize("value", [-1.0, 0.3, 1.0])
    def test_next_to_nothing_inside_the_head_is_collapsed(
        self, case: SimpleNamespace, value: float
    ) -> None:
        made = np.where(case.inside, np.float32(value), np.float32(-1)) + 0.01 * case.reference
        assert case.read(made).verdict == Verdict.COLLAPSED
        assert case.read(made, None).verdict == Verdict.COLLAPSED

    def test_numbers_that_are_none_are_collapsed(self, case: SimpleNamespace) -> None:
        made = case.reference.copy()
        made[0, 0, 0] = np.nan
        assert case.read(made).verdict == Verdict.COLLAPSED

    def test_a_reference_that_is_blank_tells_nothing(self, case: SimpleNamespace) -> None:
        blank = np.where(case.inside, np.float32(0.3), np.float32(-1)) - 0.001 * case.reference
        result = case.read(case.reference, blank)
        assert (result.verdict, result.gradients) == (None, None)

    def test_contrasts_that_are_alike_are_no_copies(self, case: SimpleNamespace) -> None:
        """As T2w and PDw: the reference's syntheses resemble their input themselves."""
        texture = np.random.default_rng(1).normal(0, 1, case.given.shape)
        texture = ndimage.gaussian_filter(texture, (0, 2, 2))
        like = (case.given + 0.06 * texture / texture.std()).astype(np.float32)
        result = read(case.given, case.noisy(like, 0.005), like, like)
        assert result.likeness > monitor.COPY_FROM, "else this shows nothing"
        assert result.verdict is None
        assert read(case.given, case.given, like, like).verdict == Verdict.COPY

    def test_nothing_to_see(self, case: SimpleNamespace) -> None:
        black = np.full_like(case.given, -1)
        assert read(black, black, black, black).verdict is None

    def test_a_part_of_the_slices_does_not_hide_the_others(self, case: SimpleNamespace) -> None:
        made = case.reversed(case.reference)
        made[:3] = case.reference[:3]
        assert case.read(made).verdict == Verdict.INVERTED


class TestMeasures:
    def test_mutual_information(self) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.uniform(-1, 1, (2, 100_000))
        assert monitor.mutual_information(a, a) == pytest.approx(2)
        assert monitor.mutual_information(a, -a) == pytest.approx(2, abs=0.02), (
            "signs are no matter"
        )
        assert monitor.mutual_information(a, b) == pytest.approx(1, abs=0.01)
        # Half of the pixels tell all, the others nothing: in between.
        mixed = np.where(np.arange(a.size) % 2, a, b)
        assert 1.05 < monitor.mutual_information(a, mixed) < 1.5

    def test_ranks_see_no_rising_change(self) -> None:
        a = np.random.default_rng(0).uniform(-1, 1, 999)
        assert monitor.rank_correlation(a, np.exp(5 * a)) == pytest.approx(1)
        assert monitor.correlation(a, np.exp(5 * a)) < 0.9
        assert monitor.rank_correlation(a, -a) == pytest.approx(-1)
        assert monitor.correlation(a, np.zeros_like(a)) == 0

    def test_gradients_see_no_slow_field(self, heads: dict[str, Stack]) -> None:
        image = heads["T2w"]
        field = 3 * np.linspace(-1, 1, image.shape[2], dtype=np.float32) + image
        inside = image > -0.9
        assert monitor.gradient_correlation(image, field, inside) > 0.9
        assert monitor.correlation(image[inside], field[inside]) < 0.6

    def test_mean_distance_is_in_units_of_halves(self) -> None:
        real = np.zeros((4, 16, 16), np.float32)
        real[::2] += 0.2
        assert monitor.mean_distance(real, real) == 0
        assert monitor.mean_distance(real + 0.3, real) == pytest.approx(0.3 / 0.2)
        assert monitor.mean_distance(real[:1] - 0.1, real[:1]) == pytest.approx(2), "of one slice"


def reading(verdict: Verdict | None = None, gradients: float | None = 0.8) -> Reading:
    return Reading(0.9, gradients, 0.1, 1.1, 0.5, verdict)


def test_messages_name_contrasts_and_reference() -> None:
    result = {"to_target": reading(Verdict.INVERTED), "to_source": reading(Verdict.COPY)}
    messages = monitor.messages(result, "T1w", "T2w", "the initial model")
    assert messages == {
        "to_target": "T1w to T2w looks inverted: bright and dark tissues are swapped compared "
        "with the initial model",
        "to_source": "T2w to T1w copies its input: the synthetic T1w looks like T2w",
    }
    result = {"to_target": reading(), "to_source": reading(Verdict.INVERTED, None)}
    assert monitor.messages(result, "T1w", "T2w", None) == {
        "to_source": "T2w to T1w looks inverted: its mean image is a negative of the mean real T1w"
    }
    result = {"to_target": reading(Verdict.COLLAPSED), "to_source": reading()}
    assert "has collapsed" in monitor.messages(result, "T1w", "T2w", None)["to_target"]


def test_columns_are_numbers() -> None:
    result = monitor.columns({"to_target": reading(Verdict.COPY), "to_source": reading(None, None)})
    assert result["guard_verdict_to_target"] == Verdict.COPY == 2
    assert result["guard_verdict_to_source"] == 0
    assert result["guard_agreement_to_target"] == 0.9
    assert "guard_gradients_to_source" not in result
    assert len(result) == 11


def test_each_direction_is_read_against_its_own_images(heads: dict[str, Stack]) -> None:
    source, target = heads["T1w"], heads["T2w"]
    nothing = np.zeros_like(source)
    made = ValidationImages(source, target, target, -source, nothing, nothing, nothing, nothing)
    result = monitor.read_both(made, Reference.of("it", target, source))
    assert {name: r.verdict for name, r in result.items()} == {
        "to_target": None,
        "to_source": Verdict.INVERTED,
    }
    swapped = monitor.read_both(
        replace(made, to_source=source), Reference.of("it", -target, source)
    )
    assert swapped["to_target"].verdict == Verdict.INVERTED
    assert swapped["to_source"].verdict is None
    copies = replace(made, to_target=source, to_source=target)
    assert {r.verdict for r in monitor.read_both(copies, None).values()} == {Verdict.COPY}
    # A store that was prepared anew holds other slices out: the reference says nothing of them.
    short = Reference.of("it", -target[1:], source[1:])
    assert monitor.read_both(made, short)["to_target"].verdict is None


# -- Trainings -------------------------------------------------------------------------------------


@pytest.fixture
def settings(tiny: Callable[..., Any]) -> Callable[..., TrainSettings]:
    """Tiny trainings without simulated pairs, of the tiny bundle's generators."""

    def make(**changes: Any) -> TrainSettings:
        small = {"simulated_weight": 0.0, "warm_up": 0.0, "pool_size": 2, "epochs": 6, **changes}
        return tiny("unet", **small)

    return make


@pytest.fixture
def fake_monitor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Fake the monitor: `fake_monitor(verdicts, criteria)`, one of each for every validation.

    A verdict is `R`, right, or `W`, wrong; the last ones hold for all later validations. An initial
    model takes a criterion too, and no verdict.
    """

    def each(values: Any) -> Iterator[Any]:
        for value in values:
            yield value
        while True:
            yield value

    def put(verdicts: str, criteria: list[float] | None = None) -> None:
        read_as, scored_as = each(verdicts), each(criteria or [1.0])

        def readings(*_: Any) -> dict[str, Reading]:
            verdict = Verdict.INVERTED if next(read_as) == "W" else None
            return {"to_target": reading(verdict), "to_source": reading()}

        monkeypatch.setattr(loop, "read_both", readings)
        monkeypatch.setattr(loop, "criterion", lambda *_: next(scored_as))

    return put


def steps_of(run: Path, name: str) -> int:
    return int(load_checkpoint(run / "checkpoints" / f"{name}.ckpt")["step"])


def bundle_is(run: Path, other: Bundle) -> bool:
    """Whether the run ships the generators of another bundle."""
    mine = load_bundle(run)
    return all(
        torch.equal(value, other.weights[name].float()) for name, value in mine.weights.items()
    )


def test_verdicts_are_warned_of_once_and_recorded(
    small_store: Store,
    settings: Callable[..., Any],
    fake_monitor: Callable[..., None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake_monitor("RWWRW")
    caplog.set_level(logging.INFO, "mrbridge")
    run = train(small_store, tmp_path / "run", settings(epochs=5), device="cpu", start="scratch")
    assert len(run.rows) == 5, "by default the monitor only warns"
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert [message.split(":")[0] for message in warned] == ["T1w to T2w looks inverted"] * 2
    epochs = [m for m in caplog.messages if m.startswith("epoch ")]
    assert ["inverted" in line for line in epochs] == [False, True, True, False, True]
    assert not any("guard_" in line for line in epochs), "the numbers are in metrics.csv"
    with open(run.path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["guard_verdict_to_target"] for row in rows] == ["0", "1", "1", "0", "1"]
    assert {row["guard_verdict_to_source"] for row in rows} == {"0"}


def test_the_live_view_shows_the_verdict(
    small_store: Store,
    settings: Callable[..., Any],
    fake_monitor: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_monitor("RW")
    shown: list[str | None] = []
    monkeypatch.setattr(LiveView, "is_on", True)
    monkeypatch.setattr(LiveView, "update", lambda _, numbers: shown.append(numbers.get("monitor")))
    train(small_store, tmp_path / "run", settings(epochs=2), device="cpu", start="scratch")
    assert shown[:3] == [None, "nothing wrong", "nothing wrong"]
    assert "T1w to T2w looks inverted" in str(shown[3])


class TestStop:
    def test_a_verdict_that_holds_ends_the_training(
        self,
        small_store: Store,
        settings: Callable[..., Any],
        fake_monitor: Callable[..., None],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        fake_monitor("RWRWW", [1, 2, 3, 4, 5])
        run = train(
            *(small_store, tmp_path / "run", settings(guard="stop")), device="cpu", start="scratch"
        )
        assert [row["epoch"] for row in run.rows] == [1, 2, 3, 4, 5]
        assert "ends here: it has gone wrong in 2 validations" in caplog.text
        assert read_manifest(run.path).trained["epochs"] == 3, "the last state that looked right"
        assert (steps_of(run.path, "best"), steps_of(run.path, "last")) == (6, 10)
        again = train(small_store, run.path, resume=True, device="cpu")
        assert again.rows == run.rows, "it is complete"
        more = train(small_store, run.path, resume=True, guard="warn", device="cpu")
        assert [row["epoch"] for row in more.rows] == [1, 2, 3, 4, 5, 6]

    def test_random_weights_have_time_to_become_right(
        self,
        small_store: Store,
        settings: Callable[..., Any],
        fake_monitor: Callable[..., None],
        tmp_path: Path,
    ) -> None:
        fake_monitor("W")
        long = settings(guard="stop", epochs=30, steps_per_epoch=1)
        run = train(small_store, tmp_path / "run", long, device="cpu", start="scratch")
        assert len(run.rows) == 4, "epochs 3 and 4 are the first two after a tenth of 30"

    def test_a_trained_model_has_none(
        self,
        small_store: Store,
        settings: Callable[..., Any],
        fake_monitor: Callable[..., None],
        tmp_path: Path,
        tiny_bundle: Bundle,
    ) -> None:
        fake_monitor("W")
        long = settings(guard="stop", epochs=30, steps_per_epoch=1, stop_after_epochs=1)
        run = train(small_store, tmp_path / "run", long, device="cpu", start=tiny_bundle.path)
        assert len(train(small_store, run.path, resume=True, device="cpu").rows) == 2


def test_a_plateau_ends_the_training(
    small_store: Store,
    settings: Callable[..., Any],
    fake_monitor: Callable[..., None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake_monitor("R", [1, 2, 0, 1, 9])
    run = train(
        *(small_store, tmp_path / "run", settings(patience=2)), device="cpu", start="scratch"
    )
    assert len(run.rows) == 4
    assert "ends here: no validation was better in the last 2" in caplog.text
    assert train(small_store, run.path, resume=True, device="cpu").rows == run.rows
    changes = {"patience": 3}
    fake_monitor("R", [9])
    more = train(small_store, run.path, resume=True, **changes, device="cpu")
    assert len(more.rows) == 6
    assert read_manifest(run.path).trained["epochs"] == 5


class TestInitialModel:
    @pytest.fixture
    def begin(
        self, small_store: Store, settings: Callable[..., Any], tiny_bundle: Bundle, tmp_path: Path
    ) -> Callable[..., Run]:
        def train_from_bundle(**changes: Any) -> Run:
            chosen = settings(epochs=3, **changes)
            out = tmp_path / "run"
            return train(small_store, out, chosen, device="cpu", start=tiny_bundle.path)

        return train_from_bundle

    def test_it_is_shipped_at_once(
        self,
        begin: Callable[..., Run],
        tiny_bundle: Bundle,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        seen: list[dict[str, Any]] = []
        original = RunKeeper.progress

        def watched(self: RunKeeper) -> float:
            if not seen:
                seen.append(read_manifest(tmp_path / "run").trained)
                assert bundle_is(tmp_path / "run", tiny_bundle)
                assert steps_of(tmp_path / "run", "best") == 0
            return original(self)

        monkeypatch.setattr(RunKeeper, "progress", watched)
        begin()
        assert (seen[0]["epochs"], seen[0]["steps"]) == (0, 0)
        assert seen[0]["kept"] == "the initial model"

    def test_nothing_worse_replaces_it(
        self,
        begin: Callable[..., Run],
        fake_monitor: Callable[..., None],
        small_store: Store,
        tiny_bundle: Bundle,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        fake_monitor("RRW", [2.0, 1.0, 2.0, 3.0])  # worse, equal, better but wrong
        run = begin()
        assert run.kept_beginning
        assert bundle_is(run.path, tiny_bundle)
        manifest = read_manifest(run.path)
        assert manifest.trained["kept"] == "the initial model"
        assert manifest.least_size == tiny_bundle.manifest.least_size
        assert caplog.text.count("training did not improve on the initial model") == 1
        assert [row["criterion"] for row in run.rows] == [1, 2, 3]
        assert train(small_store, run.path, resume=True, device="cpu").kept_beginning

    def test_it_is_shipped_as_it_was_by_whoever_was_stopped_before(
        self,
        begin: Callable[..., Run],
        fake_monitor: Callable[..., None],
        small_store: Store,
        tiny_bundle: Bundle,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        fake_monitor("R", [2.0, 1.0, 1.0, 1.0, 1.0])

        def stopped(*_: Any) -> None:
            raise Interrupted("stopped")

        with monkeypatch.context() as patch:
            patch.setattr(RunKeeper, "_save_bundle", stopped)
            with pytest.raises(Interrupted):
                begin()
        run = train(small_store, tmp_path / "run", resume=True, device="cpu")
        assert run.kept_beginning
        assert read_manifest(run.path).least_size == tiny_bundle.manifest.least_size

    def test_something_better_does(
        self,
        begin: Callable[..., Run],
        fake_monitor: Callable[..., None],
        tiny_bundle: Bundle,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        fake_monitor("R", [2.0, 1.0, 2.5, 2.2])
        run = begin()
        assert not run.kept_beginning
        assert not bundle_is(run.path, tiny_bundle)
        manifest = read_manifest(run.path)
        assert manifest.trained["epochs"] == 2
        assert "kept" not in manifest.trained
        size = run.settings.networks.image_size
        assert manifest.least_size == size != tiny_bundle.manifest.least_size
        assert "did not improve" not in caplog.text

    def test_a_pause_says_nothing_yet(
        self,
        begin: Callable[..., Run],
        fake_monitor: Callable[..., None],
        small_store: Store,
        tiny_bundle: Bundle,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        fake_monitor("R", [2.0, 1.0])
        run = begin(stop_after_epochs=1)
        assert "did not improve" not in caplog.text
        assert train(small_store, run.path, resume=True, device="cpu").kept_beginning
        assert "did not improve" in caplog.text
        assert bundle_is(run.path, tiny_bundle)

    def test_the_true_criterion_keeps_it_too(
        self, begin: Callable[..., Run], tiny_bundle: Bundle
    ) -> None:
        """A training that only ruins weights: everything after the beginning is worse."""
        run = begin(learning_rate=1.0, critic_rate=1e-3)
        assert run.kept_beginning
        assert bundle_is(run.path, tiny_bundle)

    def test_random_weights_are_nothing_to_ship(
        self, small_store: Store, settings: Callable[..., Any], tmp_path: Path
    ) -> None:
        run = train(
            *(small_store, tmp_path / "run", settings(epochs=1)), device="cpu", start="scratch"
        )
        assert not run.kept_beginning
        assert "kept" not in read_manifest(run.path).trained


class TestReference:
    def reference(self, run: Path) -> Reference | None:
        state = load_checkpoint(run / "checkpoints" / "last.ckpt")["keeper"]["reference"]
        return None if state is None else Reference.from_state(state)

    def test_it_is_what_the_beginning_makes_and_stays_so(
        self,
        small_store: Store,
        settings: Callable[..., Any],
        tiny_bundle: Bundle,
        tmp_path: Path,
        compare: SimpleNamespace,
    ) -> None:
        whole = train(
            small_store,
            tmp_path / "whole",
            settings(epochs=2),
            device="cpu",
            start=tiny_bundle.path,
        )
        halves = settings(epochs=2, stop_after_epochs=1)
        train(small_store, tmp_path / "run", halves, device="cpu", start=tiny_bundle.path)
        first = self.reference(tmp_path / "run")
        train(small_store, tmp_path / "run", resume=True, device="cpu")
        second = self.reference(tmp_path / "run")
        assert first is not None
        assert second is not None
        assert first.name == second.name == "the initial model"
        np.testing.assert_array_equal(first.to_target, second.to_target)
        assert compare.runs(whole.path, tmp_path / "run") == []
        assert "guard_gradients_to_target" in whole.rows[0]

    def test_without_a_beginning_it_is_the_shipped_model(
        self,
        small_store: Store,
        settings: Callable[..., Any],
        as_shipped: Bundle,
        tmp_path: Path,
    ) -> None:
        run = train(
            *(small_store, tmp_path / "run", settings(epochs=1)), device="cpu", start="scratch"
        )
        found = self.reference(run.path)
        assert found is not None
        assert found.name == "the shipped model"
        begun = train(
            *(small_store, tmp_path / "begun", settings(epochs=1)),
            device="cpu",
            start=as_shipped.path,
        )
        same = self.reference(begun.path)
        assert same is not None
        for name in DIRECTIONS:
            np.testing.assert_allclose(getattr(found, name), getattr(same, name), atol=2e-3)
        assert not np.allclose(found.to_target, found.to_source, atol=2e-3)

    @pytest.mark.parametrize("why", ["absent", "other contrasts", "other sizes"])
    def test_where_it_does_not_fit_there_is_none(
        self,
        why: str,
        small_store: Store,
        settings: Callable[..., Any],
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
        run = train(
            *(small_store, tmp_path / "run", settings(epochs=1)), device="cpu", start="scratch"
        )
        assert self.reference(run.path) is None
        assert "guard_gradients_to_target" not in run.rows[0]
        assert "guard_agreement_to_target" in run.rows[0]
