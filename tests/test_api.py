"""The verbs are functions of the package, and importing it is quick."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import mrbridge

HEAVY = ("torch", "lightning", "monai", "matplotlib", "nibabel", "nilearn", "zarr", "scipy")


def test_every_public_name_is_there() -> None:
    for name in mrbridge.__all__:
        assert getattr(mrbridge, name) is not None
    for verb in ("prepare", "train", "translate", "evaluate", "read", "write"):
        function = getattr(mrbridge, verb)
        assert inspect.isfunction(function)
        assert function.__name__ == verb
        assert function.__doc__


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'tranlsate'"):
        _ = mrbridge.tranlsate


@pytest.mark.parametrize(
    "code",
    [
        "import mrbridge",
        "import mrbridge.cli",
        "import mrbridge.cli; mrbridge.cli._run(['--help'])",
        "import mrbridge.cli; mrbridge.cli._run(['train', '-h'])",
    ],
)
def test_importing_is_light(code: str) -> None:
    told = f"{code}\nimport sys; print('HEAVY', sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
