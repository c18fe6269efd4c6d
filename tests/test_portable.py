"""The package calls nothing that only POSIX systems have, outside places that are guarded."""

from __future__ import annotations

import ast
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "mrbridge"

MODULES = {"fcntl", "grp", "posix", "pwd", "resource", "termios"}
CALLS = {
    "os": {
        *("fork", "getuid", "geteuid", "getgid", "getpgid", "killpg", "setsid"),
        *("sched_getaffinity", "sysconf", "mkfifo", "uname"),
    },
    "signal": {
        *("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGALRM", "SIGCHLD", "SIGPIPE", "SIGQUIT"),
        *("alarm", "pthread_sigmask", "sigwaitinfo", "setitimer"),
    },
}
FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")

GUARDED = {
    ("dataset/loader.py", "signal.pthread_sigmask"),  # hasattr(signal, "sigwaitinfo")
    ("dataset/loader.py", "signal.sigwaitinfo"),
    ("inspection/inspect.py", "resource"),  # sys.platform
    ("io/dicom/decode.py", "resource"),  # ImportError
    ("doctor.py", "os.sysconf"),  # hasattr(os, "sysconf")
    ("threads.py", "os.sched_getaffinity"),  # hasattr
    ("web/guard.py", "signal.SIGHUP"),  # hasattr
}
"""Where the line above checks that the system has it, and what does."""


def uses(tree: ast.AST) -> Iterator[str]:
    """What a module uses of `MODULES`, `CALLS` and `FOLDERS`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in CALLS.get(node.value.id, ()):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            values = [one.value for one in node.args if isinstance(one, ast.Constant)]
            if node.func.attr in ("get_context", "set_start_method") and "fork" in values:
                yield "fork"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (node.value for one in FOLDERS if f"{node.value}/".startswith(f"{one}/"))


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import fcntl", "fcntl"),
        ("from pwd import getpwuid", "pwd"),
        ("import os\nos.fork()", "os.fork"),
        ("import signal\nsignal.SIGKILL", "signal.SIGKILL"),
        ("import multiprocessing\nmultiprocessing.get_context('fork')", "fork"),
        ("open('/tmp/x')", "/tmp/x"),
    ],
)
def test_the_lint_finds_it(code: str, found: str) -> None:
    assert found in uses(ast.parse(code))


def test_nothing_needs_posix() -> None:
    found = {
        (path.relative_to(SOURCE).as_posix(), use)
        for path in SOURCE.rglob("*.py")
        for use in uses(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found <= GUARDED
    assert found >= GUARDED, "no longer used: shorten the list"


def test_no_two_files_differ_in_case_only() -> None:
    done = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a clone")
    names = Counter(name.lower() for name in done.stdout.splitlines())
    assert [name for name, count in names.items() if count > 1] == []
