"""The device is chosen by itself, and a device that is not there is refused."""

from __future__ import annotations

import pytest
import torch

from mrbridge.errors import SettingsError
from mrbridge.hardware import can_compile, choose_device, fast_bfloat16, quick_kernels


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


def test_bfloat16_is_answered_for_this_processor() -> None:
    assert fast_bfloat16(torch.device("cpu")) in (True, False)


def test_quick_kernels_are_for_cuda_and_for_a_while() -> None:
    def chosen() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark

    before = chosen()
    with quick_kernels(torch.device("cpu")):
        assert chosen() == before
    with quick_kernels(torch.device("cuda")):
        assert chosen() == ("high", True)
    assert chosen() == before


def test_a_cpu_is_not_expected_to_compile() -> None:
    assert not can_compile(torch.device("cpu"))
