"""Scores FreeSurfer's `mri_super_synth` by the protocol of `mrbridge evaluate`.

    python -m benchmarks.super_synth --pairs DIR -o OUT --outputs DIR2
        [--command "mri_super_synth --i {input} --o {output} --mode invivo --device cpu"]
        [--lesions DIR3] [--mask DIR4] [--registration-error]

Needs an installation of FreeSurfer 8 and its licence, which mrbridge neither has nor asks for.
Every scan of the pairs is given to the command; `{input}` is the scan as NIfTI, `{output}` the
folder `DIR2/CASE_CONTRAST`, in which it leaves `SynthT1.mgz` and `SynthT2.mgz`. A folder that has
them is not computed again, so outputs that exist can be scored without the command. They have 1 mm
voxels: they are resampled to the grid of the scan that they were made from, which is that of
mrbridge's synthetic scans, too. Compare with
`mrbridge evaluate --pairs DIR -o OUT2 --set cycle=no`.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np

from mrbridge.errors import InputError, SomeScansFailed
from mrbridge.evaluation.cases import find_pairs
from mrbridge.evaluation.evaluate import evaluate
from mrbridge.evaluation.result import Evaluation
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.io import read, write
from mrbridge.preprocessing.resample import resample
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.volume import Volume

SOURCE, TARGET = "T1w", "T2w"
OUTPUTS = {"T1w": "SynthT1.mgz", "T2w": "SynthT2.mgz"}


class SuperSynth:
    """A translator whose synthetic scans another program makes, or has made.

    Args:
        pairs: the scans that will be translated.
        outputs: the folder that has a folder for each of them.
        command: what makes them, with `{input}` and `{output}`; None if all exist.

    Attributes:
        bundle: the contrasts, and what identifies the model in reports.
    """

    def __init__(self, pairs: Path, outputs: Path, command: str | None) -> None:
        self.outputs, self.command = outputs, command
        self.bundle: Any = SimpleNamespace(
            source=SOURCE,
            target=TARGET,
            hash="mri_super_synth",
            manifest=SimpleNamespace(standard=PreprocessSettings(), trained_on=()),
        )
        matched = find_pairs(pairs, SOURCE, TARGET)
        self._names = {
            _digest(read(path)): f"{case.name}_{contrast}"
            for case in matched.cases
            for contrast, path in case.images.items()
        }

    def translate(self, volume: Volume, to: str, *, mask: Volume | None = None) -> Volume:
        """The output for this scan, on its grid.

        Raises:
            InputError: there is none and no command, or the command failed.
        """
        folder = self.outputs / self._names[_digest(volume)]
        found = folder / OUTPUTS[to]
        if not found.is_file():
            self._run(volume, folder)
        if not found.is_file():
            raise InputError(
                "does not exist", path=found, remedy="Make it with mri_super_synth, or --command."
            )
        image: Any = nib.load(found)
        voxels = np.squeeze(np.asarray(image.dataobj, dtype=np.float32))
        return replace(resample(Volume(voxels, image.affine), volume), contrast=to, synthetic=True)

    def _run(self, volume: Volume, folder: Path) -> None:
        if self.command is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as name:
            scan = write(replace(volume, header=None), Path(name) / "scan.nii.gz")
            words = [word.format(input=scan, output=folder) for word in shlex.split(self.command)]
            ran = subprocess.run(words, capture_output=True, text=True, check=False)
        if ran.returncode:
            last = (ran.stderr or ran.stdout).strip().splitlines()[-1:]
            raise InputError(
                f"{words[0]} ended with exit code {ran.returncode}: {' '.join(last)}",
                remedy="Run it by hand to see what it needs.",
            )


def _digest(volume: Volume) -> str:
    return hashlib.sha256(volume.voxels.tobytes()).hexdigest()


def main(arguments: list[str] | None = None) -> Evaluation:
    """Translate by the command, evaluate, and print what the scans may be used for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=Path, required=True, help="as of mrbridge evaluate")
    parser.add_argument("--outputs", type=Path, required=True, help="folder of its outputs")
    parser.add_argument("--command", help="with {input} and {output}; unless all outputs exist")
    parser.add_argument("--lesions", type=Path, help="as of mrbridge evaluate")
    parser.add_argument("--mask", type=Path, help="as of mrbridge evaluate")
    parser.add_argument("--registration-error", action="store_true")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the report")
    given = parser.parse_args(arguments)
    settings = EvaluateSettings(cycle=False, registration_error=given.registration_error)
    model = SuperSynth(given.pairs, given.outputs, given.command)
    try:
        result = evaluate(
            model,
            given.pairs,
            given.out,
            mask=given.mask,
            lesions=given.lesions,
            settings=settings,
        )
    except SomeScansFailed as error:
        print(error)
        result = error.result
    print(f"{result}\n{result.uses_in_words()}The report: {given.out / 'report.html'}")
    return result


if __name__ == "__main__":
    main()
