"""Values, texts and answers from elsewhere take time and memory in proportion to their size, and
do not control the terminal."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from tests.conftest import ellipsoids

from mrbridge import io
from mrbridge.text import without_secrets

GOLDEN = Path(__file__).parents[1] / "data" / "golden-bundle"
Run = Callable[..., tuple[int, str, str]]
LONG = 400_000


@pytest.mark.parametrize(
    "part",
    [
        *("a", "http:/", "://", ":/", "a:/", "?", "@", "::", "a.places", "/.~.places", "(http://"),
        *("http://x?a", "http://x?a'", "?token", "ftp://a:b@", "/.~abcdef-1-12345678.places/s3/"),
    ],
)
@pytest.mark.parametrize("start", ["", "http://h/?", "a:/", "/.~abcdef-1-12345678.places/"])
def test_masking_takes_time_in_proportion(start: str, part: str) -> None:
    text = start + part * (LONG // len(part))
    begun = time.process_time()
    without_secrets(text)
    assert time.process_time() - begun < 3  # seconds; it was minutes


def test_masking_still_masks() -> None:
    text = without_secrets(
        "(ftp://me:p@ss@host/x) 'https://h/a?X-Amz-Signature=1&b=2' https://h?a=1"
    )
    assert text == "(ftp://***@host/x) 'https://h/a?***' https://h?a=1"


def refused(run: Run, *arguments: object) -> str:
    begun = time.process_time()
    code, _, err = run(*arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert len(err) < 6000  # a path may have 4096
    assert time.process_time() - begun < 10
    return err


BOMB = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
BOMBS = {
    "unknown key": f"a0: &a0 [x, x]\n{BOMB}",
    "known key": f"a0: &a0 [x]\n{BOMB}standard: *a11\n",
    "merge keys": "a0: &a0 {x: 1}\n"
    + "".join(f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)),
    "holds itself": "seed: &a [*a]\n",
    "many keys": "".join(f"k{n}: 1\n" for n in range(9000)),
    "long value": f"seed: {'x' * 100_000}\n",
    "long key": f"{'x' * 100_000}: 1\n",
    "large": "seed: 1\n" + "#" * (2 << 20),
    "deep": "seed: " + "[" * 5000 + "]" * 5000,
    "date": "seed: 2020-99-99\n",
    "long integer": f"seed: {'9' * 5000}\n",
    "long hexadecimal": f"seed: 0x{'f' * 5000}\n",
    "wrong tags": "seed: !!timestamp x\n",
    "wrong bool": "seed: !!bool x\n",
    "no int": 'seed: !!int ""\n',
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_files_of_settings(bomb: str, run: Run, tmp_path: Path) -> None:
    config = tmp_path / "bomb.yaml"
    config.write_text(BOMBS[bomb])
    refused(run, "prepare", tmp_path, "-o", tmp_path / "store", "--config", config)


@pytest.mark.parametrize(
    "given",
    [
        *("seed=2020-99-99", "seed=" + "9" * 5000, "seed=0x" + "f" * 5000, "x" * 100_000),
        *("seed=" + "x" * 100_000, "x" * 100_000 + "=1", ".".join(["a"] * 50_000) + "=1"),
        "seed={a: &a [1,1,1,1,1,1,1,1], b: &b [*a,*a,*a,*a,*a,*a,*a,*a], "
        "c: &c [*b,*b,*b,*b,*b,*b,*b,*b], d: &d [*c,*c,*c,*c,*c,*c,*c,*c], e: [*d,*d,*d,*d,*d]}",
    ],
    ids=range(8),
)
def test_assignments(given: str, run: Run, tmp_path: Path) -> None:
    refused(run, "prepare", tmp_path, "-o", tmp_path / "store", "--set", given)


def test_aliases_of_few_values_are_fine(tmp_path: Path) -> None:
    from mrbridge.settings import read_yaml

    (tmp_path / "a.yaml").write_text("a: &x {y: 1}\nb: *x\nc: {<<: *x, z: 2}\n")
    merged = {"a": {"y": 1}, "b": {"y": 1}, "c": {"y": 1, "z": 2}}
    assert read_yaml(tmp_path / "a.yaml") == merged


def test_a_table_of_huge_cells(run: Run, tmp_path: Path) -> None:
    (tmp_path / "scans.csv").write_text(f"contrast,path\nT1w,{'a' * 100_000}\n")
    refused(run, "prepare", tmp_path / "scans.csv", "-o", tmp_path / "store")


def test_what_steers_a_terminal_is_shown(run: Run, tmp_path: Path) -> None:
    from tests.attack.test_bundles_are_data import edited

    evil = "\x1b]0;owned\x07\x9b31m\u202egpj.exe\r"
    bundle = edited(tmp_path / "bundle", {"limits": [evil], "trained": {evil: evil}})
    code, out, _ = run("info", bundle)
    assert code == 0
    assert not set("\x1b\x07\x9b\u202e\r") & set(out)
    assert r"\x1b]0;owned\x07\x9b31m\u202egpj.exe" in out
    _, out, _ = run("info", bundle, "--json")
    assert json.loads(out)["limits"] == [evil]
    scan = tmp_path / "\x1b[2Jsub_T1w.nii.gz"
    scan.write_bytes(b"x")
    _, out, err = run("translate", "-i", scan, "-o", tmp_path / "o.nii.gz", "-m", bundle)
    assert "\x1b" not in out + err
    assert r"\x1b[2Jsub_T1w.nii.gz" in err
    assert "\x1b" not in run("info", "\x1b[2Jx")[2]
    assert "\x1b" not in run("\x1b[2Jx")[2]


@pytest.mark.parametrize("content", ['{"name": "app"}', "[1]", "{", "\x00", "null"])
def test_a_manifest_of_another_program(content: str, run: Run, tmp_path: Path) -> None:
    io.write(ellipsoids(1, "T1w"), tmp_path / "scans" / "T1" / "a.nii.gz")
    (tmp_path / "scans" / "manifest.json").write_text(content)
    code, out, err = run("inspect", tmp_path / "scans")
    assert code == 0, err
    assert "a.nii.gz" in out
    assert run("inspect", tmp_path / "scans", "-o", tmp_path / "page.html")[0] == 0
    code, _, err = run("train", tmp_path / "scans", "-o", tmp_path / "run")
    assert code == 2
    assert "validation error" not in err


@pytest.mark.parametrize("name", ["9" * 200, "\u00b2", "a\u00b2b", "\u0663", "0" * 100 + "1", "-"])
def test_numbers_in_names(name: str, run: Run, tmp_path: Path) -> None:
    for contrast in ("T1", "T2"):
        for subject in (name, "2"):
            volume = ellipsoids(1, f"{contrast}w")
            io.write(volume, tmp_path / "s" / subject / f"{contrast}.nii.gz")
    code, _, err = run("inspect", tmp_path / "s", "-o", tmp_path / "page.html")
    assert code == 0, err


def test_long_numbers_in_a_table(run: Run, tmp_path: Path) -> None:
    rows = [f"{c},{n}" for c in ("T1w", "T2w") for n in ("9" * 5000, "\u00b2", "a.nii")]
    (tmp_path / "scans.csv").write_text("\n".join(["contrast,path", *rows]))
    refused(run, "prepare", tmp_path / "scans.csv", "-o", tmp_path / "store")
    refused(run, "evaluate", "--pairs", tmp_path / "scans.csv", "-o", tmp_path / "o", "-m", GOLDEN)


def test_numbers_are_in_their_order() -> None:
    from mrbridge.io.names import natural_key

    names = ["a2", "a10", "a010", "a9", "a" + "1" * 5000, "b1", "a"]
    assert sorted(names, key=natural_key) == ["a2", "a9", "a010", "a10", names[4], "a", "b1"]


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+1", "-1", "@x", "\tx", "\rx"])
def test_formulas(text: str) -> None:
    from mrbridge.evaluation.result import cell

    (row,) = csv.reader(StringIO(f'"{cell(text)}"', newline=""))
    assert row == [f"'{text}"]
    assert cell("sub-01") == "sub-01"
