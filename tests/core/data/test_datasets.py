"""Data sets of the library `datasets`: folders of `save_to_disk`, and the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow.parquet as pq
import pytest
from datasets.packaged_modules.parquet.parquet import Parquet

from hft_core.data import files
from hft_core.data.readers import hub
from hft_core.data.rows import Rows
from hft_core.errors import DataError

COMMIT = "0123456789" * 4
TOPIC = datasets.ClassLabel(names=["sport", "money"])
FEATURES = datasets.Features(
    {
        "text": datasets.Value("string"),
        "label": TOPIC,
        "tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"])),
        "seen": [{"topic": TOPIC}],
    }
)


def data(count: int) -> datasets.Dataset:
    columns = {
        "text": [f"text {i}" for i in range(count)],
        "label": [i % 2 for i in range(count)],
        "tags": [[0, 1]] * count,
        "seen": [[{"topic": 1}]] * count,
    }
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def read(*paths: Any) -> Rows:
    return files.read([str(path) for path in paths], None, "line", task="topic")


@pytest.fixture
def news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    datasets.DatasetDict(train=data(4), test=data(2)).save_to_disk("news")
    return Path("news")


def test_a_saved_folder_gives_its_rows_with_the_names_of_classes(news: Path) -> None:
    rows = read("news:train")
    assert rows["label"] == ["sport", "money"] * 2
    assert rows["tags"][0] == ["O", "B-PER"]
    assert rows["seen.topic"][0] == ["money"]
    assert rows.where(1) == "news:train, row 2"
    assert len(read("news/test", "news:train")) == 6
    data(3).select([2, 0]).save_to_disk("one")
    assert read("one")["text"] == ["text 2", "text 0"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("news", "news has the splits 'train', 'test': name one of them, for instance 'news:train'"),
        ("news:tran", "no split 'tran'; news has the splits 'train', 'test'. Did you mean 'train'?"),
        ("news/test:train", "news/test is one data set without splits, expected its path alone"),
        ("new:train", "there is no file 'new:train'"),
    ],
)
def test_which_split_is_meant_has_to_be_said(news: Path, path: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(path)
    assert message in str(caught.value)


def test_what_is_no_folder_of_rows_is_refused_with_the_reason(news: Path) -> None:
    with pytest.raises(DataError, match="sheet is for xlsx files, found dataset"):
        files.read(["news:train"], None, "line", task="topic", sheet="a")
    with pytest.raises(DataError, match="expected a folder that 'save_to_disk' of the library datasets wrote"):
        files.read([str(news.parent)], "dataset", "line", task="topic")
    data(0).save_to_disk("none")
    with pytest.raises(DataError, match="none: no data in it"):
        read("none")
    (news / "dataset_dict.json").write_text("{}")
    with pytest.raises(DataError, match=r"dataset_dict\.json: cannot be read"):
        read("news:train")


def cached(cache: Path, name: str, **splits: datasets.Dataset) -> None:
    """Prepare a data set in the cache of `datasets` as it is after it was read from the hub."""
    owner, own = name.split("/")
    paths = {}
    for split, rows in splits.items():
        paths[split] = [str(cache / f"{split}.parquet")]
        rows.to_parquet(paths[split][0])
    Parquet(dataset_name=own, hash=COMMIT, cache_dir=str(cache), data_files=paths).download_and_prepare()
    folder = cache / f"{owner}___{own}"
    (cache / own).rename(folder)
    next(folder.iterdir()).rename(folder / "default")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    cached(tmp_path, "me/news", train=data(4), test=data(2))
    return tmp_path


def test_a_data_set_of_the_hub_is_read_from_the_cache_and_knows_its_commit(offline: Path) -> None:
    for address in ("hf://me/news:train", "hf://datasets/me/news:default/train", f"hf://me/news@{COMMIT}:train"):
        rows = read(address)
        assert rows["label"] == ["sport", "money"] * 2
        assert rows["tags"][0] == ["O", "B-PER"]
        assert rows.where(3) == f"{address}, row 4"
        assert rows.sources[0].commit == COMMIT
        assert rows.notes == (f"{address} was read from the cache of datasets (commit 012345678901), not from the hub",)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://me/news", "has the splits 'train', 'test'; name one of them, for instance 'hf://me/news:train'"),
        ("hf://me/news:tran", "there is no split 'tran'; it has the splits 'train', 'test'. Did you mean 'train'?"),
        ("hf://me/news:other/train", "Couldn't find cache for me/news for config 'other'"),
        (f"hf://me/news@{'a' * 40}:train", f"the cache of datasets has the commit {COMMIT}; that it is 'aaaaa"),
        ("hf://me/news@v2:train", "that it is 'v2' is not known: name the commit, or let the hub be asked"),
        ("hf://me/none:train", "HF_HUB_OFFLINE is set, so only what the cache has is read: unset it, or give a folder"),
        ("hf://news", "expected hf://OWNER/NAME[@REVISION][:[CONFIG/]SPLIT]"),
        ("hf://me/news:train[:10%]", "expected hf://OWNER/NAME[@REVISION][:[CONFIG/]SPLIT]"),
    ],
)
def test_what_the_cache_does_not_have_is_refused_in_one_line(offline: Path, address: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(address)
    assert str(caught.value).startswith(f"{address}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_in_the_working_directory_is_not_taken_for_the_hub(
    offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(offline)
    Path("me/news").mkdir(parents=True)
    with pytest.raises(DataError, match="the working directory has a 'me/news', which datasets would read"):
        read("hf://me/news:train")


def test_an_address_has_the_parts_that_it_shows() -> None:
    assert hub.parse("hf://a/b@refs/pr/1:c-d.e/f") == hub.Address("a/b", "refs/pr/1", "c-d.e", "f")
    assert hub.parse("hf://a/b") == hub.Address("a/b", None, None, None)


def test_a_column_of_images_is_no_reason_to_open_what_it_names(tmp_path: Path) -> None:
    pytest.importorskip("PIL")  # without it, old versions of datasets write no column of images
    features = datasets.Features({"text": datasets.Image(), "label": TOPIC})
    rows = {"text": [{"path": str(tmp_path / "secret.png"), "bytes": None}], "label": [0]}
    table = datasets.Dataset.from_dict(rows, features=features).data.table
    pq.write_table(table, tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet")["text"] == [{"path": str(tmp_path / "secret.png")}]
    assert read(tmp_path / "rows.parquet")["label"] == ["sport"]
    hostile = {b"huggingface": b'{"info": {"features": {"text": 3}}}'}
    pq.write_table(table.replace_schema_metadata(hostile), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="datasets cannot read the types of its columns"):
        read(tmp_path / "rows.parquet")


def test_a_saved_folder_names_no_file_outside_of_it(news: Path) -> None:
    data(2).save_to_disk("other")
    state = news / "train" / "state.json"
    name = "../../other/data-00000-of-00001.arrow"
    state.write_text(json.dumps({**json.loads(state.read_text()), "_data_files": [{"filename": name}]}))
    with pytest.raises(DataError, match="is not a name in the folder"):
        read("news:train")
    (news / "dataset_dict.json").write_text(json.dumps({"splits": ["../other"]}))
    with pytest.raises(DataError, match=r"'\.\./other' is not a name in the folder"):
        read("news")
    (news / "test" / "data-00000-of-00001.arrow").unlink()
    (news / "test" / "data-00000-of-00001.arrow").symlink_to(Path("other/data-00000-of-00001.arrow").absolute())
    with pytest.raises(DataError, match="is a link out of the folder"):
        read("news/test")


def test_a_damaged_arrow_file_is_refused_and_nothing_read_beyond_it(news: Path) -> None:
    path = news / "test" / "data-00000-of-00001.arrow"
    content = path.read_bytes()
    offsets = (0).to_bytes(4, "little") + (6).to_bytes(4, "little") + (12).to_bytes(4, "little")
    assert content.count(offsets) == 1
    for damaged in (content.replace(offsets, offsets[:8] + (1 << 28).to_bytes(4, "little")), content[:200], b"ARROW1"):
        path.unlink()
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read as a folder of 'save_to_disk'"):
            read("news/test")
