"""SIGKILL at any instant, and full disks: what is there is whole, and going on ends as if nothing
had happened.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from tests import studies
from tests.training.conftest import differences

from mrbridge import io
from mrbridge.bundle import Bundle, load_bundle, read_manifest, save_bundle
from mrbridge.dataset.store import Store
from mrbridge.io.temporary import is_temporary
from mrbridge.training.checkpoint import load_checkpoint
from mrbridge.volume import Volume

Content = dict[str, str]
COMPARING = ("benchmark", "tune")
"""The verbs that compare trainings."""

IN_A_ROW = 3
"""After so many kills the verb may finish, if it has not before."""


@dataclass
class Server:
    """Runs verbs in forks; see `killing`."""

    process: subprocess.Popen[str]

    def run(self, verb: str, arguments: dict[str, Any], **how: Any) -> dict[str, Any]:
        """How a verb ended: `done`, `killed` or `failed`."""
        job = {"verb": verb, "arguments": {k: _plain(v) for k, v in arguments.items()}, **how}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        result = json.loads(self.process.stdout.readline())
        assert isinstance(result, dict)
        return result


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for all tests here."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("killing.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield Server(process)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory, make_scan: Any) -> Path:
    """Two small subjects with both contrasts, as BIDS."""
    root = tmp_path_factory.mktemp("kills") / "bids"
    for number in (1, 2):
        for contrast in ("T1w", "T2w"):
            name = f"sub-{number:02}/anat/sub-{number:02}_{contrast}.nii.gz"
            io.write(make_scan(number, contrast, shape=(30, 32, 4)), root / name)
    (root / "dataset_description.json").write_text('{"Name": "small", "BIDSVersion": "1.10.0"}')
    return root


@dataclass
class Case:
    """A verb, what it is given, and how to tell whether what it left is whole.

    Attributes:
        verb: its name.
        given: its arguments but for `out`.
        calm: the result of an undisturbed run.
        seconds, instants: what an undisturbed run took.
        old: an older result, over which half of the attempts write.
    """

    verb: str
    given: dict[str, Any]
    calm: Path
    seconds: float = 0
    instants: int = 0
    old: Path | None = None
    allowed: dict[str, set[str]] = field(default_factory=dict)

    def learn(self, server: Server) -> None:
        """Run undisturbed."""
        result = server.run(self.verb, self.given | {"out": self.calm})
        assert result["ended"] == "done", result
        self.seconds, self.instants = result["seconds"], result["instants"]
        assert self.instants > 10
        for tree in (self.calm, *([self.old] if self.old else [])):
            for name, digest in content(tree).items():
                self.allowed.setdefault(name, set()).add(digest)

    def check_whole(self, out: Path) -> None:
        """Every file is one of an undisturbed run, the old one's or the new one's."""
        if self.verb == "train":
            check_run_whole(out)
            return
        if self.verb in COMPARING:
            for run in [*out.glob("runs/*/*"), *out.glob("trials/*")]:
                check_run_whole(run)
            return
        for name, digest in content(out).items():
            if name == "report.json":  # tells what this very run did
                json.loads((out / name).read_text())
            else:
                assert digest in self.allowed.get(name, ()), f"{name} is not whole"

    def check_same(self, out: Path) -> None:
        """The result is that of an undisturbed run, and nothing lies about."""
        assert not [path for path in out.parent.rglob("*") if is_temporary(path)]
        if self.verb == "train":
            assert run_differences(self.calm, out) == []
            return
        if self.verb in COMPARING:
            assert comparison(out) == comparison(self.calm)
            return
        ours, calm = content(out), content(self.calm)
        if "dataset_description.json" in calm:  # what was made before is skipped and reported
            ours.pop("report.json"), calm.pop("report.json")
        assert ours == calm


def content(out: Path) -> Content:
    """Every finished file and the hash of its bytes."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not any(is_temporary(part) for part in path.relative_to(out).parts)
    }


def comparison(out: Path) -> list[Any]:
    """What a benchmark or a search found, and the names of its files; not how long it took."""
    names = {re.sub(r"trials/\d+", "trials/N", name) for name in content(out)}
    found: list[Any] = [sorted(name for name in names if "tensorboard" not in name)]
    if (out / "benchmark.json").exists():
        return [*found, *(json.loads((out / name).read_text()) if name.endswith("json")
                          else (out / name).read_text()
                          for name in ("benchmark.json", "scores.csv", "summary.csv"))]  # fmt: skip
    with (out / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:  # a trial that was continued has a new number
        del row["trial"], row["seconds"]
    return [*found, rows, yaml.safe_load((out / "best.yaml").read_text())]


def check_run_whole(run: Path) -> None:
    """Whatever has a name in a run can be read."""
    for path in run.glob("checkpoints/*.ckpt"):
        if not is_temporary(path):
            load_checkpoint(path)
    if (run / "bundle" / "bundle.json").exists():
        load_bundle(run)
    if (run / "metrics.csv").exists():
        rows = list(csv.DictReader((run / "metrics.csv").open()))
        assert rows
        assert all(float(row["step"]) > 0 for row in rows)
    for path in [*run.glob("samples/*.png"), *run.glob("*.gif")]:
        if not is_temporary(path):
            with Image.open(path) as image:
                image.load()


def run_differences(one: Path, other: Path) -> list[str]:
    """Where two runs differ but for clocks: both checkpoints, bundle, pictures."""
    found = []
    for name in ("last.ckpt", "best.ckpt"):
        states = [load_checkpoint(run / "checkpoints" / name) for run in (one, other)]
        found += differences(states[0], states[1], name)
    names = [content(run).keys() for run in (one, other)]
    found += [n for n in names[0] ^ names[1] if not n.startswith("tensorboard/")]
    kept = [content(run) for run in (one, other)]
    same = ("samples/", "settings.yaml", "progress.gif", "bundle/weights")
    found += [n for n in kept[0] if n.startswith(same) and kept[0][n] != kept[1].get(n)]
    manifests = [read_manifest(run).model_dump() for run in (one, other)]
    for manifest in manifests:
        del manifest["trained"]["minutes"]
    return found + differences(manifests[0], manifests[1], "bundle.json")


@pytest.fixture(scope="module")
def cases(
    server: Server,
    scans: Path,
    tiny_bundle: Bundle,
    small_store: Store,
    tiny_networks: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Case]:
    """The verbs; translate derivatives of a dataset, files over older ones, a DICOM series."""
    folder = tmp_path_factory.mktemp("calm")
    model = tiny_bundle.path
    assert model is not None
    weights = dict(load_bundle(model).weights)
    weights["to_target.last.bias"] = weights["to_target.last.bias"] + 0.1
    other = save_bundle(tiny_bundle.manifest, weights, folder / "other").path
    files = folder / "files" / "T1"
    for number in range(3):
        voxels = np.random.default_rng(number).integers(0, 255, (32, 30, 1)).astype(np.uint8)
        io.write(Volume(voxels, None), files / f"{number}.png")
    for number in (1, 2):
        name = f"sub-{number:02}_T1w.nii.gz"
        shutil.copy(scans / f"sub-{number:02}/anat/{name}", files / f"{number}.nii.gz")
    old = folder / "old"
    result = server.run("translate", {"model": other, "image": files, "out": old})
    assert result["ended"] == "done", result
    study = folder / "study"
    voxels = np.repeat(np.repeat(studies.marked((8, 8, 5)).voxels, 4, 0), 4, 1)
    studies.write_series(study, Volume(voxels, studies.oblique()))
    small = {
        "networks": tiny_networks,
        "epochs": 2,
        "steps_per_epoch": 2,
        "validation_slices": 2,
        "sample_slices": 1,
        "simulated_weight": 0,
        "warm_up": 0,
    }
    training = {"store": small_store.path, "start": model, "settings": small}
    found = {
        "prepare": Case("prepare", {"source": scans}, folder / "prepared"),
        "dataset": Case("translate", {"model": model, "image": scans}, folder / "derivatives"),
        "files": Case("translate", {"model": model, "image": files}, folder / "made", old=old),
        "dicom": Case("translate", {"model": model, "image": study}, folder / "derived"),
        "train": Case("train", training, folder / "run"),
    }
    for case in found.values():
        case.learn(server)
    return found


@pytest.fixture(scope="module")
def comparisons(
    server: Server,
    small_store: Store,
    tiny_networks: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Case]:
    """The verbs that compare trainings; here a step of a training counts as one second."""
    pytest.importorskip("optuna")
    folder = tmp_path_factory.mktemp("calm")
    small = {"preset": "unet", "validation_slices": 2, "sample_slices": 1, "steps_per_epoch": 2}
    small["networks"] = tiny_networks
    arms = {"plain": small, "quick": small | {"learning_rate": 1e-3}}
    more = {"store": small_store.path, "steps": 6}
    found = {
        "benchmark": Case("benchmark", more | {"arms": arms}, folder / "benchmark"),
        "tune": Case("tune", more | {"settings": small, "trials": 7}, folder / "search"),
    }
    for case in found.values():
        case.learn(server)
    return found


def kill(server: Server, case: Case, count: int, seed: int, folder: Path) -> list[str]:
    """Kill a verb `count` times, each time on what the last one left; returns how.

    Now and then it may finish, and the result is compared with that of an undisturbed run.
    """
    rng = np.random.default_rng(seed)
    killed: list[str] = []
    attempt = 0
    while len(killed) < count:
        attempt += 1
        out = folder / f"{case.verb}-{attempt}"
        if case.old is not None and rng.random() < 0.5:
            shutil.copytree(case.old, out)
        arguments = case.given | {"out": out}
        for _ in range(IN_A_ROW):
            if rng.random() < 0.6:
                how: dict[str, float] = {"instant": int(rng.integers(1, case.instants + 1))}
            else:
                how = {"delay": float(rng.uniform(0, case.seconds))}
            result = server.run(case.verb, arguments, **how)
            assert result["ended"] != "failed", (
                f"{result['trace']} after {killed[-IN_A_ROW:]}, {how}"
            )
            case.check_whole(out)
            if result["ended"] == "done":
                break
            killed.append(f"{out.name}: {how}")
        result = server.run(case.verb, arguments)
        assert result["ended"] == "done", f"{result} after {killed[-IN_A_ROW:]}"
        case.check_same(out)
        shutil.rmtree(out)
    return killed


@pytest.mark.parametrize(
    ("name", "count"), [("prepare", 3), ("dataset", 3), ("files", 3), ("dicom", 3), ("train", 2)]
)
def test_some_kills(
    name: str, count: int, server: Server, cases: dict[str, Case], tmp_path: Path
) -> None:
    assert len(kill(server, cases[name], count, 1, tmp_path)) >= count


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["prepare", "dataset", "files", "dicom", "train"])
def test_many_kills(name: str, server: Server, cases: dict[str, Case], tmp_path: Path) -> None:
    assert len(kill(server, cases[name], 40, 2, tmp_path)) >= 40


@pytest.mark.nightly
@pytest.mark.parametrize("name", COMPARING)
def test_killed_comparisons_find_the_same(
    name: str, server: Server, comparisons: dict[str, Case], tmp_path: Path
) -> None:
    assert len(kill(server, comparisons[name], 6, 3, tmp_path)) >= 6


@pytest.mark.parametrize("name", ["prepare", "dataset", "files", "dicom", "train"])
def test_a_full_disk(name: str, server: Server, cases: dict[str, Case], tmp_path: Path) -> None:
    """Files cannot grow beyond a size: writing fails at their beginning or in the middle."""
    case, out = cases[name], tmp_path / "out"
    if case.old is not None:
        shutil.copytree(case.old, out)
    arguments = case.given | {"out": out}
    failed = 0
    for size in (0, 300, 3000, 30000):
        result = server.run(case.verb, arguments, file_size=size)
        if result["ended"] == "failed":
            failed += 1
            assert result["code"] in (1, 2), result["trace"]
            if result["code"] == 2:
                assert "cannot be written (" in result["error"], result["trace"]
                assert "Check the free space" in result["error"]
        case.check_whole(out)
        assert not [path for path in tmp_path.rglob("*") if is_temporary(path)]
    assert failed >= 2
    assert server.run(case.verb, arguments)["ended"] == "done"
    case.check_same(out)
