"""`torch.compile` of networks: when it pays off, and how training continues if it fails."""

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
"""Length of a training, in either unit, from which `compile=auto` compiles.

Compiling costs seconds to minutes at the start and makes every step shorter. These are estimates;
`benchmarks/speed/gpu.py` measures costs and gains on a device."""

_REHEARSALS = {"cpu": 1, "cuda": 3}
"""Trial steps: CUDA graphs are recorded in the second call and replayed from the third on."""


def pays(settings: TrainSettings, last_step: int, device: torch.device) -> bool:
    """Whether a training compiles its networks.

    The whole training counts, not only the remaining steps: a resumed one continues as it began.

    Args:
        settings: of the training.
        last_step: the number of steps, if no time limit applies.
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
    """Networks that are compiled in place: names and state dictionaries stay the same.

    On CUDA, kernels run as CUDA graphs. The next step overwrites their results, so copy what must
    outlive a step, and call `begin_step` first in every step. Seeds that are set between steps
    apply to the graphs' random numbers, which differ from those without compilation.

    Args:
        networks: what to compile, at the first call.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self.networks = list(networks)
        self.is_rehearsed = False
        self._has_graphs = False

    def rehearse(self, step: Callable[[], None], device: torch.device) -> None:
        """Compile in a trial step; if that fails, for whatever reason, undo it and warn.

        Reasons are a missing compiler, missing Triton or too little memory. An error of the step
        itself occurs again without compilation.

        Args:
            step: forward and backward pass of all networks, without lasting changes.
            device: where the networks are.
        """
        self.is_rehearsed = True
        self._has_graphs = device.type == "cuda"
        try:
            torch.compiler.reset()  # earlier networks count towards the limit of recompilations
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
        """Let CUDA graphs reuse the memory of the previous step."""
        if self._has_graphs:
            torch.compiler.cudagraph_mark_step_begin()

    def _take_back(self) -> None:
        for network in self.networks:
            network.compile(disable=True)
        self._has_graphs = False
        torch.compiler.reset()
