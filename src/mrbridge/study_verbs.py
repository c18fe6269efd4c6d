"""The verbs of `mrbridge study`; see `mrbridge.verbs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrbridge.console import answer, answer_url, as_far_as_done
from mrbridge.errors import must_exist
from mrbridge.interruption import quick_imports
from mrbridge.options import verb
from mrbridge.reports import counted
from mrbridge.verbs import must_have_web

if TYPE_CHECKING:
    from mrbridge import verb_settings as options_of
    from mrbridge.study.settings import StudySettings
    from mrbridge.web.settings import Address


@verb(
    "mrbridge.verb_settings:Setup",
    "mrbridge study setup --real bids --synthetic translated -o study",
)
def setup(options: options_of.Setup, settings: StudySettings) -> None:
    """Set up a blinded reader study of real and synthetic scans.

    The scans get random names, one grid, one field of view, 256 grey levels, and no metadata; the
    mark SYNTHETIC is left out. STUDY/key.json says which is which: keep it from the raters.
    """
    for path in (options.real, options.synthetic, options.lesions):
        must_exist(path)
    with quick_imports():
        from mrbridge.study.design import setup as run

    study, failure = as_far_as_done(lambda: run(**dict(options), settings=settings))
    scans = counted(len(study.items), "scan")
    spots = sum(map(len, study.items.values()))
    answer(
        {"path": str(study.path), "scans": len(study.items), "spots": spots},
        f"{study.path}: {scans}, {counted(spots, 'position')} to ask about",
        failure,
    )


@verb("mrbridge.verb_settings:Rate", "mrbridge study rate study --rater anna")
def rate(options: options_of.Rate, settings: Address) -> None:
    """Serve the blinded page of a study to one rater.

    It prints the URL to open. Answers are in STUDY/answers/RATER.csv at once; Ctrl-C ends it, and
    the same command continues.
    """
    must_exist(options.study)
    must_have_web()
    with quick_imports():
        from mrbridge.study.server import rate as run
        from mrbridge.viewer import must_be_built

    must_be_built()
    run(options.study, options.rater, settings, answer_url)


@verb("mrbridge.verb_settings:Analyse", "mrbridge study analyse study")
def analyse(options: options_of.Analyse) -> None:
    """Analyse the answers of all raters so far.

    It writes STUDY/report.html and STUDY/analysis.json: accuracy with 95 % confidence intervals
    (Wilson's for a rater, a bootstrap over people for all), agreement (Krippendorff's alpha),
    quality, and which lesions were seen.
    """
    must_exist(options.study)
    with quick_imports():
        from mrbridge.study.analysis import analyse as run

    result = run(options.study)
    answer(result.as_json() | {"report": str(result.out)}, f"{result}\nThe report: {result.out}")
