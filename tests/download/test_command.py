"""`mrbridge download` on the command line: help, options, messages, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.download.conftest import Run
from tests.download.server import Server

from mrbridge import progress

AGAIN = "The same command tries again only what is missing."


@pytest.mark.parametrize("verb", ["ixi", "openneuro"])
def test_help_shows_an_example(verb: str, run: Run) -> None:
    for flag in ("-h", "--help"):
        code, out, err = run(verb, flag)
        assert (code, err) == (0, "")
        assert f"Example: mrbridge download {verb} " in out
        for option in ("-q", "-v", "--json", "--dry-run", "--mirror", "--subjects"):
            assert option in out


def test_without_arguments_it_shows_its_help(run: Run) -> None:
    code, out, err = run()
    assert (code, err) == (0, "")
    assert out == run("-h")[1]
    assert "Example: mrbridge download ixi" in out


def test_the_five_data_sets_are_named(run: Run) -> None:
    words = " ".join(run("openneuro", "-h")[1].split())
    for name in ("ds002330 --version 1.1.0", "ds002382 1.0.1", "ds003717 1.0.1"):
        assert name in words
    assert "ds003745 1.0.0" in words
    assert "ds004285 1.0.0" in words


def test_several_values(ixi: dict[str, bytes], server: Server, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "ixi"
    options = ["--contrast", "T1w", "T2w", "--subjects", "2", "12", "-o", out]
    code, text, err = run("ixi", *options, "--mirror", server.url, "--json")
    assert (code, err) == (0, "")
    answer = json.loads(text.splitlines()[-1])
    assert answer["scans"] == 4
    assert answer["failed"] == {}
    assert answer["plan"]["licence"] == "CC BY-SA 3.0"
    assert len(list(out.glob("sub-*"))) == 2


def test_a_dry_run(ixi: dict[str, bytes], server: Server, run: Run, tmp_path: Path) -> None:
    code, out, err = run("ixi", "-o", tmp_path / "x", "--mirror", server.url, "--dry-run")
    assert (code, err) == (0, "")
    assert out.startswith("IXI: 7 files, ")
    assert not (tmp_path / "x").exists()


def test_failures_are_reported_with_exit_code_1(
    ixi: dict[str, bytes],
    server: Server,
    run: Run,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments = ["--subjects", "2", "400", "-o", tmp_path / "x", "--mirror", server.url, "--json"]
    code, out, err = run("ixi", *arguments)
    assert code == 1
    assert len(json.loads(out.splitlines()[-1])["failed"]) == 2
    each = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert each == [f"sub-400 T{n}w: IXI-T{n}.tar has no such scan" for n in (1, 2)]
    assert err == f"error: {tmp_path / 'x'}: 2 could not be downloaded. {AGAIN}\n"


def test_no_bar_without_a_terminal(
    ixi: dict[str, bytes], server: Server, run: Run, tmp_path: Path
) -> None:
    code, out, err = run("ixi", "-o", tmp_path / "x", "--mirror", server.url)
    assert (code, err) == (0, "")
    assert out == f"{tmp_path / 'x'}: 7 scans. Licence: CC BY-SA 3.0.\n"


def test_the_bar_on_a_terminal(
    ixi: dict[str, bytes],
    server: Server,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "wanted", lambda: True)
    _, _, err = run("ixi", "-o", tmp_path / "x", "--mirror", server.url)
    assert "IXI" in err
    assert "kB" in err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["ixi"], "Missing option"),
        (["openneuro", "-o", "x"], "Missing argument"),
        (["nowhere", "-o", "x"], "No such command"),
        (["ixi", "--contrast", "T1", "-o", "x"], "IXI has no T1 archive. It has T1w, T2w, PDw"),
        (["openneuro", "ds002330", "--contrast", "T1", "-o", "x"], "'T1' is not a contrast"),
        (["ixi", "--contrast", "-o", "x"], "--contrast is followed by no value"),
        (["ixi", "-o", "x", "--subjects"], "--subjects is followed by no value"),
        (["ixi", "--contrast", "FLAIR", "-o", "x"], "IXI has no FLAIR archive"),
        (["ixi", "--subjects", "x", "-o", "x"], "'x' is not a subject of IXI"),
        (["ixi", "--mirror", "x", "-o", "x"], "x/IXI-T1.tar is not a usable address"),
        (["ixi", "--set", "worker=3", "-o", "x"], "did you mean 'workers'?"),
        (["ixi", "--workers", "0", "-o", "x"], "--workers"),
        (["ixi", "--mirror", "http://127.0.0.1:9", "-o", "x"], "Check the network and --mirror"),
        (["openneuro", "ds1", "-o", "x"], "is not a dataset of OpenNeuro"),
        (
            ["openneuro", "ds002330", "--mirror", "http://127.0.0.1:9", "-o", "x"],
            "cannot be downloaded",
        ),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    what: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert what in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
