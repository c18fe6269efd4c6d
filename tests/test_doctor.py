"""`mrbridge doctor`: complete, and without personal data."""

from __future__ import annotations

import getpass
import json
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from mrbridge import doctor, models


def test_it_reports_without_personal_data(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run("doctor", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["packages"]["torch"] is not None
    assert facts["shipped_model"] == "complete"
    assert facts["free_disk_gb"]["temporary"] > 0
    words = doctor.in_words(facts)
    for secret in (str(Path.home()), str(Path.cwd()), platform.node()):
        assert secret not in words
    assert f"/{getpass.getuser()}" not in words


def test_advice_names_what_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "_HERE", tmp_path)
    wanted = ["zarr>=999", "no-such-package>=1"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: wanted)
    monkeypatch.setattr(doctor, "_free", lambda folder: 0.5)
    facts = doctor.examine()
    text = "\n".join(facts["advice"])
    for words in (
        "The shipped model is missing",
        "zarr is",
        "no-such-package is missing",
        "0.5 GB",
    ):
        assert words in text
