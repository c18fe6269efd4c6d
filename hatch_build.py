"""Compiles `kernels.cpp` and builds the page when the package is built or installed, if possible.

On x86-64 Linux with g++, the package then contains the kernels for two instruction sets, of which
`mrbridge.kernels` loads the one that the processor supports. Everywhere else, and if compiling
fails, the package is pure Python and PyTorch computes the same more slowly.

With npm, the package also contains the page of `mrbridge serve` and the viewer of `mrbridge view`,
built from the folder `web`. Without it, these two verbs say what is missing.
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

SOURCE = Path("src/mrbridge/kernels/kernels.cpp")
WEB = Path("web")
_NPM_SECONDS = 300

VARIANTS = {"avx512": "x86-64-v4", "avx2": "x86-64-v3"}
"""The suffix of each library, and GCC's name of its instruction set."""


def _platform_tag() -> str:
    """What a wheel with kernels needs: this version of glibc or a newer one (PEP 600).

    The kernels also need libgomp, which PyTorch brings.
    """
    library, version = platform.libc_ver()
    if library == "glibc":
        return f"manylinux_{version.replace('.', '_')}_{platform.machine()}"
    return sysconfig.get_platform().replace("-", "_")


class KernelsAndPage(BuildHookInterface):
    """A build hook of hatchling; the environment variable `CXX` names another compiler."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build into the source tree, where an editable installation finds the results too."""
        self._build_page(Path(self.root) / WEB)
        source = Path(self.root) / SOURCE
        for old in source.parent.glob("kernels-*.so"):
            old.unlink()
        if sys.platform != "linux" or platform.machine() != "x86_64":
            return
        compiled = [variant for variant in VARIANTS if self._compile(source, variant)]
        if compiled:
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform_tag()}"

    def _compile(self, source: Path, variant: str) -> bool:
        compiler = shutil.which(os.environ.get("CXX", "g++"))
        if compiler is None:
            self.app.display_warning("mrbridge: no C++ compiler; training will be slower")
            return False
        library = source.with_name(f"kernels-{variant}.so")
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        command = [
            compiler, "-std=c++17", "-O3", "-fno-math-errno", f"-march={VARIANTS[variant]}",
            "-fopenmp", "-fPIC", "-shared", f'-DDIGEST="{digest}"', str(source), "-o", str(library),
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            self.app.display_warning(f"mrbridge: {result.stderr.strip()[-500:]}")
        return result.returncode == 0

    def _build_page(self, web: Path) -> None:
        npm = shutil.which("npm")
        if not web.is_dir():
            return
        if npm is None:
            self.app.display_warning("mrbridge: no npm; 'serve' and 'view' will have no page")
            return
        lock, installed = web / "package-lock.json", web / "node_modules/.package-lock.json"
        commands = [[npm, "run", "--silent", "build"]]
        if not installed.is_file() or installed.stat().st_mtime < lock.stat().st_mtime:
            # Scripts of packages are not run: none is needed.
            commands.insert(0, [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        for command in commands:
            try:
                result = subprocess.run(
                    command,
                    cwd=web,
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=_NPM_SECONDS,
                )
            except subprocess.TimeoutExpired:
                self.app.display_warning("mrbridge: npm did not answer; there will be no page")
                return
            if result.returncode:
                self.app.display_warning(f"mrbridge: {result.stderr.strip()[-500:]}")
                return
