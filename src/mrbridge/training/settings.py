"""The settings of a training, and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mrbridge.bundle import Networks
from mrbridge.data.augment import AugmentSettings
from mrbridge.losses import AdversarialKind
from mrbridge.networks import PatchGANSettings, ResNetSettings, ResUNetSettings, UNetSettings
from mrbridge.settings import Settings
from mrbridge.training.names import check_preset
from mrbridge.volume import Planes

DecayRate = Annotated[float, Field(ge=0, lt=1)]


class TrainSettings(Settings):
    """Everything that decides a training.

    Attributes:
        preset: the name under which the networks and weights below are known.
        networks: generators, critics and image size.
        adversarial: `bce`, `least_squares` or `hinge`.
        adversarial_weight: weight of the generators' adversarial loss.
        cycle_weight: weight of the cycle loss.
        identity_weight: weight of the identity loss; 0 leaves it out, and its share of the work.
        supervision: `unpaired` uses no pair that the store knows of; `paired` learns only
            from those; `weak` from both.
        find_pairs: look for slices of both contrasts that show the same anatomy though nobody said
            so, and learn from them as pairs (`data.pairs`).
        paired_weight: weight of the loss on pairs. The unpaired losses count for the slices that
            have no partner: where all have one, they are left out.
        back_translation_weight: weight of the loss on syntheses of real slices, which the other
            generator shall turn into those slices again; 0 leaves it out.
        simulated_weight: weight of the paired loss on simulated subjects (`data.simulated`), which
            tell the generators from the first step what becomes of each tissue; 0 simulates none.
        simulated_subjects: how many subjects are simulated.
        beginning_share: where a training goes on from a model, that model's share in the weights
            that are validated and shipped; the rest is what was learned (`average.between`).
        planes: in which the bundle cuts volumes when it translates them; `all` is better, and
            takes three times as long.
        warm_up: share of the training over which the unpaired weights rise linearly from zero, so
            that the simulated pairs come first; none where it begins from a model, which is warm.
        learning_rate: Adam's step size before the decay.
        critic_rate: the critics' step size, as a multiple of the generators'.
        betas: Adam's decay rates.
        epochs: how often every slice of the larger contrast is seen.
        minutes: train for this long instead; the learning rate then follows the clock.
        stop_after_epochs: pause this session after so many epochs of the run, to be resumed.
        decay_from: share of the training after which the learning rate falls linearly to zero.
        batch_size: slices of each contrast in a step.
        steps_per_epoch: length of an epoch; None sees every slice of the larger contrast once.
        pool_size: past syntheses shown to the critics; 0 shows only the newest.
        ema_decay: how slowly the averaged generators follow; 0 ships the newest weights.
        augment: random changes to training slices.
        precision: `auto` takes bfloat16 where the processor is fast at it.
        compile: `on` compiles the networks (`torch.compile`; on CUDA with CUDA graphs), `off` does
            not; `auto` does on CUDA (experimental), where the training is long enough. On a CPU it
            takes minutes, and PyTorch's convolutions instead of our own.
        validate_every: epochs between validations (each also draws a sample sheet, writes a
            checkpoint and, if the scores are the best so far, the bundle).
        validation_slices: at most this many held-out slices of each contrast.
        guard: what happens when generators copy their input, swap bright and dark tissues or go
            blank (`training.guard`): `warn` says so; `stop` ends the training when two validations
            in a row found it; `restart` then goes back to the best state with half the learning
            rate, three times at most, before it ends. The best bundle stays in all cases.
        patience: end when so many validations in a row have brought no better criterion; None
            trains to the end.
        sample_slices: rows of the sample sheets.
        seed: of the initial weights, the order and the changes of the slices, the pool, dropout.
    """

    preset: str = "bridge"
    networks: Networks
    adversarial: AdversarialKind = "least_squares"
    adversarial_weight: float = Field(default=1.0, ge=0)
    cycle_weight: float = Field(default=10.0, ge=0)
    identity_weight: float = Field(default=5.0, ge=0)
    supervision: Literal["unpaired", "paired", "weak"] = "unpaired"
    find_pairs: bool = False
    paired_weight: float = Field(default=10.0, ge=0)
    back_translation_weight: float = Field(default=0.0, ge=0)
    simulated_weight: float = Field(default=0.0, ge=0)
    simulated_subjects: int = Field(default=8, ge=1)
    beginning_share: float = Field(default=0.0, ge=0, lt=1)
    planes: Planes = "axial"
    warm_up: float = Field(default=0.0, ge=0, le=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    critic_rate: float = Field(default=1.0, gt=0)
    betas: tuple[DecayRate, DecayRate] = (0.5, 0.999)
    epochs: int = Field(default=100, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    stop_after_epochs: int | None = Field(default=None, ge=1)
    decay_from: float = Field(default=0.5, ge=0, le=1)
    batch_size: int = Field(default=1, ge=1)
    steps_per_epoch: int | None = Field(default=None, ge=1)
    pool_size: int = Field(default=50, ge=0)
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    augment: AugmentSettings = AugmentSettings()
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    validate_every: int = Field(default=1, ge=1)
    validation_slices: int = Field(default=32, ge=1)
    guard: Literal["warn", "stop", "restart"] = "warn"
    patience: int | None = Field(default=None, ge=1)
    sample_slices: int = Field(default=4, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)

    @model_validator(mode="before")
    @classmethod
    def _without_structure_loss(cls, values: object) -> object:
        """Settings of older runs name the weight of a loss that is gone: 0 in every preset."""
        if not isinstance(values, Mapping) or "structure_weight" not in values:
            return values
        if values["structure_weight"] != 0:
            raise ValueError("the structure loss was removed: 'structure_weight' can only be 0")
        return {key: value for key, value in values.items() if key != "structure_weight"}

    @field_validator("compile", mode="before")
    @classmethod
    def _as_yaml_reads_it(cls, value: object) -> object:
        """In YAML, on and off are other words for true and false."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


PRESETS: dict[str, TrainSettings] = {
    # Generators and critics, losses and weights of the original projects: DESIGN, section 6.
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
    # A smaller U-Net without the dead 1x1 level, sharp from the start by its refining layers. It
    # goes on from the shipped model: simulated subjects keep it from forgetting what becomes of
    # each tissue, back-translation teaches it the data's contrast. What is shipped lies
    # between the beginning and the end, which is better on other people than both. No identity
    # loss, which teaches to copy; docs/explanation/quality.md shows what each part brings.
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
        beginning_share=0.25,
        planes="all",
        warm_up=0.6,
        learning_rate=2e-4,
        ema_decay=0.998,
        augment=AugmentSettings(rotate_degrees=8.0, scale=0.08),
    ),
}


def preset(name: str) -> TrainSettings:
    """The settings of a preset.

    Raises:
        SettingsError: there is no preset of this name.
    """
    check_preset(name)
    return PRESETS[name]


def resolve(
    preset_name: str | None, *layers: Mapping[str, Any], origin: str | None = None
) -> TrainSettings:
    """A preset with layers of changes (a YAML file, then assignments) laid over it."""
    named = preset_name or next(
        (str(layer["preset"]) for layer in reversed(layers) if "preset" in layer), "bridge"
    )
    settings = preset(named)
    for layer in layers:
        changes = {key: value for key, value in layer.items() if key != "preset"}
        settings = settings.changed(changes, origin=origin)
    return settings
