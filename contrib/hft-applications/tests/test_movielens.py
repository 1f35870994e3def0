from __future__ import annotations

import random
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from hft_applications import films, movielens
from hft_core.errors import DataError

FILMS = "1\tHunted, The\t1995\tAction\n2\tHeat\t1995\tAction Crime\n3\tHeat\t1995\tAction Crime\n4\tunknown\t\t\n"


def read(folder: Path, ratings: str, named: str = FILMS) -> tuple[list[str], movielens.Histories]:
    (folder / "ml-100k.item").write_text("\t".join(movielens.FILMS) + "\n" + named)
    (folder / "ml-100k.inter").write_text("\t".join(movielens.RATINGS) + "\n" + ratings)
    return movielens.read(folder)


def test_a_film_that_is_there_twice_is_one_and_histories_are_in_the_order_of_time(tmp_path: Path) -> None:
    texts, histories = read(tmp_path, "7\t2\t5\t30\n7\t1\t3\t20\n7\t3\t2\t40\n8\t4\t5\t1\n8\t1\t4\t2\n")
    hunted, heat = "The Hunted (1995), action", "Heat (1995), action crime"
    assert texts == [hunted, heat]
    assert histories["7"] == [movielens.Rated(hunted, False), movielens.Rated(heat, False)], "the latest rating counts"
    assert histories["8"] == [movielens.Rated(hunted, True)]


def test_other_files_are_refused_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ml-100k\.inter, line 3: expected a rating and a time; found 'good' and '2'"):
        read(tmp_path, "7\t2\t5\t30\n7\t1\tgood\t2\n")
    with pytest.raises(DataError, match=r"ml-100k\.item, line 2: expected 4 cells; found 2"):
        read(tmp_path, "", "1\tHeat\n")
    (tmp_path / "ml-100k.item").write_text("a\tb\n")
    with pytest.raises(DataError, match=r"ml-100k\.item: expected the columns item_id:token, .*; found a, b"):
        movielens.read(tmp_path)


@pytest.mark.skipif(find_spec("recbole") is None, reason="the ratings are inside recbole")
def test_test_users_are_not_learned_from_and_their_next_films_are_new_to_them() -> None:
    texts, histories = movielens.read(movielens.data_folder())
    assert (len(texts), len(histories)) == (1664, 943)
    draw = random.Random(0)
    parts = films.split(list(histories.values()), 643, draw)
    assert [len(parts[name]) for name in ("test", "dev", "train")] == [200, 100, 643]
    whose = {id(history): name for name, part in parts.items() for history in part}
    assert len(whose) == 943, "no user is in two splits"
    users = list(films.test_users(parts["test"]))
    assert len(users) > 180
    for user in users:
        assert not {*user["liked"], *user["disliked"]} & set(user["next"])
    items = {text: films.item(text, 0) for text in texts}
    candidates = list(films.lists(parts["dev"], items, 150, draw))
    by_list = Counter((row["list"], row["label"]) for row in candidates)
    assert len({number for number, _ in by_list}) == 150
    assert set(by_list.values()) <= {1, films.NEXT, films.OTHERS}
    assert {count for (_, label), count in by_list.items() if label == 0} == {films.OTHERS}
    for row in candidates:
        assert row["card"].removesuffix(", liked by few") not in row["query"]
