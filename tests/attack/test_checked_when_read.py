"""Checkpoints, stores and bundles are checked when they are read."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mrbridge.bundle import Bundle, load_bundle, save_bundle
from mrbridge.dataset.store import Store
from mrbridge.errors import StoreError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(small_store: Store, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, which could go on."""
    from mrbridge.training.run import train

    out = tmp_path_factory.mktemp("runs") / "run"
    settings = tiny("unet", epochs=2, stop_after_epochs=1)
    train(small_store, out, settings, device="cpu", start="scratch")
    return out


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def resumed(run: Run, store: Store, copy: Path) -> tuple[int, str]:
    code, _, err = run("train", store.path, "-o", copy, "--resume", "--device", "cpu", "-q")
    return code, err


def flipped(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 16
    path.write_bytes(content)


def test_best_and_last_are_two_files(copy: Path) -> None:
    last, best = (copy / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    assert last.read_bytes() == best.read_bytes()
    assert not last.samefile(best)


@pytest.mark.parametrize("at", [0.0, 0.2, 0.5, 0.8, 0.97, 0.999])
def test_a_flipped_bit_of_a_checkpoint_is_found_and_the_remedy_works(
    at: float, run: Run, small_store: Store, copy: Path
) -> None:
    last = copy / "checkpoints" / "last.ckpt"
    flipped(last, at)
    code, err = resumed(run, small_store, copy)
    assert (code, "damaged" in err, "best.ckpt" in err) == (2, True, True)
    assert len(err.strip().splitlines()) == 1
    if at == 0.5:
        shutil.copy(last.with_name("best.ckpt"), last)
        assert resumed(run, small_store, copy)[0] == 0


def test_files_that_are_not_checkpoints(run: Run, small_store: Store, copy: Path) -> None:
    last = copy / "checkpoints" / "last.ckpt"
    whole = torch.load(last, weights_only=True)
    wrong = whole | {"networks": {k: v[..., :1] for k, v in whole["networks"].items()}}
    states: list[Any] = [{"a": 1}, [1], torch.zeros(3), whole | {"keeper": {}}, wrong]
    for state in [b"", b"PK", *states]:
        if isinstance(state, bytes):
            last.write_bytes(state)
        else:
            torch.save(state, last)  # without a checksum, as older versions wrote them
        code, err = resumed(run, small_store, copy)
        assert (code, len(err.strip().splitlines())) == (2, 1), err
    last.unlink()
    code, err = resumed(run, small_store, copy)
    assert (code, "copy" in err, "remove this" in err) == (2, True, False)
    del whole["keeper"]["settings"], whole["keeper"]["bundle"]
    torch.save(whole, last)
    assert resumed(run, small_store, copy)[0] == 0


@pytest.mark.parametrize("change", [("learning_rate: ", "learning_rate: 1"), ("seed: ", "seed: 1")])
def test_edited_settings_are_reported(
    change: tuple[str, str], run: Run, small_store: Store, copy: Path
) -> None:
    path = copy / "settings.yaml"
    path.write_text(path.read_text().replace(*change, 1))
    code, err = resumed(run, small_store, copy)
    assert (code, change[0].strip(": ") in err) == (2, True)
    assert "edited or replaced" in err


def test_a_bundle_that_is_gone_or_another_is_made_again(
    run: Run, small_store: Store, copy: Path, tiny_bundle: Bundle
) -> None:
    first = load_bundle(copy).hash
    shutil.rmtree(copy / "bundle")
    code, _, err = run(
        "train", small_store.path, "-o", copy, "--resume", "--device", "cpu", "--set", "epochs=1"
    )
    assert (code, "was written again" in err) == (0, True)
    assert load_bundle(copy).hash == first
    shutil.rmtree(copy / "bundle")
    assert tiny_bundle.path is not None
    shutil.copytree(tiny_bundle.path, copy / "bundle")
    code, _, err = run(
        "train", small_store.path, "-o", copy, "--resume", "--device", "cpu", "--set", "epochs=1"
    )
    assert (code, "not that of the checkpoints" in err) == (0, True)
    assert load_bundle(copy).hash == first


def test_a_bundle_is_read_while_it_is_replaced(tiny_bundle: Bundle, tmp_path: Path) -> None:
    kinds = [{k: v + n for k, v in tiny_bundle.weights.items()} for n in (0, 1)]
    hashes = {save_bundle(tiny_bundle.manifest, kinds[n], tmp_path).hash for n in (0, 1)}
    ended = threading.Event()

    def replace() -> None:
        while not ended.is_set():
            for kind in kinds:
                save_bundle(tiny_bundle.manifest, kind, tmp_path)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        assert {load_bundle(tmp_path).hash for _ in range(60)} <= hashes
    finally:
        ended.set()
        writer.join()


@pytest.fixture
def store(small_store: Store, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_store.path, tmp_path / "store"))


@pytest.mark.parametrize("at", [0.05, 0.3, 0.5, 0.7, 0.9])
def test_a_flipped_bit_of_a_slice_is_found(at: float, store: Path) -> None:
    record = Store.open(store).records()[0]
    chunks = [
        p for p in (store / "scans" / f"{record.id}.zarr").rglob("*") if p.name != "zarr.json"
    ]
    flipped(next(p for p in chunks if p.is_file()), at)
    opened = Store.open(store)
    with pytest.raises(StoreError):
        [opened.slice(record, index) for index in range(record.shape[0])]


def test_arrays_that_changed_places_are_found(store: Path) -> None:
    one, other, *_ = Store.open(store).records()
    paths = [store / "scans" / f"{r.id}.zarr" for r in (one, other)]
    paths[0].rename(store / "x")
    paths[1].rename(paths[0])
    (store / "x").rename(paths[1])
    with pytest.raises(StoreError):
        Store.open(store).slice(one, 0)


def edit(manifest: dict[str, Any], how: str) -> None:
    first = manifest["records"][0]
    if how == "outside":
        first["id"] = "../../outside"
    elif how == "absolute":
        first["id"] = "/etc"
    elif how == "none":
        manifest["records"] = []
    elif how == "twice":
        manifest["records"].append(first)
    elif how == "indices":
        first["slice_indices"] = first["slice_indices"][:1]
    elif how == "segments":
        first["segments"] = {"train": [[0, 10**9]]}
    elif how == "many":
        first["shape"] = [10**9, 4, 4]
    elif how == "typical":
        manifest["typical"] = {}


HOW = ["outside", "absolute", "none", "twice", "indices", "segments", "many", "typical"]


@pytest.mark.parametrize("how", HOW)
def test_edited_manifests_are_reported_in_one_line(
    how: str, run: Run, store: Path, tmp_path: Path
) -> None:
    shutil.copytree(next((store / "scans").glob("*.zarr")), tmp_path / "outside.zarr")
    path = store / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest, how)
    path.write_text(json.dumps(manifest))
    for command in (("inspect", store), ("train", store, "-o", tmp_path / "run")):
        code, _, err = run(*command)
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert "manifest.json: is damaged" in err
