"""Remote files: what is written can be read, only what is read is fetched, faults are reported."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from mrbridge import io
from mrbridge.errors import InputError, MrbridgeError, OutputError, SettingsError
from mrbridge.io import remote
from mrbridge.io.atomic import atomic_folder, sha256_of, write_text
from mrbridge.io.bids import find_scans
from mrbridge.io.remote import fetch, localise, path_of, release, remove
from mrbridge.text import is_url, masked, shown, url_of
from mrbridge.volume import Volume


class Bucket(MemoryFileSystem):
    """Files in memory whose transfers are counted, and can fail."""

    protocol = "counted"
    cachable = False
    listing: ClassVar[list[str] | None] = None
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    fetched: ClassVar[list[str]] = []
    sent: ClassVar[list[str]] = []
    failure: ClassVar[Exception | None] = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("counted://"))

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.fetched.append(rpath)
        super().get_file(rpath, lpath, **kwargs)

    def find(self, path: str, **kwargs: Any) -> Any:
        if isinstance(self.failure, PermissionError):
            raise self.failure
        if self.listing is not None:
            return {key: {"size": 1} for key in self.listing}
        return super().find(path, **kwargs)

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        if self.failure is not None:
            self.pipe_file(rpath, Path(lpath).read_bytes()[:10])
            raise self.failure
        self.sent.append(lpath)
        super().put_file(lpath, rpath, **kwargs)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    fsspec.register_implementation("counted", Bucket, clobber=True)
    for name, empty in (("store", {}), ("pseudo_dirs", [""]), ("fetched", []), ("sent", [])):
        monkeypatch.setattr(Bucket, name, empty)
    monkeypatch.setattr(Bucket, "failure", None)
    monkeypatch.setattr(Bucket, "listing", None)
    return Bucket()


def fails(failure: Exception) -> None:
    Bucket.failure = failure


@pytest.fixture
def scan(make_scan: Callable[..., Volume]) -> Volume:
    return make_scan(1, "T1w")


def test_a_remote_scan_has_the_bytes_of_a_local_one(
    bucket: Bucket, scan: Volume, tmp_path: Path
) -> None:
    local = io.write(scan, tmp_path / "sub-01_T1w.nii.gz")
    there = io.write(scan, "counted://b/in/sub-01_T1w.nii.gz")
    assert bucket.cat("/b/in/sub-01_T1w.nii.gz") == local.read_bytes()
    again = io.read("counted://b/in/sub-01_T1w.nii.gz")
    np.testing.assert_array_equal(again.voxels, scan.voxels)
    assert again.contrast == "T1w"
    assert there.name == "sub-01_T1w.nii.gz"
    assert url_of(there) == "counted://b/in/sub-01_T1w.nii.gz"


def test_a_mirror_stays_and_a_file_url_is_a_path(bucket: Bucket, tmp_path: Path) -> None:
    mirror = localise("counted://b/in")
    assert localise(mirror) is mirror
    assert localise(f"file://{tmp_path}/x y") == tmp_path / "x y"
    assert localise(Path(f"file://{tmp_path}/x")) == tmp_path / "x"
    assert localise(None) is None
    assert localise(["a", "counted://b/in"]) == ["a", mirror]


@pytest.mark.parametrize(
    "text", ["s3://b/x", "gs://b", "memory://x", "simplecache::s3://b", "S3://b"]
)
def test_urls(text: str) -> None:
    assert is_url(text)


@pytest.mark.parametrize("text", ["a/b", "/a:b/c", "C:\\x", "c:/x", "x.nii.gz", "a b://c", "."])
def test_paths(text: str) -> None:
    assert not is_url(text)
    assert not is_url(Path(text))


def test_a_url_as_a_path_loses_a_slash(bucket: Bucket) -> None:
    assert is_url(Path("counted://b/in"))
    assert path_of(Path("counted://b/in")) == path_of("counted://b/in/")


def test_nothing_is_fetched_that_is_not_read(bucket: Bucket, scan: Volume) -> None:
    for name in ("sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_T2w", "derivatives/x/sub-01_mask"):
        io.write(scan, f"counted://b/bids/{name}.nii.gz")
    bucket.pipe("/b/bids/dataset_description.json", b"{}")
    found = find_scans("counted://b/bids")
    assert [one.name for one in found.scans] == ["sub-01_T1w.nii.gz", "sub-01_T2w.nii.gz"]
    assert bucket.fetched == []
    io.read(found.scans[0].path)
    sha256_of(found.scans[0].path)
    assert bucket.fetched == ["/b/bids/sub-01/anat/sub-01_T1w.nii.gz"]


def test_released_files_take_no_space_and_are_fetched_again(bucket: Bucket, scan: Volume) -> None:
    path = io.write(scan, "counted://b/sub-01_T1w.nii.gz")
    digest = sha256_of(path)
    release(path)
    assert path.stat().st_size < 100
    assert sha256_of(path) == digest
    assert len(bucket.fetched) == 1


def test_a_removed_file_is_no_longer_listed(bucket: Bucket) -> None:
    bucket.pipe({"/b/in/a.json": b"1", "/b/in/b.json": b"2"})
    mirror = localise("counted://b/in")
    fetch(mirror)
    bucket.rm("/b/in/a.json")
    bucket.pipe("/b/in/b.json", b"3")
    fetch(localise("counted://b/in"))
    assert [path.name for path in mirror.iterdir()] == ["b.json"]
    assert (mirror / "b.json").read_bytes() == b"3"


def test_a_folder_replaces_the_old_one(bucket: Bucket) -> None:
    mirror = localise("counted://b/store")
    for name in ("old", "new"):
        with atomic_folder(mirror / "array") as folder:
            (folder / name).mkdir()
            (folder / name / "chunk").write_text(name)
    assert bucket.find("/b/store") == ["/b/store/array/new/chunk"]
    remove(mirror / "array")
    assert bucket.find("/b/store") == []
    assert not (mirror / "array").exists()


def test_keys_that_point_out_of_the_folder_are_ignored(bucket: Bucket) -> None:
    names = ("../../../evil.json", "/etc/evil.json", "..", "a\\..\\evil.json", "good.json")
    Bucket.listing = [f"/b/in/{name}" for name in names] + ["/b/inside/evil.json"]
    mirror = localise("counted://b/in")
    assert [path.name for path in mirror.iterdir()] == ["good.json"]
    root = next(above for above in mirror.parents if above.name.endswith(".places"))
    assert not list(root.rglob("*evil*"))


def test_a_table_names_scans_by_url_and_by_relative_path(bucket: Bucket, scan: Volume) -> None:
    io.write(scan, "counted://b/in/one.nii.gz")
    io.write(scan, "counted://other/two.nii.gz")
    rows = ("T1w,../in/one.nii.gz", "T2w,counted://other/two.nii.gz", "T2w,none.nii.gz")
    table = "\n".join(["subject,contrast,path", *(f"a,{row}" for row in rows)])
    bucket.pipe("/b/tables/scans.csv", table.encode())
    scans = find_scans("counted://b/tables/scans.csv").scans
    assert [url_of(one.path) for one in scans] == [
        "counted://b/in/one.nii.gz",
        "counted://b/tables/none.nii.gz",
        "counted://other/two.nii.gz",
    ]
    for one in (scans[0], scans[2]):
        assert io.read(one.path).voxels.shape == scan.voxels.shape
    with pytest.raises(InputError, match=r"counted://b/tables/none\.nii\.gz: does not exist"):
        io.read(scans[1].path)


def test_missing_objects_and_folders(bucket: Bucket, scan: Volume) -> None:
    path = io.write(scan, "counted://b/in/x.nii.gz")
    release(path)
    bucket.rm("/b/in/x.nii.gz")
    with pytest.raises(InputError, match=r"^counted://b/in/x\.nii\.gz: does not exist\. Check"):
        io.read(path)
    with pytest.raises(InputError, match=r"^counted://b/none: does not exist"):
        find_scans("counted://b/none")


def test_an_incomplete_file_is_refused(bucket: Bucket, scan: Volume) -> None:
    bucket.pipe("/b/x.nii.gz", b"longer")
    path = localise("counted://b/x.nii.gz")
    bucket.pipe("/b/x.nii.gz", b"short")
    with pytest.raises(InputError, match="arrived with 5 bytes of 6"):
        io.read(path)
    assert path.stat().st_size != 5


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (PermissionError("Access Denied"), r"may not be read \(Access Denied\)\. Check the cred"),
        (ConnectionResetError("reset by peer"), r"cannot be reached \(ConnectionResetError: reset"),
        (OSError(errno.ENOSPC, "No space left"), r"has no space left in .*TMPDIR"),
    ],
)
def test_a_failing_fetch(bucket: Bucket, failure: Exception, words: str) -> None:
    bucket.pipe("/b/x.json", b"{}")
    path = localise("counted://b/x.json")
    fails(failure)
    with pytest.raises(InputError, match=words):
        fetch(path)


def test_nothing_is_uploaded_to_a_web_page() -> None:
    with pytest.raises(
        OutputError, match=r"^https://host/x\.json: can only be read\. Name a folder"
    ):
        write_text(path_of("https://host/x.json"), "{}")


def test_no_permission_to_list(bucket: Bucket) -> None:
    fails(PermissionError("Forbidden"))
    with pytest.raises(InputError, match=r"counted://b/in: may not be read \(Forbidden\)"):
        localise("counted://b/in")


def test_a_failing_upload_leaves_no_part_of_a_file(bucket: Bucket) -> None:
    place = localise("counted://b/out") / "report.json"
    write_text(place, "old")
    fails(ConnectionResetError("reset by peer"))
    with pytest.raises(OutputError, match=r"counted://b/out/report\.json: cannot be reached"):
        write_text(place, "something new and longer")
    assert bucket.find("/b") == ["/b/out/report.json"]
    assert bucket.cat("/b/out/report.json") == b"old"
    assert place.read_text() == "old"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("simplecache::s3://b/x", "is a chain of URLs"),
        ("nosuch://b/x", "nosuch:// is not a known kind of URL"),
        ("s3://", "is not a complete URL"),
        ("s3://b/../../x", "is not a complete URL"),
        ("ftp://ann:geheim@host/x", r"ftp://\*\*\*@host/x: contains a name, a password"),
        ("https://host/x.nii?X-Amz-Signature=geheim", r"https://host/x.nii\?\*\*\*: contains"),
    ],
)
def test_urls_that_are_refused(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        localise(url)
    assert "geheim" not in str(caught.value)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(SettingsError, match=r"s3://b/x: needs a package .* 'mrbridge\[cloud\]'"):
        localise("s3://b/x")


def test_secrets_are_masked_everywhere() -> None:
    text = "from ftp://ann:geheim@host/x and https://h/y?a=1&sig=geheim not https://h/z?page=2"
    assert masked(text) == "from ftp://***@host/x and https://h/y?*** not https://h/z?page=2"
    error = MrbridgeError("copied from ftp://ann:geheim@host/x", path=Path("s3://b/x"))
    assert str(error) == "s3://b/x: copied from ftp://***@host/x."


def test_a_temporary_folder_with_a_space_in_its_name(
    bucket: Bucket, scan: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my scans").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "my scans"))
    monkeypatch.setattr(remote, "_mirrors", {})
    path = io.write(scan, "counted://b/sub-01_T1w.nii.gz")
    assert path.is_relative_to(tmp_path)
    assert bucket.find("/b") == ["/b/sub-01_T1w.nii.gz"]
    assert str(InputError("is odd", path=path)) == "counted://b/sub-01_T1w.nii.gz: is odd."


def test_the_metadata_of_an_array_are_uploaded_last(bucket: Bucket) -> None:
    with atomic_folder(localise("counted://b/store") / "x.zarr") as folder:
        (folder / "zarr.json").write_text("{}")
        (folder / "c" / "0").mkdir(parents=True)
        (folder / "c" / "0" / "1").write_text("numbers")
    assert [Path(name).name for name in bucket.sent] == ["1", "zarr.json"]


def test_mirrors_are_shown_as_urls(bucket: Bucket) -> None:
    path = path_of("counted://b/in/x.json")
    assert shown(f"{path}: is (see {path.parent})") == (
        "counted://b/in/x.json: is (see counted://b/in)"
    )
    assert shown("/tmp/a/b.json") == "/tmp/a/b.json"


_LEAVES = """
import sys, time, fsspec
from mrbridge.io.remote import localise
fsspec.filesystem("memory").pipe("/b/x", b"1")
print(localise("memory://b"), flush=True)
time.sleep(60 if "wait" in sys.argv else 0)
"""


def test_mirrors_are_removed_at_the_end_of_their_process_or_by_the_next_one(
    tmp_path: Path,
) -> None:
    there = os.environ | {"TMPDIR": str(tmp_path)}
    killed = subprocess.Popen(
        [sys.executable, "-c", _LEAVES, "wait"], stdout=subprocess.PIPE, env=there, text=True
    )
    assert killed.stdout is not None
    left = Path(killed.stdout.readline().strip())
    assert (left / "x").is_file()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert (left / "x").is_file()
    subprocess.run([sys.executable, "-c", _LEAVES], env=there, check=True, capture_output=True)
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_of_another_machine_is_refused(bucket: Bucket) -> None:
    elsewhere = Path(tempfile.gettempdir(), ".~abcdef-1-12345678.places", "counted", "b", "x.json")
    with pytest.raises(InputError, match="mirrored by another machine"):
        fetch(elsewhere)
