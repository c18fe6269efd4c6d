"""The wheel brings compiled kernels where there is a compiler; and is pure Python elsewhere.

It also tells type checkers that the package is annotated (PEP 561), and contains the templates of
reports.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXTS = sorted(
    path.relative_to(ROOT / "src").as_posix()
    for pattern in ("*.j2", "*.css", "*.toml")
    for path in (ROOT / "src").rglob(pattern)
)
CAN_COMPILE = (
    sys.platform == "linux" and platform.machine() == "x86_64" and shutil.which("g++") is not None
)


def build(folder: Path, monkeypatch: pytest.MonkeyPatch, compiler: str) -> tuple[str, list[str]]:
    """Build a wheel of a copy of the sources; its name, and the kernels in it."""
    monkeypatch.setenv("CXX", compiler)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    left_out = shutil.ignore_patterns("*.safetensors", "__pycache__")
    shutil.copytree(ROOT / "src", folder / "src", ignore=left_out)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (wheel,) = (folder / "dist").iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    assert "mrbridge/py.typed" in names
    assert set(TEXTS) <= set(names)
    return wheel.name, sorted(Path(name).name for name in names if Path(name).stem[:7] == "kernels")


@pytest.mark.slow
@pytest.mark.skipif(not CAN_COMPILE, reason="nothing is compiled on this system")
def test_a_wheel_has_kernels_for_two_instruction_sets(tmp_path, monkeypatch):
    name, files = build(tmp_path, monkeypatch, "g++")
    assert name.endswith("-py3-none-linux_x86_64.whl")
    assert files == ["kernels-avx2.so", "kernels-avx512.so", "kernels.cpp"]


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_the_wheel_is_pure_python(compiler, tmp_path, monkeypatch):
    name, files = build(tmp_path, monkeypatch, compiler)
    assert name.endswith("-py3-none-any.whl")
    assert files == ["kernels.cpp"]  # those of an earlier build are not taken
