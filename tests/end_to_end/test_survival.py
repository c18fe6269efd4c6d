"""A batch survives its worst scan; streams, folders and variables that are not as usual."""

from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tensorboard.summary.writer.record_writer import RecordWriter
from tests.training.small import SMALL_RESNET

from mrbridge import io
from mrbridge.dataset.store import Store
from mrbridge.errors import MrbridgeWarning

GOLDEN = Path(__file__).parents[1] / "data" / "golden-bundle"
MODEL = ("-m", GOLDEN, "--device", "cpu", "-q")
Runner = Callable[..., tuple[int, str, str]]


@pytest.fixture
def scans(bids_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three T1w scans in a folder; details of errors go to a folder next to it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in (1, 2, 3):
        name = f"sub-0{number}_T1w.nii.gz"
        shutil.copy(bids_scans / f"sub-0{number}" / "anat" / name, folder / name)
    return folder


def in_one_line(err: str) -> bool:
    """Whether there is a message, and no traceback."""
    return "Traceback" not in err and all(line.startswith("error: ") for line in err.splitlines())


def failures(report: Path) -> dict[str, str]:
    """What a report says of scans that failed."""
    return {row["source"]: row["error"] for row in json.loads(report.read_text())["failed"]}


class TestBatch:
    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (MemoryError(), "needs more memory than is available"),
            (
                RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate"),
                "needs more memory than is available",
            ),
            (RuntimeError("CUDA out of memory. Tried to allocate"), "needs more memory"),
            (
                PermissionError(13, "Permission denied", "x.nii"),
                "used (permission denied)",
            ),
            (KeyError("unforeseen"), "(KeyError)"),
        ],
    )
    def test_one_scan_fails_in_any_way(
        self,
        error: Exception,
        reason: str,
        run: Runner,
        scans: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from mrbridge.inference import synthesis

        def read(path: Path, **how: Any) -> Any:
            if path.name.startswith("sub-02"):
                raise error
            return io.read(path, **how)

        monkeypatch.setattr(synthesis, "read", read)
        code, _, err = run("translate", "-i", scans, "-o", tmp_path / "out", *MODEL)
        assert code == 1
        assert "Traceback" not in err
        (failure,) = failures(tmp_path / "out" / "report.json").items()
        assert failure[0] == "sub-02_T1w.nii.gz"
        assert reason in failure[1]
        assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2
        details = list((tmp_path / "state").rglob("*.txt"))
        assert len(details) == isinstance(error, KeyError)
        for file in details:
            assert "unforeseen" in file.read_text()
            assert file.stat().st_mode & 0o777 == 0o600
        # As the only input, it is one line that names the file.
        one = scans / "sub-02_T1w.nii.gz"
        code, _, err = run("translate", "-i", one, "-o", tmp_path / "x.nii.gz", *MODEL)
        assert (code, err.count("\n")) == (2, 1)
        assert in_one_line(err)
        if "memory" in reason:
            assert one.name in err

    def test_a_name_that_becomes_too_long(self, run: Runner, scans: Path, tmp_path: Path) -> None:
        name = f"sub-{'a' * 235}_T1w.nii.gz"
        (scans / "sub-01_T1w.nii.gz").rename(scans / name)
        assert run("translate", "-i", scans, "-o", tmp_path / "out", *MODEL)[0] == 1
        assert list(failures(tmp_path / "out" / "report.json")) == [name]

    def test_a_source_that_vanishes(
        self, run: Runner, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from mrbridge.inference import output

        synthesise = output.synthesise

        def gone(request: Any, scan: Any, path: Path) -> Any:
            result = synthesise(request, scan, path)
            path.unlink()
            return result

        monkeypatch.setattr(output, "synthesise", gone)
        assert run("translate", "-i", scans, "-o", tmp_path / "out", *MODEL)[0] == 0
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert len(report["done"]) == 3
        assert all(len(row["source_sha256"]) == 64 for row in report["done"])

    @pytest.mark.parametrize("verb", ["folder", "BIDS", "prepare"])
    def test_a_folder_that_cannot_be_read(
        self,
        verb: str,
        run: Runner,
        bids_scans: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        root = shutil.copytree(bids_scans, tmp_path / "bids")
        if verb == "folder":
            (root / "dataset_description.json").unlink()
            for path in root.glob("sub-*"):
                path.rename(root / path.name.removeprefix("sub-"))
        locked = sorted(root.iterdir())[-1]
        listing = os.scandir

        def scandir(path: Any = ".") -> Any:
            if str(path) == str(locked):
                raise PermissionError(13, "Permission denied", str(locked))
            return listing(path)

        monkeypatch.setattr(os, "scandir", scandir)
        out = tmp_path / "out"
        line = {"prepare": ["prepare", root, "-o", out, "-q"]}
        code, _, _ = run(*line.get(verb, ["translate", "-i", root, "-o", out, *MODEL]))
        assert code == 1
        found = failures(out / "report.json")
        assert found == {locked.name: "is a folder that cannot be read (Permission denied)"}

    def test_nan_in_a_sidecar(self, bids_scans: Path, tmp_path: Path) -> None:
        root = shutil.copytree(bids_scans, tmp_path / "bids")
        text = '{"SkullStripped": NaN, "AnatomicalLandmarkCoordinates": {"AC": [NaN, 1, Infinity]}}'
        (root / "sub-01" / "anat" / "sub-01_T1w.json").write_text(text)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "mrbridge",
                "translate",
                "-i",
                str(root),
                "-o",
                str(tmp_path / "out"),
            ]
            + [str(one) for one in MODEL if one != "-q"],
            env=os.environ | {"PYTHONWARNINGS": "error"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "holds NaN, which JSON does not have" in done.stderr
        assert "Traceback" not in done.stderr
        assert len(list((tmp_path / "out").rglob("*_T2w.json"))) == 4

    def test_cyclic_links(self, run: Runner, bids_scans: Path, tmp_path: Path) -> None:
        root = shutil.copytree(bids_scans, tmp_path / "bids")
        (root / "notes.pdf").symlink_to("notes.pdf")
        assert run("prepare", root, "-o", tmp_path / "store", "-q")[0] == 0
        loop = tmp_path / "loop"
        loop.symlink_to("loop")
        for line in (
            ["translate", "-i", root, "-o", loop, *MODEL],
            ["translate", "-i", root / "sub-01/anat/sub-01_T1w.nii.gz", "-o", loop, *MODEL],
            ["prepare", root, "-o", loop, "-q"],
        ):
            code, _, err = run(*line)
            assert (code, err.count("\n")) == (2, 1), err
            assert "loop" in err

    def test_an_evaluation_that_cannot_be_written(
        self, run: Runner, bids_scans: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("mine")
        out = tmp_path / "file" / "scores"
        code, _, err = run("evaluate", "--real", bids_scans, "--synthetic", bids_scans, "-o", out)
        assert code == 2
        assert "none could be scored" not in err


class TestSurroundings:
    def shell(self, line: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run a command line in bash, `mrbridge` being this one."""
        line = line.replace("mrbridge", f"{sys.executable} -m mrbridge", 1)
        return subprocess.run(["bash", "-c", line], capture_output=True, text=True, **how)

    @pytest.mark.parametrize(
        ("line", "code", "out", "err"),
        [
            ("mrbridge info unet 2>&-", 0, "preset: unet", ""),
            ("mrbridge info unet >&-", 0, "", ""),
            ("mrbridge info unett 2>&-", 2, "", ""),
            ("mrbridge info unet >/dev/full", 2, "", "error: standard output: cannot be written"),
            ("mrbridge info unett 2>/dev/full", 2, "", ""),
            ("mrbridge -h | true; exit ${PIPESTATUS[0]}", 141, "", ""),
            ("mrbridge info unet | true; exit ${PIPESTATUS[0]}", 141, "", ""),
            ('mrbridge export -m unet -o ""', 2, "", "error: -o is empty"),
            ("mrbridge export -m unet --out=", 2, "", "error: --out is empty"),
        ],
    )
    def test_streams_and_empty_arguments(self, line: str, code: int, out: str, err: str) -> None:
        done = self.shell(line)
        assert done.returncode == code, done
        assert done.stdout.startswith(out)
        assert done.stderr.startswith(err)
        assert done.stderr.count("\n") == bool(err)

    def test_a_working_directory_that_was_deleted(self, tmp_path: Path) -> None:
        line = f"mkdir x; cd x; rmdir ../x; {sys.executable} -P -m mrbridge info unet"
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr == "error: the working directory was deleted. Change to another one.\n"

    def test_a_pipe_in_the_place_of_the_output(
        self, run: Runner, scans: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out.nii.gz"
        os.mkfifo(out)
        code, _, err = run("translate", "-i", scans / "sub-01_T1w.nii.gz", "-o", out, *MODEL)
        assert code == 2
        assert "is a pipe or a device" in err or "was not made by mrbridge" in err
        assert out.is_fifo()

    def test_a_user_without_a_home(
        self, run: Runner, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unknown(_: int) -> Any:
            raise KeyError

        for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(pwd, "getpwuid", unknown)
        one, out = scans / "sub-01_T1w.nii.gz", tmp_path / "out.nii.gz"
        code, _, err = run("translate", "-i", one, "-o", out, *MODEL)
        assert code == 0, err

    def test_errors_of_floating_point(self, scans: Path, tmp_path: Path) -> None:
        volume = io.read(scans / "sub-01_T1w.nii.gz")
        path = io.write(volume, tmp_path / "x.nii")
        content = bytearray(path.read_bytes())
        content[112:116] = np.float32(1e38).tobytes()  # scl_slope
        path.write_bytes(content)
        with np.errstate(all="raise"), pytest.warns(MrbridgeWarning, match="NaN or infinite"):
            assert np.isfinite(io.read(path).voxels).all()


def test_a_training_that_diverges(run: Runner, small_store: Store, tmp_path: Path) -> None:
    tiny = ["networks.image_size=64", "simulated_weight=0", "epochs=1", "steps_per_epoch=2"]
    tiny += ["validation_slices=1", "warm_up=0", "learning_rate=1e30"]
    options = [part for one in tiny for part in ("--set", one)]
    run_ = ["-o", tmp_path / "run", "--from", "scratch", "--device", "cpu", "-q"]
    code, _, err = run("train", small_store.path, *run_, *options)
    assert code == 2
    assert err.count("\n") == 1
    assert "diverged" in err


@pytest.mark.parametrize("records", [0, 30])
def test_no_room_for_tensorboard(
    records: int, run: Runner, small_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up while TensorBoard writes, in a thread of its own."""
    written = 0
    write = RecordWriter.write

    def full(self: RecordWriter, data: bytes) -> None:
        nonlocal written
        written += 1
        if written > records:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data)

    monkeypatch.setattr(RecordWriter, "write", full)
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(SMALL_RESNET | {"epochs": 2, "simulated_weight": 0}))
    line = ["train", small_store.path, "-o", tmp_path / "run", "--device", "cpu", "-q"]
    code, _, err = run(*line, "--preset", "resnet", "--config", config)
    assert code == 2, err
    assert err.count("\n") == 1
    assert err.startswith(f"error: {tmp_path / 'run' / 'tensorboard'}: cannot be written (No space")
    monkeypatch.undo()
    if records > 1:
        assert run(*line, "--resume")[0] == 0


def test_one_volume_of_a_series_that_is_too_large_as_a_whole(
    run: Runner, make_scan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mrbridge.io import nifti

    volume = make_scan(1, "T1w")
    path = io.write(volume, tmp_path / "sub-01_T1w.nii")
    content = bytearray(path.read_bytes())
    content[40:50] = np.array([4, *volume.voxels.shape, 3], "<i2").tobytes()
    path.write_bytes(bytes(content) + 2 * bytes(content[352:]))
    monkeypatch.setattr(nifti, "MAX_VOXELS", 2 * volume.voxels.size)
    out = tmp_path / "out.nii.gz"
    code, _, err = run("translate", "-i", path, "-o", out, *MODEL)
    assert code == 2
    assert "Choose one with --volume" in err
    assert run("translate", "-i", path, "-o", out, *MODEL, "--volume", "0")[0] == 0
