"""The documentation is true: links lead somewhere, options exist, marked commands run."""

from __future__ import annotations

import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.docs import options_page
from tests.studies import write_series

from mrbridge import cli
from mrbridge.io import read

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob(".github/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
RUN = re.compile(r"<!-- run -->\n+```(\w*)\n(.*?)^```$", re.M | re.S)
ids = [str(page.relative_to(ROOT)) for page in PAGES]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if target.parent == ROOT / "docs" / "tutorials":  # whose pages are made from their sources
            target = target.with_suffix(".py")
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_files_and_modules_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:src|tests|docs|benchmarks)/[\w./-]+)`?", text):
        assert (ROOT / name).exists(), name
    for module in re.findall(r"python -m ((?:benchmarks|tests)[\w.]+)", text):
        assert find_spec(module), module


def commands(page: Path) -> list[list[str]]:
    """Every `mrbridge …` line of the page's code blocks, split into words."""
    blocks = [text for _, text in BLOCK.findall(page.read_text(encoding="utf-8"))]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    words = (shlex.split(line, comments=True) for line in lines if line.startswith("mrbridge "))
    return [list(itertools.takewhile(lambda word: word not in (">", "|"), w[1:])) for w in words]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_of_examples_are_understood(
    page: Path, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verbs, options, values and settings; only what the verb would do is left out."""
    for one in cli.VERBS | cli.DOWNLOADS | cli.STUDY:
        monkeypatch.setattr(one, "_function", wraps(one._function)(lambda *_: None))
    for words in commands(page):
        if words[0] != "VERB":
            code, _, err = run(*(word.replace("s3://", "") for word in words))  # without network
            assert code == 0, (words, err)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_snippets_are_valid(page: Path) -> None:
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            compile(text, page.name, "exec")
        if language == "json":
            json.loads(text)


def shell(script: str, folder: Path) -> None:
    """Run a script with the commands of this environment."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    }
    done = subprocess.run(
        ["bash", "-euxc", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated dataset `bids`, and scans of it by the names that the pages use."""
    folder = tmp_path_factory.mktemp("pages")
    shell(
        "mrbridge phantom -o bids --subjects 3 --set spacing_mm=4\n"
        "ln -s bids SRC\n"
        "cp bids/sub-*1/anat/*_T1w.nii.gz T1w.nii.gz\n"
        "cp bids/sub-*1/anat/*_T2w.nii.gz real_T2w.nii.gz\n"
        "cp bids/derivatives/phantom/sub-*1/anat/*_label-lesion_mask.nii.gz lesions.nii.gz",
        folder,
    )
    return folder


@pytest.mark.nightly
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "<!-- run -->" in page.read_text(encoding="utf-8")],
    ids=lambda page: page.name,
)  # fmt: skip
def test_marked_commands_run(page: Path, inputs: Path, tmp_path: Path) -> None:
    """Blocks after `<!-- run -->`, in order, in a folder with a simulated dataset `bids`."""
    shutil.copytree(inputs, tmp_path, symlinks=True, dirs_exist_ok=True)
    if "-i study" in page.read_text(encoding="utf-8"):
        write_series(tmp_path / "study", read(tmp_path / "T1w.nii.gz"))
    for language, block in RUN.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            (tmp_path / "snippet.py").write_text(block, encoding="utf-8")
            block = "python snippet.py"
        block = re.sub(r"minutes=\d+", "minutes=0.1", block)
        shell(re.sub(r"--workers \d+", "--workers 2", block), tmp_path)


def test_the_page_of_options_is_what_the_settings_say() -> None:
    assert options_page.PAGE.read_text(encoding="utf-8") == options_page.page(), (
        "run python -m tests.docs.options_page"
    )


def test_the_language_check_reads_text_but_not_code_blocks(tmp_path: Path) -> None:
    script = ROOT / ".ci" / "phrases.py"
    check = runpy.run_path(str(script))
    page = tmp_path / "page.md"
    word = "to" + "ld"
    page.write_text(f"It is {word}.\nThere is no scan.\n```\n{word}\n```\n")
    assert [line[:2] for line in check["occurrences"](page)] == [(1, word)]
