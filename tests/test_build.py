"""The wheel brings compiled kernels where there is a compiler; and is pure Python elsewhere.

It also tells type checkers that the package is annotated (PEP 561), and contains the templates of
reports.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).parent.parent
TEXTS = sorted(
    path.relative_to(ROOT / "src").as_posix()
    for pattern in ("*.j2", "*.css", "*.toml")
    for path in (ROOT / "src").rglob(pattern)
)
CAN_COMPILE = (
    sys.platform == "linux" and platform.machine() == "x86_64" and shutil.which("g++") is not None
)


PAGE = sorted((ROOT / "src/mrbridge/web/static").glob("*"))


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
    assert {f"mrbridge/web/static/{one.name}" for one in PAGE} <= set(names)
    return wheel.name, sorted(Path(name).name for name in names if Path(name).stem[:7] == "kernels")


@pytest.mark.slow
@pytest.mark.skipif(not CAN_COMPILE, reason="nothing is compiled on this system")
def test_a_wheel_has_kernels_for_two_instruction_sets(tmp_path, monkeypatch):
    name, files = build(tmp_path, monkeypatch, "g++")
    assert re.fullmatch(r"mrbridge-[\d.]+-py3-none-manylinux_\d_\d+_x86_64\.whl", name)
    assert parse_wheel_filename(name)[-1] & set(sys_tags()), "pip would not install it here"
    assert files == ["kernels-avx2.so", "kernels-avx512.so", "kernels.cpp"]


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_the_wheel_is_pure_python(compiler, tmp_path, monkeypatch):
    name, files = build(tmp_path, monkeypatch, compiler)
    assert name.endswith("-py3-none-any.whl")
    assert files == ["kernels.cpp"]  # those of an earlier build are not taken


@pytest.mark.nightly
@pytest.mark.skipif(find_spec("pip") is None, reason="pip is not installed")
@pytest.mark.parametrize("compiled", [True, False])
def test_an_installed_wheel_needs_neither_compiler_nor_npm(compiled: bool, tmp_path: Path) -> None:
    """`pip wheel`, `pip install` into a new environment, and the demo, without other programs.

    Only the dependencies are those of the present environment.
    """
    if compiled and not CAN_COMPILE:
        pytest.skip("nothing is compiled on this system")
    source, pip = tmp_path / "source", [sys.executable, "-m", "pip"]
    left_out = shutil.ignore_patterns("__pycache__", "kernels-*.so")
    shutil.copytree(ROOT / "src", source / "src", ignore=left_out)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["-q", "--no-deps", "--no-build-isolation", "-w"]
    wheel = [*pip, "wheel", *options, str(tmp_path), str(source)]
    compiler = os.environ | ({} if compiled else {"CXX": "no-such-compiler"})
    subprocess.run(wheel, check=True, env=compiler)
    (built,) = tmp_path.glob("*.whl")
    assert ("manylinux" if compiled else "none-any") in built.name

    venv.create(tmp_path / "venv", symlinks=True)
    programs = tmp_path / "venv" / "bin"
    subprocess.run(
        [*pip, "--python", programs / "python", "install", "-q", "--no-deps", built], check=True
    )
    (packages,) = (tmp_path / "venv").glob("lib/*/site-packages")
    others = [one for one in sys.path if one.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(others))
    assert not any(shutil.which(one, path=str(programs)) for one in ("g++", "cc", "npm", "node"))

    def run(*command: object) -> str:
        bare = {"PATH": str(programs), "HOME": str(tmp_path), "OMP_NUM_THREADS": "2"}
        done = subprocess.run(
            [programs / "mrbridge", *map(str, command)],
            cwd=tmp_path,
            env=bare,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    facts: dict[str, Any] = json.loads(run("doctor", "--json").splitlines()[-1])
    assert facts["compiled_kernels"] == compiled
    assert facts["page"] == bool(PAGE)
    assert facts["shipped_model"] == "complete"
    run("demo", "-o", "demo", "--minutes", 0.2)
    assert (tmp_path / "demo" / "report.html").exists()
