from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hft_core.data.loading import from_python
from hft_core.data.rows import Rows
from hft_core.data.splits import draw, draw_groups, draw_of_all, split, train_every_class
from hft_core.errors import DataError

PARTS = ("train", "dev", "test")
CLASSES = st.lists(st.sampled_from("abcd"), min_size=3, max_size=60)
SHARES = st.sampled_from([(0.1, 0.1), (0.2, 0.3), (0.0, 0.25), (0.5, 0.0), (0.05, 0.9)])


def numbered(count: int, **columns: list[object]) -> Rows:
    return from_python([{"id": i, **{k: v[i] for k, v in columns.items()}} for i in range(count)], task="t")


def rows_of_each_class(parts: dict[str, list[int]], classes: list[str]) -> dict[str, Counter[str]]:
    return {part: Counter(classes[i] for i in indices) for part, indices in parts.items()}


@given(count=st.integers(3, 200), shares=SHARES, seed=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_every_row_is_in_exactly_one_part_and_no_asked_part_is_empty(
    count: int, shares: tuple[float, float], seed: int
) -> None:
    parts = split(numbered(count), *shares, seed=seed, stratify=None, by=None)
    assert sorted(i for part in PARTS for i in parts[part]) == list(range(count))
    assert all(parts[part] == sorted(parts[part]) for part in PARTS)
    assert [bool(parts[part]) for part in PARTS] == [True, shares[0] > 0, shares[1] > 0]


@given(classes=CLASSES, shares=SHARES, seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_class_of_three_rows_is_in_every_part_and_any_class_is_trained(
    classes: list[str], shares: tuple[float, float], seed: int
) -> None:
    try:
        parts = split(numbered(len(classes)), *shares, seed=seed, stratify=classes, by=None)
    except DataError as error:
        assert max(Counter(classes).values()) < 3
        assert "classes leave no row" in str(error)
        return
    found = rows_of_each_class(parts, classes)
    assert sorted(i for part in PARTS for i in parts[part]) == list(range(len(classes)))
    assert set(found["train"]) == set(classes)
    for name, count in Counter(classes).items():
        for part, share in zip(PARTS, (1 - sum(shares), *shares), strict=True):
            if count >= 3:
                assert (found[part][name] > 0) == (share > 0)


@given(groups=st.lists(st.integers(0, 12), min_size=20, max_size=60), seed=st.integers(0, 5), stratified=st.booleans())
@settings(max_examples=60, deadline=None)
def test_rows_of_one_group_stay_together(groups: list[int], seed: int, stratified: bool) -> None:
    classes = ["even" if g % 2 == 0 else "odd" for g in groups] if stratified else None
    rows = numbered(len(groups), source=list(groups))
    if len(set(groups)) < 3:
        with pytest.raises(DataError, match="groups"):
            split(rows, 0.2, 0.2, seed=seed, stratify=classes, by="source")
        return
    parts = split(rows, 0.2, 0.2, seed=seed, stratify=classes, by="source")
    assert sorted(i for part in PARTS for i in parts[part]) == list(range(len(groups)))
    homes = [{groups[i] for i in parts[part]} for part in PARTS]
    assert all(homes)
    assert sum(map(len, homes)) == len(set(groups))


def test_the_split_depends_on_the_seed_and_on_nothing_else() -> None:
    classes = [str(i % 3) for i in range(90)]
    here = split(numbered(90), 0.1, 0.2, seed=4, stratify=classes, by=None)
    there = split(numbered(90, text=["other"] * 90), 0.1, 0.2, seed=4, stratify=list(classes), by=None)
    assert here == there
    assert here != split(numbered(90), 0.1, 0.2, seed=5, stratify=classes, by=None)


def test_shares_are_met_to_the_row_over_many_classes() -> None:
    classes = [f"c{i % 40}" for i in range(40 * 25)]  # 2.5 rows of each class for dev and for test
    parts = split(numbered(1000), 0.1, 0.1, seed=0, stratify=classes, by=None)
    assert {part: len(indices) for part, indices in parts.items()} == {"train": 800, "dev": 100, "test": 100}


def test_each_class_gets_its_share_to_the_row() -> None:
    classes = ["rare"] * 20 + ["frequent"] * 180
    found = rows_of_each_class(split(numbered(200), 0.1, 0.1, seed=1, stratify=classes, by=None), classes)
    assert found["dev"] == found["test"] == {"rare": 2, "frequent": 18}


def test_groups_meet_shares_and_classes_closely() -> None:
    groups = [i // 5 for i in range(1000)]
    classes = ["yes" if g % 4 == 0 else "no" for g in groups]
    parts = split(numbered(1000, g=list(groups)), 0.1, 0.2, seed=3, stratify=classes, by="g")
    found = rows_of_each_class(parts, classes)
    assert found["dev"] == {"yes": 25, "no": 75}
    assert found["test"] == {"yes": 50, "no": 150}


def test_a_group_too_large_for_dev_or_test_goes_to_train() -> None:
    groups = ["big"] * 35 + [f"small {i}" for i in range(65)]
    for seed in range(10):
        parts = split(numbered(100, g=list(groups)), 0.3, 0.3, seed=seed, stratify=None, by="g")
        assert set(range(35)) <= set(parts["train"])
        assert len(parts["dev"]) == len(parts["test"]) == 30


def test_as_many_groups_as_parts_give_each_part_one() -> None:
    parts = split(numbered(3, g=[1, 2, 3]), 0.1, 0.1, seed=0, stratify=None, by="g")
    assert [len(parts[part]) for part in PARTS] == [1, 1, 1]


def test_a_class_of_one_group_is_trained() -> None:
    groups = [i // 2 for i in range(60)]
    classes = ["once"] * 2 + ["often"] * 58
    for seed in range(10):
        parts = split(numbered(60, g=list(groups)), 0.3, 0.4, seed=seed, stratify=classes, by="g")
        assert {0, 1} <= set(parts["train"])


def test_a_class_of_one_row_is_trained() -> None:
    classes = ["once"] + ["often"] * 30
    for seed in range(10):
        assert 0 in split(numbered(31), 0.3, 0.3, seed=seed, stratify=classes, by=None)["train"]


def test_too_few_rows_say_how_many_there_are() -> None:
    with pytest.raises(DataError, match=r"^2 rows are too few for a split into 3 parts"):
        split(numbered(2), 0.1, 0.1, seed=0, stratify=None, by=None)
    with pytest.raises(DataError, match=r"^4 rows of 4 classes leave no row for dev and test"):
        split(numbered(4), 0.1, 0.1, seed=0, stratify=list("abcd"), by=None)
    with pytest.raises(DataError, match=r"^2 groups \(different values of 'g'\)"):
        split(numbered(4, g=[1, 1, 2, 2]), 0.1, 0.1, seed=0, stratify=None, by="g")


def test_two_rows_of_a_class_are_enough_for_two_parts() -> None:
    parts = split(numbered(2), 0.1, 0.0, seed=0, stratify=["a", "a"], by=None)
    assert [len(parts[part]) for part in PARTS] == [1, 1, 0]


@given(classes=CLASSES, seed=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_a_draw_keeps_every_class_and_smaller_draws_are_part_of_larger_ones(classes: list[str], seed: int) -> None:
    kinds = len(set(classes))
    small, large = draw(classes, kinds, seed=seed), draw(classes, min(kinds + 5, len(classes)), seed=seed)
    assert {classes[i] for i in small} == set(classes)
    assert len(small) == kinds
    assert set(small) <= set(large)


@given(groups=st.lists(st.integers(0, 12), min_size=1, max_size=60), count=st.integers(1, 60), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_draw_of_groups_takes_whole_ones_within_the_count(groups: list[int], count: int, seed: int) -> None:
    drawn = draw_groups(groups, count, seed=seed)
    taken = {groups[i] for i in drawn}
    assert drawn == [i for i, group in enumerate(groups) if group in taken]
    assert len(drawn) <= count or len(taken) == 1
    assert taken


SETS = st.lists(st.sets(st.sampled_from("abcdefgh"), max_size=3), min_size=10, max_size=60)


@given(classes=SETS, shares=SHARES, seed=st.integers(0, 5), grouped=st.booleans())
@settings(max_examples=80, deadline=None)
def test_each_of_a_rows_classes_is_trained_and_other_rows_stay_where_they_were(
    classes: list[set[str]], shares: tuple[float, float], seed: int, grouped: bool
) -> None:
    groups = [i // 2 for i in range(len(classes))] if grouped else None
    rows = numbered(len(classes), group=[i // 2 for i in range(len(classes))])
    before = split(rows, *shares, seed=seed, stratify=None, by="group" if grouped else None)
    parts = train_every_class(before, classes, groups)
    assert sorted(i for part in PARTS for i in parts[part]) == list(range(len(classes)))
    assert all(parts[part] == sorted(parts[part]) for part in PARTS)
    assert [bool(parts[part]) for part in PARTS] == [bool(before[part]) for part in PARTS]
    trained = {name for i in parts["train"] for name in classes[i]}
    if parts != before:
        assert trained == {name for names in classes for name in names}
    if {name for i in before["train"] for name in classes[i]} == {name for names in classes for name in names}:
        assert parts == before
    if grouped:
        home = {i: part for part in PARTS for i in parts[part]}
        assert all(home[i] == home[i + 1] for i in range(0, len(classes) - 1, 2))


@pytest.mark.parametrize("seed", range(8))
def test_ten_labels_of_one_row_each_are_all_trained(seed: int) -> None:
    classes = [{"often", f"rare {i}"} if i < 10 else {"often"} for i in range(60)]
    parts = train_every_class(split(numbered(60), 0.1, 0.1, seed=seed, stratify=None, by=None), classes, None)
    assert set(range(10)) <= set(parts["train"])
    assert parts["dev"]
    assert parts["test"]


def test_a_part_that_loses_its_rows_gets_one_that_train_can_spare() -> None:
    classes = [{"a"}, {"a"}, {"a"}, {"b"}, {"c"}]
    parts = train_every_class({"train": [0, 1, 2], "dev": [3], "test": [4]}, classes, None)
    assert parts == {"train": [2, 3, 4], "dev": [0], "test": [1]}
    assert train_every_class({"train": [0, 1], "dev": [3], "test": [4]}, classes, [0, 0, 1, 2, 3])["dev"] == [3]


def test_rows_without_a_label_in_common_stay_where_they_are() -> None:
    parts = split(numbered(20), 0.1, 0.1, seed=0, stratify=None, by=None)
    assert train_every_class(parts, [{str(i)} for i in range(20)], None) == parts


def test_a_sample_of_rows_with_several_classes_has_all_of_them_if_there_is_room() -> None:
    classes: list[set[str]] = [*[{"often"}] * 50, {"often", "rare"}, {"odd"}, set()]
    for seed in range(5):
        few = draw_of_all(classes, 6, seed=seed)
        assert {name for i in few for name in classes[i]} == {"often", "rare", "odd"}
        plain = draw([""] * 53, 6, seed=seed)
        assert draw_of_all([{"often"}] * 53, 6, seed=seed) == plain


def test_groups_are_compared_as_labels_are() -> None:
    ids: list[object] = [value for i in range(30) for value in (i, str(i), f" {i}", float(i))]
    parts = split(numbered(120, group=ids), 0.2, 0.2, seed=0, stratify=None, by="group")
    homes = [{int(float(str(ids[i]))) for i in parts[part]} for part in PARTS]
    assert sum(map(len, homes)) == 30
