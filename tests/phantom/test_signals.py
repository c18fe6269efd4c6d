"""The signal equations against values worked out by hand."""

import math

import numpy as np
import pytest

from mrbridge.phantom import signals
from mrbridge.phantom.signals import (
    ConventionalSpinEcho,
    FastSpinEcho,
    GradientEcho,
    InversionSpinEcho,
    PreparedGradientEcho,
    inversion_spin_echo,
    spin_echo,
    spoiled_gradient_echo,
)


def test_spin_echo_by_hand():
    # T1 = 1000, T2 = 100, TR = 1000, TE = 100: 1 - 2 e^-0.95 + e^-1 = 0.594397, times e^-1.
    assert spin_echo(1.0, 1000, 100, tr=1000, te=100) == pytest.approx(0.218667, abs=1e-6)


def test_spin_echo_without_waiting_is_density():
    assert spin_echo(0.7, 1000, 100, tr=1e6, te=1e-9) == pytest.approx(0.7)


def test_spoiled_gradient_echo_by_hand():
    # E1 = 1/2 (TR = T1 ln 2), 60 degrees: sin 60 * (1/2) / (1 - 1/4) = 0.577350; TE = T2*: / e.
    signal = spoiled_gradient_echo(2.0, 1000, 40, tr=1000 * math.log(2), te=40, flip_degrees=60)
    assert signal == pytest.approx(2 * 0.5773503 / math.e, abs=1e-6)


def test_the_ernst_angle_gives_the_most_signal():
    tr, t1 = 10.0, 900.0
    ernst = math.degrees(math.acos(math.exp(-tr / t1)))
    angles = np.array([ernst - 1, ernst, ernst + 1])
    signals = [
        spoiled_gradient_echo(1.0, t1, 50, tr=tr, te=3, flip_degrees=angle) for angle in angles
    ]
    assert int(np.argmax(signals)) == 1


def test_the_equations_take_arrays():
    t1 = np.array([[800.0, 1400.0]])
    signal = spin_echo(1.0, t1, np.array([[70.0], [100.0]]), tr=4000, te=90)
    assert signal.shape == (2, 2)
    assert signal[1, 0] == pytest.approx(spin_echo(1.0, 800.0, 100.0, tr=4000, te=90))


@pytest.mark.parametrize("seed", range(5))
def test_tissues_are_ordered_as_radiologists_know_them(seed):
    rng = np.random.default_rng(seed)
    t1w, t2w = GradientEcho.draw(rng), FastSpinEcho.draw(rng)
    order = (
        signals.FAT,
        signals.WHITE_MATTER,
        signals.GREY_MATTER,
        signals.FLUID,
    )
    in_t1w = [t1w.signal(t) for t in order]
    assert in_t1w == sorted(in_t1w, reverse=True)
    fluid, grey, white, muscle, dura = (
        t2w.signal(t)
        for t in (
            signals.FLUID,
            signals.GREY_MATTER,
            signals.WHITE_MATTER,
            signals.MUSCLE,
            signals.DURA,
        )
    )
    assert fluid > 1.5 * grey
    assert grey > white > muscle > dura


def test_the_train_of_an_inversion_is_that_of_its_pulses_one_by_one():
    sequence = PreparedGradientEcho(2300, 900, 7.0, 100, 3.0, 9.0)
    t1 = 1200.0
    before = 900 - 7.0 * 100 / 2
    after = 2300 - before - 7.0 * 100
    cosine, sine = math.cos(math.radians(9)), math.sin(math.radians(9))

    def relax(m: float, time: float) -> float:
        return 1 + (m - 1) * math.exp(-time / t1)

    m = 1.0
    for _ in range(30):  # inversions, until each is like the last
        m = relax(-m, before)
        for pulse in range(100):
            if pulse == 50:
                middle = m
            m = relax(m * cosine, 7.0)
        m = relax(m, after)
    decay = math.exp(-3.0 * (1 / 80 + signals.STATIC_DEPHASING))
    expected = 0.8 * abs(middle) * sine * decay
    assert sequence.signal(signals.Tissue(t1, 80.0, 0.8)) == pytest.approx(expected, rel=1e-6)


def test_an_inversion_before_a_spin_echo_is_its_pulses_one_by_one():
    t1, tr, ti, te = 1300.0, 2000.0, 700.0, 40.0

    def relax(m: float, time: float) -> float:
        return 1 + (m - 1) * math.exp(-time / t1)

    m = 1.0
    for _ in range(30):  # repetitions, until each is like the last
        excited = relax(-m, ti)
        m = relax(-relax(0.0, te / 2), tr - ti - te / 2)
    signal = inversion_spin_echo(0.8, t1, 90.0, tr=tr, ti=ti, te=te)
    assert signal == pytest.approx(0.8 * abs(excited) * math.exp(-te / 90), rel=1e-6)
    # With a short inversion time the magnetisation is still upside down: its magnitude is seen.
    assert inversion_spin_echo(1.0, t1, 90.0, tr=tr, ti=100.0, te=te) > 0


@pytest.mark.parametrize(
    "kind", [PreparedGradientEcho, GradientEcho, ConventionalSpinEcho, InversionSpinEcho]
)
@pytest.mark.parametrize("seed", range(4))
def test_every_t1_weighted_sequence_shows_white_above_grey_above_fluid(kind, seed):
    sequence = kind.draw(np.random.default_rng(seed))
    tissue = (signals.WHITE_MATTER, signals.GREY_MATTER, signals.FLUID)
    shown = [sequence.signal(t) for t in tissue]
    assert shown == sorted(shown, reverse=True)


def test_flair_nulls_fluid_and_shows_lesions_brightest() -> None:
    for seed in range(20):
        sequence = signals.FluidAttenuated.draw(np.random.default_rng(seed))
        white, grey, fluid, lesion = (
            sequence.signal(t)
            for t in (signals.WHITE_MATTER, signals.GREY_MATTER, signals.FLUID, signals.LESION)
        )
        assert fluid < 0.25 * white < white < 1.3 * grey
        assert lesion > 1.3 * max(grey, white)


def test_the_null_of_fluid() -> None:
    fluid = signals.FLUID
    for tr in (6000.0, 9000.0, 12_000.0):
        ti = signals.null_of_fluid(tr)
        left = inversion_spin_echo(1.0, fluid.t1, fluid.t2, tr=tr, ti=ti, te=1e-6)
        assert left == pytest.approx(0, abs=1e-6)
    assert 2200 < signals.null_of_fluid(9000) < 2500, "about what clinical protocols have"


def test_proton_density_shows_grey_matter_as_bright_as_white_or_brighter() -> None:
    for seed in range(20):
        sequence = FastSpinEcho.draw_proton_density(np.random.default_rng(seed))
        white, grey = (sequence.signal(t) for t in (signals.WHITE_MATTER, signals.GREY_MATTER))
        assert 0.98 < grey / white < 1.35
