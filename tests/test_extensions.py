"""Users' own networks, losses, augmentations and preprocessing steps: the package in `examples`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import TINY_NETWORKS

from mrbridge import load_bundle, train
from mrbridge.bundle import read_manifest
from mrbridge.dataset.augment import Augmentation
from mrbridge.dataset.settings import AugmentSettings, PrepareSettings
from mrbridge.errors import SettingsError
from mrbridge.extensions import Extension, code_in, completed
from mrbridge.preprocessing.preprocess import preprocess
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.training.checkpoint import load_checkpoint
from mrbridge.training.settings import TrainSettings, resolve

EXAMPLE = Path(__file__).parents[1] / "examples" / "extension"
MODULE = "mrbridge_example"

CHANGES = (
    *("--preset", "unet", "--device", "cpu", "--set", "networks.image_size=32"),
    *("--set", f"networks.generator.kind={MODULE}:PlainGenerator"),
    *("--set", "networks.generator.width=4", "--set", "networks.critic.features=4"),
    *("--set", "networks.critic.strided=1", "--set", "steps_per_epoch=2"),
    *("--set", "validation_slices=2", "--set", "sample_slices=1"),
    *("--set", f"extra_losses.edges.kind={MODULE}:gradient_loss"),
    *("--set", "extra_losses.edges.on=input", "--set", "extra_losses.edges.weight=0.5"),
    *("--set", f"augment.extra.spikes.kind={MODULE}:spikes"),
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _forget_modules() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("mrbridge_example", "mine")):
            del sys.modules[name]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the example's file."""
    shutil.copy(EXAMPLE / f"{MODULE}.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, code: str) -> None:
    """Write the module `mine`."""
    (folder / "mine.py").write_text(code)


def settings_of(**changes: Any) -> TrainSettings:
    return resolve({"preset": "resnet"}, {"networks": {"image_size": 32}}, changes)


@pytest.mark.filterwarnings("ignore:The model was trained on scans of")
@pytest.mark.slow
def test_all_four_train_resume_translate_and_evaluate(
    here: Path, bids_scans: Path, run: Run
) -> None:
    step = f"standard.extra.bright.kind={MODULE}:clip_bright"
    code, _, err = run("prepare", bids_scans, "-o", "store", "--set", step)
    assert code == 0, err
    # What the store names is code from elsewhere, too.
    code, _, err = run("train", "store", "-o", "run", *CHANGES, "--set", "epochs=1")
    assert code == 2
    assert "--allow-code" in err
    command = ("train", "store", "-o", "run", *CHANGES, "--allow-code")
    code, _, err = run(*command, "--set", "epochs=2", "--set", "stop_after_epochs=1")
    assert code == 0, err
    code, _, err = run("train", "store", "-o", "whole", *CHANGES, "--set", "epochs=2",
                       "--allow-code")  # fmt: skip
    assert code == 0, err

    assert run("train", "store", "-o", "run", "--resume")[0] == 2
    code, _, err = run("train", "store", "-o", "run", "--resume", "--allow-code")
    assert code == 0, err
    states = [load_checkpoint(here / name / "checkpoints/last.ckpt") for name in ("run", "whole")]
    for name, value in states[0]["networks"].items():
        assert (value == states[1]["networks"][name]).all(), name
    assert all(row["extra_edges"] > 0 for row in states[0]["keeper"]["rows"])

    manifest = read_manifest("run")
    assert manifest.code == (f"{MODULE}:PlainGenerator", f"{MODULE}:clip_bright")
    assert isinstance(manifest.networks.generator, Extension)
    assert manifest.networks.generator.options == {"width": 4, "depth": 4}  # with the defaults
    assert manifest.networks.generator.multiple == 2
    assert manifest.standard.extra["bright"].options == {"percentile": 99.9}
    assert f"`{MODULE}:PlainGenerator`" in (here / "run/bundle/card.md").read_text()

    scan = bids_scans / "sub-01/anat/sub-01_T1w.nii.gz"
    translate = ("translate", "-m", "run", "-i", scan, "-o", "T2w.nii.gz", "--force")
    code, _, err = run(*translate)
    assert code == 2
    assert err.count("\n") == 1
    assert f"{MODULE}:PlainGenerator" in err
    assert run(*translate, "--allow-code")[0] == 0
    code, _, err = run("evaluate", "-m", "run", "--pairs", bids_scans, "-o", "scores",
                       "--allow-code", "--force")  # fmt: skip
    assert code == 0, err
    code, out, _ = run("info", "run", "--json", "--allow-code")
    assert json.loads(out.splitlines()[-1])["generator"] > 0


def test_a_bundle_imports_nothing_unless_allowed(here: Path, run: Run, tiny_bundle: Any) -> None:
    write(here, "open('imported', 'w').close()\nraise SystemExit")
    folder = here / "bundle"
    shutil.copytree(tiny_bundle.path, folder)
    values = json.loads((folder / "bundle.json").read_text())
    values["networks"]["generator"] = {"kind": "mine:Network", "multiple": 2}
    values["standard"]["extra"] = {"step": {"kind": "mine:step"}}
    (folder / "bundle.json").write_text(json.dumps(values))
    for arguments in (
        ("translate", "-m", folder, "-i", __file__, "-o", "out.nii.gz"),
        ("export", "-m", folder, "-o", "out"),
        ("evaluate", "-m", folder, "--pairs", here, "-o", "out"),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert "mine:Network" in err
        assert "--allow-code" in err
    code, out, err = run("info", folder)  # needs no code
    assert code == 0, err
    assert "mine:step" in out
    with pytest.raises(SettingsError, match="mine:Network"):
        load_bundle(folder)
    assert not (here / "imported").exists()


def test_entry_points_are_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mrbridge_example-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: mrbridge-example\nVersion: 0.1.0\n")
    (folder / "entry_points.txt").write_text(f"[mrbridge]\nplain = {MODULE}:PlainGenerator\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLE)
    settings = completed(settings_of(networks={"generator": {"kind": "plain", "depth": 2}}))
    assert settings.networks.generator.kind == f"{MODULE}:PlainGenerator"
    assert isinstance(settings.networks.generator, Extension)
    assert settings.networks.generator.options == {"width": 32, "depth": 2}
    assert code_in(settings) == (f"{MODULE}:PlainGenerator",)
    # Saved settings need no entry point.
    saved = TrainSettings.build(settings.model_dump(mode="json"))
    assert saved == settings


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("unett", "did you mean 'unet'"),
        ("somewhere.else:Network", "No module named 'somewhere'"),
        (f"{MODULE}:Nothing", "no attribute 'Nothing'"),
        (f"{MODULE}:PlainGenerator", "did you mean 'width'"),
    ],
)
def test_what_cannot_be_found_is_named(here: Path, kind: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        completed(settings_of(networks={"generator": {"kind": kind, "widht": 3}}))


def test_values_are_checked_by_the_signature(here: Path) -> None:
    with pytest.raises(SettingsError, match="'order' cannot be 3"):
        completed(settings_of(extra_losses={"e": {"kind": f"{MODULE}:gradient_loss", "order": 3}}))


def test_images_are_multiples_of_what_the_class_says(here: Path) -> None:
    networks = {"generator": {"kind": f"{MODULE}:PlainGenerator"}, "image_size": 31}
    with pytest.raises(Exception, match="multiple of 2"):
        completed(settings_of(networks=networks))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def f(image, rng): return image[:1, :1]", "it makes the shape"),
        ("def f(image, rng): return image / 0", "not finite"),
        ("def f(image, rng): return image.no", "AttributeError"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_a_function_of_images_gives_is_checked(here: Path, code: str, words: str) -> None:
    write(here, code)
    extension = Extension(kind="mine:f")
    with pytest.raises(SettingsError, match=words):
        extension.change(np.zeros((2, 4, 4), np.float32), None)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def f(image, reference): return image", "one number"),
        ("def f(image, reference): return image @ 3", "TypeError"),
    ],
)
def test_what_a_loss_returns_is_checked(
    here: Path, small_store: Any, code: str, words: str
) -> None:
    write(here, code)
    changes: dict[str, Any] = {"networks": TINY_NETWORKS, "validation_slices": 2}
    with pytest.raises(SettingsError, match=words):
        train(small_store, "run", preset="unet", **changes,
              extra_losses={"own": {"kind": "mine:f"}})  # fmt: skip


CRITIC = """
from torch import nn

class Critic(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 4, 2, 1)
        )

    def forward(self, image):
        return self.layers(image)
"""


def test_a_critic_is_trained_and_not_needed_to_translate(
    here: Path, small_store: Any, run: Run
) -> None:
    write(here, CRITIC)
    networks = TINY_NETWORKS | {"critic": {"kind": "mine:Critic", "width": 3}}
    made = train(
        small_store, "run", preset="unet", networks=networks, epochs=2, steps_per_epoch=2,
        validation_slices=2, sample_slices=1, stop_after_epochs=1,
    )  # fmt: skip
    assert made.rows[-1]["target_critic"] > 0
    first = load_checkpoint(here / "run/checkpoints/last.ckpt")["networks"]
    weights = {name: value for name, value in first.items() if "critic" in name}
    assert any(value.shape == (3, 1, 4, 4) for value in weights.values())
    with pytest.raises(SettingsError, match="mine:Critic"):
        train(small_store, "run", resume=True)
    train(small_store, "run", resume=True, allow_code=True)
    last = load_checkpoint(here / "run/checkpoints/last.ckpt")["networks"]
    assert any((last[name] != value).any() for name, value in weights.items())
    (here / "mine.py").unlink()  # critics judge in training only
    assert read_manifest("run").code == ()
    load_bundle("run")


def test_a_network_that_changes_the_size_is_refused(here: Path, small_store: Any) -> None:
    write(here, "from torch import nn\nclass Half(nn.Module):\n"
          "    def __init__(self):\n        super().__init__()\n"
          "        self.a = nn.Conv2d(1, 1, 3)\n"
          "    def forward(self, x):\n        return self.a(x)\n")  # fmt: skip
    networks = {"image_size": 32, "generator": {"kind": "mine:Half"}}
    with pytest.raises(SettingsError, match="becomes"):
        train(small_store, "run", preset="unet", networks=networks)
    assert not (here / "run").exists()


def test_an_augmentation_follows_its_generator(here: Path) -> None:
    settings = AugmentSettings(extra={"own": {"kind": f"{MODULE}:spikes"}}, flip=False)
    images = np.zeros((6, 1, 32, 32), np.float32)

    def changed(first: int) -> Any:
        rngs = [np.random.default_rng(first + n) for n in range(6)]
        return Augmentation(settings, 32)(images, rngs)

    assert (changed(0) == changed(0)).all()
    assert (changed(0) != changed(6)).any()
    assert not Augmentation(settings, 32).moves_only().settings.extra


def test_a_preprocessing_step_sees_the_slices(here: Path, make_scan: Any) -> None:
    write(here, "seen = []\ndef f(slices, foreground, spacing, *, factor: float = 2.0):\n"
          "    seen.append((slices.shape, foreground.dtype.name, spacing))\n"
          "    return factor * slices\n")  # fmt: skip
    scan = make_scan(1, "T1w")
    plain = preprocess(scan, PreprocessSettings())
    settings = PreprocessSettings(extra={"own": {"kind": "mine:f"}})
    changed = preprocess(scan, completed(settings))
    import mine  # type: ignore[import-not-found]

    assert mine.seen == [(plain.grid.shape, "bool", plain.grid.spacing)]
    assert changed.normalisation.high == pytest.approx(2 * plain.normalisation.high)


def test_settings_without_extensions_are_written_as_before() -> None:
    assert "extra" not in str(settings_of().model_dump(mode="json"))
    assert "extra" not in str(PrepareSettings().model_dump(mode="json"))
