"""Compiles `passes.cpp` while the package is built or installed, where that can be done.

On Linux with g++ the package then brings compiled passes for two instruction sets, of which
`mrbridge.networks.passes` takes what the processor knows. Everywhere else, and where compiling
fails, it is pure Python and computes the same with PyTorch's operations, more slowly.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("src/mrbridge/networks/passes.cpp")

VARIANTS = {"avx512": "x86-64-v4", "avx2": "x86-64-v3"}
"""What a library is called, and what GCC calls its instruction set."""


class CompiledPasses(BuildHookInterface):
    """A hook of hatchling; `CXX` names another compiler."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile into the source tree, where an editable installation finds the result too."""
        source = Path(self.root) / SOURCE
        for old in source.parent.glob("passes-*.so"):
            old.unlink()
        if sys.platform != "linux" or platform.machine() != "x86_64":
            return
        made = [variant for variant in VARIANTS if self._compile(source, variant)]
        if made:
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_')}"

    def _compile(self, source: Path, variant: str) -> bool:
        compiler = shutil.which(os.environ.get("CXX", "g++"))
        if compiler is None:
            self.app.display_warning("mrbridge: no C++ compiler; training will be slower")
            return False
        made = source.with_name(f"passes-{variant}.so")
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        command = [
            compiler, "-std=c++17", "-O3", "-fno-math-errno", f"-march={VARIANTS[variant]}",
            "-fopenmp", "-fPIC", "-shared", f'-DDIGEST="{digest}"', str(source), "-o", str(made),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            self.app.display_warning(f"mrbridge: {done.stderr.strip()[-500:]}")
        return done.returncode == 0
