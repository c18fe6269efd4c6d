"""The site: complete, built strictly, without anything from elsewhere; its tutorials run."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import mrbridge

pytest.importorskip("mkdocs")
pytest.importorskip("jupytext")

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("[0-9]*.py"))
LOADED = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=\"?([^\s\">]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text(encoding="utf-8")
        foreign = [name for name in LOADED.findall(text) if re.match(r"(https?:)?//", name)]
        assert not foreign, page
        assert 'class="mermaid"' not in text  # for which the theme would load a library
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_every_page_is_in_the_navigation(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    pages = [page for page in DOCS.rglob("*.md") if page.name != "index.md"] + TUTORIALS
    for page in pages:
        assert page.relative_to(DOCS).with_suffix(".html").as_posix() in home, page


def test_every_public_name_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    for name in set(mrbridge.__all__) - {"__version__", "phantom"}:
        assert re.search(rf"\b{name}\b", page), name


def test_tutorials_can_be_downloaded_as_notebooks(site: Path) -> None:
    import nbformat

    assert TUTORIALS
    for source in TUTORIALS:
        notebook = nbformat.read(site / "tutorials" / f"{source.stem}.ipynb", as_version=4)
        nbformat.validate(notebook)
        kinds = {cell.cell_type for cell in notebook.cells}
        assert kinds == {"markdown", "code"}
        page = (site / "tutorials" / f"{source.stem}.html").read_text(encoding="utf-8")
        assert f"{source.stem}.ipynb" in page


def test_the_table_of_times_has_every_tutorial_in_five_minutes() -> None:
    text = (DOCS / "tutorials" / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(.*)\]\((.*)\.md\) \|.*\| (\d+) \| (\d+) \|$", text, re.M)
    titles = {one.stem: one.read_text(encoding="utf-8").splitlines()[1] for one in TUTORIALS}
    assert {stem: f"# # {title}" for title, stem, *_ in rows} == titles
    assert all(0 < int(processor) <= 600 for *_, processor, _ in rows)


SHORTER = (
    (r"^STEPS, BATCH = \d+", "STEPS, BATCH = 12"),
    (r"\bepochs=\d+", "epochs=2"),
    (r"\bsteps_per_epoch=\d+", "steps_per_epoch=3"),
)
"""What makes a tutorial train for a moment only; `nox -s docs` executes all of it."""


@pytest.mark.slow
@pytest.mark.parametrize("source", TUTORIALS, ids=lambda source: source.stem)
def test_tutorials_run(source: Path) -> None:
    notebooks = runpy.run_path(str(DOCS / "notebooks.py"))
    notebook = notebooks["jupytext"].read(source)
    for cell in notebook.cells:
        for long, short in SHORTER:
            cell.source = re.sub(long, short, cell.source, flags=re.MULTILINE)
    notebooks["run"](notebook)


@pytest.mark.nightly
@pytest.mark.parametrize("source", TUTORIALS, ids=lambda source: source.stem)
def test_tutorials_run_in_five_minutes(source: Path) -> None:
    notebooks = runpy.run_path(str(DOCS / "notebooks.py"))
    assert notebooks["executed"](source) or notebooks["execute"](source)
