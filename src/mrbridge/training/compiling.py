"""Compiled networks: whether they pay, and how a training goes on where they fail."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import torch
from torch import nn

from mrbridge.errors import MrbridgeError, MrbridgeWarning
from mrbridge.hardware import can_compile
from mrbridge.training.settings import TrainSettings

PAYS_FROM_STEPS = 500
PAYS_FROM_MINUTES = 2.0
"""Length of a training, in either measure, from which compiled networks are taken by themselves.

Compiling costs seconds to minutes at the start, and saves a part of every step. Estimates: what it
costs and saves on a device is told by `benchmarks/gpu.py`."""

_REHEARSALS = {"cpu": 1, "cuda": 3}
"""CUDA graphs are recorded in the second call, and replayed from the third on."""


def pays(settings: TrainSettings, last_step: int, device: torch.device) -> bool:
    """Whether a training takes compiled networks.

    The whole training counts, not what is left of it: a resumed one goes on as it began.

    Args:
        settings: of the training.
        last_step: the step at which it ends, unless it ends by the clock.
        device: where it runs.
    """
    if settings.compile != "auto":
        return settings.compile == "on"
    if settings.minutes is None:
        is_long = last_step >= PAYS_FROM_STEPS
    else:
        is_long = settings.minutes >= PAYS_FROM_MINUTES
    return is_long and can_compile(device)


class Compiled:
    """Networks that are compiled in place: names and state dictionaries stay.

    On CUDA, kernels are launched as CUDA graphs. Their results lie where the next step's will:
    what is to outlive a step has to be copied, and every step begins with `begin_step`. Seeds that
    are set between steps reach the graphs' random numbers, which are others than those of
    networks that are not compiled.

    Args:
        networks: what to compile; nothing happens before they are called.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self.networks = list(networks)
        self.is_rehearsed = False
        self._has_graphs = False

    def rehearse(self, step: Callable[[], None], device: torch.device) -> None:
        """Compile by doing what a step does; where that fails, take the compilation back and warn.

        All kinds of failure are alike here: without compiler, without Triton, out of memory. What
        is wrong with the step itself comes up again without compilation.

        Args:
            step: forward and backward of all networks, changing nothing that lasts.
            device: where they lie by now.
        """
        self.is_rehearsed = True
        self._has_graphs = device.type == "cuda"
        try:
            torch.compiler.reset()  # what was compiled before has used up its share of variants
            for network in self.networks:
                network.compile(
                    dynamic=False, mode="reduce-overhead" if self._has_graphs else "default"
                )
            for _ in range(_REHEARSALS[device.type]):
                self.begin_step()
                step()
        except MrbridgeError:
            raise
        except Exception as error:
            self._take_back()
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            warnings.warn(
                f"the networks could not be compiled, and are trained without ({reason[:200]}); "
                "--set compile=off does not try",
                MrbridgeWarning,
                stacklevel=2,
            )

    def begin_step(self) -> None:
        """Let CUDA graphs reuse the memory of the step before."""
        if self._has_graphs:
            torch.compiler.cudagraph_mark_step_begin()

    def _take_back(self) -> None:
        for network in self.networks:
            network._compiled_call_impl = None
        self._has_graphs = False
        torch.compiler.reset()
