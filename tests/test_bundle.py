"""What a run ships: whole, checked, and never unpickled."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.data import golden_bundle

from mrbridge.bundle import Bundle, card, find_bundle, load_bundle, read_manifest, save_bundle
from mrbridge.errors import BundleError, SizeError
from mrbridge.inference.translator import Translator
from mrbridge.networks.settings import Networks, PatchGANSettings, ResNetSettings, UNetSettings


@pytest.fixture
def folder(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may damage."""
    assert tiny_bundle.path is not None
    return shutil.copytree(tiny_bundle.path, tmp_path / "bundle")


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def weights_of(folder: Path) -> Path:
    (path,) = folder.glob("weights-*.safetensors")
    return path


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_round_trip(tiny_bundle: Bundle, folder: Path) -> None:
    loaded = load_bundle(folder)
    assert loaded.manifest == tiny_bundle.manifest
    assert loaded.path == folder
    assert loaded.hash == hashlib.sha256(weights_of(folder).read_bytes()).hexdigest()
    assert loaded.weights.keys() == tiny_bundle.weights.keys()
    for name, value in tiny_bundle.weights.items():
        assert torch.equal(loaded.weights[name], value)


def test_generators_are_distinguished(tiny_bundle: Bundle) -> None:
    one, other = (tiny_bundle.generator_weights(name) for name in ("to_target", "to_source"))
    assert one.keys() == other.keys()
    assert not torch.equal(one["last.weight"], other["last.weight"])


def test_a_generator_is_built_for_inference(folder: Path) -> None:
    bundle = load_bundle(folder)
    for name in ("to_target", "to_source"):
        network = bundle.build(name)
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
        for key, value in network.state_dict().items():
            assert torch.equal(value, bundle.weights[f"{name}.{key}"])
    assert [bundle.generator_that_makes(c) for c in ("T2w", "T1w")] == ["to_target", "to_source"]


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, 11), (torch.bfloat16, 8)])
def test_half_precision_becomes_float32(
    dtype: torch.dtype, bits: int, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    half = {name: value.to(dtype) for name, value in tiny_bundle.weights.items()}
    bundle = load_bundle(save_bundle(tiny_bundle.manifest, half, tmp_path / "half").path)
    assert {value.dtype for value in bundle.weights.values()} == {dtype}
    assert "no such tensor" not in bundle.weights
    for name in ("to_target", "to_source"):
        for key, value in bundle.build(name).state_dict().items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(
                value, tiny_bundle.weights[f"{name}.{key}"], rtol=2**-bits, atol=2**-24
            )


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells what is in memory")
def test_unused_weights_stay_in_their_file(tmp_path: Path, folder: Path) -> None:
    size = 2**24
    weights = {"to_target.w": torch.ones(size // 4), "to_source.w": torch.ones(size // 4)}
    save_bundle(read_manifest(folder), weights, tmp_path / "large")
    loaded = load_bundle(tmp_path / "large")
    assert resident(tmp_path / "large") < size / 2
    assert loaded.weights["to_target.w"].sum() == size // 4
    assert size <= resident(tmp_path / "large") < 1.5 * size


def resident(folder: Path) -> int:
    """Bytes in memory of the files of a folder that are mapped."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(maxsplit=1)[0]:
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


def test_saving_again_replaces_it(folder: Path, tiny_bundle: Bundle) -> None:
    old, unused = load_bundle(folder), load_bundle(folder)
    weights = {name: value + 1 for name, value in old.weights.items()}
    saved = save_bundle(old.manifest, weights, folder)
    assert saved.hash != old.hash
    for name, value in tiny_bundle.weights.items():
        assert torch.equal(unused.weights[name], value), "weights that nothing read before"
    assert load_bundle(folder).hash == saved.hash
    assert sorted(p.name for p in folder.iterdir()) == [
        "bundle.json",
        "card.md",
        saved.manifest.weights,
    ]


def test_weights_that_were_replaced_under_their_name(folder: Path, tmp_path: Path) -> None:
    loaded, expected = load_bundle(folder), load_bundle(folder).weights
    other = {name: torch.zeros_like(value) for name, value in expected.items()}
    save_file(other, tmp_path / "other")
    (tmp_path / "other").replace(folder / loaded.manifest.weights)
    for name, value in expected.items():
        assert torch.equal(loaded.weights[name], value), "those whose checksum was right"


def test_a_run_is_found_by_its_folder(folder: Path, tmp_path: Path) -> None:
    assert find_bundle(folder) == folder
    assert find_bundle(tmp_path) == tmp_path / "bundle"
    assert read_manifest(tmp_path) == read_manifest(folder)


def test_the_shipped_model_goes_by_a_word(
    as_shipped: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_bundle("shipped").path == as_shipped.path
    assert Translator("shipped", "cpu").bundle.hash == as_shipped.hash
    shutil.move(folder, tmp_path / "shipped")
    assert find_bundle("shipped") == Path("shipped"), "what lies in the working directory wins"


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        load_bundle(tmp_path / "absent")
    with pytest.raises(BundleError, match="neither a run with a bundle nor a bundle"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("place", [0, 9, 400, -1])
def test_a_flipped_byte_is_found(folder: Path, place: int) -> None:
    path = weights_of(folder)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"weights-.*checksum differs"):
        load_bundle(folder)


def test_missing_weights(folder: Path) -> None:
    weights_of(folder).unlink()
    with pytest.raises(BundleError, match="weights are missing"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        (0, "Use the version of mrbridge that wrote it"),
        (2, "Update mrbridge"),
        ("1", ""),
        (True, ""),
    ],
)
def test_another_version(folder: Path, version: Any, remedy: str) -> None:
    edit(folder, version=version)
    with pytest.raises(BundleError, match=rf"bundle\.json: has format version.*{remedy}"):
        load_bundle(folder)
    edit(folder, version=None)
    with pytest.raises(BundleError, match="has format version None"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not an mrbridge bundle"),
        ({"surprise": 1}, "damaged: there is no key 'surprise'"),
        ({"typical": {"T1w": {"low": "x", "high": 1}}}, "damaged"),
        ({"networks": {"generator": {"kind": "none"}}}, "damaged"),
        ({"networks": {"generator": {"kind": "unet", "features": -4}}}, "damaged"),
        ({"networks": {"generator": {"kind": "resnet", "blocks": 10**9}}}, "damaged"),
        ({"networks": {"generator": {"kind": "unet"}, "image_size": 100}}, "damaged"),
    ],
)
def test_a_damaged_manifest(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder, **changes)
    with pytest.raises(BundleError, match=message):
        read_manifest(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00", b"[" * 200_000])
def test_a_manifest_that_is_not_a_json_object(folder: Path, content: bytes) -> None:
    (folder / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        read_manifest(folder)


def test_a_pickle_is_refused_and_not_executed(folder: Path, tmp_path: Path) -> None:
    content = pickle.dumps(Trap(tmp_path / "sprung"))
    digest = hashlib.sha256(content).hexdigest()
    for name in ("weights.pkl", "weights.pt", "weights.safetensors"):
        (folder / name).write_bytes(content)
        edit(folder, weights=name, weights_sha256=digest)
        with pytest.raises(BundleError):
            load_bundle(folder)
    torch.save(Trap(tmp_path / "sprung"), folder / "torch.safetensors")
    digest = hashlib.sha256((folder / "torch.safetensors").read_bytes()).hexdigest()
    edit(folder, weights="torch.safetensors", weights_sha256=digest)
    with pytest.raises(BundleError, match="damaged"):
        load_bundle(folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("suffix", ["pt", "pth", "ckpt", "pkl", "bin"])
def test_a_pickle_in_the_place_of_a_model_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{suffix}"
    torch.save(Trap(tmp_path / "sprung"), path)
    with pytest.raises(BundleError, match=rf"model\.{suffix}: is a pickle .*never opened.*folder"):
        load_bundle(path)
    assert not (tmp_path / "sprung").exists()


def test_a_file_of_a_bundle_is_not_the_bundle(folder: Path) -> None:
    for path in (folder / "bundle.json", weights_of(folder)):
        with pytest.raises(BundleError, match=r"a bundle is a folder.*that holds bundle\.json"):
            load_bundle(path)


def test_no_unpickler_is_ever_created(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    made = Translator(folder, "cpu").translate_slices(torch.zeros(1, 32, 32).numpy(), "T2w")
    assert made.shape == (1, 32, 32)


def test_the_golden_bundle_loads_and_gives_the_same_images() -> None:
    expected = json.loads((golden_bundle.FOLDER / "expected.json").read_text())
    made = golden_bundle.numbers(golden_bundle.FOLDER)
    assert made.keys() == expected.keys() == {"T1w", "T2w"}
    for contrast, values in expected.items():
        for name, thousandths in (("mean", 0.1), ("spread", 0.1), ("row", 1)):  # of the range
            assert made[contrast][name] == pytest.approx(values[name], rel=0, abs=thousandths)
    assert load_bundle(golden_bundle.FOLDER).manifest.version == 1


@pytest.mark.parametrize("escape", ["../{}", "{absolute}", "sub/../../{}", "..", "", "."])
def test_weights_outside_are_never_read(folder: Path, tmp_path: Path, escape: str) -> None:
    outside = tmp_path / "outside.safetensors"
    shutil.move(weights_of(folder), outside)
    edit(folder, weights=escape.format(outside.name, absolute=outside))
    with pytest.raises(BundleError, match=r"missing|'weights' cannot be"):
        load_bundle(folder)


def test_weights_that_do_not_fit(folder: Path) -> None:
    bundle = load_bundle(folder)
    for weights in (
        {},
        {name: value[:1] for name, value in bundle.weights.items()},
        {**bundle.weights, "to_target.more": torch.zeros(1)},
    ):
        translator = Translator(Bundle(bundle.manifest, weights, folder), "cpu")
        with pytest.raises(BundleError, match="do not fit"):
            translator.translate_slices(torch.zeros(1, 32, 32).numpy(), "T2w")


def test_scores_that_json_cannot_hold_are_left_out(folder: Path) -> None:
    old = load_bundle(folder)
    scores = {"a": float("nan"), "b": float("inf"), "c": 2.0}
    save_bundle(old.manifest.model_copy(update={"scores": scores}), old.weights, folder)
    assert load_bundle(folder).manifest.scores == {"c": 2.0}


def test_the_card_warns_and_counts(tiny_bundle: Bundle) -> None:
    text = card(tiny_bundle.manifest)
    assert "not for diagnosis" in text
    assert "T1w" in text
    assert "T2w" in text
    assert f"{tiny_bundle.manifest.networks.describe()['total']:,}" in text
    assert "| psnr_target | 12.5 |" in text
    assert tiny_bundle.hash in text


def test_the_parameters_of_the_original_project() -> None:
    counts = Networks(generator=UNetSettings()).describe()
    assert counts == {
        "generator": 54_408_833,
        "critic": 2_763_521,
        "total": 114_344_708,
        "critic_logits": [30, 30],
    }


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ({"generator": UNetSettings(), "image_size": 100}, "multiple of 256"),
        ({"generator": UNetSettings(), "image_size": 128}, "multiple of 256"),
        ({"generator": ResNetSettings(), "image_size": 30}, "multiple of 4"),
        (
            {"generator": ResNetSettings(), "critic": PatchGANSettings(), "image_size": 16},
            "at least 24x24",
        ),
    ],
)
def test_impossible_sizes_are_refused(networks: dict[str, Any], message: str) -> None:
    with pytest.raises(SizeError, match=message):
        Networks(**networks)
