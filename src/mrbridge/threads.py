"""How many threads compute, how they wait for each other, and how they get memory.

Libraries read this from the environment when they are loaded. So the command line and worker
processes set it before they import PyTorch; this module does not import it.
"""

from __future__ import annotations

import math
import os
import sys
from _thread import RLock  # no `threading.py` of the working directory
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SPINS = "1000"
"""How often a thread looks whether it may continue before it sleeps
(benchmarks/speed/train_step.py --busy)."""

_CHOSEN = "MRBRIDGE_CHOSEN_THREADS"  # the value of OMP_NUM_THREADS if mrbridge set it
_COUNTS = ("OMP_NUM_THREADS", _CHOSEN, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
_sharing = RLock()  # the environment belongs to all threads


def usable_cores(root: Path = Path("/")) -> int:
    """How many cores this process may use, by its affinity and the CPU quotas of its cgroups.

    Args:
        root: the folder of `proc` and `sys`.

    Returns:
        At least 1; a quota of 1.5 cores counts as 2.

    Source: the Linux kernel's documentation, cgroup-v1/cpuacct and scheduler/sched-bwc, cgroup-v2.
    """
    return max(1, min([_by_affinity(), *(math.ceil(quota) for quota in _quotas(root))]))


def _by_affinity() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """The quotas, in cores, of this process's cgroups and their ancestors, versions 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            tops = [mounts, mounts / "unified"]
        elif "cpu" in controllers.split(","):
            tops = [mounts / "cpu", mounts / controllers]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for top in tops:
            # A container sees its own group as the root.
            for depth in range(len(parts) + 1):
                yield from _quota(top.joinpath(*parts[:depth]))


def _quota(group: Path) -> Iterator[float]:
    try:
        if (group / "cpu.max").is_file():
            limit, period = (group / "cpu.max").read_text(encoding="utf-8").split()[:2]
        else:
            limit, period = (
                (group / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip()
                for name in ("quota", "period")
            )
        if limit != "max" and float(limit) > 0 and float(period) > 0:
            yield float(limit) / float(period)
    except (OSError, ValueError):
        return


def share_the_machine(root: Path = Path("/")) -> None:
    """Set this process's environment so that other programs cost it only their share of the cores.

    What the user has set stays. OpenMP's threads soon sleep while they wait for each other. By
    default they spin, and if one loses its core to another program, all others spin until it is
    back: training steps then take three to ten times as long. Without spinning at all, waking them
    costs the small layers of `bridge` a quarter of their speed. And there are at most as many
    threads as usable cores: OpenMP respects the affinity, but not the quota of a container.

    Args:
        root: as for `usable_cores`.

    Source: OpenMP 5.2, section 21.1.7, and the manual of libgomp, GOMP_SPINCOUNT.
    """
    if not any(name in os.environ for name in _POLICIES):
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ["GOMP_SPINCOUNT"] = SPINS  # libgomp takes this before the policy
    cores = usable_cores(root)
    if "OMP_NUM_THREADS" not in os.environ and cores < _by_affinity():
        os.environ["OMP_NUM_THREADS"] = os.environ[_CHOSEN] = str(cores)
        os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", str(cores))


@contextmanager
def sharing_the_machine() -> Iterator[None]:
    """Within this context, new processes and libraries that are loaded share the machine, as
    `share_the_machine` says; its end restores the environment. Other threads wait for it."""
    with _sharing:
        absent = [name for name in (*_POLICIES, *_COUNTS) if name not in os.environ]
        share_the_machine()
        try:
            yield
        finally:
            for name in absent:
                os.environ.pop(name, None)


def is_count_given() -> bool:
    """Whether the user has set the number of threads (`OMP_NUM_THREADS`)."""
    return os.environ.get("OMP_NUM_THREADS") not in (None, os.environ.get(_CHOSEN))


_MALLOPT = {"trim_threshold": -1, "mmap_threshold": -3, "mmap_max": -4, "arena_max": -8}


def tune_malloc(**parameters: int) -> None:
    """Set parameters of the memory allocator of this process by `mallopt(3)`; without glibc this
    does nothing."""
    import ctypes  # not at the top: it would import `struct.py` of the working directory

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for name, value in parameters.items():
            mallopt(_MALLOPT[name], value)
