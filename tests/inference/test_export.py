"""ONNX files: kept in the user's cache, and never trusted blindly."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mrbridge.bundle import Bundle, load_bundle, save_bundle
from mrbridge.errors import BundleError, OutputError, SettingsError
from mrbridge.inference import export as module
from mrbridge.inference.export import export, exported

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy of the tiny bundle, without exports."""
    assert tiny_bundle.path is not None
    ignore = shutil.ignore_patterns("onnx")
    return load_bundle(shutil.copytree(tiny_bundle.path, tmp_path / "bundle", ignore=ignore))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Export is a matter of an instant; gives the list of what was exported."""
    made: list[str] = []

    def as_onnx(bundle: Bundle, generator: str) -> bytes:
        made.append(generator)
        return f"{generator} of {bundle.hash}, {len(made)}".encode()

    monkeypatch.setattr(module, "_as_onnx", as_onnx)
    return made


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the ONNX files of a test are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mrbridge" / "onnx"


@pytest.fixture(scope="module")
def written(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Both generators of the tiny bundle, exported by the verb."""
    assert tiny_bundle.path is not None
    return export(tiny_bundle.path, tmp_path_factory.mktemp("export") / "new")


class TestKept:
    def test_it_is_made_once(self, bundle: Bundle, quick: list[str], cache: Path) -> None:
        first = exported(bundle, "to_target")
        assert exported(bundle, "to_target") == first
        assert exported(load_bundle(bundle.path), "to_target") == first
        assert exported(Bundle(bundle.manifest, bundle.weights), "to_target") == first
        assert first.multiple == 16
        exported(bundle, "to_source")
        assert quick == ["to_target", "to_source"]
        assert len(list(cache.iterdir())) == 2
        assert first.path in cache.iterdir()
        assert not (bundle.path / "onnx").exists()

    @pytest.mark.parametrize("damage", [b"", b"other", None])
    def test_a_damaged_one_is_made_anew(
        self, damage: bytes | None, bundle: Bundle, quick: list[str]
    ) -> None:
        path = exported(bundle, "to_target").path
        if damage is None:
            path.unlink()
            path.mkdir()
        else:
            path.write_bytes(damage)
        whole = exported(bundle, "to_target").path
        assert quick == ["to_target", "to_target"]
        assert whole.read_bytes().startswith(b"to_target of")
        assert exported(bundle, "to_target").path == whole

    def test_other_weights_have_another(self, bundle: Bundle, quick: list[str]) -> None:
        old = exported(bundle, "to_target").path
        weights = {name: value + 1 for name, value in bundle.weights.items()}
        new = exported(save_bundle(bundle.manifest, weights, bundle.path), "to_target").path
        assert new != old

    def test_the_cache_stays_small(self, bundle: Bundle, quick: list[str], cache: Path) -> None:
        cache.mkdir(parents=True)
        for number in range(20):
            (cache / f"to_target-{number}-0.onnx").touch()
            os.utime(cache / f"to_target-{number}-0.onnx", (number, number))
        path = exported(bundle, "to_target").path
        left = set(cache.iterdir())
        assert left == {path} | {cache / f"to_target-{number}-0.onnx" for number in range(5, 20)}

    def test_other_settings_of_the_same_weights(self, bundle: Bundle, quick: list[str]) -> None:
        old = exported(bundle, "to_target").path
        path = bundle.path / "bundle.json"
        told = json.loads(path.read_text())
        told["networks"]["generator"]["norm"] = "batch"
        path.write_text(json.dumps(told))
        assert exported(load_bundle(bundle.path), "to_target").path != old

    def test_a_file_in_the_bundle_is_not_used(self, bundle: Bundle, quick: list[str]) -> None:
        path = exported(bundle, "to_target").path
        shutil.copytree(path.parent, bundle.path / "onnx")
        path.unlink()
        assert exported(bundle, "to_target").path.parent == path.parent
        assert quick == ["to_target", "to_target"]

    @pytest.mark.parametrize("home", ["full", "relative", "none"])
    def test_without_a_cache(
        self,
        home: str,
        bundle: Bundle,
        quick: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def no_home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CACHE_HOME", "cache")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        if home == "none":
            monkeypatch.setattr(module.Path, "home", no_home)
        elif home == "full":
            (tmp_path / "home").write_text("in the way")
        made = exported(bundle, "to_target")
        assert not (tmp_path / "cache").exists()
        if home == "relative":
            assert made.path.is_relative_to(tmp_path / "home" / ".cache" / "mrbridge")
        elif home == "none":  # a private folder, which goes with the process
            assert made.path.is_relative_to(tempfile.gettempdir())
            assert not made.path.is_relative_to(tmp_path)
        else:
            assert made.path is None
            assert made.content.startswith(b"to_target of")

    def test_weights_that_do_not_fit(self, bundle: Bundle) -> None:
        broken = Bundle(bundle.manifest, {}, bundle.path)
        with pytest.raises(BundleError, match="do not fit"):
            exported(broken, "to_target")


class TestVerb:
    def test_names(self, written: list[Path]) -> None:
        assert [path.name for path in written] == ["T1w_to_T2w.onnx", "T2w_to_T1w.onnx"]
        assert sorted(written[0].parent.iterdir()) == written

    @pytest.mark.parametrize("index", [0, 1])
    def test_they_run_elsewhere(self, index: int, written: list[Path], tiny_bundle: Bundle) -> None:
        onnx.checker.check_model(str(written[index]), full_check=True)
        session = onnxruntime.InferenceSession(
            str(written[index]), providers=["CPUExecutionProvider"]
        )
        network = tiny_bundle.build(("to_target", "to_source")[index])
        rng = np.random.default_rng(index)
        for shape in [(1, 1, 16, 16), (3, 1, 32, 64)]:
            image = rng.uniform(-1, 1, shape).astype(np.float32)
            (made,) = session.run(["synthesis"], {"image": image})
            with torch.inference_mode():
                expected = network(torch.from_numpy(image)).numpy()
            np.testing.assert_allclose(made, expected, atol=1e-5)

    def test_they_tell_what_they_are(self, written: list[Path], tiny_bundle: Bundle) -> None:
        told = {p.key: p.value for p in onnx.load(str(written[1])).metadata_props}
        assert (told["source"], told["target"]) == ("T2w", "T1w")
        assert told["bias_correction"] == "none"
        assert (told["spacing_mm"], told["range"], told["multiple"]) == ("1", "[-1, 1]", "16")
        assert told["least_size"] == str(tiny_bundle.manifest.least_size) == "16"
        assert told["bundle_sha256"] == tiny_bundle.hash
        assert "synthetic; for research, not for diagnosis" in told["description"]
        typical = tiny_bundle.manifest.typical["T1w"]
        assert json.loads(told["typical"]) == typical.model_dump(mode="json")

    def test_they_do_not_tell_where_they_were_made(self, written: list[Path]) -> None:
        for path in written:
            assert b".py" not in path.read_bytes()

    def test_an_unknown_format(self, tiny_bundle: Bundle, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="cannot export to 'tflite'"):
            export(tiny_bundle, tmp_path / "out", to="tflite")
        assert not (tmp_path / "out").exists()

    def test_a_place_that_cannot_be_written(
        self, tiny_bundle: Bundle, quick: list[str], tmp_path: Path
    ) -> None:
        (tmp_path / "out").write_text("a file")
        with pytest.raises(OutputError, match="out"):
            export(tiny_bundle, tmp_path / "out")
