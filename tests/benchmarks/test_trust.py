"""The figures of trust.md, and another program scored by the same protocol."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks import super_synth, trust

from mrbridge.errors import InputError
from mrbridge.evaluation.evaluate import evaluate
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.io import write
from mrbridge.volume import Volume

SHAPE = (24, 28, 20)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])

STAND_IN = """
import sys
from pathlib import Path
import nibabel as nib, numpy as np
image = nib.load(sys.argv[1])
folder = Path(sys.argv[2])
values = np.asarray(image.dataobj, dtype=np.float32)
# A grid of 1 mm, as mri_super_synth writes it.
finer = np.kron(values, np.ones((2, 2, 2), np.float32))
affine = image.affine @ np.diag([0.5, 0.5, 0.5, 1])
affine[:3, 3] -= image.affine[:3, :3] @ [0.25, 0.25, 0.25]
for name, made in (("SynthT1", finer), ("SynthT2", np.where(finer > 0, 1100 - finer, 0))):
    nib.save(nib.MGHImage(made.astype(np.float32), affine), folder / f"{name}.mgz")
with open(folder / "ran", "a") as file:
    file.write("x")
"""


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two subjects with T1w and T2w, of which one is the negative of the other."""
    root = tmp_path / "data"
    for number in (1, 2):
        t1w = np.zeros(SHAPE, np.float32)
        coarse = np.random.default_rng(number).uniform(300, 900, (5, 6, 4))
        t1w[2:22, 2:26, 2:18] = np.kron(coarse, np.ones((4, 4, 4)))
        for contrast, voxels in (("T1w", t1w), ("T2w", np.where(t1w > 0, 1100 - t1w, 0))):
            name = f"sub-0{number}/anat/sub-0{number}_{contrast}.nii.gz"
            write(Volume(voxels.astype(np.float32), AFFINE), root / name)
    return root


@pytest.fixture
def command(tmp_path: Path) -> str:
    """A stand-in for mri_super_synth."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    return f"{sys.executable} {script} {{input}} {{output}}"


@pytest.mark.usefixtures("blank_figures")
def test_another_program_is_scored_by_the_same_protocol(
    pairs: Path, command: str, tmp_path: Path
) -> None:
    outputs, out = tmp_path / "outputs", tmp_path / "out"
    common = ["--pairs", str(pairs), "--outputs", str(outputs)]
    result = super_synth.main([*common, "--command", command, "-o", str(out)])
    assert result.model_sha256 == "mri_super_synth"
    scores = result.summary["T1w_to_T2w"]
    assert scores["model"]["fit"]["psnr"]["mean"] > 25
    assert (out / "report.html").is_file()
    # The baseline is that of any model on these pairs: the protocol is the same.
    settings = EvaluateSettings(cycle=False, shown_cases=0)
    other = evaluate(super_synth.SuperSynth(pairs, outputs, None), pairs, settings=settings)
    assert other.summary["T1w_to_T2w"]["floor"] == scores["floor"]
    assert {path.read_text() for path in outputs.glob("*/ran")} == {"x"}  # each only once


def test_missing_outputs_and_a_failing_command_are_named(pairs: Path, tmp_path: Path) -> None:
    common = ["--pairs", str(pairs), "--outputs", str(tmp_path / "none"), "-o", str(tmp_path / "o")]
    with pytest.raises(InputError, match=r"SynthT2.mgz does not exist"):
        super_synth.main(common)
    failing = f"{sys.executable} -c 'raise SystemExit(\"no licence\")' {{input}} {{output}}"
    with pytest.raises(InputError, match="exit code 1: no licence"):
        super_synth.main([*common, "--command", failing])


@pytest.mark.usefixtures("blank_figures")
def test_a_line_of_a_set_and_its_table(
    pairs: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = super_synth.main(
        [
            *("--pairs", str(pairs), "--outputs", str(tmp_path / "x")),
            *("--command", command, "-o", str(tmp_path / "o")),
        ]
    )
    monkeypatch.setitem(trust.SETS, "ms", lambda *_: (pairs, None))
    monkeypatch.setattr(trust, "evaluate", lambda *_, **__: result)
    out = tmp_path / "trust.jsonl"
    trust.main(["--sets", "ms", "--out", str(out)])
    (line,) = map(json.loads, out.read_text().splitlines())
    assert (line["benchmark"], line["part"], line["set"]) == ("trust", "evaluate", "ms")
    assert line["cases"] == ["sub-01", "sub-02"]
    sharpness = line["measures"]["T1w_to_T2w"]["sharpness"]
    assert sharpness["n"] == 2
    text = trust.table(out)
    assert f"| `sharpness` | {sharpness['mean']:.3g} |" in text
    assert "**ms, T1w to T2w, model shipped**" in text
