"""The listing of `inspect`, from headers only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.studies import T1W, T2W, write_series

from mrbridge import cli, io
from mrbridge.dataset.store import Store
from mrbridge.errors import InputError
from mrbridge.inspection.inspect import inspect
from mrbridge.volume import Volume


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A T1w series, a T2w series that lacks a slice, a localiser, and junk."""
    write_series(tmp_path, number=3)
    write_series(tmp_path, number=4, **T2W)[3].unlink()
    localiser = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write_series(tmp_path, number=1, **(T1W | localiser))
    (tmp_path / "README").write_text("hello")
    return tmp_path


def test_series(study: Path) -> None:
    found = inspect(study)
    assert found.form == "dicom"
    first, second, third = found.items
    assert (first.name, first.kind, first.problem) == (
        "1",
        "localizer",
        "is a localizer. Choose another series, or use --force.",
    )
    assert (second.name, second.contrast, second.gaps, second.problem) == ("3", "T1w", 0, None)
    assert second.shape == (20, 24, 7)
    assert second.spacing_mm == pytest.approx((0.7, 0.9, 4.5))
    assert (
        second.reason == "gradient echo after inversion, short echo (TE 2.9 ms, TR 2300 ms, "
        "TI 900 ms)"
    )
    assert (third.contrast, third.gaps, third.shape) == ("T2w", 1, (20, 24, 6))
    assert "1 of 7 slices is missing" in str(third.problem)
    assert found.ignored == [("README", "is not a DICOM file")]


def test_text_and_json(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", str(study)])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "1 of 3 series can be used as they are" in out
    assert "4: T2w, long echo and repetition" in out
    assert "with --allow-gaps" in out
    with pytest.raises(SystemExit):
        cli.main(["inspect", str(study), "--json"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [item["contrast"] for item in result["items"]] == [None, "T1w", "T2w"]
    assert result["items"][2]["gaps"] == 1


def test_markup_in_descriptions_is_text(tmp_path: Path) -> None:
    write_series(tmp_path, SeriesDescription="[red]t1[/] [link=x]")
    assert "[red]t1[/]" in str(inspect(tmp_path))


def test_files(make_scan: Callable[..., Volume], picture_folder: Path, tmp_path: Path) -> None:
    io.write(make_scan(6, "T1w"), tmp_path / "in" / "sub-01_T1w.nii.gz")
    (tmp_path / "in" / "broken_T2w.nii").write_bytes(b"no")
    (tmp_path / "in" / "notes.txt").write_text("hello")
    found = inspect(tmp_path / "in")
    broken, whole = found.items
    assert (whole.name, whole.contrast, whole.shape) == ("sub-01_T1w.nii.gz", "T1w", (40, 48, 12))
    assert whole.spacing_mm == (1, 1, 4)
    assert broken.contrast == "T2w"
    assert str(broken.problem).startswith("is too short for a NIfTI header.")
    assert found.ignored == [("notes.txt", "is not a scan in a known format")]
    pictures = inspect(picture_folder)
    assert {item.contrast for item in pictures.items} == {"T1w", "T2w"}
    assert pictures.items[0].shape == (44, 36, 1)
    assert "by its name" not in str(pictures)


def test_one_file(make_scan: Callable[..., Volume], tmp_path: Path) -> None:
    path = io.write(make_scan(6, "T2w"), tmp_path / "x_T2w.nii")
    (item,) = inspect(path).items
    assert (item.name, item.contrast) == ("x_T2w.nii", "T2w")


def test_a_store(small_store: Store) -> None:
    found = inspect(small_store.path)
    assert found.form == "store"
    assert [item.contrast for item in found.items].count("T1w") == 4
    assert found.items[0].shape == (62, 52, 10)  # slices that show the head, with the margin
    assert found.items[0].spacing_mm == pytest.approx((1, 1, 4))
    assert "8 of 8 scans can be used as they are: 4 T1w, 4 T2w" in str(found)


def test_a_partly_fetched_bids_dataset(make_scan: Callable[..., Volume], tmp_path: Path) -> None:
    root = tmp_path / "bids"
    io.write(make_scan(6, "T1w"), root / "sub-01/anat/sub-01_T1w.nii.gz")
    io.write(make_scan(6, "T1w"), root / "sub-01/derivatives/anat/sub-01_T1w.nii.gz")
    linked, pointer = (root / f"sub-0{k}/anat/sub-0{k}_T1w.nii.gz" for k in (2, 3))
    for path in (linked, pointer):
        path.parent.mkdir(parents=True)
    linked.symlink_to("../../.git/annex/objects/a/b/k/k")
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    found = inspect(root)
    assert [item.problem for item in found.items] == [
        None,
        f"is not fetched (datalad get). Run: datalad get {linked}",
        "is not fetched (git lfs pull). Run: git lfs pull",
    ]
    assert found.ignored == [("sub-01/derivatives/anat/sub-01_T1w.nii.gz", "is in derivatives")]
    (item,) = inspect(linked).items
    assert (item.contrast, item.problem) == ("T1w", found.items[1].problem)


def test_a_table(make_scan: Callable[..., Volume], tmp_path: Path) -> None:
    io.write(make_scan(6, "T1w"), tmp_path / "one.nii.gz")
    table = tmp_path / "table.csv"
    table.write_text("subject,contrast,path\n01,T1w,one.nii.gz\n02,T2w,gone.nii.gz\n")
    found = inspect(table)
    assert found.form == "table"
    result = {item.name: (item.contrast, item.problem) for item in found.items}
    assert result == {"one.nii.gz": ("T1w", None), "gone.nii.gz": ("T2w", "cannot be read")}


def test_only_the_text_of_a_long_listing_is_shortened(picture_folder: Path, tmp_path: Path) -> None:
    one = next((picture_folder / "TrainT1").iterdir()).read_bytes()
    for number in range(103):
        (tmp_path / f"T1_{number}.png").write_bytes(one)
    found = inspect(tmp_path)
    assert len(found.as_json()["items"]) == 103
    assert "and 3 more" in str(found)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        inspect(tmp_path / "nothing")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(InputError, match="holds no scan"):
        inspect(tmp_path)
