"""`mrbridge_bids`: the convention of the BIDS Apps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mrbridge import __version__, bids_app, cli
from mrbridge.bundle import Bundle
from mrbridge.errors import SettingsError
from mrbridge.options import spread


@pytest.fixture
def run(run: Callable[..., Any]) -> Callable[..., Any]:
    """A command line of the BIDS App: `run("bids", "out", "participant")`."""
    return partial(run, main=bids_app.main)


def made(out: Path) -> list[str]:
    return sorted(path.name for path in out.rglob("*.nii.gz"))


def test_help_and_version(run: Callable[..., Any]) -> None:
    for flag in ("-h", "--help"):
        code, out, err = run(flag)
        assert (code, err) == (0, "")
        for word in ("BIDS_DIR", "OUTPUT_DIR", "participant", "--participant-label", "Example: "):
            assert word in out
    assert run("--version") == (0, f"mrbridge {__version__}\n", "")


def test_participant_then_group(
    run: Callable[..., Any], tiny_bundle: Bundle, bids_scans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    model = ("-m", tiny_bundle.path, "--device", "cpu")
    labels = ("--participant-label", "01", "sub-03", *model)
    code, text, _ = run(bids_scans, out, "participant", *labels)
    assert code == 0
    assert text == f"2 translated: {out}\n"
    assert made(out) == ["sub-01_desc-synth_T2w.nii.gz", "sub-03_desc-synth_T2w.nii.gz"]

    code, text, err = run(bids_scans, out, "group", "-m", tiny_bundle.path)
    assert code == 1
    assert text == f"2 of 4 scans are translated: {out / 'logs' / 'group.tsv'}\n"
    assert "group.tsv: 2 of 4 scans have no translation by this model. It lists them" in err

    code, text, _ = run(bids_scans, out, "participant", *model, "--json", "--quiet")
    result = json.loads(text)
    assert (code, result["skipped"], len(result["outputs"])) == (0, 2, 4)
    code, text, _ = run(bids_scans, out, "group", "-m", tiny_bundle.path)
    assert code == 0
    assert text == f"4 of 4 scans are translated: {out / 'logs' / 'group.tsv'}\n"


def test_as_a_verb(
    run: Callable[..., Any], tiny_bundle: Bundle, bids_scans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    common = ("translate", "-m", tiny_bundle.path, "-i", bids_scans, "-o", out, "--device", "cpu")
    assert run(*common, "--participant-label", "01", "02", main=cli.main)[0] == 0
    code, text, _ = run(*common, "--participant_label", "02", "04", "--to", "T2w", main=cli.main)
    assert (code, text) == (0, f"1 translated, 1 skipped that were done already: {out}\n")
    assert [name[:6] for name in made(out)] == ["sub-01", "sub-02", "sub-04"]


def test_a_bad_scan(
    run: Callable[..., Any], tiny_bundle: Bundle, bids_scans: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(bids_scans, tmp_path / "bids")
    bad = root / "sub-02" / "anat" / "sub-02_T1w.nii.gz"
    bad.write_bytes(bad.read_bytes()[:-20])
    out = root / "derivatives" / "mrbridge"
    code, _, err = run(root, out, "participant", "-m", tiny_bundle.path, "--device", "cpu")
    assert code == 1
    assert f"error: {out / 'report.json'}: 1 of 4 scans failed. It lists them." in err
    assert len(made(out)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent", "{out}", "participant"), "absent: does not exist"),
        (("{bids}", "{out}", "session"), "'session' is not one of"),
        (("{bids}", "{out}"), "Missing argument"),
        (("{out}", "{out}", "participant"), "is not a BIDS dataset"),
        (("{bids}", "{bids}", "participant"), "is the input itself"),
        (("{bids}", "{out}", "participant", "--participant-label"), "is followed by no value"),
        (("{bids}", "{out}", "participant", "--participant-label", "9"), "has no participant 9"),
        (("{bids}", "{out}", "participant", "--to", "CT"), "synthesises T2w or T1w, not CT"),
        (("{bids}", "{out}", "group", "--to", "CT"), "synthesises T2w or T1w, not CT"),
        (
            ("{bids}", "{out}", "participant", "--bids-filter-file", "no.json"),
            "no.json: does not exist",
        ),
    ],
)
def test_refusals(
    arguments: tuple[str, ...],
    message: str,
    run: Callable[..., Any],
    as_shipped: Bundle,
    bids_scans: Path,
    tmp_path: Path,
) -> None:
    code, out, err = run(*(a.format(bids=bids_scans, out=tmp_path) for a in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert err.splitlines()[-1].startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_several_labels_after_one_option() -> None:
    several = {"--participant-label", "--session-label"}
    given = ["a", "--participant-label", "1", "2", "-q", "b", "--session-label=3", "4"]
    arguments = spread(given, several)
    assert arguments == [
        *("a", "--participant-label", "1", "--participant-label", "2", "-q", "b"),
        *("--session-label=3", "--session-label", "4"),
    ]
    for cut_off in (["--participant-label"], ["--session-label", "-q"]):
        with pytest.raises(SettingsError, match="is followed by no value"):
            spread(cut_off, several)
    assert spread([], several) == []
