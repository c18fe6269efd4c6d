"""What is left to gain in the convolutions of `unet`: their products, and the maps around them.

    python -m benchmarks.speed.schemes [--images 2] [--repeats 15] [--out FILE]

Prints one JSON line. Per layer that goes by Winograd's scheme (see `layers.py`), milliseconds in
bfloat16 of a training step's three products only (forwards, to the image, to the weights) and of
its four maps only (the image expanded, products collected, and their adjoints), each beside its
floor of the same run: the products' operations at the rate of one large product, and the bytes that
the maps have to read and write at the bandwidth of a copy.
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
from mrbridge.networks.compiled_schemes import compiled_scheme
from mrbridge.networks.schemes import HalvingWinograd


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options(__doc__, repeats=15, warm_up=3)
    parser.add_argument("--images", type=int, default=2)
    given = read(parser, arguments, repeats=1, warm_up=1, images=1)
    torch.manual_seed(given.seed)
    keep_memory()
    product = MatrixProduct(CPU, torch.bfloat16, QUICK_SIZE if given.quick else None)
    copy = Copy(CPU, 2**16 if given.quick else None)
    told = []
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
        told.append(one)
    total = {
        name: sum(one[name]["milliseconds"] for one in told)
        / sum(one[name]["floor"] for one in told)
        for name in ("products", "maps")
    }
    report("schemes", given, {"layers": told, "times_floor": total})


class Parts:
    """The products and the maps of one layer, told by its larger image."""

    def __init__(self, channels: int, size: int, features: int, images: int) -> None:
        larger, smaller = (images, size, size, channels), (images, size // 2, size // 2, features)
        scheme = compiled_scheme(HalvingWinograd(), smaller, torch.bfloat16)
        image, result = torch.randn(larger).bfloat16(), torch.randn(smaller).bfloat16()
        packed = scheme.pack(torch.randn(4, 4, channels, features), torch.bfloat16)
        expanded, spread = scheme.expand(image), scheme.spread(result)
        self._products: list[Callable[[], Tensor]] = [
            lambda: torch.bmm(expanded, packed),
            lambda: torch.bmm(spread, packed.transpose(1, 2)),
            lambda: torch.bmm(expanded.transpose(1, 2), spread),
        ]
        self._maps: list[Callable[[], Tensor]] = [
            lambda: scheme.expand(image),
            lambda: scheme.collect(spread, smaller),
            lambda: scheme.spread(result),
            lambda: scheme.contract(expanded, larger),
        ]
        self.operations = 3 * 2 * expanded.numel() * features
        self.bytes = 2 * (expanded.nbytes + image.nbytes + spread.nbytes + result.nbytes)

    def multiply(self) -> None:
        """The three products."""
        for product in self._products:
            product()

    def map(self) -> None:
        """The four maps."""
        for made in self._maps:
            made()


if __name__ == "__main__":
    main()
