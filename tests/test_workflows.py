"""The workflows for GitHub, which cannot run here: what they call exists."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import mrbridge

nox = pytest.importorskip("nox")

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


@pytest.fixture(scope="module")
def sessions() -> set[str]:
    """The names of nox's sessions."""
    nox.registry._REGISTRY.clear()
    runpy.run_path(str(ROOT / "noxfile.py"))
    found: set[str] = set()
    for name, function in nox.registry.get().items():
        pythons = function.python
        found |= {f"{name}-{one}" for one in pythons} if isinstance(pythons, list) else {name}
    return found


def commands(job: dict[str, Any]) -> list[str]:
    """The commands of a job, once for each value of its matrix."""
    matrix = job.get("strategy", {}).get("matrix", {})
    texts = [step["run"] for step in job["steps"] if "run" in step]
    for key, values in matrix.items():
        mark = f"${{{{ matrix.{key} }}}}"
        texts = [text.replace(mark, value) for text in texts for value in values]
    return texts


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_they_call_sessions_that_exist(path: Path, sessions: set[str]) -> None:
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        for command in commands(job):
            assert "${{" not in command
            assert set(re.findall(r"nox -s (\S+)", command)) <= sessions, command
    assert text.startswith("# Not yet run"), "remove this line when it has run, and this assertion"


def test_every_system_and_python_is_tested(sessions: set[str]) -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    matrix = jobs["tests"]["strategy"]["matrix"]
    assert {one.partition("-")[0] for one in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert matrix["python"] == PYTHONS
    assert {f"tests-{one}" for one in PYTHONS} <= sessions
    called = set(jobs["sessions"]["strategy"]["matrix"]["session"])
    assert called == {"lint", "docs", "slow", "minimum", "no_optional", "wheel"}


@pytest.mark.parametrize(("tag", "fits"), [("v{}", True), ("v{}1", False), ("{}", False)])
def test_a_release_needs_one_version_everywhere(tag: str, fits: bool) -> None:
    """The tag, the package, the changelog (with a date) and the citation."""
    version = mrbridge.__version__
    steps = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]["wheels"]
    (check,) = (step["run"] for step in steps["steps"] if "changelog" in step.get("name", ""))
    script = check.replace("python -c", f"{sys.executable} -c")
    environment = os.environ | {"GITHUB_REF_NAME": tag.format(version)}
    done = subprocess.run(["bash", "-ec", script], cwd=ROOT, env=environment, check=False)
    assert (done.returncode == 0) == fits
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
