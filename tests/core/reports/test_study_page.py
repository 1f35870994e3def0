"""`hft report STUDY` says the verdict first and shows what study.json says, whatever the arms are called."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hft_core.cli.app import main
from hft_core.studies.evidence import ArmEvidence
from hft_core.studies.summary import Summary, summarize

SEEDS = (0, 1, 2, 3, 4)
NOISE = (0.0, 0.004, -0.003, 0.002, -0.002)
HOSTILE = "<script>alert(1)</script>"


def arm(name: str, gain: float, noise: int, trainable: float, control: str = "") -> ArmEvidence:
    values = [0.8 + gain + NOISE[(i * noise) % 5] + i / 100 for i in SEEDS]
    return ArmEvidence(
        name,
        control=control,
        seeds=list(SEEDS),
        scores={split: {"topic": {"accuracy": values}} for split in ("dev", "test")},
        main_metrics={"topic": "accuracy"},
        greater_is_better={"topic": True},
        cost={"rows": 100.0, "trainable": trainable, "seconds": 9.5, "tokens": 0, "steps": 5, "peak_memory": 0},
        forgetting={"language": {"before": 2.0, "after": 2.5}},
    )


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, Summary]:
    arms = [
        arm("sum", 0.0, 1, 5e6),
        arm("lora", 0.05, 2, 6e4),
        arm(HOSTILE, -0.05, 3, 5e6),
        arm("frozen", 0.0, 2, 0.0, control="heads alone"),
    ]
    found = summarize(arms, "sum", SEEDS, ("topic",), ["the seeds are few"])
    (tmp_path / "study").mkdir()
    (tmp_path / "study/study.json").write_text(json.dumps(found.to_json()))
    return tmp_path / "study", found


def test_the_verdict_comes_first_and_every_number_is_the_studys(study: tuple[Path, Summary], tmp_path: Path) -> None:
    folder, found = study
    assert main(["report", str(folder), "--out", str(tmp_path / "s.html")]) == 0
    page = (tmp_path / "s.html").read_text(encoding="utf-8")
    order = [page.index(word) for word in ("Recommended: lora.", "Quality and cost", ">Tasks<", ">Cost<", "Forgetting")]
    assert order == sorted(order)
    assert found.recommended == "lora"
    (lora,) = [c for c in found.comparisons if c.arm == "lora"]
    assert lora.statistics is not None
    assert f"{lora.statistics.mean:+.3g}" in page and f"{lora.statistics.low:+.3g} to" in page
    assert f"{found.delta_m['lora']['test']['mean']:+.2%}" in page
    assert "the seeds are few" in page and "heads alone" not in page and "frozen (control)" in page
    by_parameters = re.search(r"<figure><figcaption><strong>Dev Δm \(%\) by trainable.*?</figure>", page, re.DOTALL)
    assert by_parameters is not None
    assert by_parameters[0].count("<circle") == 3  # of the frozen trunk nothing trains: no place on this axis
    assert by_parameters[0].count('class="dot f2"') == by_parameters[0].count('class="dot f1"') == 1
    by_seconds = page[by_parameters.end() :]
    assert by_seconds[: by_seconds.index("</figure>")].count("<circle") == 4


def test_nothing_of_an_arm_becomes_part_of_the_page(study: tuple[Path, Summary], tmp_path: Path) -> None:
    assert main(["report", str(study[0]), "--out", str(tmp_path / "s.html")]) == 0
    page = (tmp_path / "s.html").read_text(encoding="utf-8")
    assert HOSTILE not in page and "&lt;script&gt;" in page
    assert not re.search(r"(src|href)=\"(https?:)?//", page)


def test_what_cannot_be_reported_of_a_study_is_one_line(
    study: tuple[Path, Summary], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(study[0])
    out = ["--out", str(tmp_path / "s.html")]
    assert main(["report", folder, folder, *out]) == 2
    assert "is a study, which has a report of its own" in capsys.readouterr().err
    assert main(["report", folder, "--by", "origin", *out]) == 2
    assert "--by divides the rows of runs" in capsys.readouterr().err
    (study[0] / "study.json").write_text("{}")
    assert main(["report", folder, *out]) == 2
    told = capsys.readouterr().err
    assert "study.json: this study cannot be read: KeyError" in told and len(told.splitlines()) == 1
    assert not (tmp_path / "s.html").exists()
