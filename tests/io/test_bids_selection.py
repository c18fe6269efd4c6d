"""Which scans of a BIDS dataset are wanted, and what its sidecars say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mrbridge.errors import InputError, MrbridgeError, MrbridgeWarning, SettingsError
from mrbridge.io.bids import find_scans
from mrbridge.io.metadata import read_metadata
from mrbridge.io.scans import select

NAMES = (
    "sub-01/ses-a/anat/sub-01_ses-a_run-1_T1w.nii.gz",
    "sub-01/ses-a/anat/sub-01_ses-a_run-02_T1w.nii.gz",
    "sub-01/ses-b/anat/sub-01_ses-b_acq-fast_T1w.nii.gz",
    "sub-02/ses-a/anat/sub-02_ses-a_rec-norm_T1w.nii.gz",
    "sub-02/ses-a/anat/sub-02_ses-a_T2w.nii.gz",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / "bids" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "bids"


def kept(root: Path, *arguments: Any, **query: Any) -> list[int]:
    """Which of `NAMES` remain."""
    if query:
        path = root.parent / "filter.json"
        path.write_text(json.dumps(query))
        arguments = ((), (), path)
    found = select(*arguments).apply(find_scans(root), root)
    assert len(found.scans) + len(found.ignored) == len(NAMES), "each is kept or reported"
    return sorted(NAMES.index(scan.path.relative_to(root).as_posix()) for scan in found.scans)


def test_labels_with_and_without_their_prefix(root: Path) -> None:
    assert kept(root) == [0, 1, 2, 3, 4]
    assert kept(root, ["02"]) == kept(root, ["sub-02"]) == [3, 4]
    assert kept(root, ["01", "02"], ["ses-a"]) == [0, 1, 3, 4]
    assert kept(root, ["01"], ["b"]) == [2]


def test_labels_that_are_not_there(root: Path) -> None:
    with pytest.raises(InputError, match=r"has no participant 03 and no 4\. It has 01, 02\."):
        kept(root, ["01", "03", "4"])
    with pytest.raises(InputError, match=r"has no session c\. It has a, b\."):
        kept(root, [], ["c"])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"session": "a"}, [0, 1, 3]),
        ({"session": ["a", "b"], "acquisition": None}, [0, 1, 3]),
        ({"acquisition": "*"}, [2]),
        ({"acq": ["fast", None], "subject": "01"}, [0, 1, 2]),
        ({"run": 1}, [0]),
        ({"run": 2}, [1]),
        ({"run": "02"}, [1]),
        ({"run": None}, [2, 3]),
        ({"reconstruction": "norm", "suffix": "T1w", "datatype": "anat"}, [3]),
        ({"extension": [".nii.gz", ".nii"], "space": None}, [0, 1, 2, 3]),
        ({"suffix": "T2w"}, []),
    ],
)
def test_queries_as_pybids_has_them(query: dict[str, Any], expected: list[int], root: Path) -> None:
    assert kept(root, t1w=query, bold={"task": "rest"}) == [*expected, 4]


def test_the_case_of_a_suffix_does_not_matter(root: Path) -> None:
    assert kept(root, T1w={"run": 1}) == [0, 4]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("{", InputError, "is not JSON"),
        ("[]", InputError, "holds no queries"),
        ('{"t1w": "01"}', InputError, "holds no queries"),
        ('{"t1w": {"run": 1, "run": 2}}', InputError, "the key 'run' occurs twice"),
        ('{"t1w": {"run": 1}, "t1w": {"run": 2}}', InputError, "the key 't1w' occurs twice"),
        ('{"t1w": {"acq": "a", "acquisition": "b"}}', InputError, "two spellings of one key"),
        ('{"t1w": {"run": 1}, "T1w": {"run": 2}}', InputError, "two spellings of one key"),
        ('{"t1w": {"sesion": "01"}}', SettingsError, "'sesion'. did you mean 'session'"),
    ],
)
def test_unusable_filter_files(text: str, kind: type, message: str, tmp_path: Path) -> None:
    path = tmp_path / "filter.json"
    path.write_text(text)
    with pytest.raises(kind, match=message) as caught:
        select((), (), path)
    assert isinstance(caught.value, MrbridgeError)
    assert caught.value.path == path
    with pytest.raises(InputError, match="cannot be read"):
        select((), (), tmp_path / "absent.json")


def test_complex_parts_and_contrast_agents_are_not_a_plain_contrast(
    tmp_path: Path,
) -> None:
    for entity in ("part-mag", "part-phase", "ce-gd", "echo-2"):
        path = tmp_path / "sub-1" / "anat" / f"sub-1_{entity}_T1w.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = find_scans(tmp_path)
    assert {scan.name for scan in found.scans} == {
        "sub-1_part-mag_T1w.nii.gz",
        "sub-1_echo-2_T1w.nii.gz",
    }
    assert {reason for _, reason in found.ignored} == {
        "is the phase part of a complex image",
        "was taken after a contrast agent",
    }


class TestInheritance:
    def test_nearer_and_narrower_wins(self, root: Path) -> None:
        scan = root / NAMES[0]
        assert read_metadata(scan, root) == {}
        for place, fields in {
            "T1w.json": {"A": 1, "B": 1, "C": 1, "D": 1},
            "T2w.json": {"A": "of another suffix"},
            "run-1_T1w.json": {"B": 2},
            "run-2_T1w.json": {"B": "of another run"},
            "sub-01/sub-01_T1w.json": {"C": 3},
            "sub-01/ses-a/anat/sub-01_ses-a_run-1_T1w.json": {"D": 4},
            "sub-01/ses-b/anat/sub-01_ses-b_T1w.json": {"A": "of another session"},
        }.items():
            (root / place).write_text(json.dumps(fields))
        (root.parent / "T1w.json").write_text('{"A": "outside"}')
        assert read_metadata(scan, root) == {"A": 1, "B": 2, "C": 3, "D": 4}

    @pytest.mark.parametrize(
        ("text", "warning"),
        [
            (b"{", "JSON"),
            (b"[]", "JSON"),
            (b'{"A": 1, "C": 3, }', "JSON"),
            (b"\xff", "JSON"),
            (b"\x00\x00\xff", "not text"),
            (b'{"A": 1, "C": NaN}', "NaN"),
            ('{"A": 1, "B": "Zürich"}'.encode("latin-1"), "not UTF-8"),
            ('{"A": 1, "B": "Zürich"}'.encode("utf-16"), "not UTF-8"),
        ],
    )
    def test_a_broken_sidecar_is_named_and_not_needed(
        self, text: bytes, warning: str, root: Path
    ) -> None:
        (root / "T1w.json").write_text('{"A": 2, "D": 4}')
        (root / "sub-01/ses-a/anat/sub-01_ses-a_T1w.json").write_bytes(text)
        with pytest.warns(MrbridgeWarning, match=rf"sub-01_ses-a_T1w\.json: .*{warning}"):
            fields = read_metadata(root / NAMES[0], root)
        if warning == "NaN":
            assert fields == {"A": 1, "C": None, "D": 4}
        elif warning == "not UTF-8":
            assert fields == {"A": 1, "B": "Zürich", "D": 4}
        else:
            assert fields == {"A": 2, "D": 4}

    def test_a_sidecar_that_is_not_fetched(self, root: Path) -> None:
        (root / "T1w.json").symlink_to(".git/annex/objects/k")
        with pytest.warns(MrbridgeWarning, match=r"T1w\.json: is not fetched"):
            assert read_metadata(root / NAMES[0], root) == {}
