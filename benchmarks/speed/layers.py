"""One convolution of `unet` at a time: mrbridge's way and PyTorch's, in bfloat16.

    python -m benchmarks.speed.layers [--images 2] [--repeats 9] [--out FILE]

Prints one JSON line. Per layer (`halving`: 4x4 with stride 2; `doubling`: its transpose, named by
the larger image) milliseconds forwards, and forwards and backwards together, of three rivals in
turn: `mrbridge`, PyTorch with channels last, and PyTorch with channels first. `floor` is what the
operations of the direct convolution, forwards, take at the rate of bfloat16 products of this run.
`error` is the relative error of one layer against float32, of random numbers: root mean square over
that of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.harness import alternate, options, read, report
from benchmarks.speed.matrix_rate import QUICK_SIZE, MatrixProduct
from mrbridge.hardware import keep_memory
from mrbridge.kernels import Conv2d, ConvTranspose2d

# Channels and size of the larger image, features of the smaller one.
LAYERS = [
    ("halving", 64, 128, 128),
    ("halving", 128, 64, 256),
    ("halving", 256, 32, 512),
    ("doubling", 64, 128, 256),
    ("doubling", 128, 64, 512),
    ("doubling", 256, 32, 1024),
]
CPU = torch.device("cpu")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options(__doc__, repeats=9, warm_up=2)
    parser.add_argument("--images", type=int, default=2)
    given = read(parser, arguments, repeats=1, warm_up=1, images=1)
    torch.manual_seed(given.seed)
    keep_memory()
    product = MatrixProduct(CPU, torch.bfloat16, QUICK_SIZE if given.quick else None)
    layers = []
    for kind, channels, size, features in LAYERS[:: 3 if given.quick else 1]:
        layer = Layer(kind, channels, size, features, given.images)
        calls: dict[str, Callable[[], object]] = {
            f"{way} forward": partial(layer.forward, way) for way in layer.ways
        }
        calls |= {f"{way} both": partial(layer.both, way) for way in layer.ways}
        timings = alternate(calls | {"rate": product}, given.repeats, given.warm_up)
        floor = layer.operations / product.rate(timings["rate"]) / 1e12
        seconds = {name: timings[name].median for name in calls}
        layers.append(
            {
                "layer": [kind, channels, size, features],
                "milliseconds": {name: 1000 * value for name, value in seconds.items()},
                "floor": 1000 * floor,
                "error": {way: layer.error(way) for way in ("mrbridge", "channels_last")},
            }
        )
    report("layers", given, {"layers": layers})


class Layer:
    """One layer, and the ways through it."""

    ways = ("mrbridge", "channels_last", "channels_first")

    def __init__(self, kind: str, channels: int, size: int, features: int, images: int) -> None:
        larger, smaller = (images, channels, size, size), (images, features, size // 2, size // 2)
        halves = kind == "halving"
        made = (
            Conv2d(channels, features, 4, stride=2, padding=1, bias=False)
            if halves
            else ConvTranspose2d(features, channels, bias=False)
        )
        self.module = made
        nn.init.normal_(made.weight, 0, 0.02)
        self.plain: Callable[..., Tensor] = (
            functional.conv2d if halves else functional.conv_transpose2d
        )
        self.image = torch.randn(larger if halves else smaller)
        # As the layer before would hand them over.
        self.images = {
            way: self.image.bfloat16().contiguous(
                memory_format=torch.contiguous_format
                if way == "channels_first"
                else torch.channels_last
            )
            for way in self.ways
        }
        self.change = torch.randn(smaller if halves else larger).bfloat16()
        self.operations = 2 * 16 * channels * features * images * (size // 2) ** 2

    def forward(self, way: str) -> Tensor:
        """The result, (images, channels, rows, columns), bfloat16."""
        image = self.images[way].requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            if way == "mrbridge":
                made: Tensor = self.module(image)
                return made
            return self.plain(image, self.module.weight, stride=2, padding=1)

    def both(self, way: str) -> None:
        """Forwards, and back to image and weights."""
        self.forward(way).backward(self.change)
        self.module.zero_grad()
        self.images[way].grad = None

    def error(self, way: str) -> float:
        """Relative to float32 direct convolution."""
        with torch.no_grad():
            exact = self.plain(self.image, self.module.weight, stride=2, padding=1)
        apart = self.forward(way).detach().float() - exact
        return float(apart.norm() / exact.norm())


if __name__ == "__main__":
    main()
