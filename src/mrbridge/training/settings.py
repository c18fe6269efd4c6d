"""The settings of a training, and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mrbridge.dataset.settings import AugmentSettings
from mrbridge.errors import SettingsError
from mrbridge.extensions import Extension
from mrbridge.networks.settings import (
    Networks,
    PatchGANSettings,
    ResNetSettings,
    ResUNetSettings,
    UNetSettings,
)
from mrbridge.settings import Option, Planes, Settings
from mrbridge.text import did_you_mean

AdversarialKind = Literal["bce", "least_squares", "hinge"]
DecayRate = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class ExtraLoss(Extension):
    """A loss from the user's own code: a function of two images that returns one number.

    It gets tensors (batch, 1, rows, columns) in [-1, 1]: the generator's image and its reference.
    """

    weight: Weight = Field(1.0, description="Weight of the loss.")
    on: Literal["target", "input", "cycle"] = Field(
        "target",
        description="What the image is compared with: target, if it is known (pairs, "
        "simulated subjects, back-translation, identity), in addition to the L1 loss and "
        "multiplied by its weight; input, the scan that was translated; cycle, the scan that was "
        "translated twice.",
    )


class TrainSettings(Settings):
    """Everything that decides on a training. `PRESETS` has four complete choices."""

    preset: str = Field(
        "bridge",
        description="Networks, losses and weights to start from: bridge, unet, resunet or resnet.",
    )
    networks: Networks = Field(description="Generators, critics and image size.")
    adversarial: AdversarialKind = Field("least_squares", description="Adversarial loss.")
    adversarial_weight: Weight = Field(
        1.0, description="Weight of the generators' adversarial loss; 0 trains without critics."
    )
    cycle_weight: Weight = Field(10.0, description="Weight of the cycle loss.")
    identity_weight: Weight = Field(5.0, description="Weight of the identity loss.")
    extra_losses: Annotated[dict[str, ExtraLoss], Option(metavar="NAME…")] = Field(
        {},
        exclude_if=lambda extra: not extra,
        description="Losses of your own: extra_losses.NAME.kind is module:Name, .weight its "
        "weight, .on one of target, input and cycle; its other keys are settings of that function.",
    )
    supervision: Literal["unpaired", "paired", "weak"] = Field(
        "unpaired",
        description="unpaired ignores known pairs; paired trains on them only; weak trains on "
        "paired and unpaired slices.",
    )
    find_pairs: bool = Field(
        False,
        description="Find slices of both contrasts that show the same anatomy without being known "
        "as pairs, and train on them as pairs.",
    )
    paired_weight: Weight = Field(
        10.0,
        description="Weight of the loss on pairs. The other losses are computed on slices without "
        "a partner; if every slice has one, they are omitted.",
    )
    back_translation_weight: Weight = Field(
        0.0,
        description="Weight of the loss on synthetic images of real slices, which the other "
        "generator translates back.",
    )
    simulated_weight: Weight = Field(
        0.0,
        description="Weight of the paired loss on simulated subjects, which teach from the first "
        "step how the intensity of each tissue changes; 0 disables simulation.",
    )
    simulated_subjects: Count = Field(8, description="Number of simulated subjects.")
    wise_ft_weight: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="WiSE-FT: share of the initial model in the weights that are validated and put "
        "into the bundle, if training starts from a model.",
    )
    planes: Planes = Field(
        "axial",
        description="Planes in which the bundle slices volumes; all is better and takes longer.",
    )
    warm_up: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the training over which the unpaired weights rise linearly from "
        "zero, so that simulated pairs dominate at first; 0 if training starts from a model.",
    )
    learning_rate: float = Field(2e-4, gt=0, description="Adam's learning rate before the decay.")
    critic_rate: float = Field(
        1.0, gt=0, description="The critics' learning rate, as a multiple of the generators'."
    )
    betas: tuple[DecayRate, DecayRate] = Field((0.5, 0.999), description="Adam's decay rates.")
    epochs: Count = Field(
        100, description="Number of passes over the slices of the larger contrast."
    )
    minutes: float | None = Field(
        None,
        gt=0,
        description="Train for this many minutes instead; the learning rate follows the clock.",
    )
    stop_after_epochs: int | None = Field(
        None, ge=1, description="Stop after this epoch, to continue later with --resume."
    )
    decay_from: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the training after which the learning rate falls linearly to zero; "
        "it rises again if a resumed run gets more epochs or minutes.",
    )
    batch_size: Count = Field(1, description="Slices of each contrast in a step.")
    steps_per_epoch: Annotated[int | None, Option(default="one pass over the larger contrast")] = (
        Field(None, ge=1, description="Length of an epoch.")
    )
    pool_size: int = Field(
        50,
        ge=0,
        description="Number of past synthetic images in each critic's image pool; 0 shows the "
        "critics only new ones.",
    )
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="Decay of the generators' EMA; 0 keeps the newest weights."
    )
    augment: AugmentSettings = Field(
        AugmentSettings(), description="Augmentation of training slices."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 if the hardware supports it, otherwise float32."
    )
    compile: bool = Field(
        False,
        description="Compile the networks with torch.compile (experimental). On a CPU this takes "
        "minutes and replaces mrbridge's convolutions by PyTorch's.",
    )
    validate_every: Count = Field(
        1,
        description="Epochs between validations; each writes a sample sheet, a checkpoint and, if "
        "the scores are the best so far, the bundle.",
    )
    validation_slices: Count = Field(
        32, description="Maximum number of validation slices of each contrast."
    )
    guard: Literal["warn", "stop"] = Field(
        "warn",
        description="What to do if generators copy their input, invert contrast, or collapse: "
        "warn, or stop after two such validations in a row. The best bundle is kept.",
    )
    patience: Annotated[int | None, Option(default="train to the end")] = Field(
        None,
        ge=1,
        description="Early stopping: number of validations without improvement.",
    )
    sample_slices: Count = Field(4, description="Rows of the sample sheets.")
    seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Seed of initial weights, order and augmentation of slices, pools and dropout.",
    )

    @classmethod
    def defaults(cls) -> TrainSettings:
        """The preset `bridge`."""
        return PRESETS["bridge"]

    @model_validator(mode="before")
    @classmethod
    def _from_older_versions(cls, values: object) -> object:
        """Accept the settings of older runs, unless they use what was removed."""
        if not isinstance(values, Mapping):
            return values
        if values.get("structure_weight"):
            raise ValueError("the structure loss was removed: 'structure_weight' can only be 0")
        if values.get("guard") == "restart":
            raise ValueError("guard=restart was removed: 'guard' can be warn or stop")
        kept = {key: value for key, value in values.items() if key != "structure_weight"}
        if kept.get("compile") == "auto":
            del kept["compile"]
        if "beginning_share" in kept:
            kept["wise_ft_weight"] = kept.pop("beginning_share")
        return kept


_UNPAIRED = ("adversarial", "cycle", "identity", "back_translation")


def extra_name(name: str) -> str:
    """The name of a loss of the user's own among all losses, as in metrics.csv."""
    return f"extra_{name}"


@dataclass(frozen=True)
class LossWeights:
    """The weights of the losses for the data at hand, and what depends on them.

    Attributes:
        unpaired: by name, with those of the user's own losses that need no target.
        wise_ft: of the initial model in the weights that are validated.
        warm_up: share of the training over which the unpaired weights rise linearly from zero.
    """

    unpaired: Mapping[str, float]
    simulated: float
    paired: float
    wise_ft: float
    warm_up: float

    @classmethod
    def of(cls, settings: TrainSettings) -> LossWeights:
        """The weights as the settings have them."""
        extra = {
            extra_name(name): one.weight
            for name, one in settings.extra_losses.items()
            if one.on != "target" and one.weight
        }
        return cls(
            {name: getattr(settings, f"{name}_weight") for name in _UNPAIRED} | extra,
            settings.simulated_weight,
            settings.paired_weight,
            settings.wise_ft_weight,
            settings.warm_up,
        )

    def scaled(self, share: float) -> LossWeights:
        """All weights but `paired` multiplied by `share`."""
        unpaired = {name: share * weight for name, weight in self.unpaired.items()}
        simulated, wise_ft = share * self.simulated, share * self.wise_ft
        return replace(self, unpaired=unpaired, simulated=simulated, wise_ft=wise_ft)

    def at(self, progress: float) -> dict[str, float]:
        """The weight of each loss when `progress`, in [0, 1], of the training is done."""
        ramp = min(1.0, progress / self.warm_up) if self.warm_up else 1.0
        unpaired = {name: weight * ramp for name, weight in self.unpaired.items()}
        return unpaired | {"simulated": self.simulated, "paired": self.paired}


PRESETS: dict[str, TrainSettings] = {
    # Networks, losses and weights of the projects that these presets come from.
    "unet": TrainSettings(
        preset="unet",
        networks=Networks(generator=UNetSettings()),
        adversarial="bce",
    ),
    "resunet": TrainSettings(
        preset="resunet",
        networks=Networks(generator=ResUNetSettings()),
        adversarial="bce",
    ),
    "resnet": TrainSettings(
        preset="resnet",
        networks=Networks(generator=ResNetSettings()),
        adversarial="least_squares",
        identity_weight=1.0,
    ),
    # A smaller U-Net without the useless 1x1 level, sharp from the start thanks to its refining
    # layers. It starts from the shipped model: simulated subjects keep it from forgetting how each
    # tissue changes, back-translation teaches it the contrast of the data, and WiSE-FT generalises
    # better than either model. No identity loss, which teaches to copy;
    # docs/explanation/quality.md shows what each part contributes.
    "bridge": TrainSettings(
        preset="bridge",
        networks=Networks(
            generator=UNetSettings(
                levels=6, features=32, max_features=256, dropout_blocks=0, dropout=0.0, refine=16
            ),
            critic=PatchGANSettings(features=32),
        ),
        adversarial_weight=0.0,
        cycle_weight=0.0,
        identity_weight=0.0,
        back_translation_weight=1.0,
        find_pairs=True,
        paired_weight=1.0,
        simulated_weight=0.1,
        simulated_subjects=4,
        wise_ft_weight=0.25,
        planes="all",
        warm_up=0.6,
        learning_rate=2e-4,
        ema_decay=0.998,
        augment=AugmentSettings(rotate_degrees=8.0, scale=0.08),
    ),
}


SHORT: dict[str, Any] = {"steps_per_epoch": 100}
"""Changes to presets for trainings of minutes, which would validate too rarely to be compared."""


def preset(name: str) -> TrainSettings:
    """The settings of a preset; SettingsError if there is none of this name."""
    if name not in PRESETS:
        raise SettingsError(
            f"there is no preset '{name}'{did_you_mean(name, PRESETS)}",
            remedy=f"Choose one of {', '.join(PRESETS)}.",
        )
    return PRESETS[name]


def resolve(*layers: Mapping[str, Any], origin: str | None = None) -> TrainSettings:
    """A preset with changes: first of a YAML file, say, then of the command line.

    Args:
        layers: changes, nested mappings; later ones win. The last `preset` among them is the one
            that is changed, without one `bridge`.
        origin: the file that errors name.

    Raises:
        SettingsError: a setting or the preset is unknown, or a value impossible.
    """
    named = [str(layer["preset"]) for layer in layers if "preset" in layer]
    settings = preset(named[-1] if named else "bridge")
    for layer in layers:
        changes = {key: value for key, value in layer.items() if key != "preset"}
        settings = settings.changed(changes, origin=origin)
    return settings
