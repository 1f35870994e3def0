from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoModelForQuestionAnswering

import hft_core
from hft_core import Catalogue
from hft_core.backbone import Features
from hft_core.data import loading
from hft_core.errors import DataError, PluginError
from hft_core.head import Draw
from hft_core.predict import prediction, saved_run
from hft_plugins.backbones import decoder, encoder
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions
from hft_plugins.heads.parts import squad_metrics
from hft_plugins.heads.parts.example_rows import span as example_rows
from hft_plugins.heads.span import Options, Span, build

CONTEXT = "the cat saw the goalkeeper near the old river in the early morning again on friday"
ROW = {"question": "the striker", "context": CONTEXT, "answers.text": ["goalkeeper"], "answers.answer_start": [16]}


def columns(*rows: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def head_of(**options: Any) -> Span:
    return build(Options(**options), task="t")


def opened(name: str, models: Any) -> Any:
    path = str(models[name])
    decodes = name in ("llama", "gpt2")
    backbone: Any = decoder.build(DecoderOptions(model=path)) if decodes else encoder.build(EncoderOptions(model=path))
    backbone.trunk.eval()
    return backbone


# --- rows


@pytest.mark.parametrize(
    ("answers", "starts", "message"),
    [
        (["goalkeeper"], [15], "found ' goalkeepe' at character 15 of the context, expected the answer 'goalkeeper'"),
        (["goalkeeper"], [15], "(it begins at character 16)"),
        (["Goalkeeper"], [16], "(the context does not hold that answer)"),
        (["friday"], [999], "found '' at character 999"),
        (["the"], [-3], "found -3, expected a whole number from 0"),
        (["the"], [0.5], "found 0.5, expected a whole number from 0"),
        (["the", "cat"], [0], "differ in length: found 2 answers and 1 starts"),
        ([], [], "column 'answers.text': found no answer, expected one (or version_2_with_negative: true)"),
        (["the", "cat"], [0, 5], "'answers.answer_start': found 'at '"),
    ],
)
def test_an_answer_that_is_not_in_its_context_is_refused(answers: Any, starts: Any, message: str) -> None:
    head = head_of()
    assert message in head.check({**ROW, "answers.text": answers, "answers.answer_start": starts})
    assert head.check(ROW) == ""


def test_questions_without_an_answer_are_an_option() -> None:
    assert head_of(version_2_with_negative=True).check({**ROW, "answers.text": [], "answers.answer_start": []}) == ""


def test_a_bad_row_ends_the_run_with_its_file_and_line(models: Any, tmp_path: Path) -> None:
    rows = [{"question": "who", "context": CONTEXT, "answers": {"text": ["cat"], "answer_start": [p]}} for p in (4, 5)]
    (tmp_path / "squad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "backbone": str(models["bert"]),
        "tasks": {"qa": {"head": "span", "data": {"train": str(tmp_path / "squad.jsonl")}}},
        "stages": {"max_steps": 1},
    }
    with pytest.raises(DataError, match=r"squad.jsonl, line 2: column 'answers.answer_start': found 'at '"):
        hft_core.run(recipe)


def test_every_form_of_answers_gives_the_same_examples(models: Any, tmp_path: Path) -> None:
    tokenizer = opened("bert", models).tokenizer
    base = {"question": "the striker", "context": CONTEXT}
    nested = {**base, "answers": {"text": ["goalkeeper"], "answer_start": [16]}}
    listed = {**base, "answers": [{"text": "goalkeeper", "answer_start": 16}]}
    (tmp_path / "nested.json").write_text(json.dumps([nested]))
    datasets.Dataset.from_list([nested]).to_parquet(tmp_path / "nested.parquet")
    (tmp_path / "flat.csv").write_text(f"question,context,answer,start\nthe striker,{CONTEXT},goalkeeper,16\n")
    flat = {"answer": "answer", "answer_start": "start"}
    given: list[tuple[Any, dict[str, str]]] = [
        (loading.read([str(tmp_path / "nested.json")], None, "line", task="t"), {}),
        (loading.read([str(tmp_path / "nested.parquet")], None, "line", task="t"), {}),
        (loading.read([str(tmp_path / "flat.csv")], None, "line", task="t"), flat),
        (loading.from_python([listed], task="t"), {}),
        (loading.from_python([{**base, "answer": "goalkeeper", "start": 16}], task="t"), flat),
    ]
    reference = head_of().encode(columns(ROW), tokenizer, 40)
    for rows, options in given:
        head = head_of(**options)
        loading.check(rows, head.columns(), task="t")
        cells = {column.name: rows[column.name] for column in head.columns()}
        assert head.check({name: values[0] for name, values in cells.items()}) == ""
        assert head.encode(cells, tokenizer, 40) == reference


# --- chunks


def text_of(encoded: Any, tokenizer: Any, chunk: int) -> str:
    start, end = encoded.targets["start"][chunk], encoded.targets["end"][chunk]
    return str(tokenizer.decode(encoded.sequences[chunk][start : end + 1])).strip()


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama"])
def test_a_long_context_becomes_chunks_that_overlap(name: str, models: Any) -> None:
    tokenizer = opened(name, models).tokenizer
    encoded = head_of(doc_stride=2).encode(columns(ROW, ROW), tokenizer, 16)
    assert max(map(len, encoded.sequences)) <= 16
    assert encoded.rows == sorted(encoded.rows)
    assert len(encoded.rows) >= 4
    assert [r for r, first in zip(encoded.rows, encoded.targets["first"], strict=True) if first] == [0, 1]
    chunks = range(encoded.rows.count(0))
    held = [chunk for chunk in chunks if encoded.targets["start"][chunk] != encoded.targets["null"][chunk]]
    assert 0 < len(held) < len(chunks)
    assert {text_of(encoded, tokenizer, chunk) for chunk in held} == {"goalkeeper"}
    places = [zip(encoded.targets["from"][k], encoded.targets["to"][k], strict=True) for k in chunks]
    assert {"cat", "river", "friday"} <= {CONTEXT[a:b] for place in places for a, b in place if a >= 0}
    one, two = (set(encoded.targets["from"][k]) - {-1} for k in (0, 1))
    assert len(one & two) == 2


def test_a_long_question_is_cut_and_too_little_room_is_an_error(models: Any) -> None:
    tokenizer = opened("bert", models).tokenizer
    long = {**ROW, "question": " ".join(["the striker saw"] * 30)}
    encoded = head_of(max_query_length=5).encode(columns(long), tokenizer, 30)
    assert encoded.sequences[0].index(tokenizer.sep_token_id) == 6
    assert text_of(encoded, tokenizer, 0) == "goalkeeper"
    assert max(map(len, head_of().encode(columns(long), tokenizer, 12).sequences)) <= 12
    with pytest.raises(PluginError, match="max_length 6 has no room"):
        head_of().encode(columns(ROW), tokenizer, 6)


# --- model


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert", "gpt2"])
def test_equals_automodel_for_question_answering(name: str, models: Any) -> None:
    backbone = opened(name, models)
    head = head_of()
    head.attach(backbone)
    head.eval()
    rows = columns(ROW, {**ROW, "answers.text": ["cat saw"], "answers.answer_start": [4]})
    encoded = head.encode(rows, backbone.tokenizer, 64)
    sequences, targets = head.collate(encoded.sequences, encoded.targets, range(2), Draw(0, 0))
    assert len({*map(len, sequences)}) == 1  # the plain class counts padding into the softmax
    inputs = {
        "input_ids": torch.tensor(sequences),
        "attention_mask": torch.ones(2, len(sequences[0]), dtype=torch.long),
    }
    features = Features(backbone.forward(inputs), inputs["input_ids"], inputs["attention_mask"])
    plain = AutoModelForQuestionAnswering.from_pretrained(str(models[name]), **head.config()).eval()
    assert head.family is not None
    assert not plain.load_state_dict(head.family.plain_state(), strict=False).unexpected_keys
    told = plain(**inputs, start_positions=targets.tensors["start"], end_positions=targets.tensors["end"])
    reference = torch.stack([told.start_logits, told.end_logits], dim=2)
    torch.testing.assert_close(head.raw_outputs(features), reference, atol=1e-5, rtol=0)
    torch.testing.assert_close(head.loss(features, targets) / targets.count, told.loss, atol=1e-5, rtol=0)


def test_a_decoder_whose_plain_class_names_the_trunk_otherwise_gets_a_layer_of_its_own(models: Any) -> None:
    head = head_of()
    head.attach(opened("llama", models))
    assert head.family is None


@pytest.mark.parametrize("limit", [1, 3, 30])
def test_the_answer_is_the_best_pair_of_all_within_the_context(limit: int, models: Any) -> None:
    backbone = opened("bert", models)
    head = head_of(max_answer_length=limit, n_best_size=64)
    head.attach(backbone)
    head.eval()
    encoded = head.encode(columns(ROW, {**ROW, "context": "the dog saw the cat"}), backbone.tokenizer, 64)
    sequences, targets = head.collate(encoded.sequences, encoded.targets, range(2), Draw(0, 0))
    inputs = backbone.tokenizer.pad({"input_ids": sequences}, padding_side="right", return_tensors="pt")
    features = Features(backbone.forward(dict(inputs)), inputs["input_ids"], inputs["attention_mask"])
    logits = head.raw_outputs(features).detach()
    for i, said in enumerate(head.predict(features, targets)):
        begin, stop = encoded.targets["from"][i], encoded.targets["to"][i]
        inside = [p for p, character in enumerate(begin) if character >= 0]
        pairs = [(a, b) for a in inside for b in inside if a <= b < a + limit]
        score, a, b = max((float(logits[i, a, 0] + logits[i, b, 1]), a, b) for a, b in pairs)
        assert said["span"] == [begin[a], stop[b], pytest.approx(score, abs=1e-5)]
        assert said["null"] == pytest.approx(float(logits[i, 0].sum()), abs=1e-5)


# --- scores and answers


@pytest.mark.parametrize(
    ("said", "right", "exact", "f1"),
    [
        ("The  Cat!", "cat", 1, 1),
        ("a black cat", "the cat", 0, 2 / 3),
        ("cat cat", "cat", 0, 2 / 3),
        ("dog", "cat", 0, 0),
        ("", "", 1, 1),
        ("", "cat", 0, 0),
        ("the", "", 1, 1),
        ("it's", "its", 1, 1),
        ("1,000", "1000", 1, 1),
    ],
)
def test_equals_the_measures_of_squad(said: str, right: str, exact: float, f1: float) -> None:
    assert squad_metrics.exact_match(said, right) == exact
    assert squad_metrics.f1(said, right) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("said", "right", "exact", "f1"),
    [
        ("《红楼梦》的作者。", "红楼梦的作者", 1, 1),
        ("北京市海淀区", "海淀区", 0, 2 / 3),
        ("上海", "海淀区", 0, 2 / 5),
        ("２０２４年", "2024年", 1, 1),
        ("ABC 公司", "abc公司", 1, 1),
        ("東京タワー", "タワー", 0, 3 / 4),
        ("서울 타워", "타워", 0, 2 / 3),
    ],
)
def test_characters_of_texts_without_blanks_are_words(said: str, right: str, exact: float, f1: float) -> None:
    assert squad_metrics.exact_match(said, right) == exact
    assert squad_metrics.f1(said, right) == pytest.approx(f1)


def test_the_best_of_several_right_answers_counts_and_none_means_silence() -> None:
    assert squad_metrics.best(squad_metrics.f1, "black cat", ["cat", "the black cat", "dog"]) == 1
    assert squad_metrics.best(squad_metrics.exact_match, "", []) == 1
    assert squad_metrics.best(squad_metrics.exact_match, "cat", ["!?"]) == 0


def chunk(span: Any, null: float) -> dict[str, Any]:
    return {"span": span, "null": null}


def test_the_chunks_of_a_row_give_one_answer() -> None:
    predictions = [chunk([0, 3, 1.0], 0.0), chunk([4, 7, 2.0], 5.0), chunk(None, 0.0), chunk([12, 15, 9.0], 0.0)]
    references = [
        {"first": True, "context": "the cat saw it", "answers": ["cat"]},
        {"first": False, "context": "", "answers": []},
        {"first": True, "context": "nothing", "answers": ["thing"]},
        {"first": True, "context": "the dog and cat", "answers": ["dog", "the cat"]},
    ]
    scores = head_of().metrics(predictions, references, 0.5)
    assert scores == pytest.approx({"loss": 0.5, "exact_match": 2 / 3, "f1": 2 / 3})
    assert head_of().answer(predictions[:2], {"context": "the cat saw it"}) == {
        "value": "cat",
        "start": 4,
        "end": 7,
        "score": 2.0,
    }
    assert head_of().answer([chunk(None, 3.0)], {"context": "x"}) == {"value": ""}


def test_no_answer_is_given_where_its_score_is_higher_by_the_threshold() -> None:
    chunks = [chunk([0, 3, 1.0], 9.0), chunk([4, 7, 2.0], 3.5)]  # the least of the scores for none is 3.5
    for options, text in (
        ({}, "cat"),
        ({"version_2_with_negative": True}, ""),
        ({"version_2_with_negative": True, "null_score_diff_threshold": 1.5}, "cat"),
    ):
        assert head_of(**options).answer(chunks, {"context": "the cat saw it"})["value"] == text


def test_it_learns_from_nested_answers_and_the_plain_class_opens_it(models: Any, tmp_path: Path) -> None:
    rows = []
    for row in example_rows(160, 0):
        answers = {key: row.pop(f"answers.{key}") for key in ("text", "answer_start")}
        rows.append({**row, "answers": answers})
    recipe = {
        "backbone": {"model": str(models["bert"]), "dropout": 0.0},
        "tasks": {"qa": {"head": "span", "max_length": 24, "doc_stride": 6}},
        "stages": [{"max_steps": 450, "learning_rate": 2e-3, "per_device_train_batch_size": 16, "eval_strategy": "no"}],
        "precision": "fp32",
    }
    result = hft_core.run(recipe, data={"qa": {"train": rows[:120], "test": rows[120:]}}, output=tmp_path / "run")
    scores = result.final["test"]["qa"]
    assert scores["exact_match"] > 0.8
    assert result.final["test"]["qa"]["f1"] >= scores["exact_match"]
    run = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    again = prediction.evaluate(run, "qa", loading.from_python(rows[120:], task="qa"))
    assert again == pytest.approx(scores, abs=1e-5)
    asked = [{"question": row["question"], "context": row["context"]} for row in rows[120:]]
    answers = prediction.predict(run, "qa", loading.from_python(asked, task="qa"))
    right = sum(a["value"] in r["answers"]["text"] for a, r in zip(answers, rows[120:], strict=True))
    assert right / 40 == pytest.approx(scores["exact_match"])
    plain = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "run" / "model" / "qa")
    assert plain.config.num_labels == 2


# --- where a token belongs to an answer


def answered(context: str, answer: str, start: int, **more: Any) -> dict[str, list[Any]]:
    return columns(
        {"question": "who", "context": context, "answers.text": [answer], "answers.answer_start": [start], **more}
    )


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2"])
def test_blanks_at_the_ends_of_an_answer_make_no_difference(name: str, models: Any) -> None:
    tokenizer = opened(name, models).tokenizer
    for context in ("the cat saw the dog near the bank", " the cat\r\nsaw the dog  near the bank ", "the bank"):
        for word in ("the", "dog", "bank"):
            start = context.find(word)
            if start < 0:
                continue
            bare = head_of().encode(answered(context, word, start), tokenizer, 40)
            assert text_of(bare, tokenizer, 0) == word
            assert bare.targets["start"] != bare.targets["null"]
            first, last = max(start - 1, 0), start + len(word) + 1
            if context[first].isspace():
                wide = head_of().encode(answered(context, context[first:last].rstrip("n"), first), tokenizer, 40)
                assert (wide.targets["start"], wide.targets["end"]) == (bare.targets["start"], bare.targets["end"])


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2"])
@pytest.mark.parametrize(
    "answer", ["ca", "at", "t saw t", "cafe\u0301", "\N{GRINNING FACE}", "\u05e9\u05dc\u05d5\u05dd"]
)
def test_an_answer_has_the_tokens_that_share_a_character_with_it(answer: str, name: str, models: Any) -> None:
    context = "the cat saw the dog cafe\u0301 \N{GRINNING FACE} \u05e9\u05dc\u05d5\u05dd"
    tokenizer = opened(name, models).tokenizer
    encoded = head_of().encode(answered(context, answer, context.index(answer)), tokenizer, 64)
    start, end = encoded.targets["start"][0], encoded.targets["end"][0]
    covered = context[encoded.targets["from"][0][start] : encoded.targets["to"][0][end]]
    assert covered in {answer, "cat", "cat saw the", *(["cafe"] if name == "bert" else [])}  # BERT drops accents
    assert answer.rstrip("\u0301") in covered
    assert encoded.notes == {}


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_an_answer_that_no_chunk_holds_whole_is_reported_and_not_learned(name: str, models: Any) -> None:
    tokenizer = opened(name, models).tokenizer
    long = " ".join(["the cat saw the dog"] * 12)
    rows = columns(
        {
            "question": "who",
            "context": f"again near {long} again",
            "answers.text": [long],
            "answers.answer_start": [11],
        },
        ROW,
    )
    head = head_of(doc_stride=2)
    encoded = head.encode(rows, tokenizer, 24)
    assert encoded.notes.keys() == {0}
    assert "no chunk holds it whole" in encoded.notes[0]
    unlearned = [i for i, start in enumerate(encoded.targets["start"]) if start == -100]
    assert unlearned
    assert {encoded.rows[i] for i in unlearned} == {0}
    sequences, targets = head.collate(encoded.sequences, encoded.targets, range(len(encoded.rows)), Draw(0, 0))
    assert targets.count == len(sequences) - len(unlearned)


def test_an_answer_that_is_never_predicted_and_a_question_that_is_cut_are_reported(models: Any) -> None:
    tokenizer = opened("bert", models).tokenizer
    rows = answered("the cat saw the dog", "cat saw the", 4)
    assert head_of(max_answer_length=3).encode(rows, tokenizer, 40).notes == {}
    notes = head_of(max_answer_length=2).encode(rows, tokenizer, 40).notes
    assert notes[0].startswith("the first answer has more than 2 tokens (max_answer_length): it is learned, and never")
    rows["question"] = [" the cat the dog "]
    notes = head_of(max_answer_length=2, max_query_length=3).encode(rows, tokenizer, 40).notes
    assert [line[:35] for line in notes[0].splitlines()] == [
        "the question is cut after 3 tokens ",
        "the first answer has more than 2 to",
    ]
    assert head_of(max_query_length=4).encode(rows, tokenizer, 40).notes == {}


def test_rows_without_any_answer_are_refused() -> None:
    head = head_of(version_2_with_negative=True)
    with pytest.raises(ValueError, match=r"column 'answers.text': no row has an answer"):
        head.learn({"answers.text": [[], ""]})
    head.learn({"answers.text": [[], ["a"]]})


def test_an_answer_of_which_the_tokenizer_leaves_nothing_is_reported(models: Any) -> None:
    tokenizer = opened("bert", models).tokenizer
    encoded = head_of().encode(answered("the \u0000 cat", "\u0000", 4), tokenizer, 40)
    assert "leaves no token of the first answer" in encoded.notes[0]
    around = head_of().encode(answered("the \u0000cat\u0000 saw", "\u0000cat\u0000", 4), tokenizer, 40)
    assert around.notes == {}
    assert text_of(around, tokenizer, 0) == "cat"


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_blanks_round_a_question_make_no_difference(name: str, models: Any) -> None:
    tokenizer = opened(name, models).tokenizer
    padded = {**ROW, "question": f"{' ' * 80}{ROW['question']} \n"}
    assert head_of().encode(columns(padded), tokenizer, 60) == head_of().encode(columns(ROW), tokenizer, 60)
