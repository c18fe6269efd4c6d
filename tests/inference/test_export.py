"""Exported networks give in ONNX Runtime what they give in PyTorch, and say what they are."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from mrbridge.bundle import Bundle
from mrbridge.errors import BundleError, OutputError, SettingsError
from mrbridge.inference import export as module
from mrbridge.inference.export import export
from mrbridge.inference.translator import Translator

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


def test_names(written: list[Path]) -> None:
    names = ["T1w_to_T2w.onnx", "T2w_to_T1w.onnx", "any_contrast.onnx"]
    assert [path.name for path in written] == names
    assert sorted(written[0].parent.iterdir()) == written


@pytest.mark.parametrize("index", [0, 1])
def test_they_run_elsewhere(index: int, written: list[Path], tiny_bundle: Bundle) -> None:
    onnx.checker.check_model(str(written[index]), full_check=True)
    session = onnxruntime.InferenceSession(str(written[index]), providers=["CPUExecutionProvider"])
    network = tiny_bundle.build(("to_target", "to_source")[index])
    rng = np.random.default_rng(index)
    for shape in [(1, 1, 16, 16), (3, 1, 32, 64)]:
        image = rng.uniform(-1, 1, shape).astype(np.float32)
        (made,) = session.run(["synthesis"], {"image": image})
        with torch.inference_mode():
            expected = network(torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(made, expected, atol=1e-5)


def test_they_state_what_they_are(written: list[Path], four_bundle: Bundle) -> None:
    metadata = {p.key: p.value for p in onnx.load(str(written[1])).metadata_props}
    assert (metadata["source"], metadata["target"]) == ("T2w", "T1w")
    assert metadata["bias_correction"] == "none"
    assert (metadata["spacing_mm"], metadata["range"], metadata["multiple"]) == (
        "1",
        "[-1, 1]",
        "16",
    )
    assert metadata["least_size"] == str(four_bundle.manifest.least_size) == "16"
    assert metadata["bundle_sha256"] == four_bundle.hash
    assert "synthetic; for research, not for diagnosis" in metadata["description"]
    typical = four_bundle.manifest.typical["T1w"]
    assert json.loads(metadata["typical"]) == typical.model_dump(mode="json")


def test_the_generator_of_any_contrast(written: list[Path], four_bundle: Bundle) -> None:
    path = written[-1]
    metadata = {p.key: p.value for p in onnx.load(str(path)).metadata_props}
    inputs = json.loads(metadata["input_channels"])
    outputs = json.loads(metadata["output_channels"])
    assert inputs == [*outputs, "unknown"]
    assert json.loads(metadata["typical"]).keys() == set(outputs)

    direction = four_bundle.direction(("T2w", "T1w"), "FLAIR")
    stacks = list(np.random.default_rng(0).uniform(-1, 1, (2, 3, 32, 64)).astype(np.float32))
    images = np.zeros((3, len(inputs), 32, 64), np.float32)
    for contrast, stack in zip(direction.given, stacks, strict=True):
        images[:, inputs.index(str(contrast))] = stack
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (made,) = session.run(["synthesis"], {"image": images})
    translate = Translator(four_bundle, "cpu").slice_translator(direction)
    (expected,) = translate.computed(stacks, in_float32=True)
    np.testing.assert_allclose(made[:, outputs.index("FLAIR")], expected, atol=1e-5)


def test_they_do_not_reveal_where_they_were_written(written: list[Path]) -> None:
    for path in written:
        assert b".py" not in path.read_bytes()


def test_an_unknown_format(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot export to 'tflite'"):
        export(tiny_bundle, tmp_path / "out", to="tflite")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_as_onnx", lambda bundle, generator: b"a network")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="out"):
        export(tiny_bundle, tmp_path / "out")


def test_packages_that_are_missing(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda package: None)
    with pytest.raises(SettingsError, match=r"needs onnx and onnxscript.*'mrbridge\[onnx\]'"):
        export(tiny_bundle, tmp_path / "out")
    root = Path(__file__).parents[2]
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extra = {word.split(">")[0] for word in declared["optional-dependencies"]["onnx"]}
    assert extra == set(module._PACKAGES)


def test_weights_that_do_not_fit(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="do not fit"):
        export(Bundle(tiny_bundle.manifest, {}), tmp_path / "out")
