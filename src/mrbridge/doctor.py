"""The verb `doctor`: what this installation consists of, for bug reports.

It holds no personal data: no names of users or computers, and no paths.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from mrbridge import __version__

_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"),
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES"),
)
"""Environment variables whose values matter and say nothing about a person."""

_FOR_DEVELOPERS = ("dev", "docs")
"""Extras that no user needs."""

_CONTAINERS = ("/.dockerenv", "/run/.containerenv", "/singularity")
_LEAST_DISK = 5.0  # GB: a store of a small study and a run
_LEAST_MEMORY = 4.0  # GB


def examine() -> dict[str, Any]:
    """Versions, processor, kernels, threads, memory, disk and optional parts, as plain values;
    under `advice` one sentence for each thing that should be better."""
    import torch

    from mrbridge.hardware import fast_bfloat16, vector_extension
    from mrbridge.kernels.library import supports
    from mrbridge.threads import usable_cores
    from mrbridge.viewer import is_built

    cpu = torch.device("cpu")
    facts: dict[str, Any] = {
        "mrbridge": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "installed": "in a container" if any(map(os.path.exists, _CONTAINERS)) else "on a machine",
        "processor": {
            "model": _processor(),
            "vector_extension": vector_extension(),
            "bfloat16": fast_bfloat16(cpu),
            "usable_cores": usable_cores(),
            "cores": os.cpu_count(),
        },
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "compiled_kernels": supports(torch.float32),
        "threads": torch.get_num_threads(),
        "memory_gb": _memory(),
        "free_disk_gb": {
            "working_directory": _free("."),
            "temporary": _free(tempfile.gettempdir()),
        },
        "page": is_built(),
        "shipped_model": _shipped_model(),
        "hd_bet": shutil.which("hd-bet") is not None,
        "packages": {one.name: version for one, version in _packages().items()},
        "optional": {name: _optional(name) for name in _extras()},
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }
    return facts | {"advice": _advice(facts)}


def in_words(facts: dict[str, Any]) -> str:
    """What `examine` returned, as text for a bug report."""
    lines = []
    for name, value in facts.items():
        if name == "advice":
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
        lines.append(f"{name.replace('_', ' ')}: {_plain(value)}")
    advice = [f"- {one}" for one in facts["advice"]]
    return "\n".join([*lines, "", "Advice:" if advice else "No problems found.", *advice])


def _plain(value: Any) -> str:
    if value is None or value == "":
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _advice(facts: dict[str, Any]) -> list[str]:
    found = []
    if not facts["compiled_kernels"] and facts["processor"]["vector_extension"] != "DEFAULT":
        found.append(
            "Training is slower without compiled kernels: install a wheel that has them, or g++ "
            "before you install mrbridge (x86-64 Linux)."
        )
    if facts["shipped_model"] != "complete":
        found.append(f"The shipped model is {facts['shipped_model']}: install mrbridge again.")
    if not facts["page"]:
        found.append("serve and view have no page: install a wheel, or npm before you install.")
    for place, free in facts["free_disk_gb"].items():
        if free < _LEAST_DISK:
            found.append(f"Only {free} GB are free ({place.replace('_', ' ')}).")
    if facts["memory_gb"] is not None and facts["memory_gb"] < _LEAST_MEMORY:
        found.append(f"Training may need more than {facts['memory_gb']} GB of memory.")
    for one, version in _packages().items():
        if version is None or not one.specifier.contains(version, prereleases=True):
            found.append(f"{one.name} is {version or 'missing'}, mrbridge needs {one.specifier}.")
    return found


def _packages(extra: str = "") -> dict[Requirement, str | None]:
    """The requirements of an extra, or of mrbridge itself, and the versions that are installed."""
    try:
        listed = importlib.metadata.requires("mrbridge") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found: dict[Requirement, str | None] = {}
    for one in sorted(map(Requirement, listed), key=lambda one: one.name):
        marker = one.marker
        always = marker is None or marker.evaluate({"extra": ""})
        if always != bool(extra) and (marker is None or marker.evaluate({"extra": extra})):
            found[one] = None
            with suppress(importlib.metadata.PackageNotFoundError):
                found[one] = importlib.metadata.version(one.name)
    return found


def _extras() -> list[str]:
    """The extras that users may install."""
    try:
        listed = importlib.metadata.metadata("mrbridge").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return sorted(set(listed).difference(_FOR_DEVELOPERS))


def _optional(extra: str) -> str:
    packages = _packages(extra)
    if None in packages.values():
        return "not installed"
    return ", ".join(f"{one.name} {version}" for one, version in packages.items())


def _shipped_model() -> str:
    from mrbridge import models
    from mrbridge.bundle import load_bundle
    from mrbridge.errors import BundleError

    try:
        folder = models.shipped()
    except BundleError:
        return "missing"
    try:
        load_bundle(folder)
    except BundleError:
        return "damaged"
    return "complete"


def _processor() -> str:
    if sys.platform == "linux":
        try:
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
        except OSError:
            pass
    return platform.processor() or platform.machine()


def _memory() -> float | None:
    """In GB; None where the system does not say."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)


def _free(folder: str) -> float:
    """In GB."""
    return round(shutil.disk_usage(folder).free / 1e9, 1)
