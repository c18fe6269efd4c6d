"""The documentation is true: links lead somewhere, options exist, marked commands run."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.docs import options_page

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob(".github/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
RUN = re.compile(r"<!-- run -->\n+```\w*\n(.*?)^```$", re.M | re.S)
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


@cache
def help_of(verb: str) -> str:
    """What `mrbridge VERB -h` prints, wide enough that no option is cut off."""
    command = [sys.executable, "-m", "mrbridge", *verb.split(), "-h"]
    environment = os.environ | {"COLUMNS": "200", "TERMINAL_WIDTH": "200"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout


def commands(page: Path) -> list[list[str]]:
    """Every `mrbridge …` line of the page's code blocks, split into words."""
    blocks = [text for _, text in BLOCK.findall(page.read_text(encoding="utf-8"))]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("mrbridge ")]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_verbs_and_options_of_examples_exist(page: Path) -> None:
    for words in commands(page):
        verb = " ".join(words[:2] if words[0] == "download" else words[:1])
        if verb == "VERB":
            continue
        for word in words:
            if word.startswith("-"):
                option = word.partition("=")[0]
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", help_of(verb)), words


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "<!-- run -->" in page.read_text(encoding="utf-8")],
    ids=lambda page: page.name,
)  # fmt: skip
def test_marked_commands_run(page: Path, tmp_path: Path) -> None:
    """Blocks after `<!-- run -->`, in order, in a folder with a simulated dataset `bids`."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    }

    def run(script: str) -> None:
        done = subprocess.run(
            ["bash", "-euxc", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]

    run(
        "mrbridge phantom -o bids --subjects 3 --set spacing_mm=4\n"
        "ln -s bids SRC\n"
        "cp bids/sub-*1/anat/*_T1w.nii.gz T1w.nii.gz"
    )
    for block in RUN.findall(page.read_text(encoding="utf-8")):
        run(re.sub(r"minutes=\d+", "minutes=0.1", block))


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
