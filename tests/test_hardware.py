"""The device is chosen by itself, and a device that is not there is refused."""

from __future__ import annotations

import pytest
import torch

from mrbridge.errors import SettingsError
from mrbridge.hardware import choose_device, fast_bfloat16


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
