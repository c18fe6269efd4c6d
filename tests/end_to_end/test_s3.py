"""The verbs on a bucket of a server that speaks S3, on 127.0.0.1."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mrbridge.bundle import Bundle
from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.store import array_path
from mrbridge.errors import InputError, OutputError
from mrbridge.inference.translate import translate
from mrbridge.io.atomic import write_text
from mrbridge.io.lock import only_writer
from mrbridge.io.remote import fetch, localise, path_of, release

pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """The server, and our environment as that of its user."""
    started = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "user",
        "AWS_SECRET_ACCESS_KEY": "geheim",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield started
    started.stop()


@pytest.fixture(scope="module")
def bucket(server: Any, bids_scans: Path) -> Any:
    """A bucket with the BIDS dataset."""
    import s3fs

    system = s3fs.S3FileSystem()
    system.mkdir("cloud")
    system.put(f"{bids_scans}/", "cloud/bids/", recursive=True)
    return system


def mrbridge(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mrbridge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=300)


def local(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def at(system: Any, folder: str) -> dict[str, bytes]:
    system.invalidate_cache()
    return {key[len(folder) + 1 :]: system.cat(key) for key in system.find(folder)}


def test_a_store_has_the_bytes_of_the_local_one(
    bucket: Any, bids_scans: Path, tmp_path: Path
) -> None:
    prepare(bids_scans, tmp_path / "store")
    store = prepare("s3://cloud/bids", "s3://cloud/first")
    assert at(bucket, "cloud/first") == local(tmp_path / "store")
    release(array_path(store.path, store.records()[0].id) / "zarr.json")
    assert len(store.slices(store.records()[0])) == store.records()[0].shape[0]


@pytest.mark.slow
def test_prepare_in_processes_gives_the_bytes_of_the_local_store(
    bucket: Any, bids_scans: Path, tmp_path: Path
) -> None:
    prepare(bids_scans, tmp_path / "store")
    done = mrbridge("prepare", "s3://cloud/bids", "-o", "s3://cloud/store", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("s3://cloud/store: T1w ")
    assert at(bucket, "cloud/store") == local(tmp_path / "store")
    assert b"geheim" not in b"".join(at(bucket, "cloud/store").values())
    before = {k: v["LastModified"] for k, v in bucket.find("cloud/store", detail=True).items()}
    again = mrbridge("prepare", "s3://cloud/bids", "-o", "s3://cloud/store", "-v")
    assert again.returncode == 0
    assert "geheim" not in again.stdout + again.stderr
    bucket.invalidate_cache()
    after = {k: v["LastModified"] for k, v in bucket.find("cloud/store", detail=True).items()}
    changed = [key for key in after if after[key] != before[key]]
    assert set(changed) <= {"cloud/store/manifest.json", "cloud/store/report.json"}


def test_a_data_set_into_its_derivatives(
    bucket: Any, bids_scans: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    translate(bids_scans, tmp_path / "out", model=tiny_bundle)
    out = "s3://cloud/bids/derivatives/mrbridge"
    translate("s3://cloud/bids", out, model=tiny_bundle)
    made, wanted = at(bucket, out.removeprefix("s3://")), local(tmp_path / "out")
    assert made.keys() == wanted.keys()
    assert {n for n in made if made[n] != wanted[n]} == {"dataset_description.json"}
    assert json.loads(made["dataset_description.json"])["DatasetLinks"] == {"raw": "../.."}
    assert all(item.skipped for item in translate("s3://cloud/bids", out, model=tiny_bundle))


def test_one_writer_at_a_time(bucket: Any) -> None:
    place = Path(path_of("s3://cloud/locked"))
    with only_writer(place), pytest.raises(OutputError, match="by another"), only_writer(place):
        pass
    assert at(bucket, "cloud/locked") == {}


def test_faults(bucket: Any, server: Any) -> None:
    with pytest.raises(InputError, match=r"s3://none/bids: does not exist .*bucket does not exist"):
        localise("s3://none/bids")
    done = mrbridge("prepare", "s3://cloud/bids", "-o", "s3://none/store")
    assert done.returncode == 2
    assert done.stderr.startswith("error: s3://none/store: does not exist (")
    bucket.pipe("cloud/x.json", b"{}")
    path = localise("s3://cloud/x.json")
    bucket.rm("cloud/x.json")
    with pytest.raises(InputError, match=r"s3://cloud/x\.json: does not exist"):
        fetch(path)
    out = localise("s3://cloud/out")
    guarded = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
    request = urllib.request.Request(guarded, b"0", {"Content-Type": "text/plain"})
    urllib.request.urlopen(request).read()
    with pytest.raises(InputError, match=r"s3://cloud/bids: may not be read \(.*credentials"):
        localise("s3://cloud/bids")
    with pytest.raises(OutputError, match=r"s3://cloud/out/x\.json: may not be written"):
        write_text(out / "x.json", "{}")
    server.stop()
    with pytest.raises(InputError, match=r"s3://cloud/bids: cannot be reached \(EndpointConn"):
        localise("s3://cloud/bids")
