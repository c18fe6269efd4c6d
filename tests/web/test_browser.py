"""The page in a real browser: Debian's Chromium, rendering by software."""

from __future__ import annotations

import base64
import io as streams
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from tests.studies import T1W, datasets, save
from tests.web.conftest import TOKEN, Served, running, serve

import mrbridge
from mrbridge import io
from mrbridge.bundle import Bundle, save_bundle
from mrbridge.study.design import Study, path_for, read_answers, setup
from mrbridge.viewer import is_built
from mrbridge.volume import Volume

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from mrbridge.dataset.store import Store
    from mrbridge.training.settings import TrainSettings

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).parents[2] / "web/node_modules/axe-core/axe.min.js"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.skipif(not is_built(), reason="the page was not built: npm is not installed"),
]

ARGUMENTS = (
    *("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader"),
    *("--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
)
READY = "#viewer[data-ready=yes]"
WAIT = 120_000  # ms
SYNTHETIC = (255, 191, 51)
STRICTEST_NOTEBOOK = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src https: http: data:; font-src https:; connect-src https:; child-src https: data:"
)
"""The policy of VS Code's notebooks with `notebook.experimental.enableCsp`; by default there is
none. From its source, backLayerWebView.ts."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield started
        started.close()


class Pages:
    """Opens pages that may not complain, and may ask no other host than their own."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.contexts: list[Any] = []
        self.complaints: list[str] = []

    def __call__(self, url: str, **how: Any) -> Page:
        context = self.browser.new_context(viewport={"width": 1280, "height": 900}, **how)
        context.set_default_timeout(WAIT)
        self.contexts.append(context)
        page = context.new_page()
        parts = urlsplit(url)
        own = url if parts.scheme == "file" else f"{parts.scheme}://{parts.netloc}/"

        def hear(message: Any) -> None:
            if message.type in ("error", "warning"):
                self.complaints.append(message.text)

        def watch(request: Any) -> None:
            if not request.url.startswith((own, "data:", "blob:", "about:")):
                self.complaints.append(request.url)

        page.on("console", hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", watch)
        page.goto(url)
        return page

    def close(self) -> None:
        for context in self.contexts:
            context.close()
        assert self.complaints == []


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Pages]:
    pages = Pages(browser)
    yield pages
    pages.close()


@pytest.fixture
def page(web: Served, open_page: Pages) -> Page:
    return open_page(f"{web.url}/?token={TOKEN}")


@pytest.fixture
def t1w(bids_scans: Path) -> Path:
    return bids_scans / "sub-01/anat/sub-01_T1w.nii.gz"


def add(page: Page, scan: Path) -> None:
    page.set_input_files("#file-input", str(scan))
    page.wait_for_selector(READY)


def translate(page: Page) -> None:
    page.click("button.main")
    page.wait_for_selector("ul.files")
    page.wait_for_selector(f"{READY} .panel:nth-child(2)")


def picture(page: Page, number: int) -> Any:
    """What a canvas shows, shape (rows, columns, 3)."""
    content = page.locator("canvas.scan").nth(number).screenshot()
    return np.asarray(Image.open(streams.BytesIO(content)).convert("RGB"), np.float64)


def marked(shown: Any) -> int:
    """The number of pixels in the colour of SYNTHETIC."""
    return int((np.abs(shown - SYNTHETIC).max(axis=-1) < 40).sum())


def serious_faults(page: Page) -> list[Any]:
    """What axe-core finds that is serious or critical."""
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: npm ci in the folder web")
    page.add_script_tag(path=str(AXE))
    found = page.evaluate("async () => JSON.stringify((await axe.run()).violations)")
    return [
        (one["id"], [node["html"][:200] for node in one["nodes"]])
        for one in json.loads(found)
        if one["impact"] in ("serious", "critical")
    ]


def place_of(page: Page) -> list[float]:
    """The position of the crosshair, RAS+ mm."""
    page.wait_for_selector(".place:has-text('mm')")
    text = page.locator(".place").inner_text()
    return [float(x) for x in text.removeprefix("At ").partition(" mm")[0].split(", ")]


def largest_object(grey: Any) -> Any:
    """The largest bright object, in its bounding box, without the lines of a crosshair."""
    grey = ndimage.median_filter(grey, 9) if len(grey) > 100 else grey
    labels, _ = ndimage.label(grey > 0.4 * grey.max())
    sizes = np.bincount(labels.ravel())[1:]
    return grey[ndimage.find_objects(labels)[int(sizes.argmax())]]


def test_translate_look_and_take_home(
    page: Page,
    t1w: Path,
    tiny_bundle: Bundle,
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
):
    add(page, t1w)
    page.select_option("select[aria-label=Planes]", "Axial")
    page.wait_for_timeout(500)
    seen = largest_object(picture(page, 0)[..., 0])  # red: the crosshair has little
    # A scan is shown from below: the first axis of the file runs from right to left, as the
    # picture does; front is up.
    plane = largest_object(io.read(t1w).voxels[:, :, 6].T[::-1].astype(np.float64))
    rows, columns = plane.shape
    small = ndimage.zoom(seen, (rows / seen.shape[0], columns / seen.shape[1]), order=1)
    assert np.corrcoef(small.ravel(), plane.ravel())[0, 1] > 0.9
    assert marked(picture(page, 0)) == 0

    translate(page)
    assert marked(picture(page, 1)) > 100
    assert marked(picture(page, 0)) == 0
    with page.expect_download() as download:
        page.click("text=sub-01_desc-synth_T2w.nii.gz")
    code, _, err = run("translate", "-i", t1w, "-o", tmp_path, "-m", tiny_bundle.path)
    assert code == 0, err
    expected = (tmp_path / "sub-01_desc-synth_T2w.nii.gz").read_bytes()
    assert Path(download.value.path()).read_bytes() == expected

    with page.expect_download() as download:
        page.click("text=Save picture")
    saved = np.asarray(Image.open(download.value.path()).convert("RGB"), np.float64)
    assert marked(saved) > 200


def test_a_2d_image(page: Page, picture_folder: Path, tmp_path: Path):
    scan = tmp_path / "subject7_T1w.png"
    scan.write_bytes((picture_folder / "TrainT1" / "Image #9.png").read_bytes())
    add(page, scan)
    assert "unknown (2D image)" in page.locator("#detail").inner_text()
    assert page.locator("select[aria-label=Planes]").is_hidden()
    assert page.get_by_text("radiological convention").is_hidden()
    translate(page)
    assert marked(picture(page, 1)) > 100
    assert marked(picture(page, 0)) == 0
    assert "subject7_desc-synth_T2w.png" in page.locator("ul.files").inner_text()


def test_a_dicom_folder(page: Page, make_scan: Callable[..., Volume], tmp_path: Path):
    folder = tmp_path / "study"
    save(folder, datasets(make_scan(6, "T1w"), 3, **T1W))
    page.set_input_files("#folder-input", str(folder))
    page.wait_for_selector(READY)
    assert page.locator("#scans").inner_text().startswith("DICOM series")
    assert "T1w" in page.locator("#detail dl").inner_text()
    translate(page)
    assert "synthetic_T2w_dicom.zip" in page.locator("ul.files").inner_text()


@pytest.fixture(scope="class")
def translated(server: Served, browser: Browser, bids_scans: Path) -> Iterator[Page]:
    pages = Pages(browser)
    page = pages(f"{server.url}/?token={TOKEN}", bypass_csp=True)
    add(page, bids_scans / "sub-01/anat/sub-01_T1w.nii.gz")
    translate(page)
    yield page
    for job in server.jobs.all():
        server.jobs.remove(job)
    pages.close()


class TestLook:
    """One translated scan in the viewer."""

    @pytest.fixture
    def page(self, translated: Page) -> Page:
        """The page, as it was at first."""
        translated.set_viewport_size({"width": 1280, "height": 900})
        translated.select_option("select[aria-label=Planes]", "Three planes")
        translated.select_option("select[aria-label=Compare]", "side")
        translated.evaluate(
            "(v => v.goTo(v.panels[0].nv.frac2mm([0.5, 0.5, 0.5]).slice(0, 3)))"
            "(mrbridge.detail.viewer)"
        )
        translated.wait_for_timeout(300)  # until it is drawn
        return translated

    def test_the_window(self, page: Page):
        white = page.get_by_label("white at, T1w (source)")
        before, bright = white.input_value(), picture(page, 0).mean()
        white.fill(str(3 * float(before)))
        white.press("Enter")
        until(lambda: picture(page, 0).mean() < 0.8 * bright)
        page.get_by_role("button", name="Reset the window of T1w (source)").click()
        until(lambda: abs(picture(page, 0).mean() - bright) < 0.05 * bright)
        assert white.input_value() == before
        page.select_option("select[aria-label=Planes]", "Axial")
        page.wait_for_timeout(500)
        box = page.locator("canvas.scan").first.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.4 * box["height"])
        page.mouse.down(button="right")
        page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.6 * box["height"], steps=4)
        page.mouse.up(button="right")
        changed = "x => document.querySelector(\"input[aria-label^='white at']\").value !== x"
        page.wait_for_function(changed, arg=before)

    def test_the_keyboard_moves_one_crosshair_in_all_scans(self, page: Page, t1w: Path):
        place = page.locator(".place")
        before = place.inner_text()
        page.locator("canvas.scan").nth(1).focus()
        for _ in range(5):
            page.keyboard.press("ArrowLeft")
            page.keyboard.press("PageUp")
        after = place.inner_text()
        assert after != before
        scan = io.read(t1w)
        mm = [float(x) for x in after.removeprefix("At ").partition(" mm")[0].split(", ")]
        i, j, k, _ = np.linalg.inv(scan.affine) @ [*mm, 1]
        near = scan.voxels[round(i) - 1 : round(i) + 2, round(j) - 1 : round(j) + 2, round(k)]
        shown = float(after.partition("(source) ")[2].partition(",")[0])
        assert np.abs(near - shown).min() < 0.5
        page.keyboard.press("Space")
        assert page.locator(".panel.upper").evaluate("e => e.style.visibility") == "hidden"
        page.keyboard.press("Space")
        assert page.locator(".panel.upper").evaluate("e => e.style.visibility") == ""

    def test_the_mouse_moves_one_crosshair_in_all_scans(self, page: Page):
        page.select_option("select[aria-label=Planes]", "Axial")
        page.wait_for_timeout(500)
        page.locator("canvas.scan").first.scroll_into_view_if_needed()
        box = page.locator("canvas.scan").first.bounding_box()
        assert box is not None
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.click(*middle)
        page.wait_for_timeout(500)
        start = place_of(page)
        page.mouse.move(*middle)
        page.mouse.down()
        page.mouse.move(middle[0] + 0.15 * box["width"], middle[1] - 0.1 * box["height"], steps=4)
        page.mouse.up()
        moved = "x => !document.querySelector('.place').value.startsWith(`At ${x}`)"
        page.wait_for_function(moved, arg=f"{start[0]:.0f},")
        end = place_of(page)
        assert end[0] < start[0] - 2, "to the right in the picture is to the patient's left"
        assert end[1] > start[1] + 2
        assert end[2] == start[2]
        positions = page.evaluate(
            "mrbridge.detail.viewer.panels.map(p => [...p.nv.frac2mm(p.nv.scene.crosshairPos)])"
        )
        np.testing.assert_allclose(positions[0], positions[1], atol=0.01)
        before = place_of(page)
        page.mouse.wheel(0, 300)
        until(lambda: place_of(page)[2] != before[2])

    def test_swipe_keeps_the_mark_in_the_visible_part(self, page: Page):
        page.select_option("select[aria-label=Compare]", "swipe")
        for share in ("20", "80"):
            page.locator("input[aria-label^='Position of the dividing']").fill(share)
            until(
                lambda: "path(" in page.locator(".upper .frame").evaluate("e => e.style.clipPath")
            )
            assert marked(picture(page, 0)) > 30  # the lower canvas, with the upper one over it

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_axe_finds_no_serious_fault(self, scheme: Any, page: Page):
        page.emulate_media(color_scheme=scheme)
        assert serious_faults(page) == []

    @pytest.mark.parametrize("width", [380, 1280])
    def test_nothing_is_wider_than_the_window(self, width: int, page: Page):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_everything_by_keyboard(page: Page, t1w: Path):
    add(page, t1w)
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.textContent || document.activeElement.type")
        reached.append(name.strip())
        if name.startswith("Translate to"):
            break
    assert "Choose files" in reached
    page.keyboard.press("Enter")
    page.wait_for_selector("ul.files")
    assert page.evaluate("document.activeElement.closest('section.card h2 ~ *') !== null")
    assert page.locator("#status").inner_text() == "sub-01_T1w.nii.gz: Translated"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('scan')"):
            break
    before = place_of(page)
    page.keyboard.press("ArrowUp")
    assert place_of(page) != before


def test_two_models_and_the_uncertainty_slider(
    open_page: Pages,
    tiny_bundle: Bundle,
    certain_bundle: Bundle,
    t1w: Path,
    tmp_path: Path,
):
    bundle = save_bundle(certain_bundle.manifest, certain_bundle.weights, tmp_path / "certain")
    with serve(tiny_bundle, bundle) as served:
        page = open_page(f"{served.url}/?token={TOKEN}")
        add(page, t1w)
        models = page.locator("select[aria-label=Model]")
        assert models.locator("option").count() == 2
        assert page.get_by_label("uncertainty map").is_disabled(), "the first model has none"
        models.select_option("certain (T1w ↔ T2w)")
        assert page.get_by_label("uncertainty map").is_checked()
        translate(page)
        (job,) = served.client.get("/api/jobs").json()
        assert job["model"] == 1
        assert job["views"].keys() == {"source", "synthetic", "uncertainty"}
        sidecar = f"/api/jobs/{job['id']}/files/sub-01_desc-synth_T2w.json"
        assert bundle.hash in served.client.get(sidecar).text
        everything = picture(page, 1)
        slider = page.locator("input[aria-label^='Hide what']")
        slider.focus()
        for _ in range(3):
            page.keyboard.press("PageDown")
        page.wait_for_timeout(500)
        assert "± " in page.locator("label", has_text="Hide what").inner_text()
        some = picture(page, 1)
        slider.fill("0")
        page.wait_for_timeout(500)
        nothing = picture(page, 1)
        shares = [(shown.max(axis=-1) > 60).mean() for shown in (everything, some, nothing)]
        assert shares[0] >= shares[1] >= shares[2]
        assert shares[2] < 0.7 * shares[0]
        page.get_by_label("Uncertainty in colour").check()
        page.wait_for_timeout(500)
        coloured = picture(page, 1)
        assert np.abs(coloured[..., 0] - coloured[..., 2]).mean() > 2, "a colour map"
        assert marked(coloured) > 100, "SYNTHETIC"
        models.select_option("bundle (T1w ↔ T2w)")
        assert page.locator("button.main").inner_text() == "Translate to T2w"
        served.jobs.close()
        page.wait_for_selector("#messages >> text=The server does not answer.")
        page.close()


def test_scores_against_the_true_scan(page: Page, t1w: Path):
    add(page, t1w)
    page.set_input_files("input[aria-label='The true scan']", str(t1w).replace("T1w", "T2w"))
    translate(page)
    table = page.locator("section", has_text="Comparison with the true scan").locator("table")
    assert "dB" in table.inner_text()
    assert page.locator("canvas.scan").count() == 4
    assert marked(picture(page, 2)) == 0, "the true scan"


def test_other_scans_of_the_person(
    open_page: Pages,
    tiny_bundle: Bundle,
    four_bundle: Bundle,
    t1w: Path,
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
):
    flair = tmp_path / "sub-01_FLAIR.nii.gz"
    flair.write_bytes(t1w.with_name("sub-01_T2w.nii.gz").read_bytes())
    with serve(tiny_bundle, four_bundle) as served:
        page = open_page(f"{served.url}/?token={TOKEN}", bypass_csp=True)
        add(page, t1w)
        others = page.get_by_label("Other scans of this person")
        assert others.is_hidden(), "the first model takes one scan"
        page.select_option("select[aria-label=Model]", "1")
        page.select_option("select[aria-label^=Contrast]", "T2w")
        assert page.get_by_label(
            "Other scans of this person to use as well (PDw, FLAIR)"
        ).is_visible()
        single = page.get_by_role("button", name="Use this scan only")
        assert single.is_hidden()

        others.set_input_files([t1w])
        page.click("button.main")
        page.wait_for_selector("#detail .error >> text=Name one scan of each contrast.")
        assert page.locator("#detail .error").get_attribute("role") == "alert"
        others.set_input_files([flair])
        assert single.is_visible()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert serious_faults(page) == []
        page.set_viewport_size({"width": 380, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= 380
        translate(page)
        assert "Made from sub-01_T1w.nii.gz and sub-01_FLAIR.nii.gz." in page.content()
        with page.expect_download() as download:
            page.click("text=sub-01_desc-synth_T2w.nii.gz")
        options = ("-m", four_bundle.path, "--also", flair, "--to", "T2w")
        code, _, err = run("translate", "-i", t1w, "-o", tmp_path / "out", *options)
        assert code == 0, err
        expected = (tmp_path / "out/sub-01_desc-synth_T2w.nii.gz").read_bytes()
        assert Path(download.value.path()).read_bytes() == expected

        assert others.evaluate("input => input.files[0].name") == flair.name, "kept"
        single.focus()
        page.keyboard.press("Enter")
        assert others.evaluate("input => input === document.activeElement && !input.files.length")
        page.click("button.main")
        page.wait_for_selector("text=Made from", state="detached")
        page.wait_for_selector("ul.files")
        (job,) = served.client.get("/api/jobs").json()
        assert (job["state"], job["also"]) == ("done", [])
        page.close()


def test_an_error_is_shown_with_its_remedy(page: Page, t1w: Path, tmp_path: Path):
    damaged = tmp_path / "cut_T1w.nii.gz"
    damaged.write_bytes(t1w.read_bytes()[:-500])
    page.set_input_files("#file-input", str(damaged))
    text = page.locator(".error").inner_text()
    assert text.startswith("cut_T1w.nii.gz: ")
    assert "could not be read" in page.locator("#detail").inner_text()
    page.click("text=Remove this scan")
    page.wait_for_selector("text=No scan yet")
    page.evaluate("mrbridge.server.limits.upload_mib = 0")
    page.set_input_files("#file-input", str(t1w))
    page.wait_for_selector("#messages >> text=sub-01_T1w.nii.gz: The upload exceeds 0 MiB.")


def test_cancel(page: Page, web: Served, t1w: Path):
    add(page, t1w)
    with web.paused():
        page.click("button.main")
        page.click("text=Cancel")
        page.wait_for_selector("#scans >> text=Cancelled")
    translate(page)


def test_several_files_are_dropped_at_once(page: Page, web: Served, t1w: Path):
    files = [
        {"name": path.name, "text": base64.b64encode(path.read_bytes()).decode()}
        for path in (t1w, t1w.with_name("sub-01_T2w.nii.gz"))
    ]
    page.evaluate(
        """files => {
            const transfer = new DataTransfer();
            for (const { name, text } of files) {
                const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
                transfer.items.add(new File([bytes], name));
            }
            document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer }));
        }""",
        files,
    )
    for name in ("sub-01_T1w.nii.gz", "sub-01_T2w.nii.gz"):
        page.locator("#scans button", has_text=name).locator("text=Ready to translate").wait_for()
    jobs = web.client.get("/api/jobs").json()
    assert [job["name"] for job in jobs] == ["sub-01_T1w.nii.gz", "sub-01_T2w.nii.gz"]
    assert [job["target"] for job in jobs] == ["T2w", "T1w"]
    page.click("#scans >> text=sub-01_T1w.nii.gz")
    page.wait_for_selector("h2 >> text=sub-01_T1w.nii.gz")
    assert page.locator("button.main").inner_text() == "Translate to T2w"
    for _ in range(10):  # more viewers than a browser keeps WebGL contexts
        for number in (2, 1):
            page.click(f"#scans li:nth-child({number}) button")
            page.wait_for_selector(READY)
    assert picture(page, 0).mean() > 5


def test_an_upload_shows_its_progress(page: Page, tmp_path: Path):
    large = tmp_path / "noise_T1w.nii"
    large.write_bytes(bytes(2_000_000))
    network = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 1_000_000}
    network.send("Network.emulateNetworkConditions", slow)
    page.set_input_files("#file-input", str(large))
    page.wait_for_selector("#scans progress[aria-label='Upload of noise_T1w.nii']")
    page.wait_for_function(
        "() => { const bar = document.querySelector('#scans progress');"
        " return bar && 0 < bar.value && bar.value < 1; }"
    )
    page.wait_for_selector("#scans >> text=Failed")  # zeros are not a scan
    assert page.locator("#scans progress").count() == 0


def test_an_upload_waits_for_the_first_answer_of_the_server(page: Page, web: Served, t1w: Path):
    held: list[Any] = []
    page.route("**/api/health", lambda route: held.append(route))
    page.reload()
    page.set_input_files("#file-input", str(t1w))
    page.wait_for_timeout(300)
    (health,) = held
    assert web.jobs.all() == []
    health.continue_()
    page.wait_for_selector(READY)


def test_an_answer_that_comes_after_the_end(page: Page, t1w: Path):
    """The answer "queued" is late: the later state stays."""
    late: list[tuple[Any, Any]] = []
    page.route("**/start", lambda route: late.append((route, route.fetch())))
    add(page, t1w)
    translate(page)
    ((route, response),) = late
    route.fulfill(response=response)
    page.wait_for_timeout(300)
    assert page.locator("#scans .state").inner_text() == "Translated"
    assert page.locator("ul.files").is_visible()


def test_more_scans_wait_than_a_browser_opens_connections(page: Page, web: Served, t1w: Path):
    with web.paused():
        for _ in range(8):
            web.post(t1w, start="false")
        page.wait_for_selector("#scans li:nth-child(8) >> text=Reading")
        page.set_input_files("#file-input", str(t1w))
        page.wait_for_selector("#scans li[data-id]:nth-child(9)", timeout=20_000)
    page.wait_for_selector("#scans li:nth-child(9) >> text=Ready to translate")


def test_a_large_upload_is_refused_with_the_reason(
    page: Page,
    web: Served,
    open_page: Pages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """The browser hears the refusal, although it comes before the upload has ended."""
    large = tmp_path / "large_T1w.nii"
    large.write_bytes(bytes(50_000_000))
    monkeypatch.setattr(web.jobs, "settings", web.jobs.settings.changed({"total_mib": 1}))
    page.set_input_files("#file-input", str(large))
    text = page.locator("#messages .error").inner_text()
    assert text.startswith("large_T1w.nii: Scans and results would exceed 1 MiB"), text
    assert "507 (Insufficient Storage)" in open_page.complaints.pop()


def test_a_drop_of_3_gb_is_refused_at_once(page: Page, web: Served, tmp_path: Path):
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    large = tmp_path / "large_T1w.nii"
    with large.open("wb") as file:
        file.truncate(3 << 30)  # takes no room on the disk
    page.set_input_files("#file-input", str(large))
    page.wait_for_selector(
        "#messages >> text=large_T1w.nii: The upload exceeds 2048 MiB.", timeout=10_000
    )
    assert "POST" not in sent
    assert web.jobs.all() == []


def test_two_tabs(page: Page, web: Served, open_page: Pages, t1w: Path):
    add(page, t1w)
    other = open_page(f"{web.url}/?token={TOKEN}")
    other.wait_for_selector(READY)
    translate(page)
    other.wait_for_selector("ul.files")
    page.click("text=Remove this scan")
    other.wait_for_selector("text=No scan yet")
    assert other.locator("#scans li").count() == 0


def test_a_training_is_followed(
    web: Served,
    open_page: Pages,
    small_store: Store,
    tiny: Callable[..., TrainSettings],
    quick_phantom: None,
    tmp_path: Path,
):
    run = tmp_path / "run"
    mrbridge.train(small_store, run, tiny(epochs=2), device="cpu", start="scratch")
    web.runs.append(run)
    try:
        page = open_page(f"{web.url}/runs?token={TOKEN}", bypass_csp=True, color_scheme="dark")
        page.wait_for_selector("#run[data-epochs='2']")
        assert serious_faults(page) == []
        assert page.locator("figure svg").count() >= 3
        assert "PSNR T1w→T2w" in page.locator("#run").inner_text()
        assert page.locator("img.sheet").evaluate("e => e.decode().then(() => e.naturalWidth)") > 50
        page.locator("input[type=range]").fill("0")
        assert "before training" in page.locator("#run").inner_text()
        lines = (run / "metrics.csv").read_text().splitlines()
        more = lines[-1].replace("2,", "3,", 1)
        (run / "metrics.csv").write_text("\n".join([*lines, more, ""]))
        page.wait_for_selector("#run[data-epochs='3']")
        page.click("text=Translate")
        page.wait_for_selector("#zone")
    finally:
        web.runs.clear()


def test_a_training_is_followed_while_it_runs(
    web: Served,
    open_page: Pages,
    small_store: Store,
    tiny: Callable[..., TrainSettings],
    quick_phantom: None,
    tmp_path: Path,
):
    run = tmp_path / "run"
    settings = tiny(epochs=200)
    thread = threading.Thread(
        target=mrbridge.train,
        args=(small_store, run, settings),
        kwargs={"device": "cpu", "start": "scratch"},
        daemon=True,
    )
    stop = threading.Event()
    ends = pytest.MonkeyPatch()
    ends.setattr("mrbridge.training.loop.RunRecorder.is_pause", lambda _: stop.is_set())
    thread.start()
    try:
        until(lambda: (run / "metrics.csv").is_file())
        web.runs.append(run)
        page = open_page(f"{web.url}/runs?token={TOKEN}", bypass_csp=True)
        page.wait_for_selector("#run[data-epochs]")
        first = int(page.get_attribute("#run", "data-epochs") or 0)
        page.wait_for_function(
            "n => Number(document.querySelector('#run').dataset.epochs) > n", arg=first
        )
        assert "left." in page.locator("#state").inner_text()
        assert serious_faults(page) == []
    finally:
        stop.set()
        thread.join(120)
        ends.undo()
        web.runs.clear()


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class TestReaderStudy:
    @pytest.fixture
    def study(self, make_scan: Callable[..., Volume], tmp_path: Path) -> Study:
        """A study of one person, with a lesion."""
        real = make_scan(1, "T2w")
        mask = np.zeros(real.voxels.shape, np.uint8)
        mask[12:15, 23:26, 5:8] = 1
        made = Volume((0.9 * real.voxels).astype(np.int16), real.affine, synthetic=True)
        for name, volume in (
            ("sub-01_T2w", real),
            ("sub-01_desc-synth_T2w", made),
            ("sub-01_label-lesion_mask", Volume(mask, real.affine)),
        ):
            io.write(volume, tmp_path / f"scans/{name}.nii.gz")
        mask_path = tmp_path / "scans/sub-01_label-lesion_mask.nii.gz"
        return setup(tmp_path / "scans", None, tmp_path / "study", lesions=mask_path)

    @pytest.fixture
    def url(self, study: Study) -> Iterator[str]:
        from mrbridge.study.server import create_app

        with running(create_app(study, "r1", TOKEN, "127.0.0.1")) as url:
            yield url

    def test_it_is_done_by_keyboard(self, study: Study, url: str, open_page: Pages):
        page = open_page(f"{url}/?token={TOKEN}", bypass_csp=True)
        page.wait_for_selector(READY)
        assert "synthetic scans are not marked" in page.locator("header").inner_text()
        assert marked(picture(page, 0)) == 0
        assert page.get_by_text("Save picture").count() == 0
        assert "T2w" not in page.content()
        assert serious_faults(page) == []
        scan, other = study.order_for("r1")
        spots = list(study.items[scan].items())
        page.keyboard.press("s")
        page.keyboard.press("4")
        for _, mm in spots:
            page.keyboard.press("p")
            np.testing.assert_allclose(place_of(page), mm, atol=2.5)
            page.keyboard.press("n")
        page.keyboard.press("Enter")
        page.wait_for_selector("body[data-done='1']")
        page.reload()
        page.wait_for_selector(f"body[data-done='1'] {READY}")
        answers = read_answers(study, path_for(study, "r1"))
        assert {one.question: one.answer for one in answers} == {
            "origin": "synthetic",
            "quality": "4",
            **{name: "no" for name, _ in spots},
        }
        assert {one.scan for one in answers} == {scan}
        for key in ("r", "1", "p", "y", "p", "y", "Enter"):
            page.keyboard.press(key)
        page.wait_for_selector("text=Thank you")
        assert {one.scan for one in read_answers(study, path_for(study, "r1"))} == {scan, other}


class TestReports:
    def look(self, report: Path, canvases: int, open_page: Pages) -> Page:
        page = open_page(report.as_uri(), offline=True, bypass_csp=True)
        assert serious_faults(page) == []
        assert page.locator("iframe").count() == 0, "nothing is drawn before the click"
        page.locator("button.look").first.click()
        frame = page.frame_locator("iframe")
        frame.locator(READY).wait_for()
        assert frame.locator("canvas.scan").count() == canvases
        page.wait_for_timeout(500)
        return page

    def test_of_evaluate(self, bids_scans: Path, open_page: Pages, tmp_path: Path):
        made = tmp_path / "made"
        for number in (1, 2, 3):
            name = f"sub-0{number}/anat/sub-0{number}_T2w.nii.gz"
            scan = io.read(bids_scans / name)
            changed = np.clip(scan.voxels * (1 - 0.1 * number), 0, None).astype(np.int16)
            io.write(Volume(changed, scan.affine, synthetic=True), made / name)
        result = mrbridge.score(bids_scans, made, out=tmp_path / "scores")
        assert result.report is not None
        page = self.look(result.report, 3, open_page)
        content = page.frame_locator("iframe").locator("canvas.scan").first.screenshot()
        shown = np.asarray(Image.open(streams.BytesIO(content)).convert("RGB"), np.float64)
        assert marked(shown) > 50
        assert page.locator("button.look").count() == 1, "worst and median, one of them open"

    def test_of_inspect(self, bids_scans: Path, open_page: Pages, tmp_path: Path):
        from mrbridge.inspection.inspect import inspect

        inspect(bids_scans, tmp_path / "report.html")
        self.look(tmp_path / "report.html", 1, open_page)


class TestViewPage:
    @pytest.fixture
    def view(self, bids_scans: Path, tmp_path: Path) -> Any:
        t1w, t2w = (bids_scans / f"sub-01/anat/sub-01_{c}.nii.gz" for c in ("T1w", "T2w"))
        return mrbridge.view(t1w, t2w, tmp_path / "page.html", uncertainty=t1w)

    def test_it_opens_from_disk_without_a_network(self, view: Any, open_page: Pages):
        page = open_page(view.path.as_uri(), offline=True, bypass_csp=True)
        page.wait_for_selector(READY)
        assert serious_faults(page) == []
        assert marked(picture(page, 1)) > 100
        before = picture(page, 1)[..., 1].mean()
        page.locator("input[aria-label^='Hide what']").fill("100")
        page.wait_for_timeout(500)
        assert "± " in page.locator("label", has_text="Hide what").inner_text()
        assert picture(page, 1)[..., 1].mean() < 0.9 * before

    @pytest.mark.parametrize("policy", ["", STRICTEST_NOTEBOOK])
    def test_a_notebook_shows_it(self, view: Any, open_page: Pages, tmp_path: Path, policy: str):
        notebook = tmp_path / "notebook.html"
        head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">' if policy else ""
        notebook.write_text(f"<!doctype html>{head}<body>{view._repr_html_()}</body>", "utf-8")
        page = open_page(notebook.as_uri(), offline=True)
        frame = page.frame_locator("iframe")
        frame.locator(READY).wait_for()
        assert frame.locator("canvas.scan").count() == 2
