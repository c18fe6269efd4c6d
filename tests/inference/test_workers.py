"""Translation and evaluation by several processes give what one gives, bit for bit."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrbridge.bundle import Bundle, load_bundle, save_bundle
from mrbridge.errors import BundleError, SomeScansFailed
from mrbridge.inference.translate import translate
from mrbridge.inference.translator import Translator
from mrbridge.volume import Volume


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "dataset_description.json"  # links from where it lies
    }


@pytest.fixture
def folder(bids_scans: Path, tmp_path: Path) -> Path:
    """A folder that is not a dataset, with a damaged scan among the others."""
    for path in bids_scans.rglob("*_T1w.nii.gz"):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "in" / path.name)
    (tmp_path / "in" / "sub-02_T1w.nii.gz").write_bytes(b"damaged")
    return tmp_path / "in"


def test_a_folder(tiny_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    made = {}
    for workers in (1, 2):
        with pytest.raises(SomeScansFailed, match="1 of 4 scans failed"):
            translate(folder, tmp_path / str(workers), model=tiny_bundle.path, workers=workers)
        made[workers] = files(tmp_path / str(workers))
    assert made[1] == made[2]
    assert len(made[1]) == 3 * 2 + 1


@pytest.mark.slow
def test_processes_that_start_afresh(
    tiny_bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows and macOS: `translate --workers 2` gives what one process gives."""
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    made = []
    for workers in (1, 2):
        with pytest.raises(SomeScansFailed, match="1 of 4 scans failed"):
            translate(folder, tmp_path / str(workers), model=tiny_bundle.path, workers=workers)
        made.append(files(tmp_path / str(workers)))
    assert made[0] == made[1]


@pytest.mark.slow
def test_a_data_set_with_a_worker_killed(
    tiny_bundle: Bundle, bids_scans: Path, tmp_path: Path
) -> None:
    translate(bids_scans, tmp_path / "1", model=tiny_bundle.path)
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    )
    out = tmp_path / "2"
    with cluster, distributed.Client(cluster, set_as_default=False) as client:
        process = min(client.run(os.getpid).values())

        def kill_when_one_is_done() -> None:
            while not list(out.rglob("*.nii.gz")):
                time.sleep(0.005)
            os.kill(process, signal.SIGKILL)

        killer = threading.Thread(target=kill_when_one_is_done)
        killer.start()
        address = cluster.scheduler_address
        first = translate(bids_scans, out, model=tiny_bundle.path, workers=address)
        killer.join()
        again = translate(bids_scans, out, model=tiny_bundle.path, workers=address)
    contents = {name: content for name, content in files(out).items() if name != "report.json"}
    assert contents == {
        name: content for name, content in files(tmp_path / "1").items() if name != "report.json"
    }
    assert [item.error for item in first] == [None] * 4
    assert all(item.skipped for item in again)


def test_a_model_in_memory_stays_in_this_process(
    tiny_bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrbridge.parallel.processes.in_processes", None)
    (folder / "sub-02_T1w.nii.gz").unlink()
    bundle = Bundle(tiny_bundle.manifest, tiny_bundle.weights)
    assert len(translate(folder, tmp_path / "out", model=bundle, workers=2)) == 3


def test_a_model_that_was_replaced_is_not_used(
    tiny_bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    save_bundle(tiny_bundle.manifest, tiny_bundle.weights, tmp_path / "model")
    before = load_bundle(tmp_path / "model")
    sent = pickle.dumps(Translator(before, "cpu"))
    weights: dict[str, Any] = dict(before.weights)
    weights["to_target.last.bias"] = weights["to_target.last.bias"] + 0.1
    save_bundle(tiny_bundle.manifest, weights, tmp_path / "model")
    with pytest.raises(BundleError, match="was replaced"):
        pickle.loads(sent)
    with pytest.raises(SomeScansFailed) as caught:
        translate(folder, tmp_path / "out", model=before, device="cpu", workers=2)
    assert ["was replaced" in item.error for item in caught.value.result] == [True] * 4


def test_a_translator_is_pickled_as_the_path_of_its_model(
    tiny_bundle: Bundle, make_scan: Callable[..., Volume]
) -> None:
    translator = Translator("shipped", "cpu")
    sent = pickle.dumps(translator)
    assert len(sent) < 1000
    assert pickle.loads(sent) is pickle.loads(sent), "loaded once in a process"
    assert pickle.loads(sent).bundle.hash == translator.bundle.hash
    scan = make_scan(1, "T1w")
    in_memory = Translator(Bundle(tiny_bundle.manifest, dict(tiny_bundle.weights)), "cpu")
    expected = Translator(tiny_bundle, "cpu").translate(scan).voxels
    assert (pickle.loads(pickle.dumps(in_memory)).translate(scan).voxels == expected).all()
