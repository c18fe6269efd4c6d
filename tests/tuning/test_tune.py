"""A search: trials, pruning, continuation, the best settings, and what is refused."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.exceptions import StorageInternalError

from mrbridge import training_verbs
from mrbridge.dataset.store import Store
from mrbridge.errors import Interrupted, OutputError, SettingsError, StoreError
from mrbridge.training import run as training_run
from mrbridge.training.run import Run, train
from mrbridge.training.settings import TrainSettings, preset, resolve
from mrbridge.tuning import trial as trials
from mrbridge.tuning.space import FIXED, Range, Space, default_space, find_space
from mrbridge.tuning.tune import tune

RATES = {"learning_rate": Range(low=1e-4, high=1e-2, log=True)}


class Training:
    """In place of `train`: ten validations whose scores follow a curve; may be interrupted."""

    def __init__(self, curve: Callable[[float, float], float]) -> None:
        self.curve, self.rates, self.runs = curve, list[float](), list[str]()
        self.validated, self.stops_at, self.verdict = list[int](), 99, 0.0

    def __call__(
        self, store: Any, run: Path, settings: Any = None, *, resume: bool,
        after_validation: Any, **more: Any,
    ) -> Run:  # fmt: skip
        self.runs.append(f"{run.name}{' resumed' if resume else ''}")
        if not resume:
            self.rates.append(settings.learning_rate)
        checkpoint = run / "checkpoints" / "last.ckpt"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text("state")
        if settings is not None:
            (run / "settings.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
        if len(self.runs) == self.stops_at:
            raise Interrupted("stopped at step 3", path=run)
        rows = []
        for epoch in range(1, 11):
            value = self.curve(self.rates[-1], epoch / 10)
            row = {"epoch": float(epoch), "criterion": value, "guard_verdict_to_target": 0.0}
            rows.append(row | {"guard_verdict_to_target": self.verdict})
            if after_validation(epoch / 10, rows[-1]):
                break
        self.validated.append(len(rows))
        return Run(run, preset("bridge"), rows)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    fake = Training(lambda rate, progress: progress - abs(math.log10(rate) + 3))
    monkeypatch.setattr(training_run, "train", fake)
    return fake


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_it_finds_the_best_rate_and_prunes(
    training: Training, small_store: Store, tmp_path: Path
) -> None:
    found = tune(small_store, tmp_path / "s", {"batch_size": 2}, space=RATES, trials=24)
    assert found.params["learning_rate"] == pytest.approx(1e-3, rel=0.5)
    assert found.value == max(float(row["criterion"]) for row in table(tmp_path / "s"))
    assert found.importances == {"learning_rate": 1.0}
    assert found.counts["pruned"] == sum(n < 10 for n in training.validated) > 0
    assert min(training.validated) >= trials.WARM_UP_TENTHS
    assert set(training.validated[: trials.STARTUP_TRIALS]) == {10}, "nothing to compare with"
    best = yaml.safe_load((tmp_path / "s" / "best.yaml").read_text())
    assert best == {"preset": "bridge", "batch_size": 2} | found.params
    assert resolve(best).learning_rate == found.params["learning_rate"]
    assert (tmp_path / "s" / "importance.png").stat().st_size > 1000
    assert not list(tmp_path.glob("s/trials/*/checkpoints"))


def test_scores_are_compared_at_the_same_share_of_the_training(small_store: Store) -> None:
    class Reports:
        def __init__(self, **attributes: Any) -> None:
            self.made: dict[int, float] = {}
            self.user_attrs = attributes

        def set_user_attr(self, key: str, value: Any) -> None:
            self.user_attrs[key] = value

        def report(self, value: float, step: int) -> None:
            self.made[step] = value

        def should_prune(self) -> bool:
            return False

    reports: Any = Reports()
    watch = trials._Watch(reports, "criterion")
    for progress in (0.15, 0.35, 0.55):
        watch(progress, {"criterion": 100 * progress})
    watch(0.7, {"criterion": 999.0, "guard_verdict_to_target": 2.0})  # copies its input
    assert reports.made == pytest.approx({2: 20, 3: 30, 4: 40, 5: 50})
    # The trial was killed before it had saved its last state, and is continued.
    continued: Any = Reports(**json.loads(json.dumps(reports.user_attrs)))
    trials._Watch(continued, "criterion")(0.55, {"criterion": 100 * 0.55})
    assert continued.made == reports.made


def test_an_interrupted_trial_is_continued(
    training: Training, small_store: Store, tmp_path: Path
) -> None:
    training.stops_at = 2
    with pytest.raises(Interrupted, match="after 1 of 3") as caught:
        tune(small_store, tmp_path / "s", space=RATES, trials=3)
    assert caught.value.result.counts["complete"] == 1
    found = tune(small_store, tmp_path / "s", space=RATES, trials=3)
    assert training.runs == ["0000", "0001", "0001 resumed", "0003"]
    assert found.counts == {"complete": 3, "pruned": 0, "failed": 0}
    assert float(table(tmp_path / "s")[1]["learning_rate"]) == training.rates[1]
    tune(small_store, tmp_path / "s", space=RATES, trials=3)
    assert len(training.runs) == 4, "it was complete already"
    assert len({*training.rates}) == 3, "samplers of several processes must differ"


def test_a_trial_that_only_copies_fails(
    training: Training, small_store: Store, tmp_path: Path
) -> None:
    training.verdict = 2.0
    with pytest.raises(Exception, match=r"no trial was completed: .*copies its input"):
        tune(small_store, tmp_path / "s", space=RATES, trials=2)
    training.verdict = 0.0
    found = tune(small_store, tmp_path / "s", space=RATES, trials=3)
    assert found.counts == {"complete": 1, "pruned": 0, "failed": 2}
    assert "copies" in table(tmp_path / "s")[0]["error"]


def test_another_search_is_neither_continued_nor_mixed(
    training: Training, small_store: Store, tmp_path: Path
) -> None:
    out = tmp_path / "s"
    tune(small_store, out, space=RATES, trials=1)
    with pytest.raises(OutputError, match="another minutes"):
        tune(small_store, out, space=RATES, trials=2, minutes=3)
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="thesis"):
        tune(small_store, out, space=RATES, trials=1, minutes=3, overwrite=True)
    (out / "thesis.txt").unlink()
    assert tune(small_store, out, space=RATES, trials=1, minutes=3, overwrite=True).best == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="thesis"):
        tune(small_store, tmp_path / "mine", space=RATES, trials=1)


def test_what_cannot_be_compared_is_refused(
    small_store: Store, picture_store: Store, tmp_path: Path
) -> None:
    shares = {"wise_ft_weight": Range(choices=(0.0, 0.5))}
    with pytest.raises(SettingsError, match="cannot be compared"):
        tune(small_store, tmp_path / "s", space=shares)
    with pytest.raises(StoreError, match="no pairs in its validation split"):
        tune(picture_store, tmp_path / "s", space=RATES, score="psnr")
    with pytest.raises(SettingsError, match="Use --minutes"):
        tune(small_store, tmp_path / "s", {"minutes": 3}, space=RATES)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learing_rate": [1e-3]}, "did you mean 'learning_rate'"),
        ({"zebra": [1]}, "no key 'zebra'"),
        ({"learning_rate": 1e-3}, "no range"),
        ({"learning_rate": {"low": 1, "hihg": 2}}, "did you mean 'high'"),
        ({"learning_rate": {"low": 2, "high": 1}}, "low must be below high"),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "low must be above 0"),
        ({"learning_rate": {"low": -1.0, "high": 1.0}}, "'learning_rate' cannot be -1"),
        ({"adversarial": ["bce", "hnige"]}, "'adversarial' cannot be 'hnige'"),
        ({"epochs": [1, 2]}, "must be the same in all trials"),
        ({}, "names no settings"),
    ],
)
def test_impossible_spaces(values: Mapping[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(SettingsError, match=message) as caught:
        find_space(path, {})
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["bridge", "unet", "resnet"])
def test_the_default_space_has_possible_values(name: str) -> None:
    space = default_space(preset(name))
    values = {key: {"choices": list(one.ends)} for key, one in space.items()}
    assert find_space(values, {"preset": name}).keys() == space.keys()
    weights = {key for key in space if key.endswith("_weight")}
    assert "simulated_weight" in weights if name == "bridge" else "identity_weight" in weights
    assert "cycle_weight" not in weights, "unused, or the largest, which stays"


def test_what_trials_share_are_settings() -> None:
    for key in FIXED:
        assert key.partition(".")[0] in TrainSettings.model_fields


def test_the_training_ends_where_the_caller_says(
    small_store: Store, tiny: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    seen: list[tuple[float, float]] = []

    def watch(progress: float, row: Mapping[str, float]) -> bool:
        seen.append((progress, row["criterion"]))
        return len(seen) == 2

    settings = tiny(epochs=4, simulated_weight=0.0)
    run = train(small_store, tmp_path / "run", settings, start="scratch", after_validation=watch)
    assert [progress for progress, _ in seen] == [0.25, 0.5]
    assert [row["criterion"] for row in run.rows] == [value for _, value in seen]


TINY = {
    "networks": {
        "image_size": 32,
        "generator": {"levels": 4, "features": 4, "max_features": 8},
        "critic": {"features": 4, "strided": 1},
    },
    "validation_slices": 2,
    "steps_per_epoch": 2,
    "simulated_weight": 0.0,
}


def test_on_the_command_line(
    run: Callable[..., Any], small_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "space.yaml").write_text("learning_rate: {low: 1e-4, high: 1e-2, log: true}\n")
    command = ["tune", small_store.path, "-o", tmp_path / "s", "--config", tmp_path / "tiny.yaml"]
    command += ["--space", tmp_path / "space.yaml", "--trials", 1, "--minutes", 1e-4]
    code, out, err = run(*command, "--score", "psnr", "--from", "scratch", "--json")
    assert (code, err.count("trial 0 (1 of 1)")) == (0, 1), err
    result = json.loads(out)
    assert result["trials"] == {"complete": 1, "pruned": 0, "failed": 0}
    assert 0 < result["value"] < 40
    assert 1e-4 <= result["params"]["learning_rate"] <= 1e-2
    assert resolve(yaml.safe_load(Path(result["config"]).read_text())).networks.image_size == 32
    (tmp_path / "space.yaml").write_text("learing_rate: [1]\n")
    assert "did you mean 'learning_rate'" in run(*command)[2]
    monkeypatch.setattr(training_verbs, "find_spec", lambda name: None)
    code, _, err = run(*command)
    assert (code, "pip install 'mrbridge[tune]'" in err) == (2, True)


def test_a_storage_that_cannot_be_used(
    training: Training, small_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "study.db").write_text("damaged" * 1000)
    with pytest.raises(OutputError, match=r"study\.db: cannot be read or .*not a database"):
        tune(small_store, tmp_path / "damaged", trials=1)

    def full(*_: Any) -> None:
        raise StorageInternalError from OSError("database or disk is full")

    monkeypatch.setattr(optuna.Trial, "set_user_attr", full)
    with pytest.raises(OutputError, match=r"study\.db: cannot .*disk is full\)\. Check the free"):
        tune(small_store, tmp_path / "full", trials=1)


@pytest.mark.nightly
def test_several_processes_share_a_search(small_store: Store, tmp_path: Path) -> None:
    space: Space = RATES | {"batch_size": Range(choices=(1, 2))}
    more: dict[str, Any] = {"space": space, "minutes": 0.02, "start": "scratch", "workers": 2}
    found = tune(small_store, tmp_path / "s", TINY, trials=4, **more)
    assert sum(found.counts.values()) == 4
    assert len({row["learning_rate"] for row in table(tmp_path / "s")}) == 4
    assert sum(tune(small_store, tmp_path / "s", TINY, trials=6, **more).counts.values()) == 6
    assert {path.name for path in tmp_path.glob("s/trials/*/bundle")} == {"bundle"}
