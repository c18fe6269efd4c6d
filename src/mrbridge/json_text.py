"""JSON from elsewhere."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes | bytearray) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is no JSON, or is nested deeper than Python reads it.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
