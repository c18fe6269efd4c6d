"""The shipped model, and the paths of other models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mrbridge import models
from mrbridge.bundle import load_bundle
from mrbridge.errors import BundleError
from mrbridge.inference.translator import Translator
from mrbridge.volume import Volume

FOLDER = Path(models.__file__).parent / "t1w_t2w"


def test_a_path_is_returned_unchanged(tmp_path: Path) -> None:
    assert models.locate(tmp_path) == tmp_path
    assert models.locate(str(tmp_path)) == tmp_path
    with pytest.raises(BundleError, match=r"absent: does not exist\. Name a run"):
        models.locate(tmp_path / "absent")


def test_the_shipped_model_goes_by_a_word_or_by_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_HERE", tmp_path / "mrbridge")
    bundle = tmp_path / "mrbridge" / "t1w_t2w"
    bundle.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("shipped", Path("shipped"), None):
        with pytest.raises(BundleError, match=r"t1w_t2w: holds no shipped model\. Name .* -m"):
            models.locate(name)
    (bundle / "bundle.json").touch()
    for name in ("shipped", Path("shipped"), None):
        assert models.locate(name) == bundle
    (tmp_path / "shipped").mkdir()
    assert models.locate("shipped") == bundle, "a folder that holds no model is not meant"
    (tmp_path / "shipped" / "bundle.json").touch()
    assert models.locate("shipped") == Path("shipped"), "a model in the working directory wins"
    assert models.locate(None) == bundle


def test_what_belongs_to_mrbridge(tmp_path: Path) -> None:
    assert models.is_installed(FOLDER)
    assert not models.is_installed(tmp_path / "models" / "t1w_t2w")


@pytest.mark.skipif(not FOLDER.exists(), reason="the shipped model is not trained yet")
def test_the_model_itself(make_scan: Callable[..., Volume]) -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 40e6
    assert {path.suffix for path in FOLDER.iterdir()} == {".json", ".md", ".safetensors"}
    bundle = load_bundle("shipped")
    assert (bundle.source, bundle.target) == ("T1w", "T2w")
    assert torch.float16 in {value.dtype for value in bundle.weights.values()}
    for name in ("to_target", "to_source"):
        floats = [v for v in bundle.build(name).state_dict().values() if v.is_floating_point()]
        assert {value.dtype for value in floats} == {torch.float32}
    translator = Translator(bundle, "cpu")
    for source, target in (("T1w", "T2w"), ("T2w", "T1w")):
        made = translator.translate(make_scan(1, source, shape=(40, 48, 3)))
        assert made.contrast == target
        assert np.isfinite(made.voxels).all()
        assert np.ptp(made.voxels) > 0
