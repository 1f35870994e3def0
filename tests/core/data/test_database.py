"""Rows of databases."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from hft_core.data import loading
from hft_core.data.readers import database
from hft_core.errors import DataError, RecipeError
from hft_core.head import Column
from hft_core.recipe import recipe_file, schema

duckdb = pytest.importorskip("duckdb", reason="the extra sql")

TABLE = "CREATE TABLE news (id INTEGER, text TEXT, label TEXT, score {kind})"
ROWS = [(i, f"text {i}", "ab"[i % 2] if i else None, i * 1.5) for i in range(20)]
SELECT = "SELECT * FROM news ORDER BY id"


@pytest.fixture(scope="module", params=["news.duckdb", "news.sqlite"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with one table of either kind."""
    path = tmp_path_factory.mktemp("made") / request.param
    connect, kind = (duckdb.connect, "DECIMAL(9, 1)") if path.suffix == ".duckdb" else (sqlite3.connect, "REAL")
    with contextlib.closing(connect(str(path))) as connection:
        connection.execute(TABLE.format(kind=kind))
        connection.executemany("INSERT INTO news VALUES (?, ?, ?, ?)", ROWS)
        connection.commit()
    return path


@pytest.fixture
def news(made: Path, tmp_path: Path) -> str:
    """A copy of its own."""
    return str(shutil.copy(made, tmp_path))


def test_a_result_is_rows_in_its_order_with_the_values_of_the_columns(news: str) -> None:
    rows = database.read(news, "SELECT *, 'x' AS more FROM news WHERE id < 3 ORDER BY id DESC -- the last first", "")
    assert rows["id"] == [2, 1, 0]
    assert rows["text"] == ["text 2", "text 1", "text 0"]
    assert rows["label"] == ["a", "b", None]
    assert rows["score"] == [3.0, 1.5, 0.0]
    assert rows["more"] == ["x"] * 3
    assert rows.where(1) == f"{news} (sql), row 2"


def test_a_task_reads_one_statement_that_is_split_or_one_for_each_split(news: str) -> None:
    columns = [Column("text", "text"), Column("label", "label", target=True)]
    data = schema.Data.model_validate({"sql": "SELECT * FROM news WHERE id > 0 ORDER BY id", "database": news})
    parts = loading.load("topic", data, columns, seed=0, labels_from="label")
    assert sorted(i for rows in parts.values() for i in rows["id"]) == list(range(1, 20))
    assert set(parts) == {"train", "dev", "test"}
    sql = {"train": "SELECT * FROM news WHERE id > 5 ORDER BY id", "test": SELECT}
    data = schema.Data.model_validate({"sql": sql, "database": news})
    with pytest.raises(DataError, match=r"task 'topic' \(test\): .*news\.\w+ \(sql\.test\), row 1: column 'label'"):
        loading.load("topic", data, columns, seed=0, labels_from="label")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("SELECT * FROM news", "expected ORDER BY and columns that tell the rows apart"),
        ("SELECT * FROM (SELECT * FROM news ORDER BY id)", "expected ORDER BY"),
        ("SELECT ' ORDER BY ' FROM news -- ORDER BY id", "expected ORDER BY"),
        ("DELETE FROM news", "expected one SELECT statement, found 'DELETE FROM news'"),
        ("/* a */ -- b\n UPDATE news SET id = 1", "expected one SELECT statement, found"),
        (f"{SELECT}; DELETE FROM news", "one"),
        ("WITH a AS (SELECT 1) DELETE FROM news WHERE id = (SELECT 1 ORDER BY 1) -- \n OR 1 ORDER BY 1", ""),
        ("SELECT * FROM new ORDER BY id", "(sql): "),
        ("SELECT id, id FROM news ORDER BY id", "two columns are called 'id'; name one of them otherwise (AS)"),
        ("SELECT CAST(text AS BLOB) AS text FROM news ORDER BY id", "(sql), row 1: column 'text' holds bytes"),
        ("SELECT * FROM news ORDER BY id, random( )", "ORDER BY random() gives another order each time"),
        ("SELECT * FROM news WHERE id > 99 ORDER BY id", "(sql): no data in it, expected at least one row"),
    ],
)
def test_another_statement_is_refused_in_one_line(news: str, statement: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        database.read(news, statement, "")
    assert message in str(caught.value)
    assert news in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(database.read(news, SELECT, "")) == len(ROWS)


def test_comments_without_end_are_refused_in_time(news: str) -> None:
    for statement in ("/**/" * 5_000 + "DELETE", "/*" * 10_000, "SELECT " + "(" * 10_000 + "'" * 9_000):
        with pytest.raises(DataError):
            database.read(news, statement, "")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('{secret}') ORDER BY 1",
        "SELECT * FROM read_csv('{secret}') ORDER BY 1",
        "SELECT * FROM '{secret}' ORDER BY 1",
        "SELECT * FROM glob('{folder}/*') ORDER BY 1",
        "SELECT * FROM 'https://127.0.0.1:9/rows.parquet' ORDER BY 1",
        "SELECT * FROM duckdb_secrets() ORDER BY 1",
        "SELECT load_extension('{secret}') ORDER BY 1",
        "SELECT readfile('{secret}') ORDER BY 1",
        "SELECT writefile('{folder}/written', 'x') ORDER BY 1",
        "SELECT 1 ORDER BY 1; ATTACH '{folder}/written'",
        "SELECT 1 ORDER BY 1; COPY news TO '{folder}/written'",
        "SELECT 1 ORDER BY 1; INSTALL httpfs",
        "WITH a AS (SELECT 1) INSERT INTO news SELECT 1, 'b', 'c', 2 ORDER BY 1",
    ],
)
def test_a_statement_reads_and_writes_nothing_but_its_database(news: str, statement: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("TOPSECRET\n1\n")
    before = Path(news).read_bytes(), sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(DataError) as caught:
        database.read(news, statement.format(secret=secret, folder=tmp_path), "")
    assert "TOPSECRET" not in str(caught.value)
    assert before == (Path(news).read_bytes(), sorted(path.name for path in tmp_path.iterdir()))


def test_a_file_that_is_no_database_is_refused(tmp_path: Path, news: str) -> None:
    with pytest.raises(DataError, match=r"there is no database .*Did you mean 'news\."):
        database.read(news.replace("news.", "nws."), SELECT, "")
    path = tmp_path / "rows.db"
    for content in (b"", b"text,label\n", b"SQLite format 3\0" + bytes(200), bytes(8) + b"DUCK" + bytes(200)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"rows\.db"):
            database.read(str(path), SELECT, "")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sql": SELECT}, "'sql' and 'database' go together"),
        ({"database": "news.db", "files": "a.csv"}, "'sql' and 'database' go together"),
        ({"sql": SELECT, "database": "news.db", "files": "a.csv"}, "'sql' is in place of files"),
        ({"sql": {"dev": SELECT}, "database": "news.db"}, "give either one statement"),
        ({"sql": {"rows": SELECT, "test": SELECT}, "database": "news.db"}, "give either one statement"),
    ],
)
def test_a_recipe_gives_statements_or_files(data: dict[str, str], message: str) -> None:
    tasks = {"topic": {"head": "classification", "data": data}}
    recipe = {"backbone": "a/b", "tasks": tasks, "stages": {"max_steps": 1}}
    with pytest.raises(RecipeError, match=message):
        recipe_file.from_dict(recipe)


def test_the_path_of_a_database_starts_from_the_recipes_folder(tmp_path: Path) -> None:
    task = f"{{head: classification, data: {{sql: '{SELECT}', database: news.db}}}}"
    text = f"backbone: a/b\ntasks: {{topic: {task}}}\nstages: {{max_steps: 1}}"
    recipe = recipe_file.load(recipe_file.parse(text, "r", tmp_path))
    assert recipe.tasks["topic"].data is not None
    assert recipe.tasks["topic"].data.database == str(tmp_path / "news.db")
    assert recipe_file.load(recipe_file.parse(recipe_file.dump(recipe), "r")) == recipe
    given = recipe_file.override(recipe_file.parse(text, "r", tmp_path), ["tasks.topic.data.database=other.db"])
    changed = recipe_file.validate(given).tasks["topic"].data
    assert changed is not None and changed.database == str(Path.cwd() / "other.db")


def test_what_duckdb_gives_does_not_depend_on_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duckdb = pytest.importorskip("duckdb")
    path = str(tmp_path / "times.duckdb")
    with duckdb.connect(path) as made:
        made.execute("CREATE TABLE t AS SELECT TIMESTAMPTZ '2026-05-01 00:00:00+00' AS moment, ['a'::BLOB] AS words")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        rows = database.read(path, "SELECT moment FROM t ORDER BY moment", "")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert list(rows["moment"]) == ["2026-05-01T00:00:00+00:00"]
    with pytest.raises(DataError, match="row 1: column 'words' holds bytes"):
        database.read(path, "SELECT words FROM t ORDER BY 1", "")
