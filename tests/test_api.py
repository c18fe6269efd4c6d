"""The verbs are functions of the package, and importing it is quick."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from inspect import isfunction, signature
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import mrbridge
from mrbridge import io
from mrbridge.bundle import Bundle
from mrbridge.dataset.store import Store
from mrbridge.training.run import Run
from mrbridge.training.settings import TrainSettings
from mrbridge.volume import Volume

HEAVY = (
    "fsspec",
    "torch",
    "monai",
    "matplotlib",
    "nibabel",
    "nilearn",
    "zarr",
    "scipy",
)


def test_every_public_name_is_there() -> None:
    for name in mrbridge.__all__:
        assert getattr(mrbridge, name) is not None
    for verb in (
        "prepare",
        "train",
        "translate",
        "evaluate",
        "score",
        "inspect",
        "export",
        "tune",
        "benchmark",
    ):
        function = getattr(mrbridge, verb)
        assert callable(function)
        assert function.__name__ == verb
        assert function.__doc__
    assert issubclass(mrbridge.InputError, mrbridge.MrbridgeError)
    assert callable(mrbridge.phantom.write_bids)


@pytest.mark.parametrize("kind", ["image", "Volume", "pair", "array"])
def test_an_object_where_only_a_path_will_do(kind: str, tmp_path: Path) -> None:
    voxels, affine = np.ones((4, 5, 6), np.float32), np.eye(4)
    objects: dict[str, Any] = {
        "image": nib.Nifti1Image(voxels, affine),
        "Volume": mrbridge.Volume(voxels, affine),
        "pair": (voxels, affine),
        "array": voxels,
    }
    one, scan, made = objects[kind], tmp_path / "scan.nii.gz", tmp_path / "made.nii.gz"
    for path in (scan, made):
        nib.save(objects["image"], path)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: mrbridge.score(one, one),
        lambda: mrbridge.score(scan, made, one),
        lambda: mrbridge.evaluate(None, one),
        lambda: mrbridge.prepare(one, tmp_path / "store"),
        lambda: mrbridge.prepare([one, one], tmp_path / "store"),
        lambda: mrbridge.inspect(one),
        lambda: mrbridge.train(one, tmp_path / "run"),
        lambda: mrbridge.read(one),
    )
    for call in calls:
        with pytest.raises(mrbridge.InputError, match=r"(is not a|Pass a) path.* [Ss]ave it"):
            call()
    assert {*tmp_path.iterdir()} == {scan, made}


WRONG_TYPES: dict[str, tuple[Callable[[Path], Any], type[mrbridge.MrbridgeError], str]] = {
    "model": (
        lambda out: mrbridge.translate("scan.nii", out, model=3),  # type: ignore[call-overload]
        mrbridge.InputError,
        "'model' must be Bundle, Translator, str or Path, not int. Pass a",
    ),
    "model of evaluate": (
        lambda out: mrbridge.evaluate(3, out),  # type: ignore[arg-type]
        mrbridge.InputError,
        "must be Bundle, str, Path, TranslatorLike or None, not int",
    ),
    "no path": (
        lambda out: mrbridge.prepare(out, None),
        mrbridge.InputError,
        "'out' must be str or Path, not NoneType",
    ),
    "settings": (
        lambda out: mrbridge.phantom.write_bids(out, {}),  # type: ignore[arg-type]
        mrbridge.SettingsError,
        "'settings' must be PhantomSettings, not dict. See help(",
    ),
    "text for a switch": (
        lambda out: mrbridge.prepare(out, out, overwrite="no"),  # type: ignore[arg-type]
        mrbridge.SettingsError,
        "'overwrite' must be bool, not str",
    ),
    "a switch for a number": (
        lambda out: mrbridge.read(out, volume=True),
        mrbridge.SettingsError,
        "'volume' must be int or None, not bool",
    ),
    "an alias": (
        lambda out: mrbridge.translate(out, out, also=3),  # type: ignore[call-overload]
        mrbridge.SettingsError,
        "'also' must be Mapping or Sequence, not int",
    ),
    "no workers": (
        lambda out: mrbridge.inspect(out, workers=0),
        mrbridge.SettingsError,
        "'workers' cannot be 0. Use 1 or more.",
    ),
    "no trials": (
        lambda out: mrbridge.tune(out, out, trials=0),
        mrbridge.SettingsError,
        "'trials' cannot be 0",
    ),
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_arguments_of_wrong_types(name: str, tmp_path: Path) -> None:
    call, error, words = WRONG_TYPES[name]
    with pytest.raises(error, match=re.escape(words)):
        call(tmp_path / "place")
    assert not list(tmp_path.iterdir())


def test_arguments_that_are_as_good(make_scan: Callable[..., Volume], tmp_path: Path) -> None:
    class OtherPath:
        def __fspath__(self) -> str:
            return str(tmp_path / "scan_T1w.nii.gz")

    mrbridge.write(make_scan(0, "T1w"), OtherPath())  # type: ignore[arg-type]
    scan = mrbridge.read(OtherPath(), volume=np.int64(0), force=np.True_)  # type: ignore[arg-type]
    assert scan.contrast == "T1w"


@pytest.fixture
def results(tiny_bundle: Bundle, small_store: Store, bids_scans: Path, tmp_path: Path) -> list[Any]:
    """What the functions return."""
    scan = bids_scans / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    done = mrbridge.translate(scan, tmp_path / "made.nii.gz", model=tiny_bundle, device="cpu")
    run = Run(tmp_path / "run", TrainSettings.defaults(), [{"epoch": 3.0, "criterion": 0.5}])
    return [mrbridge.read(scan), done, done[0], tiny_bundle, small_store, run]


def test_results_show_themselves_in_few_words(results: list[Any]) -> None:
    for result in results:
        assert len(repr(result)) < 400, "no arrays"
    volume, done, _, bundle, store, run = map(repr, results)
    assert volume == "Volume(T1w, 40 x 48 x 12, 1 x 1 x 4 mm, int16)"
    assert done.startswith("1 scan\ndone: ")
    assert bundle.startswith("Bundle(T1w ↔ T2w, ")
    assert store.startswith("Store(")
    assert "T1w 24 slices to train" in store
    assert run.endswith("run, preset bridge, 3 epochs)")


def test_results_are_tables_in_a_notebook(results: list[Any]) -> None:
    for result in results:
        assert result._repr_html_().startswith("<table>")
        assert "array(" not in result._repr_html_()


@pytest.mark.parametrize("name", mrbridge.__all__)
def test_functions_document_parameters_and_errors(name: str) -> None:
    function = getattr(mrbridge, name)
    if isfunction(function):
        text = function.__doc__ or ""
        assert "Raises:" in text
        for parameter in signature(function).parameters:
            assert re.search(rf"\b{parameter}[:,]", text), parameter


def test_type_checkers_see_the_public_names() -> None:
    tree = ast.parse(Path(mrbridge.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name for node in imports for alias in node.names}
    assert {"__version__", *seen} == set(mrbridge.__all__)
    assert all(one.asname == one.name for node in imports for one in node.names), "PEP 484"


def test_public_names_are_listed_before_their_first_use() -> None:
    code = "import mrbridge; assert set(mrbridge.__all__) <= set(dir(mrbridge)), dir(mrbridge)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'tranlsate'"):
        _ = mrbridge.tranlsate  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "code",
    [
        "import mrbridge",
        "import mrbridge.models",
        "import mrbridge.cli",
        "import mrbridge.cli; mrbridge.cli._run(['--help'])",
        "import mrbridge.cli; mrbridge.cli._run(['train', '-h'])",
    ],
)
def test_importing_is_light(code: str) -> None:
    program = f"{code}\nimport sys; print('HEAVY', sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_a_scan_needs_only_what_its_format_needs(
    tmp_path: Path, tiny_bundle: Bundle, make_scan: Callable[..., Volume]
) -> None:
    """A 2D image is translated without nibabel, a NIfTI file with a sidecar without `io.dicom`."""
    scan = make_scan(0, "T1w")
    pixels = Image.fromarray((scan.voxels[..., 6] // 5).astype(np.uint8))
    pixels.save(tmp_path / "slice_T1w.png")
    io.write(scan, tmp_path / "scan_T1w.nii.gz")
    (tmp_path / "scan_T1w.json").write_text('{"EchoTime": 0.003, "RepetitionTime": 0.009}')
    program = f"""
import sys
from mrbridge import cli
for name, unused in (("slice_T1w.png", "nibabel"), ("scan_T1w.nii.gz", "mrbridge.io.dicom")):
    cli._run(["translate", "-i", name, "-o", "made_" + name, "-m", {str(tiny_bundle.path)!r}])
    print(unused in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n")[1::2] == ["False", "False"], done.stderr
    assert (tmp_path / "made_scan_T1w.nii.gz").exists()


WRONG = [
    ("trian", "did you mean"),
    ("train store", "-o"),
    ("train . -o run --epochs 3", "--epochs"),
    ("train absent -o run", "absent: does not exist"),
    ("train . -o run", ".: is not a store"),
    ("train . -o run --preset brigde", "did you mean 'bridge'"),
    ("train . -o full", "full: is not empty"),
    ("info unett", "did you mean 'unet'"),
    ("demo -o full", "full: is not empty"),
    ("train . -o run --set epochs", "key=value"),
    ("train . -o run --config absent.yaml", "absent.yaml: cannot be read"),
    ("prepare absent -o store", "absent: does not exist"),
    ("prepare . -o store", "holds no T1w and no T2w scans"),
    ("prepare . -o store --source T9-w", "'T9-w' is not the name of a contrast"),
    ("prepare . -o store --set gaps=2", "did you mean 'gap'"),
    ("translate -m absent -i scan.nii -o made.nii", "absent: does not exist"),
    ("translate -m . -i scan.nii -o made.nii", "scan.nii: does not exist"),
    ("translate -i full -o made --bids-filter-file absent.json", "absent.json: does not exist"),
    ("translate -i full -o made --dtype int12", "'int12' is not one of 'float32'"),
    ("export -m absent -o exported", "absent: does not exist"),
    ("evaluate -m absent --pairs . -o scores", "absent: does not exist"),
    ("evaluate --real . --synthetic absent -o scores", "absent: does not exist"),
    ("evaluate -o scores", "what to score is not clear"),
    ("evaluate --real . -o scores", "what to score is not clear"),
    ("evaluate --pairs . --real . -o scores", "what to score is not clear"),
    ("evaluate --pairs . --real . --synthetic . -o scores", "what to score is not clear"),
    ("evaluate -m shipped --real . --synthetic . -o scores", "what to score is not clear"),
    ("evaluate --real . --synthetic . -o scores --set maks=whole", "did you mean 'mask'"),
    ("train . -o run --from absent", "absent: does not exist. Use auto, shipped or scratch"),
    ("train . -o run --resume --from scratch", "run: a resumed run has weights already"),
]


def test_a_scan_is_checked_without_torch(tmp_path: Path, make_scan: Callable[..., Volume]) -> None:
    """The command line imports it meanwhile."""
    image = tmp_path / "scan.nii.gz"
    io.write(make_scan(3, "T1w"), image)
    program = (
        "import sys, mrbridge, mrbridge.io\n"
        "from mrbridge.inference.input_check import check\n"
        "from mrbridge.inference.translate import translate\n"
        "translator = mrbridge.Translator('shipped', planes='all')\n"
        f"check(mrbridge.io.read({str(image)!r}), 'T2w', translator.bundle.contrasts)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_plain_mistakes_are_reported_without_torch(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    program = (
        "import contextlib, io, json, sys\n"
        "from mrbridge import cli\n"
        f"for command, _ in {WRONG}:\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as err:\n"
        "        code = cli._run(command.split())\n"
        "    slow = sorted({'torch', 'zarr', 'matplotlib'} & set(sys.modules))\n"
        "    print(json.dumps([command, code, err.getvalue(), slow]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) == len(WRONG)
    for (command, message), (ran, code, err, slow) in zip(WRONG, reports, strict=True):
        assert (ran, code, slow) == (command, 2, [])
        assert err.startswith("error: ")
        assert message.casefold() in err.casefold()
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
