"""`hft report` writes one page that shows what the run's files say, whatever is written in the data."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import confusion_matrix

import hft_core
from hft_core import cli
from hft_core.reports import charts
from hft_core.reports.markup import tag
from hft_core.runs import answer_statistics
from hft_core.runs.answers import Answers

HOSTILE = "</style><script>alert(1)</script><img src=//evil.example/x onerror=alert(2)>\u202e&amp;"
LABELS = ("animals", "money", f'"{HOSTILE}')


class Page(HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.figures: list[list[str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(name)
        self.attributes += [(key, value or "") for key, value in attributes]
        if name == "figure":
            self.figures.append([])
        elif self.figures:
            self.figures[-1].append(name)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on rows of which one class and some texts are hostile."""
    folder = tmp_path_factory.mktemp("report")
    names = dict(zip(("animals", "money", "sport"), LABELS, strict=True))
    rows = [{**row, "label": names[row["label"]], "text": f"{row['text']} {HOSTILE}"} for row in toys.rows(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps({**row, "origin": HOSTILE}) + "\n" for row in rows))
    recipe = {
        "backbone": {"model": str(models["bert"])},
        "tasks": {
            "topic": {"head": "classification", "data": str(folder / "rows.jsonl"), "label": "label"},
            "score": {"head": "regression", "data": str(folder / "rows.jsonl"), "label": "score"},
        },
        "stages": [
            {"name": name, "strategy": "frozen", "combiner": "uncertainty", "max_steps": 4, "train_batch_size": 8}
            for name in ("one", "two")
        ],
        "precision": "fp32",
        "output": {"logging_steps": 1},
    }
    hft_core.run(recipe, output=folder / "run")
    return folder / "run"


def written(*arguments: object) -> str:
    out = next(Path(str(a)) for a in arguments if str(a).endswith(".html"))
    assert cli.main(["report", *map(str, arguments)]) == 0
    return out.read_text(encoding="utf-8")


def test_nothing_in_the_data_becomes_part_of_the_page(run: Path, tmp_path: Path, one_thread: None) -> None:
    page = Page(written(run, "--by", "origin", "--out", tmp_path / "a.html"))
    assert not {"script", "img", "iframe", "object", "embed", "form"} & set(page.tags)
    assert not [key for key, _ in page.attributes if key.startswith("on") or key == "src"]
    assert not [value for _, value in page.attributes if re.match(r"(https?:)?//|javascript:", value)]
    assert "<script>alert(1)</script>" in page.text  # shown, not run
    assert "\u202e" not in page.text


def test_every_figure_has_its_table_and_scores_are_those_of_the_results(run: Path, tmp_path: Path) -> None:
    page = Page(written(run, "--out", tmp_path / "a.html"))
    assert len(page.figures) >= 6
    assert all("svg" in figure and "table" in figure for figure in page.figures)
    results = json.loads((run / "results.json").read_text())
    assert f"{results['final']['test']['topic']['accuracy']:,.4g}" in page.text
    for word in (
        "Training loss",
        "Combiner weight",
        "Confusion matrix",
        "Calibration",
        "largest loss",
        "95 % interval",
    ):
        assert word in page.text


def test_several_runs_are_side_by_side(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")
    page = Page(written(run, tmp_path / "other", "--no-texts", "--out", tmp_path / "a.html"))
    assert "Scores of the runs" in page.text
    assert page.tags.count("article") == 2
    assert "saw the" not in page.text


def test_texts_that_cannot_be_read_are_left_out_with_a_reason(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "moved")
    recipe = (run / "recipe.yaml").read_text().replace("rows.jsonl", "gone.jsonl")
    (tmp_path / "moved" / "recipe.yaml").write_text(recipe)
    page = Page(written(tmp_path / "moved", "--out", tmp_path / "a.html"))
    assert "Texts are not shown" in page.text
    assert "gone.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/none"], "no such run folder"),
        (["{tmp}"], "is not a finished run"),
        (["{run}", "--by", "orgin"], "--by orgin: no task's rows have it"),
        (["{run}", "--out", "{tmp}/there.html"], "exists already"),
    ],
)
def test_what_cannot_be_reported_is_said_in_one_line(
    arguments: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.html").touch()
    assert cli.main(["report", *(a.format(run=run, tmp=tmp_path) for a in arguments)]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (390, "light")])
def test_a_browser_shows_it_without_errors_and_without_asking_anyone(
    width: int, scheme: str, run: Path, tmp_path: Path
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or pytest.skip("no chromium")
    written(run, "--out", tmp_path / "a.html")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        told: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("dialog", lambda dialog: told.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "a.html").as_uri())
        page.locator("summary").first.click()
        assert page.locator("figure table").first.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        browser.close()
    assert told == []
    assert asked == [(tmp_path / "a.html").as_uri()]
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == (scheme == "dark")


def answers(truth: list[str], said: list[str], probabilities: np.ndarray | None = None) -> Answers:
    columns: dict[str, Any] = {"reference": truth, "prediction": said}
    if probabilities is not None:
        columns["probabilities"] = probabilities.tolist()
    return Answers(pa.table(columns), ("a", "b", "c"))


def test_counts_and_calibration_are_those_of_the_libraries() -> None:
    random = np.random.default_rng(0)
    truth = random.choice(["a", "b", "c"], 200)
    probabilities = random.dirichlet((1, 1, 1), 200)
    said = np.array(["a", "b", "c"])[probabilities.argmax(axis=1)]
    given = answers(truth.tolist(), said.tolist(), probabilities)
    confusion, calibration = answer_statistics.confusion(given), answer_statistics.calibration(given)
    assert confusion is not None
    assert calibration is not None
    assert np.array_equal(confusion.counts, confusion_matrix(truth, said, labels=["a", "b", "c"]))
    right = np.array([list("abc").index(label) for label in truth])
    assert calibration.scores.nll == pytest.approx(-np.log(probabilities[np.arange(200), right]).mean())
    assert calibration.scores.brier == pytest.approx(((probabilities - np.eye(3)[right]) ** 2).sum(axis=1).mean())
    assert sum(part.rows for part in calibration.bins) == 200
    exact = answers(["a"] * 3 + ["b"], ["a"] * 4, np.array([[0.75, 0.25, 0.0]] * 4))
    perfect = answer_statistics.calibration(exact)
    assert perfect is not None and perfect.scores.ece == pytest.approx(0)


def test_rare_labels_are_counted_together() -> None:
    truth = [f"label {i}" for i in range(20) for _ in range(20 - i)]
    found = answer_statistics.confusion(Answers(pa.table({"reference": truth, "prediction": truth}), ()))
    assert found is not None
    assert len(found.names) == answer_statistics.MOST_LABELS
    assert sum(map(sum, found.counts)) == len(truth)


@pytest.mark.parametrize("values", [[0.0, 1.0], [3.0], [-2e-6, 7e-6], [1e9, 3e9], [0.1, 0.11]])
def test_an_axis_holds_its_values_and_has_a_few_round_ticks(values: list[float]) -> None:
    found = charts.axis(values, 0, 100)
    assert all(0 <= found(value) <= 100 for value in values)
    assert 2 <= len(found.ticks) <= 6


def test_markup_escapes_everything_but_itself() -> None:
    assert tag("p", tag("b", "<"), "<", title='"<') == '<p title="&quot;&lt;"><b>&lt;</b>&lt;</p>'
