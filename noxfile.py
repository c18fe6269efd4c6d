"""Sessions that run the checks in fresh environments: `nox -l` lists them, `nox -s tests` runs one.

Everything is installed from a constraints file. With PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu,
PyTorch is its CPU build.
"""

from pathlib import Path

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.default_venv_backend = "venv"

CURRENT = ("-c", "constraints.txt")
MINIMUM = ("-c", "constraints-minimum.txt")

# Two processes, each with whole modules, whose tests share what they need.
TESTS = ("pytest", "-n", "2", "--dist", "worksteal")

# Quick tests that together read, prepare, train, translate and evaluate.
SMOKE = (
    "tests/contracts",
    "tests/evaluation/test_evaluate.py",
    "tests/inference/test_translate.py",
    "tests/io/test_dicom_read.py",
    "tests/io/test_nifti.py",
    "tests/networks/test_networks.py",
    "tests/dataset/test_prepare.py",
    "tests/test_api.py",
    "tests/test_bundle.py",
    "tests/test_metrics.py",
    "tests/training/test_resume.py",
)


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """The quick tests, on every supported Python that is installed."""
    session.install(*CURRENT, "-e", ".[dev]")
    session.run(*TESTS, *session.posargs)


@nox.session(python="3.11")
def slow(session: nox.Session) -> None:
    """The tests that take seconds to a minute each."""
    session.install(*CURRENT, "-e", ".[dev]")
    session.run(*TESTS, "-m", "slow", *session.posargs)


@nox.session(python="3.11")
def nightly(session: nox.Session) -> None:
    """The tests that take longest: whole tutorials, many kills, minutes of fuzzing."""
    session.install(*CURRENT, "-e", ".[dev]")
    session.run(*TESTS, "-m", "nightly", *session.posargs)


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    """Style, types, layers and language."""
    session.install(*CURRENT, "-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")
    session.run("python", ".ci/phrases.py")


@nox.session(python="3.11")
def docs(session: nox.Session) -> None:
    """Checks of the documentation, the tutorials executed, the site in build/site."""
    session.install(*CURRENT, "-e", ".[dev]")
    session.run("pytest", "-m", "not nightly", "tests/docs", "tests/contrasts", "tests/faults")
    session.run("python", "docs/notebooks.py")
    session.run("mkdocs", "build", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(python="3.11")
def minimum(session: nox.Session) -> None:
    """The lowest versions that pyproject.toml allows."""
    session.install(*MINIMUM, "-e", ".", "pytest", "beartype", "hypothesis")
    session.run("pytest", *(session.posargs or SMOKE))


@nox.session(python="3.11")
def no_optional(session: nox.Session) -> None:
    """Only the required dependencies: tests of optional ones are skipped, the others pass."""
    session.install(*CURRENT, "-e", ".", "pytest", "beartype", "hypothesis")
    session.run("pytest", *(session.posargs or SMOKE))


@nox.session(python="3.11")
def wheel(session: nox.Session) -> None:
    """The wheel, installed where no compiler and no npm is used."""
    session.install("build")
    dist = session.create_tmp()
    session.run("python", "-m", "build", "--wheel", "--outdir", dist)
    session.install(*CURRENT, *map(str, Path(dist).glob("mrbridge-*.whl")))
    session.run("mrbridge", "doctor")
    session.run("mrbridge", "info")
