"""What we write is BIDS: the validator of the standard finds no error in it.

bids-validator carries the schema of the standard within itself and needs no network.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mrbridge.bundle import Bundle
from mrbridge.inference.bids import check_dataset
from mrbridge.inference.settings import TranslateSettings
from mrbridge.inference.synthesis import Request
from mrbridge.inference.translate import translate
from mrbridge.inference.translator import Translator
from mrbridge.phantom import PhantomSettings, write_bids

PROGRAM = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent)) or (
    shutil.which("bids-validator-deno")
)

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="bids-validator-deno is not installed")


def passes(root: Path) -> bool:
    """Whether the validator is content with a dataset, derivatives inside it left aside."""
    return subprocess.run([str(PROGRAM), str(root)], capture_output=True).returncode == 0


def errors(root: Path) -> list[tuple[str, str | None]]:
    """Codes and places of the errors in a dataset and in its derivatives.

    `.bidsignore` does not count in derivatives that are met so (version 3.0.2), so that the one
    file that it names is left out here.
    """
    command = [str(PROGRAM), str(root), "--recursive", "--format", "json"]
    report = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    parts: list[dict[str, Any]] = [report, *report.get("derivativesSummary", {}).values()]
    assert all(part["summary"]["totalFiles"] for part in parts)
    return [
        (issue["code"], issue.get("location"))
        for part in parts
        for issue in part["issues"]["issues"]
        if issue["severity"] == "error" and issue.get("location") != "/report.json"
    ]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated subject, and one with a session of two runs."""
    root = write_bids(
        tmp_path_factory.mktemp("bids") / "raw data", PhantomSettings(subjects=1, spacing_mm=8)
    )
    anat = root / "sub-01" / "anat"
    there = root / "sub-02" / "ses-1" / "anat"
    there.mkdir(parents=True)
    for ending in ("nii.gz", "json"):
        for run in ("1", "2"):
            name = f"sub-02_ses-1_acq-fast_run-{run}_T1w.{ending}"
            shutil.copy(anat / f"sub-01_T1w.{ending}", there / name)
    with (root / "participants.tsv").open("a") as table:
        table.write("sub-02\tyes\n")
    return root


@pytest.mark.parametrize("link", ["../", "ni:///sha-256;"])
def test_derivatives_beside_the_source(
    link: str, raw: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """Where the path from one to the other is of usual names, and where it is not."""
    out = (raw.parent if link == "../" else tmp_path) / "out"
    assert len(translate(raw, out, model=tiny_bundle, device="cpu")) == 3
    check_dataset(Request(Translator(tiny_bundle, "cpu"), TranslateSettings()), raw, out)
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetLinks"]["raw"].startswith(link)
    assert errors(out) == []


def test_uncertainty_maps(raw: Path, certain_bundle: Bundle, tmp_path: Path) -> None:
    out = raw.parent / "with maps"
    done = translate(raw, out, model=certain_bundle, device="cpu", uncertainty=True)
    for one in done:
        assert one.uncertainty is not None
        assert "_desc-uncertainty_T2w" in one.uncertainty.name
        assert one.uncertainty.is_file()
    assert passes(out)
    again = translate(raw, out, model=certain_bundle, device="cpu", uncertainty=True)
    assert {one.state for one in again} == {"skipped"}
    assert [one.uncertainty for one in again] == [one.uncertainty for one in done]
    (out / ".bidsignore").unlink()
    assert not passes(out)


def test_the_merged_data_set(
    raw: Path, tiny_bundle: Bundle, certain_bundle: Bundle, tmp_path: Path
) -> None:
    """The simulated subjects, their synthetic images, and those on another grid."""
    merged = shutil.copytree(raw, tmp_path / "merged")
    for to in ("T2w", "T1w"):
        translate(
            merged, merged / "derivatives" / "mrbridge", model=tiny_bundle, to=to, device="cpu"
        )
    finer = merged / "derivatives" / "finer"
    how: dict[str, Any] = {"device": "cpu", "uncertainty": True, "spacing": 4.0}
    for one in translate(merged, finer, model=certain_bundle, **how):
        assert one.output is not None
        assert "_res-4mm_desc-synth_T2w" in one.output.name
    assert errors(merged) == []
    # The validator did look at them: a name that the standard does not know is found.
    (merged / "derivatives" / "mrbridge" / "stray.txt").touch()
    assert ("NOT_INCLUDED", "/stray.txt") in errors(merged)
