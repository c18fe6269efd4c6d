"""One generator for all contrasts: which scans go where, and what several of them change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrbridge.bundle import Bundle, load_bundle, save_bundle
from mrbridge.errors import BundleError, InputError, SettingsError
from mrbridge.inference.input_check import check
from mrbridge.inference.translator import Translator
from mrbridge.preprocessing.intensity import IntensityNormalisation
from mrbridge.volume import CONTRASTS, Volume


@pytest.fixture
def bundle(four_bundle: Bundle) -> Bundle:
    return four_bundle


@pytest.fixture
def scans(make_scan: Callable[..., Volume]) -> dict[str, Volume]:
    scans = {contrast: make_scan(2, contrast) for contrast in ("T1w", "T2w")}
    inverted = scans["T2w"].voxels.max() - scans["T2w"].voxels
    scans["FLAIR"] = replace(scans["T2w"], voxels=inverted, contrast="FLAIR")
    return scans


class TestDirections:
    def test_the_first_two_contrasts_keep_their_generators(self, bundle: Bundle) -> None:
        for given in ("T1w", None, "T2w"):  # forced, T2w is taken for T1w, as ever
            direction = bundle.direction((given,), "T2w")
            assert (direction.generator, direction.given) == ("to_target", ("T1w",))
        assert bundle.direction(("T2w",), "T1w").generator == "to_source"

    @pytest.mark.parametrize("to", CONTRASTS)
    def test_every_subset_of_the_others_makes_each(self, bundle: Bundle, to: str) -> None:
        others = [one for one in CONTRASTS if one != to]
        for given in ([one] for one in others):
            assert bundle.direction(given, to).given == tuple(given)
        for given in (others[:2], others[1:], others, others[::-1]):
            direction = bundle.direction(given, to)
            assert direction.generator == "to_any"
            assert direction.output == CONTRASTS.index(to)
        assert bundle.direction(others, to).name == bundle.direction(others[::-1], to).name

    def test_the_best_to_begin_with(self, bundle: Bundle, tiny_bundle: Bundle) -> None:
        assert bundle.preferred("T2w") == ("T1w", "PDw", "FLAIR")
        assert bundle.preferred("T1w") == ("T2w", "PDw", "FLAIR")
        assert bundle.preferred("FLAIR") == ("T2w", "T1w", "PDw")
        assert tiny_bundle.preferred("T2w") == ("T1w",)

    def test_what_cannot_be(self, bundle: Bundle, tiny_bundle: Bundle) -> None:
        with pytest.raises(SettingsError, match="takes one scan"):
            tiny_bundle.direction(("T1w", "FLAIR"), "T2w")
        with pytest.raises(SettingsError, match="same contrast"):
            bundle.direction(("T1w", "T1w"), "T2w")
        for given in ((None, "T1w"), ("T1w", "T2w"), ("T1w", "T2star")):
            with pytest.raises(SettingsError, match="cannot make T2w from"):
                bundle.direction(given, "T2w")
        with pytest.raises(SettingsError, match="T2w, T1w, PDw or FLAIR, not CT"):
            bundle.must_make("CT")


def test_other_contrasts_are_made(bundle: Bundle, scans: dict[str, Volume]) -> None:
    translator = Translator(bundle, "cpu")
    made = {to: translator.translate(scans["T1w"], to) for to in ("PDw", "FLAIR")}
    assert all(made[to].contrast == to and made[to].synthetic for to in made)
    assert not np.array_equal(made["PDw"].voxels, made["FLAIR"].voxels)
    unknown = replace(scans["T1w"], contrast=None)
    taken_as_unknown = translator.translate(unknown, "FLAIR").voxels
    assert not np.array_equal(taken_as_unknown, made["FLAIR"].voxels)


def test_another_scan_counts_and_their_order_does_not(
    bundle: Bundle, scans: dict[str, Volume]
) -> None:
    translator = Translator(bundle, "cpu")
    t1w, flair = scans["T1w"], scans["FLAIR"]
    one = translator.translate(t1w, "T2w", also={"FLAIR": flair}, uncertainty=True)
    other = translator.translate(flair, "T2w", also={"T1w": t1w})
    seen = (t1w.voxels > 0) & (flair.voxels > 0)
    # The first scan decides where the head ends, which is all that remains.
    same = np.abs(one.voxels - other.voxels)[seen].mean()
    single = translator.translate(t1w, "T2w").voxels
    assert np.abs(one.voxels - single)[seen].mean() > 5 * same
    assert one.uncertainty is not None
    assert one.uncertainty.max() > 0


def test_the_generator_of_the_pair_counts_as_much(
    bundle: Bundle, scans: dict[str, Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one of several scans is of the pair: the mean, and the mean of the half widths."""
    straight = IntensityNormalisation(low=0, high=1000)  # no knee: means stay means
    typical = bundle.manifest.typical | {"T2w": straight}
    manifest = bundle.manifest.model_copy(update={"typical": typical})
    translator = Translator(Bundle(manifest, bundle.weights), "cpu")
    t1w, also = scans["T1w"], {"FLAIR": scans["FLAIR"]}
    mean = translator.translate(t1w, "T2w", also=also, uncertainty=True)
    pair = translator.translate(t1w, "T2w", uncertainty=True)
    monkeypatch.setattr(Bundle, "averaged", lambda self, direction: [direction])
    several = translator.translate(t1w, "T2w", also=also, uncertainty=True)
    inside = mean.voxels > 1  # black is cut off after the mean
    for kind in ("voxels", "uncertainty"):
        made, first, second = (getattr(one, kind)[inside] for one in (mean, pair, several))
        assert not np.allclose(first, second, rtol=0.01)
        np.testing.assert_allclose(made, (first + second) / 2, atol=1, rtol=0)


def test_scans_on_another_grid_are_refused(bundle: Bundle, scans: dict[str, Volume]) -> None:
    assert scans["FLAIR"].affine is not None
    moved = replace(scans["FLAIR"], affine=scans["FLAIR"].affine + np.eye(4)[[3, 0, 1, 2]])
    for other in (moved, replace(moved, voxels=moved.voxels[1:])):
        with pytest.raises(InputError, match="another grid"):
            Translator(bundle, "cpu").translate(scans["T1w"], "T2w", also={"FLAIR": other})


def test_uncertainty_only_where_it_was_calibrated(bundle: Bundle, scans: dict[str, Volume]) -> None:
    with pytest.raises(SettingsError, match="never calibrated for T1w to FLAIR"):
        Translator(bundle, "cpu").translate(scans["T1w"], "FLAIR", uncertainty=True)


def test_files(bundle: Bundle, scans: dict[str, Volume], tmp_path: Path) -> None:
    assert bundle.path is not None
    again = load_bundle(bundle.path)
    assert again.contrasts == CONTRASTS
    one, other = (
        Translator(each, "cpu").translate(scans["T2w"], "PDw") for each in (bundle, again)
    )
    np.testing.assert_array_equal(one.voxels, other.voxels)
    more = bundle.manifest.any_contrast
    assert more is not None
    wrong = more.generator.model_copy(update={"outputs": 3})
    manifest = bundle.manifest.model_copy(
        update={"any_contrast": more.model_copy(update={"generator": wrong})}
    )
    save_bundle(manifest, bundle.weights, tmp_path)
    with pytest.raises(BundleError, match="channels"):
        load_bundle(tmp_path)


def test_a_scan_of_unknown_contrast_is_unusual(
    four_bundle: Bundle, scans: dict[str, Volume]
) -> None:
    unknown = replace(scans["T1w"], contrast=None)
    contrasts = four_bundle.contrasts
    verdict = check(unknown, "FLAIR", contrasts, force=True)[0]
    assert verdict.level != "usual"
    assert "has a contrast that nothing identifies" in verdict.reasons
    assert "nothing identifies" not in str(check(unknown, "T2w", contrasts, force=True)[0])
