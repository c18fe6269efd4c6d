"""Faults of places: folders, disks, batches, machines."""

from __future__ import annotations

import json
import resource
import socket
from pathlib import Path
from typing import Any
from unittest import mock

from tests.faults.scans import NAME, made, put, stored
from tests.faults.table import Outcome, Workshop, fault, law


@fault("whole")
def full_disk(workshop: Workshop) -> Outcome:
    """A full disk, with an older result in place"""
    path = put(*stored())
    assert workshop.translate(path).code == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        return workshop.refuses(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@fault("whole")
def full_disk_in_preparation(workshop: Workshop) -> Outcome:
    """A full disk during preparation"""
    for contrast in ("T1w", "T2w"):
        put(*stored(), name=f"sub-01_{contrast}.nii.gz")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        return workshop.refused("prepare", ".", "-o", "store")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@fault("whole")
def wrong_on_disk(workshop: Workshop) -> Outcome:
    """A disk that returns other bytes than were written"""
    path = put(*stored())
    from mrbridge.io import nifti

    whole = nifti._save

    def save(header: Any, voxels: Any, path: Path, *, compressed: bool) -> None:
        whole(header, voxels + 1, path, compressed=compressed)

    with mock.patch.object(nifti, "_save", save):
        return workshop.refuses(path)


@fault("whole")
def no_folder(workshop: Workshop) -> Outcome:
    """A folder that cannot be written"""
    Path("file").write_text("mine")
    return workshop.refuses(put(*stored()), out="file/out.nii.gz")


@fault("whole")
def over_its_source(workshop: Workshop) -> Outcome:
    """A result in place of its source"""
    return workshop.refuses(put(*stored()), out=NAME)


@fault("whole")
def over_an_acquired_scan(workshop: Workshop) -> Outcome:
    """A result in place of an acquired scan"""
    put(*stored(), name="sub-01_T2w.nii.gz")
    return workshop.refuses(put(*stored()), out="sub-01_T2w.nii.gz")


@fault("whole")
def foreign_store(workshop: Workshop) -> Outcome:
    """A store in place of other files"""
    for contrast in ("T1w", "T2w"):
        put(*stored(), name=f"sub-01_{contrast}.nii.gz")
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("mine")
    return workshop.refused("prepare", ".", "-o", "mine")


_KILLS = "tests/end_to_end/test_kills_and_full_disks.py"
law("whole", "SIGKILL at any instant of prepare, translate and train, 200 times", f"{_KILLS}::test_many_kills")  # fmt: skip  # noqa: E501
law(
    "whole",
    "a disk that is full after any number of bytes, in all three",
    f"{_KILLS}::test_a_full_disk",
)
law("whole", "two writers", "tests/io/test_atomic.py::test_two_writers_of_one_file")
law("whole", "temporary files are removed, unless their process is alive", "tests/io/test_atomic.py::test_sweeping_takes_the_dead_and_spares_the_living")  # fmt: skip  # noqa: E501


@fault("batch")
def one_bad_scan(workshop: Workshop) -> Outcome:
    """A folder with one damaged scan, translated"""
    Path("in").mkdir()
    for number in (1, 2, 3):
        put(*stored(), name=f"in/sub-0{number}_T1w.nii.gz")
    Path("in/sub-02_T1w.nii.gz").write_bytes(b"damaged")
    outcome = workshop.translate("in", out="out")
    report = json.loads(Path("out/report.json").read_text())
    assert (len(report["done"]), len(report["failed"])) == (2, 1)
    assert report["failed"][0]["source"] == "sub-02_T1w.nii.gz"
    for number in (1, 3):
        made(f"out/sub-0{number}_desc-synth_T2w.nii.gz")
    return outcome


@fault("batch")
def differ_in_case(workshop: Workshop) -> Outcome:
    """Two subjects whose names differ only in case, and whose results would replace each other"""
    for folder in ("s1", "S1"):
        Path("in", folder).mkdir(parents=True)
        put(*stored(), name=f"in/{folder}/T1w.nii.gz")
    outcome = workshop.translate("in", out="out")
    report = json.loads(Path("out/report.json").read_text())
    assert "output of another scan" in report["failed"][0]["error"]
    assert len(report["done"]) == 1
    return outcome


@fault("batch")
def one_bad_scan_to_prepare(workshop: Workshop) -> Outcome:
    """A folder with one damaged scan, prepared"""
    Path("in").mkdir()
    for number in (1, 2):
        for contrast in ("T1w", "T2w"):
            put(*stored(), name=f"in/sub-0{number}_{contrast}.nii.gz")
    Path("in/sub-02_T1w.nii.gz").write_bytes(b"damaged")
    outcome = workshop.run("prepare", "in", "-o", "store")
    manifest = json.loads(Path("store/manifest.json").read_text())
    assert (len(manifest["records"]), len(manifest["failures"])) == (3, 1)
    return outcome


@fault("batch")
def nothing_to_do(workshop: Workshop) -> Outcome:
    """A folder without a scan of the contrast"""
    Path("in").mkdir()
    put(*stored(), name="in/sub-01_FLAIR.nii.gz")
    return workshop.refuses("in", out="out")


@fault("nothing")
def no_network(workshop: Workshop) -> Outcome:
    """No network"""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    with mock.patch.object(socket, "socket", refuse):
        outcome = workshop.translate(put(*stored()))
    made()
    return outcome


@fault("nothing")
def no_gpu(workshop: Workshop) -> Outcome:
    """`--device cuda` without a GPU"""
    import torch

    with mock.patch.object(torch.cuda, "is_available", return_value=False):
        return workshop.refuses(put(*stored()), "--device", "cuda")


@fault("nothing")
def no_gpu_asked(workshop: Workshop) -> Outcome:
    """`--device auto` without a GPU"""
    import torch

    with mock.patch.object(torch.cuda, "is_available", return_value=False):
        outcome = workshop.translate(put(*stored()), "--device", "auto")
    made()
    return outcome
