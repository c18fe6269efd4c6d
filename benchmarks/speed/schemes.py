"""What is left to gain in the convolutions of `unet`: their products and their transforms.

    python -m benchmarks.speed.schemes [--images 2] [--repeats 15] [--out FILE]

Prints one JSON line. For each layer that Winograd's algorithm computes (see `layers.py`):
milliseconds in bfloat16 of a training step's three products (forward, gradients of image and
weights) and of its four transforms (`maps`: of the image, of the products, and their adjoints),
each next to its floor of the same run: the products' operations at the rate of one large product,
and the bytes that the transforms have to read and write at the bandwidth of a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import alternate, options, read, report
from benchmarks.speed.layers import CPU, LAYERS
from benchmarks.speed.matrix_rate import QUICK_SIZE, Copy, MatrixProduct
from mrbridge.hardware import keep_memory
from mrbridge.kernels.algorithms import Winograd


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options(__doc__, repeats=15, warm_up=3)
    parser.add_argument("--images", type=int, default=2)
    given = read(parser, arguments, repeats=1, warm_up=1, images=1)
    torch.manual_seed(given.seed)
    keep_memory()
    product = MatrixProduct(CPU, torch.bfloat16, QUICK_SIZE if given.quick else None)
    copy = Copy(CPU, 2**16 if given.quick else None)
    layers = []
    for layer in LAYERS[:: 3 if given.quick else 1]:
        parts = Parts(*layer[1:], given.images)
        calls = {"products": parts.multiply, "maps": parts.map}
        timings = alternate(calls | {"rate": product, "copy": copy}, given.repeats, given.warm_up)
        floors = {
            "products": parts.operations / product.rate(timings["rate"]) / 1e12,
            "maps": parts.bytes / copy.rate(timings["copy"]) / 1e9,
        }
        one: dict[str, Any] = {"layer": list(layer)}
        for name in calls:
            one[name] = {
                "milliseconds": 1000 * timings[name].median,
                "floor": 1000 * floors[name],
            }
        layers.append(one)
    total = {
        name: sum(one[name]["milliseconds"] for one in layers)
        / sum(one[name]["floor"] for one in layers)
        for name in ("products", "maps")
    }
    report("schemes", given, {"layers": layers, "times_floor": total})


class Parts:
    """The products and the transforms of one layer, given by its larger image."""

    def __init__(self, channels: int, size: int, features: int, images: int) -> None:
        larger, smaller = (images, size, size, channels), (images, size // 2, size // 2, features)
        algorithm = Winograd.for_4x4(2, smaller)
        image, result = torch.randn(larger).bfloat16(), torch.randn(smaller).bfloat16()
        matrices = algorithm.filter_transform(torch.randn(4, 4, channels, features), torch.bfloat16)
        of_image, of_result = algorithm.input_transform(image), algorithm.output_adjoint(result)
        self._products: list[Callable[[], Tensor]] = [
            lambda: torch.bmm(of_image, matrices),
            lambda: torch.bmm(of_result, matrices.mT),
            lambda: torch.bmm(of_image.mT, of_result),
        ]
        self._maps: list[Callable[[], Tensor]] = [
            lambda: algorithm.input_transform(image),
            lambda: algorithm.output_transform(of_result, smaller),
            lambda: algorithm.output_adjoint(result),
            lambda: algorithm.input_adjoint(of_image, larger),
        ]
        self.operations = 3 * 2 * of_image.numel() * features
        self.bytes = 2 * (of_image.nbytes + image.nbytes + of_result.nbytes + result.nbytes)

    def multiply(self) -> None:
        """The three products."""
        for product in self._products:
            product()

    def map(self) -> None:
        """The four transforms."""
        for made in self._maps:
            made()


if __name__ == "__main__":
    main()
