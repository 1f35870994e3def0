"""Anything as input: whatever a recipe, a data file, a cell, a checkpoint or a run folder holds, it is taken or refused
with one line, and never a traceback.

The examples are the same each time. `HFT_FUZZ=2000` draws as many new ones a test.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from hft_core.backbone import Backbone
from hft_core.data import cells, loading
from hft_core.data.cells import as_list
from hft_core.data.examples import encode
from hft_core.errors import HftError, ModelError, UsageError
from hft_core.head import Column, RowError
from hft_core.plugins.catalogue import Catalogue, Entry
from hft_core.recipe import recipe_file
from hft_core.recipe.flags import recipe_from_flags
from hft_core.recipe.recipe_file import Source, from_dict, override, parse, validate
from hft_core.recipe.resolve import resolve
from hft_core.runs import assembly
from hft_core.runtime.run_folder import RunFolder
from hft_core.testing import toys as conformance_toys
from hft_core.training.checkpoint import Checkpoints
from hft_plugins.heads.parts import tag_notations, tag_schemes

NEW = int(os.environ.get("HFT_FUZZ", "0"))


def fuzz(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """So many examples, or `HFT_FUZZ` new ones; none may take long."""
    return settings(
        max_examples=NEW or examples,
        derandomize=not NEW,
        database=None,
        deadline=20_000,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


RECIPE = """\
backbone: {model: tiny, dropout: 0.1}
tasks:
  topic: {head: classification, data: {files: [news.csv], split: {dev: 0.2}}, text: article, max_length: 64}
  language: {head: {type: mlm}, data: articles/*.txt, replay: true}
stages:
  - name: pretrain
    tasks: language
    epochs: 1
  - name: finetune
    strategy: {type: lora, r: 16}
    combiner: uncertainty
    sampling: {temperature: 2, weights: {topic: 2}}
    learning_rate: 1e-4
    max_steps: 10
    metric_for_best_model: topic.accuracy
seed: 3
output: {save_strategy: steps, save_steps: 5}
"""
PLAIN: dict[str, Any] = parse(RECIPE, "recipe.yaml").data
SPECIAL = "{}[]:,-#&*!|>'\"%@`?~<= \t\r\n\0\x85\u2028\ufeff\ud800aA0.1eE_/\\é中😀"

texts = st.text(alphabet=st.sampled_from(SPECIAL) | st.characters(codec="utf-8"), max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@contextmanager
def refused_in_one_line(naming: object = "") -> Iterator[None]:
    """What is refused is refused as a user's error, on one line that says something, and that names `naming`."""
    try:
        yield
    except UsageError as error:
        assert str(error).strip() and len(str(error).splitlines()) == 1, repr(str(error))
        assert str(naming) in str(error)


@cache
def catalogue() -> Catalogue:
    return Catalogue.discover(allow=())


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values inside `value`."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, part in parts for path in [(*at, key), *paths(part, (*at, key))]]


@st.composite
def mutated(draw: st.DrawFn, valid: Any) -> Any:
    """Plain data with up to three values replaced, taken away or given another key."""
    made = json.loads(json.dumps(valid))
    for _ in range(draw(st.integers(1, 3))):
        *above, key = draw(st.sampled_from(paths(made) or [("",)]))
        place = made
        for step in above:
            place = place[step]
        if not isinstance(place, dict | list) or not place:
            return made
        kind = draw(st.sampled_from(["replace", "remove", "rename"]))
        if kind == "replace":
            place[key] = draw(values)
        elif kind == "rename" and isinstance(place, dict):
            place[draw(texts)] = place.pop(key)
        else:
            del place[key]
    return made


@st.composite
def garbled(draw: st.DrawFn, valid: bytes) -> bytes:
    """Bytes with up to four stretches taken out, doubled or replaced."""
    made = valid
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(made)))
        end = min(len(made), start + draw(st.integers(0, 12)))
        put = draw(st.sampled_from([b"", made[start:end] * 2]) | texts.map(_encoded) | st.binary(max_size=6))
        made = made[:start] + put + made[end:]
    return made


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


# --- recipes


@given(text=garbled(RECIPE.encode()) | st.binary(max_size=60) | texts.map(_encoded))
@fuzz(400)
def test_any_recipe_file_is_a_recipe_or_refused(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(text)
    with refused_in_one_line():
        resolve(validate(recipe_file.read(file)), catalogue())


@given(value=mutated(PLAIN) | values)
@example(value={"backbone": [[[[]]]] * 2, "tasks": {}, "stages": {}})
@example(value={"backbone": {"\ud800": 1}, "tasks": {"topic": {"head": "mlm", "data": "news.csv"}}, "stages": [{}]})
@fuzz(400)
def test_any_plain_data_is_a_recipe_or_refused(value: Any) -> None:
    with refused_in_one_line():
        recipe = from_dict(value if isinstance(value, dict) else {"backbone": value})
        assert recipe_file.load(parse(recipe_file.dump(recipe), "again")) == recipe


@given(assignment=texts | st.tuples(st.sampled_from(paths(PLAIN)), texts).map(lambda pair: _assigned(*pair)))
@fuzz(300)
def test_any_override_is_taken_or_refused(assignment: str) -> None:
    with refused_in_one_line():
        validate(override(Source.of(PLAIN), [assignment]))


def _assigned(path: tuple[Any, ...], value: str) -> str:
    return f"{'.'.join(map(str, path))}={value}"


@example(backbone="m", task="\r", strategy="lora")
@given(backbone=texts, task=texts | texts.map("topic=mlm:{}".format), strategy=texts | texts.map("lora,r={}".format))
@fuzz(200)
def test_any_flags_are_a_recipe_or_refused(backbone: str, task: str, strategy: str) -> None:
    with refused_in_one_line():
        validate(Source.of(recipe_from_flags(backbone, [task], strategy=strategy)))


# --- data files


def _parquet(table: dict[str, list[Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(table), sink)
    return sink.getvalue().to_pybytes()


TABLE = [{"text": f"the cat saw the dog {i}", "label": "xy"[i % 2], "words": ["a", "b"]} for i in range(4)]
CSV = "text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in TABLE)
FILES: dict[str, bytes] = {
    "a.csv": CSV.encode(),
    "a.tsv": CSV.replace(",", "\t").encode(),
    "a.json": json.dumps(TABLE).encode(),
    "a.jsonl": "".join(json.dumps(row) + "\n" for row in TABLE).encode(),
    "a.txt": "".join(f"{row['text']}\n" for row in TABLE).encode(),
    "a.conll": b"-DOCSTART- O\n\n# text\nEU B-ORG\nrejects O\n\nGerman B-MISC\n" * 2,
    "a.csv.gz": gzip.compress(CSV.encode(), mtime=0),
    "a.parquet": _parquet({name: [row[name] for row in TABLE] for name in TABLE[0]}),
}
JSON_TEXT = st.text(alphabet='{}[]",:\\ud8\n\r\t01eaNI-.', max_size=60).map(str.encode)


@pytest.mark.parametrize("name", FILES)
def test_the_files_that_are_garbled_are_good(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    assert len(loading.read([str(tmp_path / name)], None, "line", task="t")) == 4


@given(
    file=st.sampled_from(sorted(FILES)).flatmap(
        lambda name: st.tuples(
            st.just(name), garbled(FILES[name]) | st.binary(max_size=200) | JSON_TEXT | values.map(_json)
        )
    )
)
@example(file=("a.jsonl", b'{"text": "\\ud800"}'))
@example(file=("a.json", b'[{"a": NaN}, {"a": "x"}]'))
@fuzz(700)
def test_any_data_file_is_rows_or_refused(tmp_path: Path, file: tuple[str, bytes]) -> None:
    path = tmp_path / file[0]
    path.write_bytes(file[1])
    with refused_in_one_line(path):
        rows = loading.read([str(path)], None, "line", task="t")
        assert len(rows) > 0
        for _, batch in rows.batches(3):
            assert all(len(column) > 0 for column in batch.values())
        loading.check(rows, [Column("text", "text"), Column("label", "label", target=True)], task="t")


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


@given(pattern=texts)
@fuzz(100)
def test_any_path_is_files_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    monkeypatch.chdir(tmp_path)
    with refused_in_one_line():
        loading.read([pattern], None, "line", task="t")


# --- cells, heads, tags


COLUMNS = [
    Column("c", "text"),
    Column("c", "label", target=True),
    Column("c", "number"),
    Column("c", "messages"),
    Column("c", "text", many=True, separator=" "),
    Column("c", "number", many=True, target=True),
]
messages = st.lists(
    st.dictionaries(
        st.sampled_from(["role", "content", "name"]),
        st.sampled_from(["user", "assistant", "system"]) | values,
        max_size=3,
    )
    | values,
    max_size=4,
)


@given(value=values | messages | messages.map(json.dumps), column=st.sampled_from(COLUMNS))
@fuzz(300)
def test_any_cell_is_good_or_described(value: Any, column: Column) -> None:
    assert "\n" not in cells.problem(value, column)
    assert isinstance(as_list(value, column), list)


@pytest.fixture(scope="module")
def backbones(models: Any) -> list[Backbone]:
    """A trunk of each kind."""
    return [_opened(str(models[name])) for name in ("bert", "llama", "t5")]


def _opened(folder: str) -> Backbone:
    return assembly.open_backbone(_resolved({"type": "mlm"}, folder), trust_remote_code=False)


def _resolved(head: dict[str, Any], folder: str) -> Any:
    recipe = {"backbone": folder, "tasks": {"t": {"head": head}}, "stages": {"max_steps": 1}}
    return resolve(from_dict(recipe), catalogue())


ODD = [
    "the cat saw the dog",
    "a",
    "1",
    "-1",
    "\u200b",
    "\u0301",
    "😀" * 40,
    "x " * 200,
    "\n",
    "[]",
    "[1]",
    "<s>",
    "[MASK]",
]
odd_texts = st.sampled_from(ODD) | st.text(min_size=1, max_size=20)
LIKELY: dict[type, st.SearchStrategy[Any]] = {
    str: odd_texts,
    int: st.integers(-3, 70),
    bool: st.booleans(),
    float: st.floats(allow_nan=False) | st.integers(),
    list: st.lists(odd_texts, max_size=4) | st.lists(st.integers(-3, 70), max_size=4) | messages,
}
"""Cells that get past the first checks, by what stands in their place."""


@st.composite
def odd_rows(draw: st.DrawFn, valid: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Good rows with up to three cells, or parts of one, replaced; one in ten by anything."""
    made: list[dict[str, Any]] = json.loads(json.dumps(valid))
    for _ in range(draw(st.integers(1, 3))):
        *above, key = draw(st.sampled_from([path for path in paths(made) if len(path) > 1]))
        place: Any = made
        for step in above:
            place = place[step]
        likely = LIKELY.get(type(place[key]), values)
        place[key] = draw(values if draw(st.integers(0, 9)) == 0 else likely)
    return made


HEADS = {entry.name: entry for entry in catalogue().seam("head") if not entry.reason and entry.name != "distillation"}
"""Those that can be used here. Distillation opens another run."""


@pytest.mark.parametrize("name", HEADS)
@given(drawn=st.data())
@fuzz(40)
def test_any_rows_are_learned_from_or_refused(
    name: str, backbones: list[Backbone], models: Any, drawn: st.DataObject
) -> None:
    folder = str(models["bert"])
    with refused_in_one_line():
        _learn(HEADS[name], drawn.draw(odd_rows(_rows_of(name, folder))), folder, backbones)


@cache
def _rows_of(name: str, folder: str) -> list[dict[str, Any]]:
    """Good rows."""
    entry = HEADS[name]
    made = catalogue().load_example(entry, "example_rows")
    if made is not None:
        return list(made(6, 0))
    (head,) = assembly.build_heads(_resolved({"type": entry.name, **_example(entry)}, folder)).values()
    return list(conformance_toys.rows(head.columns(), 6, 0))


def _example(entry: Entry) -> dict[str, Any]:
    return dict(entry.spec.example) if entry.spec is not None else {}


def _learn(entry: Entry, rows: list[dict[str, Any]], folder: str, backbones: list[Backbone]) -> None:
    """All that happens to rows before training, on the first trunk that takes the head."""
    resolved = _resolved({"type": entry.name, **_example(entry)}, folder)
    heads = assembly.build_heads(resolved)
    splits = assembly.load_rows(resolved, heads, {"t": {"train": rows}})
    for backbone in backbones:
        try:
            assembly.attach(backbone, heads)
        except HftError:
            continue
        event("encoded")
        made = encode(splits["t"]["train"], heads["t"], backbone.tokenizer, 16)
        assert len(made) == 0 or int(made.lengths.max()) <= 16
        return


tags = st.lists(
    st.sampled_from(["O", "B-A", "I-A", "E-A", "S-B", "L-B", "U-A", "B", "I", "B-", "-"]) | texts, max_size=8
)


@given(sentences=st.lists(tags, max_size=4))
@fuzz(300)
def test_any_tags_have_a_scheme_and_what_is_written_is_read_again(sentences: list[list[str]]) -> None:
    try:
        scheme, notation = tag_notations.detect(sentences, "tags")
    except RowError as error:
        assert sentences[error.row]
        scheme, notation = "plain", tag_notations.USUAL
    for tag in chain.from_iterable(sentences):
        notation.written(notation.read(tag, scheme), scheme)
    for sentence in sentences:
        chunks = tag_schemes.read(sentence)
        tag_schemes.types_of(sentence)
        for each in tag_schemes.LETTERS:
            written = tag_schemes.write(chunks, len(sentence), each)
            assert len(written) == len(sentence)
            tag_schemes.well_formed(sentence, each)
            tag_schemes.fault(sentence, each)
            assert tag_schemes.fault(written, each) is None
    assert scheme == "plain" or scheme in tag_schemes.LETTERS


# --- what a run left behind


MANIFEST = {
    "format": 2,
    "recipe": "r",
    "stage": 0,
    "step": 1,
    "world_size": 1,
    "files": {"state.json": {"size": 2, "sha256": "0"}},
}


@given(
    content=garbled(json.dumps(MANIFEST).encode()) | st.binary(max_size=40) | (mutated(MANIFEST) | values).map(_json)
)
@example(content=json.dumps({**MANIFEST, "files": {"\x1e": {"size": 2, "sha256": "0"}}}).encode())
@fuzz(300)
def test_any_manifest_is_a_checkpoint_or_refused(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "0000-00000001"
    place.mkdir(exist_ok=True)
    (place / "state.json").write_text("{}")
    (place / "manifest.json").write_bytes(content)
    told: list[str] = []
    with refused_in_one_line():
        Checkpoints(tmp_path, recipe="r", limit=2).newest(told.append)
    assert all("\n" not in text for text in told)


RESULTS = {"plugins": [{"seam": "head", "name": "mlm", "distribution": "hft-core", "version": "0.1.0"}]}


@given(content=garbled(json.dumps(RESULTS).encode()) | st.binary(max_size=40) | (mutated(RESULTS) | values).map(_json))
@fuzz(300)
def test_any_results_say_which_plugins_a_run_used_or_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "results.json").write_bytes(content)
    try:
        found = RunFolder(tmp_path).plugins()
    except ModelError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert all(isinstance(value, str) for used in found for value in used.values())
