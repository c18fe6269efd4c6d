"""How fast this machine multiplies matrices and copies memory: what any network is measured by.

    python -m benchmarks.speed.matrix_rate [--repeats 10] [--rounds 3] [--out FILE]

Prints one JSON line. Per device (the CPU, and CUDA where there is one): float32 products of square
matrices in TFLOP/s (a multiplication and an addition are two operations; no TF32), the same in
bfloat16 if the device multiplies it in hardware, and the bandwidth of a copy in GB/s (bytes read
plus bytes written). Each is the best median of several rounds, all taking turns. Matrices and
result are allocated before, so no network reaches these rates; they are the reference for shares
all the same.
"""

from __future__ import annotations

import torch

from benchmarks.harness import Timing, alternate, options, read, report
from mrbridge.hardware import fast_bfloat16

SIZES = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices: large enough to keep the device busy."""

QUICK_SIZE = 128
"""The same for tests."""

_COPIED = {"cpu": 2**26, "cuda": 2**28}  # float32 numbers: far more than caches hold


def fast_dtype(device: torch.device) -> torch.dtype:
    """That of the fastest products: bfloat16, or float32 if bfloat16 would be emulated."""
    return torch.bfloat16 if fast_bfloat16(device) else torch.float32


class MatrixProduct:
    """A few products of square matrices: a rival for `alternate`.

    Args:
        device: where.
        dtype: of the matrices.
        size: rows and columns; None takes those of `SIZES`.
        times: products in a call.
    """

    def __init__(
        self, device: torch.device, dtype: torch.dtype, size: int | None = None, times: int = 4
    ) -> None:
        self.size = size or SIZES[device.type]
        self.times = times
        self._left, self._right, self._product = (
            torch.randn(self.size, self.size, device=device).to(dtype) for _ in range(3)
        )

    def __call__(self) -> None:
        for _ in range(self.times):
            torch.mm(self._left, self._right, out=self._product)

    def rate(self, timing: Timing) -> float:
        """TFLOP/s by the median of the calls."""
        return 2 * self.size**3 * self.times / timing.median / 1e12


class Copy:
    """One copy of a large array: a rival for `alternate`."""

    def __init__(self, device: torch.device, numbers: int | None = None) -> None:
        self._source = torch.ones(numbers or _COPIED[device.type], device=device)
        self._target = torch.empty_like(self._source)

    def __call__(self) -> None:
        self._target.copy_(self._source)

    def rate(self, timing: Timing) -> float:
        """GB/s, read and written, by the median of the calls."""
        return 2 * self._source.nbytes / timing.median / 1e9


def matrix_rate(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """The rate of only the matrix products, in TFLOP/s."""
    product = MatrixProduct(device, dtype)
    return product.rate(alternate({"product": product}, repeats, 2, device)["product"])


def rates(
    device: torch.device, repeats: int, warm_up: int, rounds: int, quick: bool = False
) -> dict[str, dict[str, float]]:
    """Best and lowest median of each rate over the rounds; `quick` takes small arrays."""
    size = QUICK_SIZE if quick else None
    rivals: dict[str, MatrixProduct | Copy] = {
        f"{str(dtype).removeprefix('torch.')}_tflops": MatrixProduct(device, dtype, size)
        for dtype in dict.fromkeys((torch.float32, fast_dtype(device)))
    }
    rivals["copy_gb_per_second"] = Copy(device, 2**16 if quick else None)
    found: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        timings = alternate(rivals, repeats, warm_up, device)
        for name, rival in rivals.items():
            found[name].append(rival.rate(timings[name]))
    return {name: {"best": max(every), "lowest": min(every)} for name, every in found.items()}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options(__doc__, repeats=10, warm_up=2)
    parser.add_argument("--rounds", type=int, default=3)
    given = read(parser, arguments, repeats=2)
    torch.manual_seed(given.seed)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    found = {
        name: rates(torch.device(name), given.repeats, given.warm_up, given.rounds, given.quick)
        for name in devices
    }
    sizes = {name: QUICK_SIZE if given.quick else SIZES[name] for name in devices}
    report("matrix_rate", given, {"size": sizes, "rates": found})


if __name__ == "__main__":
    main()
