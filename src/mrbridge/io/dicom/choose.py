"""Which series of a study to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mrbridge.errors import InputError
from mrbridge.io.dicom.series import UNREADABLE, Listing, Series

__all__ = ["choose_series"]


def choose_series(
    listing: Listing,
    contrasts: Sequence[str] | None,
    named: str | None = None,
    *,
    force: bool = False,
) -> Series:
    """The one series to read.

    A series that is known to be something else is never chosen. One whose description contradicts
    its timing is chosen only where no plain one fits, and one of unknown contrast only where
    nothing else does.

    Args:
        contrasts: those that are wanted, the first that there is wins; None takes any.
        named: a SeriesNumber, `number:echo`, or SeriesInstanceUID, which decides instead.
        force: also take a series known to be something else, if it is named or the only one.

    Raises:
        InputError: none or several fit, the one that is named cannot be read or is something else,
            or a file is damaged that might be a slice of it.
    """
    if listing.damaged:
        raise listing.damaged[0]
    if named is not None:
        return _named(listing, named, force=force)
    for what, fitting in _pools(listing, contrasts, force=force):
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise InputError(
                f"holds {len(fitting)} {what}: {_in_words(fitting)}",
                path=listing.path,
                remedy=f"Choose one with --series, as in --series {fitting[0].label}.",
            )
    for one in listing.series:
        if one.refusal and one.refusal.path and one.contrast in (contrasts or (one.contrast,)):
            raise _as_error(one, listing.path)
    if not listing.series:
        raise InputError(
            "holds no DICOM series", path=listing.path, remedy="Name the folder of a study."
        )
    wanted = f"{' or '.join(contrasts)} series" if contrasts else "series"
    raise InputError(
        f"holds no {wanted} that can be used: {_in_words(listing.series, why=True)}",
        path=listing.path,
        remedy="Choose one with --series, or see mrbridge inspect.",
    )


def _pools(
    listing: Listing, contrasts: Sequence[str] | None, *, force: bool
) -> Iterator[tuple[str, list[Series]]]:
    """What may be chosen, the best first, each with what it is called."""
    images = [one for one in listing.series if one.is_image]
    acquired = [one for one in images if not one.synthetic]
    for pool in (acquired, images):
        if contrasts is None:
            yield "series", pool
            continue
        for doubtful in (False, True):
            for contrast in contrasts:
                yield (
                    f"series of {contrast}",
                    [
                        one
                        for one in pool
                        if one.contrast == contrast and one.identity.is_doubtful == doubtful
                    ],
                )
    yield "series of unknown contrast", [one for one in images if one.identity.is_unknown]
    if force:
        yield "series", [one for one in listing.series if one.refusal is None]


def _named(listing: Listing, named: str, *, force: bool) -> Series:
    fitting = [one for one in listing.series if named in (one.label, one.uid, one.selector)]
    # The number without an echo means all echoes of a series.
    fitting = fitting or [one for one in listing.series if named == str(one.number)]
    if len(fitting) > 1:  # magnitude and phase images of one series bear one number
        fitting = [one for one in fitting if one.is_image] or fitting
    if len(fitting) > 1:
        candidates = ", ".join(f"{one.label} of {one.uid}" for one in fitting)
        raise InputError(
            f"holds {len(fitting)} series that '{named}' may mean: {candidates}",
            path=listing.path,
            remedy="Name one by number and echo, or by its UID.",
        )
    if not fitting:
        raise InputError(
            f"holds no series '{named}'; there are: {_in_words(listing.series) or 'none'}",
            path=listing.path,
            remedy="Choose one of them.",
        )
    identity = fitting[0].identity
    if identity.is_other and identity.kind not in UNREADABLE and not force:
        raise InputError(
            f"series {fitting[0].label} {identity.reason}",
            path=listing.path,
            remedy="Choose another series, or use --force.",
        )
    if fitting[0].refusal is not None:
        raise _as_error(fitting[0], listing.path)
    return fitting[0]


def _as_error(series: Series, path: Path) -> InputError:
    """The refusal of a series, with the file that is to blame or else the folder."""
    refusal = series.refusal
    assert refusal is not None
    what = f"series {series.label}: {refusal.what}"
    return InputError(what, path=refusal.path or path, remedy=refusal.remedy)


def _in_words(series: Iterable[Series], *, why: bool = False) -> str:
    return "; ".join(one.words + (f": {one.what_is_wrong}" if why else "") for one in series)
