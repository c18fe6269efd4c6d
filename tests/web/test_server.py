"""The HTTP interface of `serve`: what it answers, and that its results are the command line's."""

from __future__ import annotations

import io as streams
import json
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tests.studies import T1W, T2W, datasets, save
from tests.web.conftest import Served, lines_of, serve

import mrbridge
from mrbridge import io
from mrbridge.bundle import Bundle, save_bundle
from mrbridge.errors import MrbridgeWarning
from mrbridge.volume import Volume
from mrbridge.web import tasks
from mrbridge.web.guard import Refused

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def t1w(bids_scans: Path) -> Path:
    return bids_scans / "sub-01/anat/sub-01_T1w.nii.gz"


def by_command_line(run: Run, bundle: Bundle, scan: Path, out: Path, *more: str) -> Path:
    code, _, err = run("translate", "-i", scan, "-o", out, "-m", bundle.path, *more)
    assert code == 0, err
    return out


class TestResultsAreThoseOfTheCommandLine:
    def test_nifti(self, web: Served, t1w: Path, tiny_bundle: Bundle, run: Run, tmp_path: Path):
        job = web.translated(t1w)
        assert (job["state"], job["progress"]) == ("done", 1)
        names = {file["kind"]: file["name"] for file in job["files"]}
        assert names["scan"] == "sub-01_desc-synth_T2w.nii.gz"
        out = by_command_line(run, tiny_bundle, t1w, tmp_path)
        assert web.file(job, "scan") == (out / names["scan"]).read_bytes()
        assert web.file(job, "sidecar") == (out / names["sidecar"]).read_bytes()

    def test_2d_image(
        self, web: Served, picture_folder: Path, tiny_bundle: Bundle, run: Run, tmp_path: Path
    ):
        scan = tmp_path / "subject7_T1w.png"
        scan.write_bytes((picture_folder / "TrainT1" / "Image #9.png").read_bytes())
        job = web.translated(scan)
        out = by_command_line(run, tiny_bundle, scan, tmp_path / "out.png")
        assert web.file(job, "scan") == out.read_bytes()
        assert job["files"][0]["name"] == "subject7_desc-synth_T2w.png"

    @pytest.mark.parametrize("packed", [False, True])
    def test_dicom(
        self,
        packed: bool,
        web: Served,
        make_scan: Callable[..., Volume],
        tiny_bundle: Bundle,
        run: Run,
        tmp_path: Path,
    ):
        folder = tmp_path / "study"
        save(folder, datasets(make_scan(6, "T1w"), 3, **T1W))
        files = sorted(folder.iterdir())
        if packed:
            archive = tmp_path / "study.zip"
            with zipfile.ZipFile(archive, "w") as packing:
                for file in files:
                    packing.write(file, file.name)
            job = web.translated(archive)
        else:
            (tmp_path / "README.md").write_text("not DICOM")
            (tmp_path / "more").mkdir()
            (tmp_path / "more/README.md").write_text("of the same name")
            others = tmp_path / "README.md", tmp_path / "more/README.md"
            job = web.translated(*files, *others)
        assert job["state"] == "done", job
        out = by_command_line(run, tiny_bundle, folder, tmp_path / "out")
        expected = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if p.is_file()}
        with zipfile.ZipFile(streams.BytesIO(web.file(job, "scan"))) as got:
            assert sorted(got.namelist()) == sorted(expected)
            images = [name for name in expected if not name.endswith(".json")]
            assert len(images) == len(files)
            for name in images:
                assert got.read(name) == expected[name].read_bytes()


def test_health_says_what_there_is(web: Served, tiny_bundle: Bundle):
    health = web.client.get("/api/health").json()
    (model,) = health["models"]
    assert model["contrasts"] == ["T1w", "T2w"]
    assert model["sha256"] == tiny_bundle.hash
    assert health["limits"]["upload_mib"] == 2048


def test_the_interface_is_documented(web: Served):
    paths = web.client.get("/api/openapi.json").json()["paths"]
    assert set(paths) >= {
        *("/api/health", "/api/jobs", "/api/jobs/{job_id}", "/api/jobs/{job_id}/events"),
        "/api/jobs/{job_id}/files/{name}",
    }
    assert {"post", "get"} <= paths["/api/jobs"].keys()
    assert "delete" in paths["/api/jobs/{job_id}"]
    for path in paths.values():
        assert all(one["description"] for one in path.values())


def test_events_tell_every_state_until_the_end(web: Served, t1w: Path):
    job = web.post(t1w).json()
    with web.client.stream("GET", f"/api/jobs/{job['id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        states = list(lines_of(stream))
    shares = [state["progress"] for state in states]
    assert states[-1]["state"] == "done"
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_scan_is_looked_at_before_it_is_translated(web: Served, t1w: Path):
    job = web.translated(t1w, start="false")
    assert job["state"] == "ready"
    assert job["scan"]["contrast"] == job["scan"]["items"][0]["contrast"] == "T1w"
    assert job["scan"]["shape"] == [40, 48, 12]
    assert job["scan"]["spacing_mm"] == [1, 1, 4]
    # An ellipsoid of 42 mm: the image is judged, too, as `translate` and `inspect` do.
    assert job["verdict"]["state"] == "unusual"
    assert "too small for an adult's head" in job["verdict"]["reasons"][0]
    assert job["target"] == "T2w"
    assert job["maps"] == [[]], "this model makes no uncertainty maps"
    assert job["estimates"] == [job["estimated_seconds"]]
    assert job["estimated_seconds"] > 0
    assert job["files"] == []
    started = web.client.post(f"/api/jobs/{job['id']}/start", data={"to": "T2w"})
    assert started.status_code == 202
    done = web.end_of(job, "done", "failed")
    assert done["state"] == "done"
    assert {file["kind"] for file in done["files"]} >= {"scan", "sidecar", "methods", "all"}
    assert b"T2w image was synthesised from the T1w image" in web.file(done, "methods")
    with zipfile.ZipFile(streams.BytesIO(web.file(done, "all"))) as everything:
        names = {file["name"] for file in done["files"]} - {"all.zip"}
        assert set(everything.namelist()) == names


def test_the_page_shows_the_scan_as_it_is(web: Served, t1w: Path):
    job = web.translated(t1w, start="false")
    content = web.client.get(f"/api/jobs/{job['id']}/files/source.nii").read()
    shown, scan = nib.Nifti1Image.from_bytes(content), nib.load(t1w)
    np.testing.assert_array_equal(shown.get_fdata(), scan.get_fdata())
    np.testing.assert_allclose(shown.affine, scan.affine)


class TestTrueScan:
    @pytest.fixture
    def pair(self, bids_scans: Path) -> tuple[Path, Path]:
        t1w, t2w = (bids_scans / f"sub-02/anat/sub-02_{c}.nii.gz" for c in ("T1w", "T2w"))
        return t1w, t2w

    def test_scores_of_a_scan_on_the_grid_of_the_source(
        self, web: Served, pair: tuple[Path, Path], tmp_path: Path
    ):
        job = web.translated(pair[0], truth=pair[1])
        assert set(job["views"]) == {"source", "synthetic", "truth", "difference"}
        assert "as it is" in job["comparison"]["note"]
        (tmp_path / "made").mkdir()
        made = tmp_path / "made/sub-02_T2w.nii.gz"
        made.write_bytes(web.file(job, "scan"))
        with pytest.warns(MrbridgeWarning, match="same anatomy|correlate"):  # it learned nothing
            scored = mrbridge.score(pair[1], made)
        expected = scored.cases[0].results["to_T2w"].scores["model"]
        for kind, values in job["comparison"]["scores"]["model"].items():
            assert values == pytest.approx(expected[kind], rel=1e-4)
        assert json.loads(web.file(job, "scores"))["scores"].keys() == {"model", "floor", "copy"}

    def test_a_scan_on_another_grid_is_registered(
        self,
        web: Served,
        pair: tuple[Path, Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ):
        t1w, t2w = map(io.read, pair)
        shift = np.eye(4)
        shift[:3, 3] = (2, 0, 4)
        moved = replace(t2w, affine=shift @ t2w.affine)
        found = SimpleNamespace(transform=np.linalg.inv(shift), displacement_mm=4.5)
        monkeypatch.setattr(tasks, "register", lambda *_: found)
        truth, how = tasks.registered(moved, t1w, "T2w")
        np.testing.assert_allclose(truth.voxels, t2w.voxels, atol=1e-2 * t2w.voxels.max())
        assert "registered" in how
        assert "4.5 mm" in how

    @pytest.mark.slow
    def test_a_simulated_head_that_moved_is_registered(self, web: Served, tmp_path: Path):
        from mrbridge.phantom import PhantomSettings
        from mrbridge.phantom.subjects import simulate
        from mrbridge.preprocessing.resample import resample

        subject = simulate(PhantomSettings(spacing_mm=3, seed=3), 0)
        turn = np.radians(5)
        motion = np.eye(4)
        motion[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        motion[:3, 3] = 6, -4, 3
        t1w, t2w = tmp_path / "sub-1_T1w.nii.gz", tmp_path / "sub-1_T2w.nii.gz"
        io.write(subject.t1w, t1w)
        moved = resample(subject.t2w, subject.t2w, motion)
        grid = moved.affine.copy()
        grid[:3, 3] = moved.affine[:3] @ (2, 0, 1, 1)
        io.write(replace(moved, voxels=moved.voxels[2:, :, 1:], affine=grid), t2w)
        job = web.translated(t1w, truth=t2w)
        assert job["comparison"]["note"].startswith("It was registered to the source (rigid, moved")
        content = web.client.get(f"/api/jobs/{job['id']}/files/truth.nii").read()
        shown = nib.Nifti1Image.from_bytes(content)
        np.testing.assert_allclose(shown.affine, subject.t1w.affine)
        core = tuple(slice(n // 4, -(n // 4)) for n in shown.shape)

        def likeness(voxels: np.ndarray) -> float:
            return float(np.corrcoef(voxels[core].ravel(), subject.t2w.voxels[core].ravel())[0, 1])

        assert likeness(moved.voxels) < 0.7 < 0.9 < likeness(shown.get_fdata())

    def test_a_scan_that_cannot_be_registered_is_refused_with_the_reason(
        self, web: Served, pair: tuple[Path, Path], tmp_path: Path
    ):
        t2w = io.read(pair[1])
        noise = np.random.default_rng(0).uniform(0, 1000, (20, 20, 20)).astype(np.float32)
        io.write(Volume(noise, t2w.affine), tmp_path / "noise_T2w.nii.gz")
        job = web.translated(pair[0], truth=tmp_path / "noise_T2w.nii.gz")
        assert job["state"] == "done", "the translation stands"
        assert set(job["views"]) == {"source", "synthetic"}
        assert job["comparison"]["refused"].startswith("The true scan")
        assert "scores" not in {file["kind"] for file in job["files"]}

    def test_a_scan_of_the_wrong_kind_is_refused(self, web: Served, pair: tuple[Path, Path]):
        job = web.translated(pair[0], truth=pair[0])
        assert job["comparison"] == {
            "refused": "The true scan is T1w, not T2w. Choose the scan that was acquired."
        }


class TestSeveralScans:
    """Additional scans of the person."""

    @pytest.fixture
    def scans(self, make_scan: Callable[..., Volume], tmp_path: Path) -> dict[str, Path]:
        """Scans of one person on one grid, by contrast."""
        paths = {c: tmp_path / "in" / f"sub-06_{c}.nii.gz" for c in ("T1w", "FLAIR", "PDw")}
        for contrast, path in paths.items():
            io.write(make_scan(6, "T1w" if contrast == "T1w" else "T2w"), path)
        return paths

    @pytest.mark.parametrize("others", [["FLAIR"], ["PDw", "FLAIR"]])
    def test_the_result_is_that_of_the_command_line(
        self,
        others: list[str],
        four: Served,
        scans: dict[str, Path],
        four_bundle: Bundle,
        run: Run,
        tmp_path: Path,
    ):
        also = [scans[one] for one in others]
        job = four.translated(scans["T1w"], also=also, to="T2w")
        assert job["state"] == "done", job
        assert job["also"] == [path.name for path in also]
        more = [text for path in also for text in ("--also", str(path))]
        out = by_command_line(run, four_bundle, scans["T1w"], tmp_path, "--to", "T2w", *more)
        for kind, suffix in (("scan", ".nii.gz"), ("sidecar", ".json")):
            assert four.file(job, kind) == (out / f"sub-06_desc-synth_T2w{suffix}").read_bytes()
        images = f"from the {', '.join(['T1w', *others[:-1]])} and {others[-1]} images"
        assert images in four.file(job, "methods").decode()
        single = four.translated(scans["T1w"], to="T2w")
        assert four.file(single, "scan") != four.file(job, "scan")

    @pytest.mark.slow
    def test_a_scan_on_another_grid_is_registered_as_by_the_command_line(
        self, four: Served, four_bundle: Bundle, run: Run, tmp_path: Path
    ):
        from mrbridge.phantom import PhantomSettings
        from mrbridge.phantom.subjects import simulate

        subject = simulate(PhantomSettings(spacing_mm=3, seed=3), 0)
        t1w, flair = tmp_path / "sub-1_T1w.nii.gz", tmp_path / "sub-1_FLAIR.nii.gz"
        io.write(subject.t1w, t1w)
        affine = subject.t2w.affine.copy()
        affine[:3, 3] += 4, -3, 2
        io.write(replace(subject.t2w, affine=affine), flair)
        job = four.translated(t1w, also=[flair], to="T2w")
        assert job["state"] == "done", job
        assert any("registered to the scan: moved by up to 5." in note for note in job["notes"])
        assert "FLAIR image was registered" in four.file(job, "methods").decode()
        out = by_command_line(
            run, four_bundle, t1w, tmp_path / "out", "--to", "T2w", "--also", str(flair)
        )
        for kind, suffix in (("scan", ".nii.gz"), ("sidecar", ".json")):
            assert four.file(job, kind) == (out / f"sub-1_desc-synth_T2w{suffix}").read_bytes()

    def test_a_dicom_series(
        self, four: Served, scans: dict[str, Path], make_scan: Callable[..., Volume], tmp_path: Path
    ):
        save(tmp_path / "study", datasets(make_scan(6, "T2w"), 3, **T2W))
        files = [*(tmp_path / "study").iterdir(), scans["FLAIR"]]
        job = four.translated(scans["T1w"], also=files, to="PDw")
        assert job["state"] == "done", job
        assert job["also"] == ["sub-06_FLAIR.nii.gz", "DICOM series"]
        assert "from the T1w, FLAIR and T2w images" in four.file(job, "methods").decode()

    def test_each_translation_has_its_own(self, four: Served, scans: dict[str, Path]):
        job = four.translated(scans["T1w"], also=[scans["FLAIR"]], to="T2w", start="false")
        assert job["state"] == "ready"
        folder = four.jobs.get(job["id"]).folder

        def again(files: list[tuple[str, Any]] | None, **data: str) -> dict[str, Any]:
            start = f"/api/jobs/{job['id']}/start"
            answer = four.client.post(start, data={"to": "T2w"} | data, files=files)
            assert answer.status_code == 202, answer.text
            return four.end_of(job, "done", "failed")

        kept = again(None)
        assert kept["also"] == ["sub-06_FLAIR.nii.gz"]
        made = four.file(kept, "scan")
        assert made == four.file(again(None), "scan")
        pdw = ("also", (scans["PDw"].name, scans["PDw"].read_bytes()))
        assert again([pdw])["also"] == ["sub-06_PDw.nii.gz"]
        assert list(folder.rglob("sub-06_FLAIR.nii.gz")) == []
        none = again(None, also="")
        assert none["also"] == []
        assert four.file(none, "scan") != made
        assert list(folder.rglob("sub-06_PDw.nii.gz")) == []

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            (
                "sub-06_T1w.nii.gz",
                "sub-06_T1w.nii.gz: is T1w, as another of the scans is. Name one",
            ),
            ("sub-06_T2w.nii.gz", "is T2w, which is the contrast to synthesise. Name "),
            ("b.nii.gz", "b.nii.gz: has a contrast that nothing identifies. Name it,"),
            (
                "sub-06_desc-brain_mask.nii.gz",
                "mask.nii.gz: has the BIDS suffix mask. Name another",
            ),
        ],
    )
    def test_wrong_scans(
        self, name: str, words: str, four: Served, scans: dict[str, Path], tmp_path: Path
    ):
        other = tmp_path / name
        other.write_bytes(scans["FLAIR"].read_bytes())
        job = four.translated(scans["T1w"], also=[other], to="T2w")
        assert job["state"] == "failed"
        assert words in job["error"]["text"]
        assert str(four.jobs.folder) not in str(job)
        assert job["files"] == []

    def test_the_same_contrast_twice(self, four: Served, scans: dict[str, Path]):
        job = four.translated(scans["T1w"], also=2 * [scans["FLAIR"]], to="T2w")
        assert "is FLAIR, as another of the scans is" in job["error"]["text"]

    def test_too_many(self, four: Served, scans: dict[str, Path]):
        answer = four.post(scans["T1w"], also=3 * [scans["FLAIR"]], to="T2w")
        assert answer.status_code == 422
        assert "no more than 2 additional scans" in answer.json()["error"]["text"]

    def test_a_model_of_one_scan(self, four: Served, scans: dict[str, Path]):
        several = [one["takes_several"] for one in four.client.get("/api/health").json()["models"]]
        assert several == [True, False]
        known = len(four.jobs.all())
        answer = four.post(scans["T1w"], also=[scans["FLAIR"]], model="1")
        assert answer.status_code == 422
        assert "This model takes one scan. Leave out" in answer.json()["error"]["text"]
        assert len(four.jobs.all()) == known
        job = four.translated(scans["T1w"], also=[scans["FLAIR"]], to="T2w", start="false")
        start = f"/api/jobs/{job['id']}/start"
        assert four.client.post(start, data={"model": "1"}).status_code == 422
        assert four.client.post(start, data={"model": "1", "also": ""}).status_code == 202
        assert four.end_of(job, "done", "failed")["state"] == "done"


class TestRefusals:
    def test_a_damaged_scan_is_named_without_its_place(
        self, web: Served, t1w: Path, tmp_path: Path
    ):
        damaged = tmp_path / "cut_T1w.nii.gz"
        damaged.write_bytes(t1w.read_bytes()[:-500])
        job = web.translated(damaged)
        assert job["state"] == "failed"
        assert job["error"]["text"].startswith("cut_T1w.nii.gz: ")
        assert job["error"]["remedy"]
        assert str(web.jobs.folder) not in str(job)

    def test_a_scan_of_the_wanted_contrast_is_refused_unless_forced(self, web: Served, t1w: Path):
        job = web.translated(t1w, to="T1w")
        assert job["state"] == "failed"
        assert "is T1w already" in job["error"]["text"]
        web.client.post(f"/api/jobs/{job['id']}/start", data={"to": "T1w", "force": "true"})
        assert web.end_of(job, "done", "failed")["state"] == "done"

    def test_a_mask_is_refused(self, web: Served, t1w: Path, tmp_path: Path):
        mask = tmp_path / "sub-01_desc-brain_mask.nii.gz"
        mask.write_bytes(t1w.read_bytes())
        job = web.translated(mask, start="false")
        assert job["verdict"]["state"] == "refused"
        assert "mask" in job["verdict"]["reasons"][0]

    def test_an_unknown_contrast_is_unusual(self, web: Served, t1w: Path, tmp_path: Path):
        unknown = tmp_path / "scan.nii.gz"
        unknown.write_bytes(t1w.read_bytes())
        job = web.translated(unknown, start="false")
        assert job["verdict"]["state"] == "unusual"
        assert "Nothing says which contrast it is" in job["verdict"]["reasons"][-1]
        web.client.post(f"/api/jobs/{job['id']}/start")
        done = web.end_of(job, "done")
        assert done["files"][0]["name"] == "scan_desc-synth_T2w.nii.gz"
        assert any("assuming it is T1w" in note for note in done["notes"])

    def test_a_model_without_uncertainty_says_so(self, web: Served, t1w: Path):
        assert web.client.get("/api/health").json()["models"][0]["uncertainty"] is False
        job = web.translated(t1w, uncertainty="true")
        assert job["state"] == "failed"
        assert "uncertainty" in job["error"]["text"]

    @pytest.mark.parametrize(
        ("fields", "status", "words"),
        [
            ({"to": "FLAIR"}, 422, "makes T1w and T2w"),
            ({"model": "7"}, 422, "no such model"),
            ({"model": "-1"}, 422, "no such model"),
        ],
    )
    def test_impossible_choices(
        self, fields: dict[str, str], status: int, words: str, web: Served, t1w: Path
    ):
        answer = web.post(t1w, **fields)
        assert answer.status_code == status
        assert words in answer.json()["error"]["text"]
        assert web.jobs.all() == []

    def test_several_scans_in_one_upload(self, web: Served, t1w: Path):
        answer = web.post(t1w, t1w.with_name("sub-01_T2w.nii.gz"))
        assert answer.status_code == 422
        assert "several scans" in answer.json()["error"]["text"]

    def test_an_upload_without_a_scan(self, web: Served):
        answer = web.client.post("/api/jobs", data={"to": "T2w"})
        assert answer.status_code == 422


def test_a_running_scan_is_cancelled_and_the_next_one_is_done(web: Served, t1w: Path):
    with web.paused():
        job = web.post(t1w).json()
        web.end_of(job, "running")
        answer = web.client.post(f"/api/jobs/{job['id']}/cancel").json()
        assert answer["state"] == "cancelled"
    assert web.translated(t1w)["state"] == "done"
    assert web.end_of(job)["state"] == "cancelled"


def test_a_waiting_scan_is_cancelled(web: Served, t1w: Path):
    with web.paused():
        running, waiting = web.post(t1w).json(), web.post(t1w).json()
        web.end_of(running, "running")
        assert web.end_of(waiting, "queued")["waiting_for"] == 0
        web.client.post(f"/api/jobs/{waiting['id']}/cancel")
    assert web.end_of(running)["state"] == "done"
    assert web.end_of(waiting)["state"] == "cancelled"


def test_a_translation_starts_once(web: Served, t1w: Path, tmp_path: Path):
    job = web.translated(t1w, start="false")
    start = f"/api/jobs/{job['id']}/start"
    with web.paused():
        assert web.client.post(start).status_code == 202
        assert web.client.post(start).status_code == 409
    assert web.end_of(job)["state"] == "done"
    damaged = tmp_path / "cut_T1w.nii.gz"
    damaged.write_bytes(t1w.read_bytes()[:-500])
    unread = web.translated(damaged, start="false")
    answer = web.client.post(f"/api/jobs/{unread['id']}/start")
    assert answer.status_code == 409
    assert "could not be read" in answer.json()["error"]["text"]
    removed = web.jobs.get(job["id"])
    web.jobs.remove(removed)
    with pytest.raises(Refused, match="no such scan"):
        web.jobs.start(removed)


def test_only_some_translations_wait(web: Served, t1w: Path, monkeypatch: pytest.MonkeyPatch):
    job = web.translated(t1w, start="false")
    monkeypatch.setattr(web.jobs, "settings", web.jobs.settings.changed({"waiting": 1}))
    with web.paused():
        web.end_of(web.post(t1w).json(), "running")
        web.post(t1w)
        assert web.client.post(f"/api/jobs/{job['id']}/start").status_code == 429


def test_one_connection_tells_of_all_scans(web: Served, t1w: Path):
    with web.paused():
        running, first, second = (web.post(t1w).json()["id"] for _ in range(3))
        web.end_of({"id": running}, "running")
        with web.client.stream("GET", "/api/events") as stream:
            messages = lines_of(stream)
            all_of_them = next(messages)
            assert [job["id"] for job in all_of_them["jobs"]] == [running, first, second]
            assert [job["waiting_for"] for job in all_of_them["jobs"]] == [0, 0, 1]
            web.client.post(f"/api/jobs/{first}/cancel")
            for message in messages:
                changed = {job["id"]: job for job in message["jobs"]}
                if changed.get(first, {}).get("state") == "cancelled":
                    break
            assert changed[second]["waiting_for"] == 0, "it moved up"
            web.client.delete(f"/api/jobs/{second}")
            third = web.post(t1w).json()["id"]
            removed = []
            for message in messages:
                removed += message["removed"]
                if third in (job["id"] for job in message["jobs"]):
                    break
            assert removed == [second]


def test_a_state_is_never_half_changed(web: Served, t1w: Path):
    job = web.jobs.get(web.translated(t1w, start="false")["id"])
    states: list[dict[str, object]] = []
    asking = threading.Thread(target=lambda: states.append(web.jobs.as_json(job)))
    with web.jobs._changed:
        asking.start()
        asking.join(0.2)
        assert states == []
    asking.join(10)
    assert states[0]["state"] == "ready"


def test_a_model_of_several_contrasts(four_bundle: Bundle, make_scan: Callable[..., Volume]):
    from mrbridge.inference.translator import Translator
    from mrbridge.web import tasks

    translator = Translator(four_bundle, "cpu")
    facts = tasks.model_facts(translator, "four")
    assert facts["contrasts"] == ["T1w", "T2w", "PDw", "FLAIR"]
    assert tasks._mapped(make_scan(1, "T1w"), translator) == ["T2w"]
    assert "FLAIR image was synthesised from the T1w image" in tasks.methods(
        translator, "T1w", "FLAIR"
    )
    assert "assumed to be T1w" in tasks.methods(translator, None, "T2w")


def test_what_is_deleted_is_gone(web: Served, t1w: Path):
    job = web.translated(t1w)
    folder = web.jobs.get(job["id"]).folder
    assert folder.is_dir()
    assert web.client.delete(f"/api/jobs/{job['id']}").status_code == 204
    assert not folder.exists()
    for path in ("", "/events", "/files/all.zip"):
        assert web.client.get(f"/api/jobs/{job['id']}{path}").status_code == 404


@pytest.mark.slow
def test_an_uncertainty_map_is_that_of_the_command_line(
    t1w: Path, run: Run, certain_bundle: Bundle, tmp_path: Path
):
    bundle = save_bundle(certain_bundle.manifest, certain_bundle.weights, tmp_path / "bundle")
    with serve(bundle) as served:
        assert served.client.get("/api/health").json()["models"][0]["uncertainty"] is True
        job = served.translated(t1w, uncertainty="true")
        assert job["state"] == "done", job
        out = by_command_line(run, bundle, t1w, tmp_path / "out", "--uncertainty")
        (name,) = [file["name"] for file in job["files"] if file["kind"] == "uncertainty"]
        assert served.file(job, "uncertainty") == (out / name).read_bytes()
        assert job["views"]["uncertainty"]["high"] > 0
        assert set(job["maps"][0]) == {"T1w", "T2w"}
