"""The settings among which a search chooses, and their ranges.

Importing it takes neither PyTorch nor Optuna.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from mrbridge.errors import SettingsError, must_exist
from mrbridge.settings import Settings, fields_of, nested, read_yaml
from mrbridge.text import did_you_mean
from mrbridge.training.settings import TrainSettings, resolve

Number = int | float
Space = dict[str, "Range"]
"""The range of every setting of a search, by its key."""

FIXED = (
    *("preset", "seed", "epochs", "minutes", "stop_after_epochs", "validate_every"),
    *("validation_slices", "sample_slices", "guard", "patience", "planes", "networks.image_size"),
)
"""Settings that trials must share: they decide on the budget, or on what is measured."""

_WEIGHTS = (
    *("adversarial_weight", "cycle_weight", "identity_weight", "back_translation_weight"),
    *("simulated_weight", "paired_weight"),
)
_FACTOR = 4.0  # by which the default space multiplies and divides weights and learning rate


class Range(Settings):
    """The values of one setting: an interval or a list."""

    low: Number | None = Field(None, description="Smallest value.")
    high: Number | None = Field(None, description="Largest value.")
    log: bool = Field(False, description="Sample the logarithm uniformly; low must be above 0.")
    choices: tuple[Any, ...] = Field((), description="All values, instead of an interval.")

    @model_validator(mode="after")
    def _one_kind(self) -> Range:
        if bool(self.choices) == (self.low is not None or self.high is not None):
            raise ValueError("it needs either low and high or choices")
        if self.choices:
            if not all(isinstance(one, str | int | float | bool) for one in self.choices):
                raise ValueError("its choices must be numbers, words, or true and false")
        elif self.low is None or self.high is None or not self.low < self.high:
            raise ValueError("low must be below high")
        elif self.log and self.low <= 0:
            raise ValueError("with log, low must be above 0")
        return self

    @property
    def ends(self) -> tuple[Any, ...]:
        """All choices, or both ends of the interval."""
        return self.choices or (self.low, self.high)

    def suggest(self, trial: Any, key: str) -> Any:
        """The value of an Optuna trial."""
        if self.choices:
            return trial.suggest_categorical(key, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)


def find_space(space: Mapping[str, Any] | str | Path | None, changes: Mapping[str, Any]) -> Space:
    """The space of a search: ranges by dotted keys; a mapping of such keys to a list or a mapping
    of `Range`; a YAML file of that form; or None for the default. `changes`: to the preset, of all
    trials. InputError if there is no such file; SettingsError if a key is unknown or must not
    differ between trials, or a value is impossible."""
    base = resolve(changes)
    if space is None:
        return default_space(base)
    origin, values = Path("space"), space
    if not isinstance(values, Mapping):
        must_exist(values)
        origin = Path(values)
        values = read_yaml(origin)
    elif all(isinstance(one, Range) for one in values.values()):
        return dict(values)
    if not values:
        raise SettingsError(
            "names no settings", path=origin, remedy="Write a line such as batch_size: [1, 2, 4]."
        )
    known = [key for key in fields_of(TrainSettings) if key not in FIXED]
    chosen: Space = {}
    for key, value in values.items():
        if key in FIXED:
            raise SettingsError(
                f"'{key}' must be the same in all trials",
                path=origin,
                remedy="Leave it out, or change it for all with --set.",
            )
        if key not in known:
            hint = did_you_mean(str(key), known, 0.5)
            remedy = "" if hint else "mrbridge train -h lists the keys."
            raise SettingsError(f"there is no key '{key}'{hint}", path=origin, remedy=remedy)
        given = {"choices": value} if isinstance(value, list) else value
        if not isinstance(given, Mapping):
            raise SettingsError(
                f"'{key}' has no range",
                path=origin,
                remedy="Write a list, or {low: 1, high: 9}, with log: true if wanted.",
            )
        try:
            chosen[key] = Range.build(given)
        except SettingsError as error:
            raise SettingsError(
                f"the range of '{key}': {error.what}", path=origin, remedy=error.remedy
            ) from None
        for end in chosen[key].ends:
            resolve(changes, nested({key: end}), origin=str(origin))
    return chosen


def default_space(base: TrainSettings) -> Space:
    """Learning rate, augmentation, EMA, and the weights of the losses that `base` uses.

    The largest weight stays as it is: Adam's steps depend on the ratios of the weights only.
    """
    used = {name: getattr(base, name) for name in _WEIGHTS if getattr(base, name) > 0}
    if base.supervision == "unpaired" and not base.find_pairs:
        used.pop("paired_weight", None)
    used.pop(max(used, key=lambda name: used[name], default=""), None)
    around = {"learning_rate": base.learning_rate} | used
    space = {
        key: Range(low=value / _FACTOR, high=value * _FACTOR, log=True)
        for key, value in around.items()
    }
    return space | {
        "ema_decay": Range(choices=(0.99, 0.998, 0.999)),
        "augment.rotate_degrees": Range(low=0.0, high=15.0),
        "augment.scale": Range(low=0.0, high=0.15),
        "augment.gamma": Range(low=0.0, high=0.3),
    }
