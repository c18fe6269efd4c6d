"""Reader studies: what raters can see, their answers, and the analysis."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mrbridge import io
from mrbridge.errors import InputError, OutputError, SettingsError, SomeScansFailed
from mrbridge.study import design
from mrbridge.study.analysis import analyse, krippendorff_alpha, share
from mrbridge.study.design import Study, setup
from mrbridge.study.settings import StudySettings
from mrbridge.volume import Volume

PEOPLE = ("anna", "boris", "clara")
LESION = (13, 24, 6)


@pytest.fixture
def scans(make_scan: Callable[..., Volume], tmp_path: Path) -> Path:
    """Real and synthetic T2w scans of three people, and a lesion mask of the first."""
    root = tmp_path / "scans"
    for number, name in enumerate(PEOPLE):
        folder = root / f"sub-{name}"
        folder.mkdir(parents=True)
        real = make_scan(number, "T2w")
        noise = np.abs(np.random.default_rng(number).normal(0, 5, real.voxels.shape))
        noisy = Volume((real.voxels + noise).astype(np.float32), real.affine)
        io.write(noisy, folder / f"sub-{name}_T2w.nii.gz")
        blurred = (0.9 * real.voxels).astype(np.int16)
        made = Volume(blurred, real.affine, synthetic=True)
        io.write(made, folder / f"sub-{name}_desc-synth_T2w.nii.gz")
    mask = np.zeros(real.voxels.shape, np.uint8)
    mask[12:15, 23:26, 5:8] = 1
    masks = tmp_path / "masks"
    masks.mkdir()
    lesions = nib.Nifti1Image(mask, real.affine)
    nib.save(lesions, masks / "sub-anna_label-lesion_mask.nii.gz")
    return root


@pytest.fixture
def study(scans: Path, tmp_path: Path) -> Study:
    return setup(scans, None, tmp_path / "study", lesions=tmp_path / "masks")


def answer_all(study: Study, rater: str, judge: Callable[[str, str], str]) -> None:
    """Answer every question as `judge(scan, question)` says."""
    path = design.path_for(study, rater)
    for scan in study.order_for(rater):
        given = {question: judge(scan, question) for question in design.allowed(study, scan)}
        design.add_answers(study, path, scan, given, 2.0)


class TestBlinding:
    def test_nothing_but_the_key_says_what_a_scan_is(self, study: Study):
        key = study.key
        assert (
            sorted(one["is"] for one in key["scans"].values()) == ["real"] * 3 + ["synthetic"] * 3
        )
        hidden = study.path / "hidden.json"
        (study.path / design.KEY).rename(hidden)
        for path in study.path.rglob("*"):
            if path != hidden:
                text = path.name.encode() + (path.read_bytes() if path.is_file() else b"")
                for word in (b"synth", b"real", *(name.encode() for name in PEOPLE)):
                    assert word not in text.lower(), path

    def test_the_scans_of_a_person_differ_in_their_grey_levels_only(self, study: Study):
        people: dict[str, list[bytes]] = {}
        for scan, facts in study.key["scans"].items():
            people.setdefault(facts["person"], []).append(study.image(scan).read_bytes())
        for one, other in people.values():
            header = 352
            assert one[:header] == other[:header]
            assert len(one) == len(other)
            assert one != other

    def test_the_noise_around_the_head_is_removed(self, study: Study):
        outside = [
            np.asarray(nib.load(study.image(scan)).dataobj)[0, 0] for scan in study.key["scans"]
        ]
        assert np.max(outside) == 0

    def test_the_window_is_that_of_each_scan(self, study: Study):
        for scan in study.items:
            voxels = np.asarray(nib.load(study.image(scan)).dataobj)
            assert voxels.dtype == np.uint8
            assert voxels.max() == 255

    def test_two_grids_become_a_third_one(
        self, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        from types import SimpleNamespace

        identity = SimpleNamespace(transform=np.eye(4))
        monkeypatch.setattr(design, "register", lambda *_: identity)
        path = scans / "sub-anna/sub-anna_desc-synth_T2w.nii.gz"
        made = io.read(path, force=True)
        path.unlink()
        shifted = made.affine.copy()
        shifted[:3, 3] += 0.5
        io.write(Volume(made.voxels, shifted, synthetic=True), path)
        study = setup(scans, None, tmp_path / "study")
        one, other = (
            nib.load(study.image(scan))
            for scan, facts in study.key["scans"].items()
            if "anna" in facts["person"]
        )
        np.testing.assert_array_equal(one.affine, other.affine)
        assert np.abs(one.affine - made.affine).max() > 0.1
        assert np.abs(one.affine - shifted).max() > 0.1
        assert np.corrcoef(one.get_fdata().ravel(), other.get_fdata().ravel())[0, 1] > 0.9

    def test_two_folders(self, scans: Path, tmp_path: Path):
        made = tmp_path / "made"
        for path in scans.rglob("*desc-synth*"):
            place = made / path.relative_to(scans)
            place.parent.mkdir(parents=True)
            path.rename(place)
        with pytest.raises(InputError, match="no synthetic image"):
            setup(scans, None, tmp_path / "study")
        assert len(setup(scans, made, tmp_path / "study").items) == 6

    def test_a_scan_that_cannot_be_read(self, scans: Path, tmp_path: Path):
        damaged = scans / "sub-boris/sub-boris_T2w.nii.gz"
        damaged.write_bytes(damaged.read_bytes()[:-99])
        with pytest.raises(SomeScansFailed, match="1 of 3 people") as caught:
            setup(scans, None, tmp_path / "study")
        assert len(caught.value.result.items) == 4


class TestDesign:
    def test_the_order_is_random_by_seed_and_rater(self, study: Study, scans: Path, tmp_path: Path):
        orders = {rater: study.order_for(rater) for rater in "abcdefgh"}
        assert len({tuple(order) for order in orders.values()}) > 4
        assert {tuple(sorted(order)) for order in orders.values()} == {tuple(sorted(study.items))}
        again = setup(scans, None, tmp_path / "again", lesions=tmp_path / "masks")
        assert again.order_for("a") == orders["a"]
        other = setup(scans, None, tmp_path / "other", settings=StudySettings(seed=1))
        assert not set(other.items) & set(study.items)

    def test_answers_to_another_study_are_refused(self, study: Study, scans: Path, tmp_path: Path):
        """Of the same people, by another model, with the same seed."""
        for file in scans.glob("*/*synth*"):
            made = io.read(file)
            io.write(replace(made, voxels=made.voxels // 2 + 40), file)
        other = setup(scans, None, tmp_path / "other", lesions=tmp_path / "masks")
        answer_all(study, "r1", lambda scan, question: design.allowed(study, scan)[question][0])
        shutil.copy(design.path_for(study, "r1"), design.path_for(other, "r1"))
        with pytest.raises(InputError, match="not an answer to a question of this study"):
            analyse(other.path)

    def test_lesions_and_as_many_positions_without_one(self, study: Study):
        spots = study.key["spots"].values()
        assert len(spots) == 4, "a lesion and another position, in both scans"
        affine = nib.load(study.image(next(iter(study.items)))).affine
        for spot in spots:
            place = np.linalg.inv(affine) @ [*spot["position_mm"], 1]
            far = np.abs((place[:3] - LESION) * [1, 1, 4]).max()
            assert (far < 2) if spot["lesion"] else (far > 10)
        asked = [places for places in study.items.values() if places]
        assert sorted(map(len, asked)) == [2, 2]

    def test_a_study_with_answers_is_kept(self, study: Study, scans: Path):
        with pytest.raises(OutputError, match="not empty"):
            setup(scans, None, study.path)
        setup(scans, None, study.path, overwrite=True)
        (study.path / "answers/r1.csv").write_text("scan,question,answer,seconds\n")
        with pytest.raises(OutputError, match="has answers"):
            setup(scans, None, study.path, overwrite=True)

    def test_a_folder_of_something_else_is_kept(self, scans: Path, tmp_path: Path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/thesis.tex").write_text("x")
        with pytest.raises(OutputError, match=r"thesis\.tex"):
            setup(scans, None, tmp_path / "mine", overwrite=True)


class TestAnswers:
    @pytest.mark.parametrize("name", ["", "../x", "a b", "a/b", 50 * "x"])
    def test_names_that_are_no_file(self, name: str, study: Study):
        with pytest.raises(SettingsError):
            design.path_for(study, name)

    @pytest.mark.parametrize(
        "changes", [{"origin": "maybe"}, {"quality": "6"}, {"extra": "yes"}, {"quality": None}]
    )
    def test_impossible_answers(self, changes: dict[str, Any], study: Study):
        scan = next(scan for scan, spots in study.items.items() if not spots)
        given = {"origin": "real", "quality": "3"} | changes
        given = {k: v for k, v in given.items() if v is not None}
        path = design.path_for(study, "r1")
        with pytest.raises(ValueError, match="every question"):
            design.add_answers(study, path, scan, given, 1)
        assert not path.exists()

    def test_a_file_of_something_else(self, study: Study):
        path = design.path_for(study, "r1")
        for text in ("a,b\n1,2\n", "scan,question,answer,seconds\nx,origin,real,1\n"):
            path.write_text(text)
            with pytest.raises(InputError, match=r"r1\.csv"):
                analyse(study.path)

    def test_answers_that_are_there_twice(self, study: Study):
        """Else a copy counts as another rater, who agrees."""
        path = design.path_for(study, "r1")
        for number, scan in enumerate(study.order_for("r1")):
            given = {q: choices[0] for q, choices in design.allowed(study, scan).items()}
            design.add_answers(study, path, scan, given, 2.0 + number)
        copy = path.with_name("r1_copy.csv")
        shutil.copy(path, copy)
        with pytest.raises(InputError, match=r"r1_copy\.csv.* one of the two is a copy"):
            analyse(study.path)
        copy.unlink()
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*lines, lines[1]]))
        with pytest.raises(InputError, match=r"answers a question about .* twice"):
            analyse(study.path)


class TestStatistics:
    RATERS = (
        "1 2 3 3 2 1 4 1 2 * * *",
        "1 2 3 3 2 2 4 1 2 5 * 3",
        "* 3 3 3 2 3 4 2 2 5 1 *",
        "1 2 3 3 2 4 4 1 2 5 1 *",
    )

    @pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815)])
    def test_krippendorffs_own_example(self, level: Any, alpha: float):
        columns = zip(*(line.split() for line in self.RATERS), strict=True)
        units = [[float(value) for value in unit if value != "*"] for unit in columns]
        assert krippendorff_alpha(units, level) == pytest.approx(alpha, abs=5e-4)

    def test_agreement_is_1_if_all_agree_and_0_by_chance(self):
        rng = np.random.default_rng(0)
        assert krippendorff_alpha([[0, 0], [1, 1], [1, 1]], "nominal") == 1
        units = rng.integers(0, 2, (4000, 2)).astype(float).tolist()
        assert abs(krippendorff_alpha(units, "nominal") or 1) < 0.05
        assert krippendorff_alpha([[1], [0]], "nominal") is None

    def test_wilson(self):
        found = share(8, 10)
        assert found is not None
        assert (found["low"], found["high"]) == pytest.approx((0.4902, 0.9433), abs=1e-4)
        assert share(0, 0) is None


class TestAnalysis:
    def test_who_knows_the_truth_is_right(self, study: Study):
        key = study.key

        def knows(scan: str, question: str) -> str:
            kind = key["scans"][scan]["is"]
            if question == "origin":
                return str(kind)
            if question == "quality":
                return "5" if kind == "real" else "3"
            seen = key["spots"][question]["lesion"] is not None and kind == "real"
            return "yes" if seen else "no"

        answer_all(study, "r1", knows)
        answer_all(study, "r2", knows)
        result = analyse(study.path)
        for one in result.raters.values():
            assert (one["judged"], one["all"]["count"], one["synthetic"]["count"]) == (6, 6, 3)
            assert one["all"]["low"] == pytest.approx(0.61, abs=0.01)
        assert result.pooled["all"]["of"] == 12
        assert result.agreement == {"origin": 1.0, "quality": 1.0, "lesions": 1.0}
        assert (result.quality["real"], result.quality["synthetic"]) == (5, 3)
        assert result.quality["difference"] == {"mean": -2, "low": -2, "high": -2, "pairs": 6}
        assert result.detection["lesions"]["real"]["share"] == 1
        assert result.detection["lesions"]["synthetic"]["share"] == 0
        assert result.detection["positions without a lesion"]["real"]["share"] == 0
        (lesion,) = result.lesions
        assert lesion["real"] == {"seen": 2, "of": 2}
        assert lesion["synthetic"] == {"seen": 0, "of": 2}
        html = (study.path / "report.html").read_text()
        assert "2 of 2" in html
        assert json.loads((study.path / "analysis.json").read_text())["people"] == 3

    def test_intervals_are_wider_than_if_all_answers_were_independent(self, study: Study):
        wrong = {scan for scan, one in study.key["scans"].items() if "anna" in one["person"]}
        truth = {scan: one["is"] for scan, one in study.key["scans"].items()}
        other = {"real": "synthetic", "synthetic": "real"}

        def judge(scan: str, question: str) -> str:
            if question != "origin":
                return "3" if question == "quality" else "yes"
            return other[truth[scan]] if scan in wrong else truth[scan]

        for number in range(9):
            answer_all(study, f"r{number}", judge)
        pooled = analyse(study.path).pooled["all"]
        naive = share(pooled["count"], pooled["of"])
        assert naive is not None
        assert pooled["share"] == pytest.approx(2 / 3)
        assert pooled["high"] - pooled["low"] > 2 * (naive["high"] - naive["low"])

    def test_half_a_study(self, study: Study):
        scan = study.order_for("r1")[0]
        given = {q: choices[0] for q, choices in design.allowed(study, scan).items()}
        design.add_answers(study, design.path_for(study, "r1"), scan, given, 3.21)
        result = analyse(study.path)
        assert result.raters["r1"]["judged"] == 1
        assert result.agreement["origin"] is None
        with open(study.path / "answers/r1.csv", newline="") as file:
            row = next(csv.DictReader(file))
        assert row == {"scan": scan, "question": "origin", "answer": "real", "seconds": "3.2"}

    def test_without_answers(self, study: Study):
        with pytest.raises(InputError, match="no answers"):
            analyse(study.path)


class TestPage:
    @pytest.fixture
    def client(self, study: Study) -> Any:
        testing = pytest.importorskip("starlette.testclient")
        from mrbridge.study.server import create_app

        app = create_app(study, "r1", "secret", "127.0.0.1")
        return testing.TestClient(
            app, "http://127.0.0.1", headers={"Authorization": "Bearer secret"}
        )

    def test_a_study_is_done_and_continued(self, client: Any, study: Study):
        from starlette.testclient import TestClient

        from mrbridge.study.server import create_app

        seen = []
        for number in range(6):
            now = client.get("/api/study").json()
            assert (now["done"], now["scans"]) == (number, 6)
            scan = now["next"]["scan"]
            seen.append(scan)
            given = {"origin": "real", "quality": "4"}
            given |= {spot["name"]: "no" for spot in now["next"]["spots"]}
            body = {"scan": scan, "answers": given, "seconds": 1}
            assert client.post("/api/answers", json=body).status_code == 201
            assert client.post("/api/answers", json=body).status_code == 409
            if number == 2:  # the server is started again
                app = create_app(study, "r1", "secret", "127.0.0.1")
                client = TestClient(app, "http://127.0.0.1", headers=client.headers)
        assert client.get("/api/study").json()["next"] is None
        assert seen == study.order_for("r1")

    def test_a_scan_is_sent_as_it_is_on_disk(self, client: Any, study: Study):
        scan = study.order_for("r1")[0]
        answer = client.get(f"/api/scans/{scan}")
        assert answer.content == study.image(scan).read_bytes()
        headers = str(answer.headers).lower()
        assert "synth" not in headers
        assert not any(name in headers for name in PEOPLE)

    @pytest.mark.parametrize(
        "path", ["/key.json", "/api/scans/key", "/api/scans/..%2fkey.json", "/api/scans/x"]
    )
    def test_the_key_is_not_given_out(self, path: str, client: Any):
        assert client.get(path).status_code == 404

    @pytest.mark.parametrize("path", ["/", "/api/study", "/api/scans/x"])
    def test_strangers(self, path: str, client: Any):
        assert client.get(path, headers={"Authorization": ""}).status_code == 401
        assert client.get(path, headers={"Host": "evil.example"}).status_code == 421

    @pytest.mark.parametrize("body", [{}, {"scan": "x", "answers": {}, "seconds": 1}, [], "x"])
    def test_nonsense(self, body: Any, client: Any):
        assert client.post("/api/answers", json=body).status_code in (404, 422)


def test_the_command_line(scans: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]):
    out = tmp_path / "s"
    code, text, err = run(
        *("study", "setup", "--real", scans, "-o", out, "--json"),
        *("--lesions", tmp_path / "masks", "--spots", "1"),
    )
    assert code == 0, err
    assert json.loads(text) == {"path": str(out), "scans": 6, "spots": 4}
    code, _, err = run("study", "analyse", out)
    assert (code, "no answers" in err) == (2, True)
    answer_all(Study.open(out), "r1", lambda _, q: {"origin": "real", "quality": "2"}.get(q, "no"))
    code, text, err = run("study", "analyse", out)
    assert code == 0, err
    assert "r1: 6 judged, right 50 % (19 to 81 %; 3 of 6)" in text
    code, _, err = run("study", "rate", out, "--rater", "a b")
    assert code == 2
