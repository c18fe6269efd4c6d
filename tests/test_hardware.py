"""Devices and instruction sets: what the machine has, as far as the environment allows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator

import pytest
import torch

from mrbridge.errors import SettingsError
from mrbridge.hardware import choose_device, in_threads, quick_kernels


def test_auto_takes_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for present, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
        assert choose_device("auto").type == expected
        assert choose_device("cpu").type == "cpu"


def test_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=r"no CUDA device.*--device cpu"):
        choose_device("cuda")
    for name in ("gpu", "", "cuda:0"):
        with pytest.raises(SettingsError, match="Choose one of auto, cpu, cuda"):
            choose_device(name)


LIMITS: list[tuple[dict[str, str], str]] = [
    ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "AVX2"),
    ({"DNNL_MAX_CPU_ISA": "avx2_vnni"}, "AVX2"),
    ({"ATEN_CPU_CAPABILITY": "avx2"}, "AVX2"),
    ({"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}, "AVX2"),
    ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "AVX512"),
    ({"ATEN_CPU_CAPABILITY": "default"}, "DEFAULT"),
]
NOT_EXCLUDED = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}
DETECT = """
import json, os, sys, torch
from mrbridge.hardware import fast_bfloat16, vector_extension
for limits in json.loads(sys.argv[1]):
    if not os.fork():
        os.environ.update(limits)
        print(vector_extension(), fast_bfloat16(torch.device("cpu")), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def detected() -> dict[str, list[str]]:
    """[extension, whether bfloat16 is fast] for each choice of limits: without any, as `{}`.

    Libraries read the limits once: each in a process of its own, a fork that has done nothing yet.
    """
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    names = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    choices = [{}, NOT_EXCLUDED, *(limits for limits, _ in LIMITS)]
    done = subprocess.run(
        [sys.executable, "-c", DETECT, json.dumps(choices)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    return {str(one): line.split() for one, line in zip(choices, lines, strict=True)}


@pytest.mark.parametrize(("limits", "extension"), LIMITS, ids=str)
def test_an_excluded_instruction_set_is_not_used(
    limits: dict[str, str], extension: str, detected: dict[str, list[str]]
) -> None:
    if detected["{}"][0] != "AVX512":
        pytest.skip(f"this processor has {detected['{}'][0]} only")
    assert detected[str(limits)] == [extension, "False"]


def test_a_limit_that_includes_bfloat16_changes_nothing(detected: dict[str, list[str]]) -> None:
    assert detected[str(NOT_EXCLUDED)] == detected["{}"]


def test_bfloat16_is_fast_on_a_processor_with_avx512_bf16(detected: dict[str, list[str]]) -> None:
    has = torch.cpu.get_capabilities().get("avx512_bf16", False)
    assert detected["{}"][1] == str(has)


def test_quick_kernels_are_for_cuda_and_for_a_while() -> None:
    def chosen() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark

    before = chosen()
    with quick_kernels(torch.device("cpu")):
        assert chosen() == before
    with quick_kernels(torch.device("cuda")):
        assert chosen() == ("high", True)
    assert chosen() == before


def test_items_are_shared_among_threads_of_one_thread_each() -> None:
    before = torch.get_num_threads()
    met = threading.Barrier(3, timeout=60)
    done: list[int] = []

    def work(items: Iterable[int]) -> Iterator[None]:
        assert torch.get_num_threads() == 1
        for item in items:
            if item < 3:
                met.wait()  # three threads are here
            done.append(item)
            yield

    torch.set_num_threads(3)
    try:
        assert len(list(in_threads(work, range(20), most=8))) == 20
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert sorted(done) == list(range(20))


def test_an_error_is_raised_and_the_remaining_items_are_skipped() -> None:
    before = torch.get_num_threads()
    begun: list[int] = []

    def work(items: Iterable[int]) -> Iterator[None]:
        for item in items:
            begun.append(item)
            if item == 2:
                raise MemoryError("two")
            yield

    with pytest.raises(MemoryError, match="two"):
        list(in_threads(work, range(1000), most=1))
    assert begun == [0, 1, 2]
    assert torch.get_num_threads() == before
