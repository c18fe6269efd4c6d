"""What the generators learn from: slices, pairs, and examples with known targets."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mrbridge import metrics, models
from mrbridge.bundle import load_bundle
from mrbridge.dataset.augment import Augmentation
from mrbridge.dataset.pairs import Pairs, found_pairs, known_pairs
from mrbridge.dataset.sampling import SliceBank, UnpairedSlices
from mrbridge.dataset.simulated import SimulatedPairs
from mrbridge.dataset.store import Store
from mrbridge.errors import SettingsError
from mrbridge.hardware import fast_bfloat16
from mrbridge.manifest import in_words
from mrbridge.reports import counted
from mrbridge.training.settings import PRESETS, LossWeights, TrainSettings
from mrbridge.volume import CONTRASTS

log = logging.getLogger(__name__)

_PAIRS = ("pair of slices", "pairs of slices")
_GAMMA = 1.2  # largest exponent of a back-translated input's intensities; 1 / 1.2 is the smallest
_NOISE = 0.03  # largest standard deviation of the noise on it, in the range of 2
_KNOTS = 65
_BACKGROUND_BELOW = -0.95
_SLIGHTLY_LARGER = 1.2  # than the images of a training: a head that loses its rim
_FITTED_SLICES = 48  # of each contrast: enough for a curve
_HARDLY_ANY = 0.25
"""Share of slices without a partner, of the contrast with more of them, up to which a training
leaves the unpaired losses out."""


def training_slices(store: Store, settings: TrainSettings) -> UnpairedSlices:
    """The training slices of a store, with their pairs; simulated pairs are added later.

    Raises:
        SettingsError: the settings need pairs and the store has none.
        StoreError: a contrast has no training slice.
    """
    size = settings.networks.image_size
    _warn_of_edges(store, size)
    dataset = UnpairedSlices(store, size, settings.seed, Augmentation(settings.augment, size))
    dataset.pairs = choose_pairs(settings, store, dataset.banks)
    return dataset


def _warn_of_edges(store: Store, image_size: int) -> None:
    """Warn if heads are larger than the images of the training, which show their middle then."""
    margin = store.manifest.settings.standard.margin_mm
    records = store.records(split="train")
    sizes = [
        max(
            pixels - 2 * round(margin / step)
            for pixels, step in zip(one.shape[1:], (one.spacing_mm or (1, 1, 1))[1:], strict=True)
        )
        for one in records
    ]
    larger = [size for size in sizes if size > image_size * _SLIGHTLY_LARGER]
    if larger:
        log.warning(
            "in %d of %d scans the head has up to %d pixels, and networks.image_size is %d: the "
            "training sees only the middle of their slices. Raise it, or prepare %s",
            *(len(larger), len(records), max(larger), image_size),
            "smaller images" if is_2d(store) else "with a larger --set standard.spacing_mm",
        )


def choose_pairs(
    settings: TrainSettings, store: Store, banks: tuple[SliceBank, SliceBank]
) -> Pairs:
    """The pairs of training slices that the settings allow; SettingsError if they need pairs and
    the store has none."""
    pairs: Pairs = []
    if settings.supervision != "unpaired":
        pairs = known_pairs(store, banks)
        if not pairs:
            raise SettingsError(
                f"supervision {settings.supervision} needs pairs, and the store has none",
                path=store.path,
                remedy="Prepare scans of both contrasts with subjects, or --set "
                "supervision=unpaired.",
            )
        log.info("learning from %s", counted(len(pairs), *_PAIRS))
    if settings.find_pairs and settings.supervision != "paired":
        found = sorted(set(found_pairs(banks)) - set(pairs))
        if found:
            log.info(
                "found %s with the same anatomy; --set find_pairs=false trains without them",
                counted(len(found), *_PAIRS),
            )
        pairs = pairs + found
    for i, j in pairs:
        banks[1].lay_over(banks[1].places[j][0], banks[0].places[i][0])
    return pairs


def weights_for(
    settings: TrainSettings, dataset: UnpairedSlices, has_initial: bool = False
) -> LossWeights:
    """The weights of the losses for the data at hand.

    All but `paired` are multiplied by the share of slices without a partner, and so is the initial
    model's share: pairs know better. There is no warm-up without pairs, or from an initial model.

    Raises:
        SettingsError: no loss has a weight.
    """
    weights = LossWeights.of(settings)
    has_pairs = bool(dataset.pairs and weights.paired)
    share = 1.0
    if settings.supervision == "paired":
        share = 0.0
    elif has_pairs:
        unpaired = max(
            1 - len({pair[side] for pair in dataset.pairs}) / len(bank)
            for side, bank in enumerate(dataset.banks)
        )
        share = unpaired if unpaired > _HARDLY_ANY else 0.0
        log.info("other losses are weighted by the share of slices without a partner: %.2f", share)
    weights = weights.scaled(share)
    if not (has_pairs or weights.simulated or any(weights.unpaired.values())):
        raise SettingsError(
            "there is nothing to learn from: no loss has a weight",
            remedy="Raise one of them, such as --set "
            + ("paired_weight=1." if share == 0 else "back_translation_weight=1."),
        )
    if has_initial or not (has_pairs or weights.simulated):
        weights = replace(weights, warm_up=0.0)
    return weights


def check_simulated(store: Store) -> None:
    """Refuse simulated pairs of contrasts that cannot be simulated, or of scans that do not show
    heads: SettingsError."""
    unknown = [one for one in store.contrasts if one not in CONTRASTS]
    if store.manifest.settings.standard.foreground != "head":
        what = "only heads can be simulated, and it was prepared with --foreground threshold"
    elif unknown:
        what = f"{' and '.join(unknown)} cannot be simulated"
    else:
        return
    remedy = "Train without simulated pairs: leave out simulated_weight, or set it to 0."
    raise SettingsError(what, path=store.path, remedy=remedy)


def for_contrasts(settings: TrainSettings, store: Store) -> TrainSettings:
    """Settings without the preset's simulated pairs if a contrast cannot be simulated;
    SettingsError if the settings ask for them, unlike their preset."""
    if not settings.simulated_weight:
        return settings
    try:
        check_simulated(store)
        return settings
    except SettingsError:
        if settings.simulated_weight != PRESETS[settings.preset].simulated_weight:
            raise
    log.info(
        "training %s to %s without simulated pairs: only heads in %s can be simulated",
        *(*store.contrasts, in_words(CONTRASTS)),
    )
    return settings.changed({"simulated_weight": 0.0})


def simulated_pairs(
    store: Store, settings: TrainSettings, weights: LossWeights, cache: Path
) -> SimulatedPairs | None:
    """The simulated subjects of a training, from `cache` if they are there; None without weight."""
    if not weights.simulated:
        return None
    return SimulatedPairs(
        store.manifest.settings.standard,
        is_2d(store),
        *store.contrasts,
        settings.networks.image_size,
        settings.simulated_subjects,
        settings.seed,
        cache,
    )


def is_2d(store: Store) -> bool:
    """Whether a store holds 2D images only."""
    return all(record.is_2d for record in store.records())


class Example(NamedTuple):
    """Images with a known target, each (batch, 1, rows, columns), range [-1, 1].

    `loss` is the name of the loss that compares output and target.
    """

    loss: str
    input: Tensor
    target: Tensor


def translate_together(generator: nn.Module, batches: Sequence[Tensor]) -> list[Tensor]:
    """Translate several batches, each (batch, 1, rows, columns), in one call.

    Instance norm does not mix the images of a batch.
    """
    if not batches:
        return []
    return list(generator(torch.cat(list(batches))).split([len(batch) for batch in batches]))


@torch.no_grad()
def back_translation(generator: nn.Module, images: Tensor) -> Tensor:
    """Translate real images with the other generator: inputs whose target is the real image.

    Back-translation comes from machine translation (Sennrich et al. 2016, arXiv:1511.06709;
    unpaired: Lample et al. 2018, arXiv:1711.00043). Unlike the cycle loss, it gives no gradient to
    the generator that made the input, so that generator has no reason to hide the target in it.
    Random gamma and noise keep the trained generator from relying on the look of synthetic images.

    Args:
        generator: the EMA of the other direction's generator.
        images: shape (batch, 1, rows, columns), range [-1, 1].

    Returns:
        The same shape and range. Random numbers come from PyTorch's global state.
    """
    synthetic = generator(images).float()
    per_image = (len(synthetic), 1, 1, 1)  # one random number for each image of the batch
    exponents = _GAMMA ** (2 * torch.rand(per_image, device=synthetic.device) - 1)
    noise = torch.randn_like(synthetic) * (_NOISE * torch.rand(per_image, device=synthetic.device))
    varied = ((synthetic + 1) / 2).clamp(0, 1) ** exponents
    return (2 * varied - 1 + noise).clamp(-1, 1)


class IntensityMapping(nn.Module):
    """A rising curve from the canonical intensities of simulated subjects to those of the data.

    Piecewise linear, with evenly spaced knots; the identity until `fit`.
    """

    levels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("levels", torch.linspace(-1, 1, _KNOTS))  # (knots,)

    def forward(self, images: Tensor) -> Tensor:
        """Map the intensities of images of any shape, range [-1, 1]."""
        position = (images.float() + 1) * ((_KNOTS - 1) / 2)
        lower = position.long().clamp(0, _KNOTS - 2)
        return torch.lerp(self.levels[lower], self.levels[lower + 1], position - lower)

    def fit(self, canonical: NDArray[np.float32], real: NDArray[np.float32]) -> None:
        """Fit the curve by isotonic regression to intensities of the same pixels, shape (pixels,),
        range [-1, 1]."""
        curve = metrics.fit_monotone(canonical, real)
        knots = np.linspace(-1, 1, _KNOTS, dtype=np.float32)
        levels = np.clip(curve.apply(knots), -1, 1)
        levels[0] = -1  # air stays air
        self.levels.copy_(torch.from_numpy(levels))


@torch.no_grad()
def fit_intensity_mappings(
    mappings: Iterable[nn.Module],
    banks: tuple[SliceBank, SliceBank],
    contrasts: tuple[str, str],
    device: torch.device,
) -> None:
    """Fit the mappings without pairs: real slices against their cycle through the shipped model.

    That model was trained on canonical intensities, so the cycle shows the anatomy of the real
    slice with canonical intensities.

    Mappings, slices and contrasts are those of the source, then of the target.
    """
    canonical = load_bundle(models.shipped())
    generators = [
        canonical.build(canonical.generator_that_makes(contrast)).to(device)
        for contrast in contrasts
    ]
    for side, (mapping, bank) in enumerate(zip(mappings, banks, strict=True)):
        chosen = np.linspace(0, len(bank) - 1, min(_FITTED_SLICES, len(bank))).round().astype(int)
        # (slices, 1, rows, columns), as is `cycled`
        real = torch.from_numpy(np.stack([bank[int(n)] for n in chosen]))[:, None]
        short = -bank.image_size % (canonical.manifest.networks.generator.multiple or 1)
        real = nn.functional.pad(real, (0, short, 0, short), value=-1)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_bfloat16(device)):
            cycled = torch.cat(
                [
                    generators[side](generators[1 - side](part.to(device)).float()).float().cpu()
                    for part in real.split(8)
                ]
            )
        inside = real > _BACKGROUND_BELOW
        if inside.any():
            assert isinstance(mapping, IntensityMapping)
            mapping.fit(cycled[inside].numpy(), real[inside].numpy())
