"""Splits: no leaks, nothing lost, the same every time."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings, strategies as st

from mrbridge.dataset.settings import PrepareSettings
from mrbridge.dataset.split import Request, split_scans
from mrbridge.dataset.store import ScanRecord
from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.preprocessing.intensity import IntensityNormalisation

SPLITS = ("train", "val", "test")


def record(
    subject: str | None, contrast: str, *, slices: int = 40, first: int = 5, name: str = "a.nii"
) -> ScanRecord:
    picture = name.endswith(".png")
    return ScanRecord(
        id=f"{subject}_{contrast}_{name}",
        subject=subject,
        session=None,
        contrast=contrast,
        name=name,
        source_sha256="",
        key="",
        data_sha256="",
        shape=(1 if picture else slices, 8, 8),
        spacing_mm=None if picture else (1, 1, 1),
        slice_indices=[0] if picture else list(range(first, first + slices)),
        grid_hash="grid",
        recipe=IntensityNormalisation(low=0, high=1),
    )


def cohort(both: int, only_t1w: int = 0, only_t2w: int = 0) -> list[Request]:
    wishes = [Request(record(f"b{n}", c)) for n in range(both) for c in ("T1w", "T2w")]
    wishes += [Request(record(f"s{n}", "T1w")) for n in range(only_t1w)]
    return wishes + [Request(record(f"t{n}", "T2w")) for n in range(only_t2w)]


def simulate(wishes: list[Request], result: dict, split: str, contrast: str) -> set[str | None]:
    return {
        w.record.subject
        for w in wishes
        if w.record.contrast == contrast and split in result[w.record.id]
    }


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 12), st.integers(0, 6), st.integers(0, 6), st.integers(0, 99), st.floats(0, 0.5)
)
def test_laws(both: int, only_t1w: int, only_t2w: int, seed: int, share: float) -> None:
    wishes = cohort(both, only_t1w, only_t2w)
    if not both and not (only_t1w and only_t2w):
        return
    chosen = PrepareSettings(seed=seed, validation_share=share, test_share=share)
    result = split_scans(wishes, chosen)
    assert result == split_scans(wishes, chosen)
    assert result.keys() == {wish.record.id for wish in wishes}
    places: dict[str | None, set[str]] = defaultdict(set)
    blocks = False
    for wish in wishes:
        segments = result[wish.record.id]
        assert segments.keys() <= set(SPLITS)
        places[wish.record.subject] |= segments.keys()
        blocks |= len(segments) > 1
        used = sorted(i for parts in segments.values() for a, b in parts for i in range(a, b))
        assert len(used) == len(set(used))
        assert set(used) <= set(range(wish.record.shape[0]))
    for contrast in ("T1w", "T2w"):
        assert simulate(wishes, result, "train", contrast), "a contrast without training scans"
        assert share == 0 or simulate(wishes, result, "val", contrast)
    if not blocks:
        assert all(len(splits) == 1 for splits in places.values()), "a subject in two splits"
    assert blocks or both + min(only_t1w, only_t2w) > 1 or share == 0


def test_shares_of_subjects() -> None:
    wishes = cohort(20)
    result = split_scans(wishes, PrepareSettings(validation_share=0.2, test_share=0.1))
    for contrast in ("T1w", "T2w"):
        counts = [len(simulate(wishes, result, split, contrast)) for split in SPLITS]
        assert counts == [14, 4, 2]


def test_subjects_with_both_contrasts_are_held_out_first() -> None:
    wishes = cohort(3, 10, 10)
    result = split_scans(wishes, PrepareSettings())
    for split in ("val", "test"):
        held = simulate(wishes, result, split, "T1w")
        assert held
        assert held == simulate(wishes, result, split, "T2w")


def test_unpaired_cohorts_hold_out_each_contrast() -> None:
    wishes = cohort(0, 10, 5)
    result = split_scans(wishes, PrepareSettings())
    assert len(simulate(wishes, result, "val", "T1w")) == 1
    assert len(simulate(wishes, result, "val", "T2w")) == 1


def test_the_seed_chooses() -> None:
    wishes = cohort(12)
    chosen = {
        frozenset(simulate(wishes, split_scans(wishes, PrepareSettings(seed=seed)), "val", "T1w"))
        for seed in range(20)
    }
    assert len(chosen) > 4


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 999), min_size=4, max_size=60, unique=True),
    st.integers(0, 99),
    st.booleans(),
)
def test_a_new_subject_moves_at_most_one_of_each_held_out_split(
    numbers: list[int], seed: int, paired: bool
) -> None:
    wishes = [
        Request(record(f"p{n}" if paired else f"p{n}{contrast}", contrast))
        for n in numbers
        for contrast in ("T1w", "T2w")
    ]
    chosen = PrepareSettings(seed=seed)
    before, after = split_scans(wishes[2:], chosen), split_scans(wishes, chosen)
    for contrast in ("T1w", "T2w"):
        val, test = (
            (
                simulate(wishes[2:], before, split, contrast),
                simulate(wishes, after, split, contrast),
            )
            for split in ("val", "test")
        )
        for had, has in (val, test):
            assert len(had - has) <= 1
            assert len(has) - len(had) in (0, 1)
        if len(numbers) > 4:  # fewer subjects have no test split
            assert not val[0] & test[1]
            assert not test[0] & val[1]


def test_too_few_subjects_give_up_a_block_of_the_same_anatomy() -> None:
    """T1w of one subject, T2w of another, on one grid, of which different slices were kept."""
    first, second = record("a", "T1w", slices=40, first=10), record("b", "T2w", slices=44, first=8)
    result = split_scans([Request(first), Request(second)], PrepareSettings(gap=3))
    held = []
    for scan in (first, second):
        segments = result[scan.id]
        assert set(segments) == {"train", "val"}
        ((start, stop),) = segments["val"]
        held.append([scan.slice_indices[i] for i in range(start, stop)])
        assert segments["train"] == [(0, start - 3), (stop + 3, scan.shape[0])]
    assert held[0] == held[1]
    assert len(held[0]) == 4


def test_pictures_without_subjects_split_in_blocks_in_natural_order() -> None:
    names = [f"Image #{n}.png" for n in range(2, 45)]
    wishes = [Request(record(None, c, name=n)) for c in ("T1w", "T2w") for n in sorted(names)]
    result = split_scans(wishes, PrepareSettings(gap=3))
    for contrast in ("T1w", "T2w"):
        splits = ["".join(result[f"None_{contrast}_{name}"]) for name in names]
        assert {word or "gap" for word in splits} == {"train", "val", "gap"}
        start = splits.index("val")
        assert splits[start - 3 : start + 7] == ["", "", "", *["val"] * 4, "", "", ""]
        assert splits.count("val") == 4
        assert splits.count("train") == 33


def test_pictures_with_subjects_split_by_subject() -> None:
    wishes = [
        Request(record(f"p{s}", c, name=f"{n}.png"))
        for s in range(5)
        for c in ("T1w", "T2w")
        for n in range(4)
    ]
    result = split_scans(wishes, PrepareSettings())
    for wish in wishes:
        assert result[wish.record.id] in ({split: [(0, 1)]} for split in SPLITS)
    held = simulate(wishes, result, "val", "T1w")
    assert len(held) == 1
    assert not held & simulate(wishes, result, "train", "T2w")


def test_too_few_slices_all_train() -> None:
    wishes = [Request(record(None, c, slices=6)) for c in ("T1w", "T2w")]
    result = split_scans(wishes, PrepareSettings())
    assert all(segments == {"train": [(0, 6)]} for segments in result.values())


def training(wishes: list[Request], result: dict, contrast: str) -> int:
    """How many slices of a contrast train."""
    return sum(
        stop - start
        for w in wishes
        if w.record.contrast == contrast
        for start, stop in result[w.record.id].get("train", [])
    )


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from([0.0, 0.03, 0.1, 0.25, 0.5, 0.9]),
    st.sampled_from([0, 1, 3, 7, 40]),
    st.integers(0, 99),
    st.booleans(),
)
def test_more_slices_never_leave_fewer_to_train(
    share: float, gap: int, seed: int, pictures: bool
) -> None:
    chosen = PrepareSettings(validation_share=share, gap=gap, seed=seed)
    before = 0
    for count in range(1, 201):
        if pictures:
            wishes = [Request(record(None, "T1w", name=f"{n}.png")) for n in range(count)]
        else:
            wishes = [Request(record(None, "T1w", slices=count))]
        now = training(wishes, split_scans(wishes, chosen), "T1w")
        assert now >= before, f"{count} slices leave {now} to train, one less {before}"
        before = now


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=18),
    st.sampled_from([0.0, 0.1, 0.3, 0.5]),
    st.sampled_from([0.0, 0.1, 0.3, 0.8]),
    st.integers(0, 99),
    st.booleans(),
)
def test_more_pictures_of_people_never_leave_fewer_to_train(
    sizes: list[int], share: float, test_share: float, seed: int, same_people: bool
) -> None:
    """Pictures come one by one, person after person, of both contrasts or of different people."""
    chosen = PrepareSettings(validation_share=share, test_share=test_share, seed=seed)
    wishes: list[Request] = []
    before = {"T1w": 0, "T2w": 0}
    for person, size in enumerate(sizes):
        for number in range(size):
            for contrast in before:
                who = f"p{person}" if same_people else f"p{person}{contrast}"
                wishes.append(Request(record(who, contrast, name=f"{number}.png")))
            result = split_scans(wishes, chosen)
            for contrast in before:
                now = training(wishes, result, contrast)
                assert now >= before[contrast]
                before[contrast] = now


def test_scans_of_one_contrast_only_take_none_from_the_other() -> None:
    """However many T1w are added, T2w keeps what it has to train."""
    counts = [
        len(simulate(wishes, split_scans(wishes, PrepareSettings()), "train", "T2w"))
        for more in (0, 30, 90)
        for wishes in [cohort(12, more)]
    ]
    assert counts == [10, 10, 10]


def test_few_slices_give_up_few_and_the_gap_is_at_most_a_fifth() -> None:
    for count in (8, 9, 10, 15, 20, 30, 43, 200):
        wishes = [Request(record(None, "T1w", slices=count))]
        (segments,) = split_scans(wishes, PrepareSettings()).values()
        held = sum(b - a for a, b in segments["val"])
        unused = count - held - training(wishes, {wishes[0].record.id: segments}, "T1w")
        assert held >= 1
        assert unused <= min(6, count / 5)
        assert held + unused <= max(1, 0.35 * count)


def test_the_users_split_holds() -> None:
    wishes = [
        Request(w.record, {"b0": "test", "b1": "val", "b2": "train"}.get(str(w.record.subject)))
        for w in cohort(6)
    ]
    result = split_scans(wishes, PrepareSettings())
    assert simulate(wishes, result, "test", "T1w") == {"b0"}
    assert simulate(wishes, result, "val", "T2w") == {"b1"}
    assert simulate(wishes, result, "train", "T1w") == {"b2", "b3", "b4", "b5"}


def test_validation_is_chosen_if_the_table_names_only_a_test_split() -> None:
    wishes = [Request(w.record, "test" if w.record.subject == "b0" else None) for w in cohort(6)]
    result = split_scans(wishes, PrepareSettings())
    assert simulate(wishes, result, "test", "T1w") == {"b0"}
    assert len(simulate(wishes, result, "val", "T1w") - {"b0"}) == 1


def test_validation_is_taken_from_subjects_without_a_split_first() -> None:
    train = {"b0", "b1", "b2", "b3"}
    for seed in range(5):
        settings = PrepareSettings(seed=seed)
        wishes = [
            Request(w.record, "train" if w.record.subject in train else None) for w in cohort(6)
        ]
        result = split_scans(wishes, settings)
        assert train <= simulate(wishes, result, "train", "T1w")
        wishes = [Request(w.record, "train") for w in cohort(6)]
        with pytest.warns(MrbridgeWarning, match="2 of the 6 subjects with the split train"):
            result = split_scans(wishes, settings)
        assert len(simulate(wishes, result, "val", "T1w")) == 1


def test_a_split_of_one_scan_holds_for_its_subject() -> None:
    wishes = cohort(6)
    wishes[0] = Request(wishes[0].record, "test")
    result = split_scans(wishes, PrepareSettings())
    assert simulate(wishes, result, "test", "T2w") == {"b0"}


def test_a_leak_in_the_users_table_is_refused() -> None:
    wishes = [Request(record("a", "T1w"), "train"), Request(record("a", "T2w"), "test")]
    with pytest.raises(InputError, match="subject a is in the splits"):
        split_scans(wishes, PrepareSettings())
