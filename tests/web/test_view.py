"""The self-contained page of `view`, without a browser: what is in it, what is refused."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import mrbridge
from mrbridge import io, viewer
from mrbridge.errors import InputError, MrbridgeError, OutputError
from mrbridge.viewer import as_image
from mrbridge.volume import Volume
from mrbridge.web.tasks import difference, scores


@pytest.fixture(autouse=True)
def _built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that was built, which is empty: these tests need no npm."""
    static = tmp_path / "static"
    static.mkdir()
    (static / "view.js").write_text('const text = "</script>";')
    for name in ("app.css", "index.html"):
        (static / name).write_text("")
    monkeypatch.setattr(viewer, "STATIC", static)


def layers_of(html: str) -> list[dict[str, Any]]:
    (text,) = re.findall(r'<script type="application/json" id="layers">(.*?)</script>', html)
    found: list[dict[str, Any]] = json.loads(text)
    return found


def voxels_of(layer: dict[str, Any]) -> Any:
    import gzip

    content = gzip.decompress(base64.b64decode(layer["data"]))
    return nib.Nifti1Image.from_bytes(content).get_fdata()


def test_the_page_holds_scans_and_viewer(
    bids_scans: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
):
    t1w, t2w = (bids_scans / f"sub-01/anat/sub-01_{c}.nii.gz" for c in ("T1w", "T2w"))
    out = tmp_path / "page.html"
    code, answer, err = run("view", t1w, t2w, "--uncertainty", t1w, "-o", out, "--json")
    assert code == 0, err
    assert json.loads(answer) == {"path": str(out)}
    html = out.read_text("utf-8")
    layers = layers_of(html)
    assert [one["role"] for one in layers] == ["source", "synthetic", "uncertainty"]
    assert [one["synthetic"] for one in layers] == [False, True, False]
    assert layers[1]["label"] == "T2w (synthetic)"
    np.testing.assert_array_equal(voxels_of(layers[0]), io.read(t1w).voxels)
    assert not re.search(r"https?://", html)
    assert html.count("</script>") == 2  # the one in the viewer's text is escaped


def test_it_shows_itself_in_a_notebook(make_scan: Callable[..., Volume]):
    view = mrbridge.view(make_scan(1, "T1w"))
    shown = view._repr_html_()
    (inside,) = re.findall(r'srcdoc="(.*?)"', shown, re.DOTALL)
    assert unescape(inside) == view.html
    assert "MiB" in repr(view)


@pytest.mark.parametrize("axes", ["RAS", "PIL"])
def test_it_takes_objects_with_axes_in_any_order(axes: str, make_scan: Callable[..., Volume]):
    scan = make_scan(0, "T1w")
    image = nib.Nifti1Image(scan.voxels, scan.affine)
    stored = image.as_reoriented(
        nib.orientations.ornt_transform(
            nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes)
        )
    )
    pair = np.asanyarray(stored.dataobj), stored.affine
    first, second, third = (
        voxels_of(layer) for layer in layers_of(mrbridge.view(scan, stored, truth=pair).html)
    )
    np.testing.assert_array_equal(second, first)
    np.testing.assert_array_equal(third, first)


def test_without_npm_it_says_what_is_missing(
    make_scan: Callable[..., Volume], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(viewer, "STATIC", tmp_path / "nowhere")
    with pytest.raises(MrbridgeError, match="without npm") as caught:
        mrbridge.view(make_scan(1, "T1w"))
    assert "Node.js" in caught.value.remedy


def test_intensities_keep_65536_levels(make_scan: Callable[..., Volume]):
    scan = make_scan(3, "T1w")
    volume = Volume(scan.voxels.astype(np.float32) * 0.137, scan.affine)
    shown = as_image(volume, rounded=True)
    assert shown.get_data_dtype() == np.int16
    apart = np.abs(nib.Nifti1Image.from_bytes(shown.to_bytes()).get_fdata() - volume.voxels)
    assert apart.max() <= volume.voxels.max() / 65000


def test_a_2d_image_stands_upright():
    pixels = np.zeros((4, 6, 1), np.uint8)
    pixels[0, 1] = 9  # the top row, the second column
    shown = as_image(Volume(pixels, None))
    assert shown.shape == (6, 4, 1)
    np.testing.assert_array_equal(np.argwhere(shown.get_fdata()), [[1, 3, 0]])


@pytest.mark.parametrize("name", ["page.pdf", "page", "scan.nii.gz"])
def test_a_page_has_the_name_of_one(
    name: str, make_scan: Callable[..., Volume], tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match=r"Use a name with \.html"):
        mrbridge.view(make_scan(0, "T1w"), out=tmp_path / name)
    assert not list(tmp_path.glob("page*"))


def test_it_names_no_option_that_it_does_not_have(
    make_scan: Callable[..., Volume], tmp_path: Path
) -> None:
    scan = make_scan(0, "T1w")
    nib.save(nib.Nifti1Image(np.stack([scan.voxels] * 2, 3), scan.affine), tmp_path / "4d.nii")
    with pytest.raises(InputError, match=r"of translate.*or save it in a file of its own"):
        mrbridge.view(tmp_path / "4d.nii")


def test_scans_of_other_places_are_refused(make_scan: Callable[..., Volume]):
    scan = make_scan(0, "T1w")
    assert scan.affine is not None
    affine = scan.affine.copy()
    affine[0, 3] += 1000
    with pytest.raises(InputError, match="synthetic image shows another part of space"):
        mrbridge.view(scan, Volume(scan.voxels[:, :, 1:], affine))


def test_only_our_pages_are_replaced(make_scan, tmp_path: Path):
    page = tmp_path / "page.html"
    mrbridge.view(make_scan(1, "T1w"), out=page)
    first = page.read_text("utf-8")
    mrbridge.view(make_scan(2, "T2w"), out=page)
    assert page.read_text("utf-8") != first
    page.write_text("<html>a thesis</html>")
    with pytest.raises(OutputError, match="not made by mrbridge"):
        mrbridge.view(make_scan(1, "T1w"), out=page)
    assert "thesis" in page.read_text()


class TestComparison:
    def test_a_scan_with_other_intensities_does_not_differ(self, make_scan):
        scan = make_scan(2, "T2w")
        scaled = Volume(scan.voxels * 0.5 + 3.0 * (scan.voxels != 0), scan.affine)
        apart = difference(scaled, scan).voxels
        assert np.abs(apart).max() < 1e-3 * scan.voxels.max()

    def test_where_it_differs(self, make_scan):
        scan = make_scan(2, "T2w")
        changed = scan.voxels.astype(np.float32)
        changed[20, 24, 6] += 300
        apart = difference(Volume(changed, scan.affine), scan).voxels
        assert np.unravel_index(np.abs(apart).argmax(), apart.shape) == (20, 24, 6)
        assert apart[20, 24, 6] == pytest.approx(300, rel=0.05)

    def test_2d_images_of_other_sizes_are_refused(self, make_scan):
        small, large = (Volume(np.ones((n, n, 1), np.uint8), None) for n in (3, 4))
        for first in (large, make_scan(1, "T1w")):
            with pytest.raises(InputError, match="2D image"):
                mrbridge.view(first, small)


def test_scores_do_not_depend_on_a_constant(make_scan: Callable[..., Volume]):
    source = make_scan(0, "T1w")
    inside = source.voxels > 0
    made = Volume(np.where(inside, 2000 - source.voxels.astype(float), 0), source.affine)
    noise = 50 * np.random.default_rng(0).standard_normal(inside.shape)
    truth = Volume(np.where(inside, made.voxels + noise, 0), source.affine)
    shifted = (
        Volume(one.voxels.astype(float) - 1024.5, one.affine) for one in (source, made, truth)
    )
    found, same = scores(source, made, truth), scores(*shifted)
    for method, kinds in found.items():
        for kind, values in kinds.items():
            assert same[method][kind] == pytest.approx(values, rel=1e-3)
