"""The verb `benchmark`: presets and configurations, trained and scored under equal conditions."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrbridge import __version__, interruption
from mrbridge.benchmarking.result import FIGURE, REPORT, STATE, SUMMARY, TABLE, Benchmark
from mrbridge.benchmarking.scores import (
    HeldOutScans,
    as_table,
    score_baselines,
    score_model,
    wasserstein,
)
from mrbridge.bundle import load_bundle
from mrbridge.dataset.store import Store
from mrbridge.errors import (
    Interrupted,
    MrbridgeError,
    OutputError,
    SettingsError,
    SomeScansFailed,
    as_error,
    must_be_here,
)
from mrbridge.evaluation.result import finite
from mrbridge.inference.translator import Translator
from mrbridge.io.atomic import read_json, write_json
from mrbridge.io.lock import only_writer
from mrbridge.io.ownership import make_room
from mrbridge.quiet import at_level
from mrbridge.reports import counted
from mrbridge.settings import Positive, checked, read_yaml
from mrbridge.training.checkpoint import identity
from mrbridge.training.folder import FILES as RUN_FILES, remove_state
from mrbridge.training.run import find_initial_model, train_or_resume
from mrbridge.training.settings import PRESETS, SHORT, TrainSettings, resolve
from mrbridge.training.words import best_epoch, verdicts

log = logging.getLogger(__name__)

FILES = (STATE, TABLE, SUMMARY, FIGURE, REPORT, *(f"runs/*/*/{one}" for one in RUN_FILES))
"""The files of a benchmark, as patterns."""

_EQUAL: dict[str, Any] = {"stop_after_epochs": None, "patience": None, "guard": "warn"}
_OPTIONS = ("minutes", "seed", "stop_after_epochs", "patience", "guard")

Arms = Sequence[str | Path] | Mapping[str, Mapping[str, Any] | TrainSettings]


@checked
def benchmark(
    store: str | Path | Store,
    out: str | Path,
    arms: Arms,
    *,
    settings: Mapping[str, Any] | None = None,
    minutes: float = 10.0,
    seeds: Positive = 3,
    start: str | Path = "auto",
    device: str = "auto",
    overwrite: bool = False,
    allow_code: bool = False,
) -> Benchmark:
    """Train every arm with every seed for the same time, and score them on the same scans.

    The trainings run one after another, all arms with the first seed before any with the second.
    The same call continues a benchmark that was stopped; with more arms or seeds it adds theirs.

    Args:
        store: the store or its path.
        out: the folder of the benchmark.
        arms: presets and YAML files of settings; or settings by the name of the arm.
        settings: changes to all arms, which take precedence over the arms' own.
        minutes: of training for each, validation not counted.
        seeds: how many; they are 0, 1, 2 and so on.
        start, device, allow_code: as of `train`.
        overwrite: replace the benchmark in the folder.

    Raises:
        StoreError: the store has neither a test nor a validation split.
        SettingsError: an arm does not exist, or its settings are impossible.
        OutputError: the folder holds something else, or a benchmark that differs.
        SomeScansFailed: some trainings failed; the others are scored.
        Interrupted: a signal came; the finished trainings are scored.
        MrbridgeError: all trainings failed.
    """
    must_be_here(out)
    out = Path(out)
    opened = store if isinstance(store, Store) else Store.open(store)
    chosen = read_arms(arms, dict(settings or {}))
    scans = HeldOutScans.of(opened)
    for one in chosen.values():
        _initial(one, opened, start, allow_code)  # refuses what cannot be trained before all else
    make_room(out, FILES, STATE, overwrite=overwrite)
    with only_writer(out):
        state = _state(out, opened, chosen, minutes, str(start))
        state.values |= {"split": scans.split, "paired": scans.paired}
        wanted = [(name, seed) for seed in range(seeds) for name in chosen]
        left = [one for one in wanted if not state.is_done(*one)]
        log.info(
            "%d of %d trainings of %s to do, one after another",
            *(len(left), len(wanted), counted(minutes, "minute")),
        )
        interrupted = False
        try:
            if "baselines" not in state.values:
                state.keep_baselines(scans)
            for name, seed in left:
                interruption.check()
                folder, own = out / "runs" / name / str(seed), {"seed": seed, "minutes": minutes}
                how: dict[str, Any] = {"start": start, "device": device, "allow_code": allow_code}
                scores = _run(opened, folder, chosen[name].changed(own), scans, how)
                entry = {"arm": name, "seed": seed} | scores
                state.keep(entry)
                outcome = entry.get("error") or f"{entry['steps']} steps"
                log.info(
                    "%s, seed %d (%d of %d): %s",
                    name,
                    seed,
                    len(state.runs),
                    len(wanted),
                    outcome,
                )
        except (KeyboardInterrupt, Interrupted):
            interrupted = True
        result = Benchmark.of(out, state.values, scans)
        if result is not None:
            result.write()
    if interrupted:
        done = sum(state.is_done(*one) for one in wanted)
        raise Interrupted(
            f"interrupted after {done} of {len(wanted)} trainings",
            path=out,
            remedy="The same command continues.",
            result=result,
            counts={"done": done, "trainings": len(wanted)},
        )
    failed = [run for run in state.runs if "error" in run]
    if result is None:
        raise MrbridgeError(f"no training was completed: {failed[-1]['error']}", path=out)
    if failed:
        first = failed[0]
        raise SomeScansFailed(
            f"{len(failed)} of {len(state.runs)} trainings failed; {first['arm']}, seed "
            f"{first['seed']}: {first['error']}",
            path=out,
            remedy="The others are scored; the same command tries these again.",
            result=result,
        )
    return result


def read_arms(arms: Arms, common: Mapping[str, Any]) -> dict[str, TrainSettings]:
    """The settings of every arm by its name (a preset, or the name of its file without extension),
    with the changes `common` to all; SettingsError if an arm does not exist or is named twice, or
    its settings are impossible."""
    for key in ("preset", *_OPTIONS):
        if key in common:
            remedy = {"minutes": "Use --minutes.", "seed": "Use --seeds.", "preset": "Use --arms."}
            raise SettingsError(
                f"'{key}' cannot be changed for all arms",
                remedy=remedy.get(key, "Leave it out: all arms train to the end of their time."),
            )
    named: list[tuple[str, Mapping[str, Any] | TrainSettings, str | None]]
    if isinstance(arms, Mapping):
        named = [(name, values, None) for name, values in arms.items()]
    else:
        named = [_named(arm) for arm in arms]
    if not named:
        raise SettingsError("there are no arms", remedy="Name presets or YAML files.")
    chosen: dict[str, TrainSettings] = {}
    for name, values, origin in named:
        if name in chosen:
            raise SettingsError(
                f"two arms are called '{name}'", remedy="Rename one of the files, or leave it out."
            )
        if not re.fullmatch(r"\w[\w.+ -]*", name):
            raise SettingsError(f"'{name}' cannot be a folder", remedy="Rename this arm.")
        if isinstance(values, TrainSettings):
            values = values.model_dump()
        own = {key: value for key, value in values.items() if key not in _OPTIONS}
        chosen[name] = resolve(SHORT, own, common, _EQUAL, origin=origin)
    return chosen


def _named(arm: str | Path) -> tuple[str, Mapping[str, Any], str | None]:
    """The name of an arm, its settings, and the file that they are from."""
    if str(arm) in PRESETS:
        return str(arm), {"preset": str(arm)}, None
    path = Path(arm)
    if path.suffix.lower() in (".yaml", ".yml") or path.is_file():
        return path.stem, read_yaml(path), str(path)
    raise SettingsError(
        f"'{arm}' is neither a preset nor a YAML file",
        remedy=f"Presets are {', '.join(PRESETS)}.",
    )


def _initial(
    settings: TrainSettings, store: Store, start: str | Path, allow_code: bool
) -> str | None:
    """The model that an arm starts from; None for random weights."""
    with at_level(logging.ERROR, "mrbridge.training"):
        found = find_initial_model(start, settings, store.manifest.settings, allow_code=allow_code)
    if found is None:
        return None
    return "the shipped model" if start in ("auto", "shipped") else str(start)


def _run(
    store: Store,
    folder: Path,
    settings: TrainSettings,
    scans: HeldOutScans,
    how: dict[str, Any],
) -> dict[str, Any]:
    """Train into a folder and score; the scores for benchmark.json, or the error. `how` holds
    `start`, `device` and `allow_code`, as of `train`. Interrupted if a signal stopped it."""
    try:
        with at_level(logging.ERROR, "mrbridge.training"):
            run = train_or_resume(store, folder, settings, **how)
        best = best_epoch(run.rows)
        row = next((one for one in run.rows if one["epoch"] == best), {})
        bundle = load_bundle(run.path, allow_code=True)  # it needs what was just trained
        scored = score_model(scans, Translator(bundle, how["device"]))
        entry = {
            "steps": int(run.rows[-1]["step"]) if run.rows else 0,
            "kept_initial": run.kept_beginning,
            "verdicts": verdicts(row),
            "table": as_table(scored),
            "wasserstein": {key: one["model"] for key, one in wasserstein(scans, scored).items()},
        }
    except (Interrupted, KeyboardInterrupt):
        raise
    except Exception as error:
        entry = {"error": str(as_error(error))}
    remove_state(folder)
    return entry


class _State:
    """What is done, as in benchmark.json, which is written after every training."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path, self.values = path, values

    @property
    def runs(self) -> list[dict[str, Any]]:
        return self.values["runs"]

    def is_done(self, arm: str, seed: int) -> bool:
        return any(
            (one["arm"], one["seed"]) == (arm, seed) and "error" not in one for one in self.runs
        )

    def keep_baselines(self, scans: HeldOutScans) -> None:
        scored = score_baselines(scans)
        self.values["baselines"] = {
            "table": as_table(scored),
            "fitted_on": scored[0].baseline_on,
            "wasserstein": wasserstein(scans, scored),
        }
        self._write()

    def keep(self, entry: dict[str, Any]) -> None:
        others = [
            one for one in self.runs if (one["arm"], one["seed"]) != (entry["arm"], entry["seed"])
        ]
        order = list(self.values["arms"])
        self.values["runs"] = sorted(
            [*others, entry], key=lambda one: (order.index(one["arm"]), one["seed"])
        )
        self._write()

    def _write(self) -> None:
        write_json(self.path, finite(self.values))


def _state(
    out: Path, store: Store, arms: Mapping[str, TrainSettings], minutes: float, start: str
) -> _State:
    """A new state, or that of the folder with further arms.

    Raises:
        OutputError: the folder has a benchmark under other conditions, or with another arm of the
            same name.
    """
    path = out / STATE
    described = {
        name: {
            "settings": one.model_dump(mode="json"),
            "initial": _initial(one, store, start, True),
            "parameters": one.networks.describe()["generator"],
        }
        for name, one in arms.items()
    }
    plan = {"store": identity(store), "minutes": minutes, "start": start}
    if not path.exists():
        new = {"created_by": f"mrbridge {__version__}", "plan": plan, "arms": described, "runs": []}
        return _State(path, new)
    values = read_json(path)
    known = values.get("plan") if isinstance(values, dict) else None
    differ = [name for name, value in plan.items() if (known or {}).get(name) != value]
    remedy = "Name a new folder, or use --overwrite."
    if differ:
        what = " and another ".join(differ)
        raise OutputError(f"holds a benchmark with another {what}", path=out, remedy=remedy)
    for name, one in described.items():
        if values["arms"].get(name, one) != one:
            raise OutputError(
                f"holds a benchmark in which '{name}' has other settings", path=out, remedy=remedy
            )
    return _State(path, values | {"arms": values["arms"] | described})
