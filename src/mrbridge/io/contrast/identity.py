"""The three answers to the question which image a file is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    """What an image is, and how that is known.

    Three answers are possible: a contrast; known to be something else (`is_other`); not known
    (neither).

    Attributes:
        contrast: a BIDS suffix of `mrbridge.volume.CONTRASTS`; None where it is something else or
            not known.
        reason: how that is known. Of something else it reads on after the file's name, as in "was
            taken after a contrast agent".
        kind: of something else, what it is in a word or two, such as `mask` or `phase`; else empty.
        is_doubtful: whether something speaks against `contrast`. Such a scan is never preferred to
            one without doubt.
    """

    contrast: str | None = None
    reason: str = "nothing says which contrast it is"
    kind: str = ""
    is_doubtful: bool = False

    def __post_init__(self) -> None:
        if self.kind and self.contrast is not None:
            raise ValueError("an image of a known contrast is not something else")

    @property
    def is_other(self) -> bool:
        """Whether it is known not to be one of the contrasts."""
        return bool(self.kind)

    @property
    def is_unknown(self) -> bool:
        """Whether nothing tells what it is."""
        return self.contrast is None and not self.is_other


def something_else(kind: str, reason: str) -> Identity:
    """An image that is known not to be one of the contrasts."""
    return Identity(reason=reason, kind=kind)
