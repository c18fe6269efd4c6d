"""Train the model that mrbridge ships, on simulated subjects only.

    python -m benchmarks.research.shipped_model --work DIR --labels DIR --masks DIR --steps 12000
    python -m benchmarks.research.uncertainty --model DIR/bundle --work DIR --labels DIR
        --masks DIR --out BUNDLE

The first writes `DIR/bundle`, the second adds scale heads and calibrates them. Subjects are
simulated once and kept in DIR; call it again to continue a training that was stopped.

What is shipped took seven trainings, each from the weights of the one before (`--start`), as this
script grew (benchmarks/research/results/gate.jsonl):

1. 8,000 steps (`--schedule 12000 --painted 0.5 --mixed 0.7 --lesions-from 4000`), slices not
   cropped, fluid darkened to at most 1.05 of the range;
2. 1,500 steps (`--schedule 1500 --rate 4e-4 --mixed 0.7 --seed 3`), not cropped;
3. 9,000 steps of the generator to T2w (`--to T2w --schedule 9000 --seed 4`), not cropped;
4. 6,000 steps of both, cropped (`--schedule 6000 --rate 8e-4 --seed 5`);
5. 12,000 steps of the generator to T2w (`--to T2w --rate 8e-4 --seed 6`), on 40 of the subjects.
   Lesions were painted into the brain only, and not into muscle as well, as before. The first 5,000
   steps had absolute errors only; the first 7,400, `--painted 0.85`, smaller lesions and more of
   those of multiple sclerosis.
6. 12,000 steps of the generator to T1w (`--to T1w --rate 8e-4 --seed 7`), on the same subjects.
7. 12,000 steps of the generator to T2w (`--to T2w --rate 8e-4 --seed 31`), on these subjects, 21 of
   the others, and 12 with wide ventricles (`--widening 4.5 9 --pathology 0.4 --only 4 9 14 … 59`,
   files renamed).

Label maps: training_seg_01 to 16 of https://github.com/BBillot/SynthSeg, folder
data/training_label_maps (Apache-2.0; 17 to 20 are for validation). Lesion masks in MNI space: those
of OpenNeuro ds004889, one a patient.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmarks.research.painted_lesions import paint_lesions
from mrbridge.bundle import load_bundle, save_bundle
from mrbridge.dataset.simulated import (
    CANONICAL,
    draw_group,
    group_augmentation,
    subject_stacks,
)
from mrbridge.errors import MrbridgeError
from mrbridge.hardware import fast_bfloat16, keep_memory, quick_kernels
from mrbridge.inference.planes import OTHERS, cut, with_height
from mrbridge.io.atomic import atomic_path
from mrbridge.kernels import weight_cache
from mrbridge.kernels.optimizer import Adam
from mrbridge.manifest import BundleManifest
from mrbridge.networks.build import build_generator
from mrbridge.parallel import map_scans
from mrbridge.phantom.subjects import varied_subject
from mrbridge.preprocessing.geometry import fit_size, size_multiple
from mrbridge.preprocessing.intensity import IntensityNormalisation
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.training.checkpoint import load_checkpoint, save_checkpoint
from mrbridge.training.ema import averaged_copy, update_ema
from mrbridge.training.settings import preset

SIZE = 256
SUBJECT_SEED = 20_261_121
RATE, BATCH, EMA, STRUCTURE, SAVE_SECONDS = 1e-3, 2, 0.9995, 0.2, 300
WARM_STEPS, PRINT_STEPS, AHEAD = 200, 200, 4
LEAST, MULTIPLE = 96, 64  # rows and columns of a slice
MARGINS = 2, 40  # pixels around the head, the range of the mean of an exponential distribution
# How much squared errors count next to absolute ones. With absolute errors only, a network makes
# the median of what is possible: a lesion that it does not recognise for certain becomes tissue.
SQUARES = 2.0
LESION_WEIGHT = 4.0  # how much more an error in a painted lesion counts
LABEL_MAPS = [f"training_seg_{number:02d}.nii.gz" for number in range(1, 17)]
PER_PLANE = {"axial": 48, "coronal": 28, "sagittal": 28}
LEAST_FOREGROUND = 0.02
# A Gaussian of standard deviation 1.5, cut off at 5 pixels.
_WINDOW = torch.exp(-0.5 * (torch.arange(-5.0, 6.0) / 1.5) ** 2)
_WINDOW /= _WINDOW.sum()
SOURCES = {
    "licence of the weights": "Apache-2.0",
    "heads": "ICBM 152 2009 (by nilearn), and label maps 1 to 16 of BBillot/SynthSeg (Apache-2.0, "
    "doi:10.1016/j.media.2023.102789)",
    "lesion shapes": "stroke masks of OpenNeuro ds004889 (BSD-2), and random fields",
}
LIMITS = (
    "It has seen only simulated subjects: heads deformed from a template and from 16 label maps of "
    "adults. No children, no implants.",
    "What T1w does not show is missing in a T2w made from it. A lesion that is as grey as cortex "
    "in T1w may come out far too dark; a T1w made from T2w may show lesions too little.",
    "What it makes is soft, the mean of what is possible: small vessels and fine detail of the "
    "cortex are lost.",
    "Fluid at the very edge of a skull-stripped brain, as dark in T1w as what was cut away, is "
    "made too dark in T2w.",
    "Contrast agents were never simulated.",
)


@dataclass(frozen=True)
class Simulation:
    """How subjects are simulated, and where they are kept."""

    work: Path
    labels: tuple[Path, ...]
    masks: tuple[Path, ...]
    pathology: float
    contrasts: tuple[str, ...] = ("T1w", "T2w")
    widening_mm: tuple[float, float] = (-2.0, 9.0)

    def path(self, index: int) -> Path:
        """The file of a subject's groups, simulated if it is absent."""
        path = self.work / "subjects" / f"{index:04d}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            groups = self.groups(index)
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.save(file, groups)
        return path

    def groups(self, index: int) -> NDArray[np.float16]:
        """Groups of slices of three planes, (slices, 2 contrasts, rows, columns)."""
        # One subject in eight is the template's; the others take turns, five in a row of one map,
        # so that a process reads each once.
        head = None
        if self.labels and index % 8:
            head = self.labels[index // 5 % len(self.labels)]
        subject = varied_subject(
            SUBJECT_SEED,
            index,
            contrasts=self.contrasts,
            labels=head,
            pathology=self.pathology,
            masks=self.masks,
            widening_mm=self.widening_mm,
        )
        rng = np.random.default_rng([SUBJECT_SEED, index, 2])
        stacks, _ = subject_stacks(subject, PreprocessSettings(), self.contrasts)
        spacing = subject.seen["T1w"].spacing
        assert spacing is not None
        height = round(len(stacks[0]) * spacing[2])
        parts = [_some(stacks, PER_PLANE["axial"], rng)]
        for plane in OTHERS:
            turned = [cut(with_height(stack, height), plane) for stack in stacks]
            parts.append(_some(turned, PER_PLANE[plane], rng))
        return np.concatenate(parts)


def _some(stacks: list[NDArray[np.float32]], count: int, rng: np.random.Generator) -> Any:
    """Some slices that show a head, at the size of the network."""
    shown = np.flatnonzero((stacks[0] > -0.95).mean(axis=(1, 2)) > LEAST_FOREGROUND)
    chosen = np.sort(rng.permutation(shown)[:count])
    fitted = [fit_size(stack[chosen], SIZE, SIZE) for stack in stacks]
    return np.stack(fitted, axis=1).astype(np.float16)


class Examples:
    """An endless sequence of batches, a function only of the seed and the step."""

    def __init__(
        self,
        paths: list[Path],
        seed: int,
        painted: float,
        mixed: float,
        contrasts: tuple[str, ...] = ("T1w", "T2w"),
    ) -> None:
        self.painted, self.mixed = painted, mixed
        self.paths = paths
        self.seed = seed
        self.contrasts = contrasts
        self.change = group_augmentation(SIZE, len(contrasts))

    def batches(self, step: int) -> Iterator[Tensor]:
        """Groups of step `step`, the next one, …: another process makes them while one trains."""
        with ProcessPoolExecutor(1, get_context("forkserver"), torch.set_num_threads, (1,)) as pool:
            waiting = deque(pool.submit(self._array, step + n) for n in range(AHEAD))
            while True:
                step += 1
                waiting.append(pool.submit(self._array, step + AHEAD - 1))
                yield torch.from_numpy(waiting.popleft().result())

    def _array(self, step: int) -> NDArray[np.float32]:
        array: NDArray[np.float32] = self.batch(step).numpy()
        return array

    def batch(self, step: int) -> Tensor:
        """Groups of step `step`, (batch, 2 contrasts + 1, rows, columns), cropped to the head; the
        last image is 1 in painted lesions, -1 elsewhere."""
        rng = np.random.default_rng([self.seed, step])
        groups, boxes = [], []
        for _ in range(BATCH):
            path = self.paths[rng.integers(len(self.paths))]
            group = draw_group(np.load(path, mmap_mode="r"), rng, self.contrasts, self.mixed)
            lesion = np.full_like(group[:1], -1)
            if rng.random() < self.painted:
                lesion[0] += 2 * paint_lesions(group, rng, self.contrasts)
            group = np.concatenate([group, lesion])
            (group,) = self.change(group[None], [rng])
            for seen in range(0, 2 * len(self.contrasts), 2):
                group[seen] = corrupted(group[seen], rng)
            groups.append(group)
            boxes.append(_box(group, rng))
        cropped = [group[:, *box] for group, box in zip(groups, boxes, strict=True)]
        rows, columns = (
            size_multiple(max(group.shape[axis] for group in cropped), MULTIPLE) for axis in (1, 2)
        )
        return torch.from_numpy(np.stack([fit_size(group, rows, columns) for group in cropped]))


def _box(group: NDArray[np.float32], rng: np.random.Generator) -> tuple[slice, slice]:
    """The rows and columns in which an input shows anything, with random margins.

    `translate` crops a scan to the head, and instance norm depends on the share of background:
    networks trained on slices of full size take a stripped brain that fills its slice for a whole
    head, and its dark fluid for bone.
    """
    shown = np.any(group[:-1:2] > -1, axis=0)  # in any input
    box = []
    for axis in (0, 1):
        places = np.flatnonzero(shown.any(axis=1 - axis))
        first, last = (places[0], places[-1] + 1) if len(places) else (0, SIZE)
        low, high = (int(rng.exponential(margin)) for margin in rng.uniform(*MARGINS, 2))
        start, stop = max(0, first - low), min(SIZE, last + high)
        if stop - start < LEAST:
            start = max(0, min(start, SIZE - LEAST))
            stop = start + LEAST
        box.append(slice(start, stop))
    return box[0], box[1]


def corrupted(image: NDArray[Any], rng: np.random.Generator) -> NDArray[np.float32]:
    """A slice in [-1, 1] as worse scanners and old files have it; what is black stays black.

    Lower resolution along an axis with Gibbs ringing, ghosts of motion, clipped intensities, few
    grey levels: each in a share of the slices. All ranges are choices.
    """
    black = image <= -1
    if rng.random() < 0.3:
        axis = int(rng.integers(2))
        spectrum = np.fft.fft(image + 1, axis=axis)
        kept = rng.uniform(0.3, 0.85)
        frequency = np.abs(np.fft.fftfreq(image.shape[axis])) * 2 / kept
        window = np.clip((1 - frequency) / rng.uniform(0.02, 0.5) + 0.5, 0, 1)
        window = window[:, None] if axis == 0 else window
        image = np.fft.ifft(spectrum * window, axis=axis).real.astype(np.float32) - 1
    if rng.random() < 0.08:
        axis, shift = int(rng.integers(2)), int(rng.integers(6, 60))
        ghost = np.roll(image + 1, shift, axis) + np.roll(image + 1, -shift, axis)
        image = image + np.float32(rng.uniform(0.01, 0.05)) * ghost
    if rng.random() < 0.15:
        top = np.float32(rng.uniform(0.6, 1.0))
        image = (np.minimum(image, top) + 1) * (2 / (top + 1)) - 1
    if rng.random() < 0.2:
        levels = np.float32(rng.uniform(40, 256) / 2)
        image = np.round((image + 1) * levels) / levels - 1
    return np.where(black, np.float32(-1), np.clip(image, -1, 1)).astype(np.float32)


def structure_loss(synthetic: Tensor, real: Tensor) -> Tensor:
    """1 - mean SSIM of two images in [-1, 1], over what is brighter than the background of either.

    Shapes (batch, 1, rows, columns), both.

    Wang et al. 2004 (doi:10.1109/TIP.2003.819861), window and constants as in `metrics.ssim`; as a
    loss next to the absolute difference as in Zhao et al. 2017 (arXiv:1511.08861).
    """
    # Variances are small differences of large numbers: never in half precision.
    with torch.autocast(synthetic.device.type, enabled=False):
        return _structure(synthetic.float(), real.float())


def _structure(x: Tensor, y: Tensor) -> Tensor:
    half = len(_WINDOW) // 2
    x, y = (functional.pad(image, [half] * 4, value=-1.0) for image in (x, y))
    products = torch.cat([x, y, x * x, y * y, x * y], dim=1)
    taps = _WINDOW.to(products.device)
    across = taps.view(1, 1, 1, -1).expand(5, 1, 1, -1)
    down = taps.view(1, 1, -1, 1).expand(5, 1, -1, 1)
    products = functional.conv2d(functional.conv2d(products, across, groups=5), down, groups=5)
    mean_x, mean_y, xx, yy, xy = products.split(1, dim=1)
    first, second = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    var_x, var_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    likeness = ((2 * mean_x * mean_y + first) * (2 * covariance + second)) / (
        (mean_x**2 + mean_y**2 + first) * (var_x + var_y + second)
    )
    inside = (torch.maximum(mean_x, mean_y) > -0.98).float().detach()
    return ((1 - likeness) * inside).sum() / inside.sum().clamp(min=1)


def main() -> None:
    """Simulate, train, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=80)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument(
        "--schedule",
        type=int,
        default=12000,
        help="steps after which the learning rate is zero",
    )
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the subjects")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--masks", type=Path)
    parser.add_argument("--pathology", type=float, default=0.85)
    parser.add_argument(
        "--widening", type=float, nargs=2, default=(-2.0, 9.0), help="of the ventricles, mm"
    )
    parser.add_argument(
        "--painted", type=float, default=0.95, help="share of slices with lesions painted in 2D"
    )
    parser.add_argument(
        "--mixed", type=float, default=0.15, help="share of slices with parts of another slice"
    )
    parser.add_argument("--to", choices=("T1w", "T2w"), help="train only the generator to this")
    parser.add_argument(
        "--lesions-from", type=int, default=0, help="step from which errors in them count more"
    )
    parser.add_argument("--start", help="a model whose weights the networks begin with")
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--simulate-only", action="store_true")
    parser.add_argument(
        "--contrasts", nargs="+", default=("T1w", "T2w"), help="of the subjects; four_contrasts.py"
    )
    given = parser.parse_args()
    keep_memory()
    simulation = Simulation(
        given.work,
        () if given.labels is None else tuple(given.labels / name for name in LABEL_MAPS),
        () if given.masks is None else tuple(sorted(given.masks.glob("*.nii.gz"))),
        given.pathology,
        tuple(given.contrasts),
        tuple(given.widening),
    )
    wanted = given.only or range(given.subjects)
    paths = []
    for _, outcome in map_scans(simulation.path, wanted, workers=given.workers, label="simulate"):
        if isinstance(outcome, MrbridgeError):
            raise outcome
        paths.append(outcome)
    if not given.simulate_only:
        train(given, Examples(sorted(paths), given.seed, given.painted, given.mixed))


class Training:
    """Networks in training, each with its optimizer and EMA, and how far they are.

    A training continues from `checkpoint`, if there is one.
    """

    def __init__(
        self, networks: Sequence[torch.nn.Module], given: argparse.Namespace, checkpoint: Path
    ) -> None:
        self.networks, self.given, self.checkpoint = networks, given, checkpoint
        self.means = [averaged_copy(network) for network in networks]
        self.optimizers = [Adam(one.parameters(), given.rate, (0.9, 0.999)) for one in networks]
        self.step, self.seconds = 0, 0.0
        if checkpoint.exists():
            state = load_checkpoint(checkpoint)
            self.step, self.seconds = state["step"], state["seconds"]
            for owners, kept in zip(self._owners(), state["parts"], strict=True):
                for owner, values in zip(owners, kept, strict=True):
                    owner.load_state_dict(values)
        self._saved, self._tick = self.seconds, time.monotonic()
        self._sums: dict[str, float] = {}

    def _owners(self) -> Iterator[tuple[Any, ...]]:
        return zip(self.networks, self.means, self.optimizers, strict=True)

    def begin(self) -> None:
        """Begin a step: its number and its learning rate, a cosine after a short rise."""
        rate = self.given.rate * min(1, (self.step + 1) / WARM_STEPS)
        rate *= 0.5 + 0.5 * math.cos(math.pi * min(1.0, self.step / self.given.schedule))
        self.step += 1
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def update(self, index: int) -> None:
        """Apply the gradients of a network."""
        self.optimizers[index].step()
        self.optimizers[index].zero_grad()
        update_ema(self.means[index], self.networks[index], EMA, self.step)

    def end(self, losses: Mapping[str, float]) -> bool:
        """End a step: print means of the losses now and then; whether a checkpoint was written."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value / PRINT_STEPS
        now = time.monotonic()
        self.seconds, self._tick = self.seconds + now - self._tick, now
        if self.step % PRINT_STEPS == 0:
            line = {"step": self.step, "minutes": round(self.seconds / 60, 1)}
            print(json.dumps(line | {n: round(v, 4) for n, v in self._sums.items()}), flush=True)
            self._sums = {}
        if self.seconds - self._saved <= SAVE_SECONDS and self.step < self.given.steps:
            return False
        self._saved = self.seconds
        parts = [[owner.state_dict() for owner in owners] for owners in self._owners()]
        state = {"step": self.step, "seconds": self.seconds, "parts": parts}
        save_checkpoint(state, self.checkpoint)
        self._tick = time.monotonic()
        return True


def train(given: argparse.Namespace, examples: Examples) -> None:
    """Both generators side by side."""
    settings = preset("bridge").networks
    rng = torch.Generator().manual_seed(given.seed)
    names = ("to_target", "to_source")
    networks = [build_generator(settings.generator, SIZE, rng) for _ in names]
    if given.start:
        start = load_bundle(given.start)
        for name, network in zip(names, networks, strict=True):
            own = start.generator_weights(name)
            network.load_state_dict({key: value.float() for key, value in own.items()})
    training = Training(networks, given, given.work / "last.ckpt")
    averaged = dict(zip(names, training.means, strict=True))
    bfloat16 = fast_bfloat16(torch.device("cpu"))
    batches = examples.batches(training.step)
    while training.step < given.steps:
        batch = next(batches)
        training.begin()
        losses: dict[str, float] = {}
        for side, (network, to) in enumerate(zip(networks, ("T2w", "T1w"), strict=True)):
            if given.to not in (None, to):
                continue
            seen, answer = (batch[:, n : n + 1] for n in ((0, 3), (2, 1))[side])
            with weight_cache(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                made = network(seen)
            weight = 1 + (
                LESION_WEIGHT / 2 * (batch[:, 4:] + 1) if training.step > given.lesions_from else 0
            )
            error = made - answer
            difference = (weight * (error.abs() + SQUARES * error**2)).mean()
            structure = structure_loss(made, answer)
            (difference + STRUCTURE * structure).backward()
            training.update(side)
            losses |= {f"l1_{to}": difference.item(), f"ssim_{to}": structure.item()}
        if training.end(losses):
            ship(given, averaged, training.step, training.seconds)
    ship(given, averaged, training.step, training.seconds)


def shown(recipe: IntensityNormalisation) -> IntensityNormalisation:
    """The range in which answers are written: black is 0, the brightest 1000."""
    scale = 1000 / (recipe.high - recipe.low)
    knee = None if recipe.knee is None else round(scale * (recipe.knee - recipe.low), 1)
    return IntensityNormalisation(low=0, high=1000, knee=knee)


def ship(
    given: argparse.Namespace, means: dict[str, torch.nn.Module], step: int, seconds: float
) -> None:
    """Write the bundle; half precision halves its size. Other parts are those of `--start`."""
    trained_to = {"to_target": "T2w", "to_source": "T1w"}
    weights = {
        f"{name}.{key}": value.half() if value.is_floating_point() else value
        for name, network in means.items()
        if given.to in (None, trained_to[name])
        for key, value in network.state_dict().items()
    }
    trained = {
        "simulated subjects": given.subjects,
        "real scans": 0,
        "steps": step,
        "minutes": round(seconds / 60, 1),
        "seed": given.seed,
        **SOURCES,
    }
    if given.start:
        start = load_bundle(given.start)
        before = start.manifest.trained
        trained = before | {
            "steps": f"{before['steps']}; then {step:,} to {given.to or 'both'}",
            "minutes": round(before["minutes"] + seconds / 60),
        }
        manifest = start.manifest.model_copy(update={"trained": trained})
        save_bundle(manifest, {**start.weights, **weights}, given.work / "bundle")
        return
    manifest = BundleManifest(
        source="T1w",
        target="T2w",
        preset="bridge",
        networks=preset("bridge").networks,
        standard=PreprocessSettings(),
        typical={contrast: shown(recipe) for contrast, recipe in CANONICAL.items()},
        pictures=False,
        planes=preset("bridge").planes,
        trained=trained,
        scores={},
        limits=LIMITS,
    )
    save_bundle(manifest, weights, given.work / "bundle")


if __name__ == "__main__":
    with quick_kernels(torch.device("cpu")):
        main()
