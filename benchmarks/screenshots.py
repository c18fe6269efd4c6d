"""The pictures of README.md: a simulated head in the viewer and in a reader study, by Chromium.

    mrbridge phantom -o phantom --subjects 4
    python -m benchmarks.screenshots phantom docs/how-to/pictures [--all]

`--all` makes them light and dark, wide and narrow, to look at. It needs the extra `web`, Playwright
for Python, and Chromium on the path.
"""

from __future__ import annotations

import argparse
import io
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import mrbridge
from mrbridge.study.design import setup
from mrbridge.study.server import create_app

TOKEN = "screenshots"
CHROMIUM = (
    *("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader"),
    *("--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
)
_WAIT_MS = 600_000


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Run an application; gives its URL with the token."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/?token={TOKEN}"
        server.should_exit = True
        thread.join(10)


def save(browser: Browser, url: str, scheme: Any, width: int, path: Path, keys: str = "") -> None:
    """Save a whole page, light or dark, of some width, as WebP, after pressing keys."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(url, timeout=_WAIT_MS)
    page.wait_for_selector("#viewer[data-ready=yes]", timeout=_WAIT_MS)
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_timeout(3000)
    shown = Image.open(io.BytesIO(page.screenshot(full_page=True, timeout=_WAIT_MS)))
    shown.convert("RGB").save(path, "WEBP", quality=80, method=6)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB", flush=True)
    context.close()


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phantom", type=Path, help="what mrbridge phantom wrote")
    parser.add_argument("out", type=Path)
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    t1w = sorted(options.phantom.rglob("*_T1w.nii.gz"))[-1]
    t2w = t1w.with_name(t1w.name.replace("_T1w", "_T2w"))
    kinds = (("light", 1280), ("dark", 1280), ("light", 380), ("dark", 380))
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(CHROMIUM)
        )
        page = Path(temporary) / "page.html"
        synthetic = Path(temporary) / t1w.name.replace("_T1w", "_desc-synth_T2w")
        (done,) = mrbridge.translate(t1w, synthetic, uncertainty=True)
        mrbridge.view(t1w, synthetic, page, uncertainty=done.uncertainty)
        scans = Path(temporary) / "scans"
        scans.mkdir()
        shutil.copy(t2w, scans)
        shutil.copy(synthetic, scans)
        study = setup(scans, None, Path(temporary) / "study")
        # A rater who sees the real scan first: no synthetic scan is shown without its mark.
        kinds_of, raters = study.key["scans"], (f"r{number}" for number in range(1, 100))
        rater = next(r for r in raters if kinds_of[study.order_for(r)[0]]["is"] == "real")
        save(browser, page.as_uri(), "light", 1280, options.out / "view.webp")
        with running(create_app(study, rater, TOKEN, "127.0.0.1")) as url:
            save(browser, url, "dark", 1280, options.out / "study.webp", "r5")
            for scheme, width in kinds if options.all else ():
                path = options.out / f"study-{scheme}-{width}.webp"
                save(browser, url, scheme, width, path, "r5")
        for scheme, width in kinds if options.all else ():
            path = options.out / f"view-{scheme}-{width}.webp"
            save(browser, page.as_uri(), scheme, width, path)
        browser.close()


if __name__ == "__main__":
    main()
