"""Files in the layouts that people have, made of sentences: `LAYOUTS` holds for each how it is written, and the task
that a person who knows hft would make of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Value

ROWS = 120
SUBJECTS = ("the courier", "a tall nurse", "my old neighbour", "the new printer", "our teacher", "that small dog")
VERBS = ("lost", "found", "praised", "returned", "broke", "painted", "forgot", "carried", "sold", "repaired")
THINGS = ("the parcel", "a green bicycle", "two tickets", "the invoice", "every window", "a box of pears", "the keys")
PLACES = ("in the garden", "near the station", "on Monday morning", "without a word", "for my sister", "last winter")
CHINESE = ("快递", "很慢", "质量", "不错", "客服", "态度", "很好", "价格", "有点", "贵", "包装", "破了", "推荐", "购买")
Row = dict[str, Any]


class Words:
    """Draws sentences and labels; the same ones in each test."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(18)

    def of(self, choices: Sequence[Any]) -> Any:
        return choices[self.random.integers(len(choices))]

    def sentence(self) -> str:
        number = self.random.integers(10_000)
        return f"{self.of(SUBJECTS)} {self.of(VERBS)} {self.of(THINGS)} {self.of(PLACES)} and it is number {number}."

    def text(self, sentences: int) -> str:
        return " ".join(self.sentence() for _ in range(sentences))

    def chinese(self) -> str:
        return "".join(self.of(CHINESE) for _ in range(8)) + "。"

    def rows(self, **columns: Callable[[], Any]) -> list[Row]:
        return [{name: made() for name, made in columns.items()} for _ in range(ROWS)]


@dataclass(frozen=True)
class Layout:
    """A layout: its files, and the tasks for them: head, and the options that matter."""

    write: Callable[[Path, Words], list[str]]
    tasks: dict[str, Row]
    """By name; `head` and options, exactly."""
    unlabeled: Callable[[Path, Words], list[str]] | None = None
    also: Row = field(default_factory=dict)
    """Keys of the first task's data."""


def _csv(folder: Path, name: str, rows: list[Row], delimiter: str = ",") -> list[str]:
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return [name]


def _jsonl(folder: Path, name: str, rows: list[Row]) -> list[str]:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [name]


def _json(folder: Path, name: str, value: Any) -> list[str]:
    (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return [name]


def _counted() -> Callable[[], int]:
    numbers = iter(range(10**6))
    return lambda: next(numbers)


MOODS = ("positive", "neutral", "negative")


def _reviews(folder: Path, w: Words) -> list[str]:
    return _csv(folder, "reviews.csv", w.rows(text=w.sentence, label=lambda: w.of(MOODS)))


def _odd_names(folder: Path, w: Words) -> list[str]:
    rows = w.rows(id=_counted(), utterance=w.sentence, created=lambda: "2026-01-03", intent=lambda: w.of(MOODS))
    return _csv(folder, "tickets.tsv", rows, "\t")


def _nameless_columns(folder: Path, w: Words) -> list[str]:
    return _csv(folder, "survey.csv", w.rows(c1=w.sentence, c2=lambda: w.of(("ham", "spam"))))


def _numbered_classes(folder: Path, w: Words) -> list[str]:
    return _jsonl(folder, "news.jsonl", w.rows(text=w.sentence, label=lambda: int(w.random.integers(4))))


def _class_labels(folder: Path, w: Words) -> list[str]:
    rows = w.rows(idx=_counted(), sentence=w.sentence, label=lambda: int(w.random.integers(2)))
    features = Features(
        {"idx": Value("int32"), "sentence": Value("string"), "label": ClassLabel(names=["bad", "good"])}
    )
    Dataset.from_list(rows, features=features).to_parquet(folder / "sst.parquet")
    return ["sst.parquet"]


def _chinese_reviews(folder: Path, w: Words) -> list[str]:
    return _csv(folder, "dianping.csv", w.rows(内容=w.chinese, 标签=lambda: w.of(("好评", "差评"))))


def _title_and_body(folder: Path, w: Words) -> list[str]:
    rows = w.rows(
        title=w.sentence, body=lambda: w.text(6), category=lambda: w.of(MOODS), url=lambda: f"u/{w.sentence()}"
    )
    return _json(folder, "posts.json", rows)


def _two_labels(folder: Path, w: Words) -> list[str]:
    topics = ("sport", "money", "city")
    return _csv(folder, "mail.csv", w.rows(text=w.sentence, topic=lambda: w.of(topics), sentiment=lambda: w.of(MOODS)))


def _flags(folder: Path, w: Words) -> list[str]:
    def flag() -> int:
        return int(w.random.random() < 0.3)

    return _csv(folder, "comments.csv", w.rows(comment=w.sentence, toxic=flag, insult=flag, threat=flag))


def _label_lists(folder: Path, w: Words) -> list[str]:
    kinds = ("drama", "comedy", "war", "music")
    rows = w.rows(plot=lambda: w.text(3), genres=lambda: sorted({w.of(kinds), w.of(kinds)}))
    return _jsonl(folder, "films.jsonl", rows)


def _divided_labels(folder: Path, w: Words) -> list[str]:
    kinds = ("red", "round", "soft", "old")
    rows = w.rows(text=w.sentence, tags=lambda: ";".join(sorted({w.of(kinds), w.of(kinds)})))
    return _csv(folder, "things.csv", rows)


def _stars(folder: Path, w: Words) -> list[str]:
    return _csv(folder, "shop.csv", w.rows(review=w.sentence, stars=lambda: int(w.random.integers(1, 6))))


def _score(folder: Path, w: Words) -> list[str]:
    return _jsonl(
        folder, "essays.jsonl", w.rows(essay=lambda: w.text(5), score=lambda: round(w.random.random() * 9, 1))
    )


def _similarity(folder: Path, w: Words) -> list[str]:
    rows = w.rows(sentence1=w.sentence, sentence2=w.sentence, score=lambda: round(w.random.random() * 5, 2))
    return _csv(folder, "sts.tsv", rows, "\t")


def _inference(folder: Path, w: Words) -> list[str]:
    labels = ("entailment", "neutral", "contradiction")
    premises = [w.sentence() for _ in range(40)]
    rows = [{"premise": premises[i % 40], "hypothesis": w.sentence(), "label": labels[i // 40]} for i in range(ROWS)]
    return _jsonl(folder, "nli.jsonl", rows)


def _paraphrases(folder: Path, w: Words) -> list[str]:
    rows = w.rows(
        id=_counted(), qid1=_counted(), qid2=_counted(), question1=w.sentence, question2=w.sentence,
        is_duplicate=lambda: int(w.random.integers(2)),
    )  # fmt: skip
    return _csv(folder, "quora.csv", rows)


def _positives(folder: Path, w: Words) -> list[str]:
    return _jsonl(folder, "pairs.jsonl", w.rows(anchor=w.sentence, positive=w.sentence))


def _triplets(folder: Path, w: Words) -> list[str]:
    rows = w.rows(query=w.sentence, positive=w.sentence, negative=w.sentence)
    return _csv(folder, "triplets.csv", rows)


def _mined(folder: Path, w: Words) -> list[str]:
    rows = w.rows(query=w.sentence, pos=w.sentence, neg=lambda: [w.sentence(), w.sentence(), w.sentence()])
    return _jsonl(folder, "mined.jsonl", rows)


def _judgments(folder: Path, w: Words) -> list[str]:
    queries = [w.sentence() for _ in range(24)]
    rows = [
        {"query_id": i // 5, "query": queries[i // 5], "document": w.text(2), "relevance": int(w.random.integers(4))}
        for i in range(ROWS)
    ]
    return _csv(folder, "search.csv", rows)


def _bio(folder: Path, w: Words) -> list[str]:
    lines = []
    for _ in range(ROWS):
        name = w.of(("Anna", "Boris", "Chen"))
        lines += [f"{name} B-PER", "Smith I-PER", f"{w.of(VERBS)} O", "Paris B-LOC", ". O", ""]
    (folder / "people.conll").write_text("\n".join(lines))
    return ["people.conll"]


def _conll_2003(folder: Path, w: Words) -> list[str]:
    lines = ["-DOCSTART- -X- -X- O", ""]
    for _ in range(ROWS):
        lines += ["Anna NNP B-NP B-PER", f"{w.of(VERBS)} VBD B-VP O", "Paris NNP B-NP B-LOC", ""]
    (folder / "eng.bio").write_text("\n".join(lines))
    return ["eng.bio"]


def _tag_lists(folder: Path, w: Words) -> list[str]:
    rows = w.rows(id=_counted(), tokens=lambda: ["Anna", w.of(VERBS), "Oslo"], ner_tags=lambda: ["B-PER", "O", "B-LOC"])
    pq.write_table(pa.Table.from_pylist(rows), folder / "ner.parquet")
    return ["ner.parquet"]


def _squad(folder: Path, w: Words) -> list[str]:
    paragraphs = []
    for i in range(ROWS // 2):
        context = w.text(4)
        at = context.index("number") + 7
        answer = context[at : context.index(".", at)]
        asked = {"id": str(i), "question": f"which number of {i}?", "answers": [{"text": answer, "answer_start": at}]}
        paragraphs.append(
            {"context": context, "qas": [asked, {**asked, "id": f"x{i}", "question": f"what is it of {i}?"}]}
        )
    return _json(folder, "squad.json", {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]})


def _squad_on_the_hub(folder: Path, w: Words) -> list[str]:
    rows = []
    for i in range(ROWS):
        context = w.text(3)
        none: Row = {"text": [], "answer_start": []}
        found = {"text": [context[:11]], "answer_start": [0]}
        rows.append(
            {"id": str(i), "context": context, "question": f"who is {i}?", "answers": none if i % 4 == 0 else found}
        )
    return _jsonl(folder, "squad2.jsonl", rows)


def _choice_lists(folder: Path, w: Words) -> list[str]:
    rows = w.rows(question=w.sentence, choices=lambda: [w.sentence() for _ in range(4)], answer=lambda: w.of("ABCD"))
    return _jsonl(folder, "exam.jsonl", rows)


def _choice_columns(folder: Path, w: Words) -> list[str]:
    rows = w.rows(ctx=w.sentence, ending0=w.sentence, ending1=w.sentence, label=lambda: int(w.random.integers(2)))
    return _csv(folder, "swag.csv", rows)


def _openai(folder: Path, w: Words) -> list[str]:
    def talk() -> list[Row]:
        return [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": w.sentence()},
            {"role": "assistant", "content": w.sentence()},
        ]

    return _jsonl(folder, "chats.jsonl", w.rows(messages=talk))


def _sharegpt(folder: Path, w: Words) -> list[str]:
    def talk() -> list[Row]:
        return [{"from": "human", "value": w.sentence()}, {"from": "gpt", "value": w.sentence()}]

    return _json(folder, "sharegpt.json", w.rows(id=lambda: w.sentence()[:9], conversations=talk))


def _alpaca(folder: Path, w: Words) -> list[str]:
    rows = w.rows(instruction=w.sentence, input=lambda: w.of(("", w.sentence())), output=lambda: w.text(2))
    return _json(folder, "alpaca.json", rows)


def _answers(folder: Path, w: Words) -> list[str]:
    return _csv(folder, "faq.csv", w.rows(question=w.sentence, answer=lambda: w.text(2)))


def _summaries(folder: Path, w: Words) -> list[str]:
    return _jsonl(folder, "cnn.jsonl", w.rows(id=_counted(), article=lambda: w.text(8), highlights=w.sentence))


def _translations(folder: Path, w: Words) -> list[str]:
    return _jsonl(folder, "wmt.jsonl", w.rows(translation=lambda: {"en": w.sentence(), "zh": w.chinese()}))


def _lines(folder: Path, w: Words) -> list[str]:
    (folder / "articles.txt").write_text("\n".join(w.text(2) for _ in range(ROWS)))
    return ["articles.txt"]


def _folders(folder: Path, w: Words) -> list[str]:
    for label in ("sport", "city"):
        (folder / "bbc" / label).mkdir(parents=True)
        for i in range(12):
            (folder / "bbc" / label / f"{i}.txt").write_text(w.text(3))
    return ["bbc"]


def _three_files(folder: Path, w: Words) -> list[str]:
    made = [
        _csv(folder, f"topics-{split}.csv", w.rows(text=w.sentence, label=lambda: w.of(MOODS)))
        for split in ("train", "dev", "test")
    ]
    return [name for names in made for name in names]


READ = {"text": "text", "label": "label"}
LAYOUTS: dict[str, Layout] = {
    "text and label, csv": Layout(_reviews, {"reviews": {"head": "classification", **READ}}),
    "text and label beside other columns, tsv": Layout(
        _odd_names, {"tickets": {"head": "classification", "text": "utterance", "label": "intent"}}
    ),
    "columns whose names say nothing": Layout(
        _nameless_columns, {"survey": {"head": "classification", "text": "c1", "label": "c2"}}
    ),
    "classes as numbers, jsonl": Layout(_numbered_classes, {"news": {"head": "classification", **READ}}),
    "class labels of a parquet file": Layout(
        _class_labels, {"sst": {"head": "classification", "text": "sentence", "label": "label"}}
    ),
    "Chinese reviews": Layout(
        _chinese_reviews, {"dianping": {"head": "classification", "text": "内容", "label": "标签"}}
    ),
    "title and body, one JSON list": Layout(
        _title_and_body, {"posts": {"head": "classification", "text": ["title", "body"], "label": "category"}}
    ),
    "two labels of one text": Layout(
        _two_labels,
        {
            "topic": {"head": "classification", "text": "text", "label": "topic"},
            "sentiment": {"head": "classification", "text": "text", "label": "sentiment"},
        },
    ),
    "columns of 0 and 1": Layout(
        _flags,
        {n: {"head": "classification", "text": "comment", "label": n} for n in ("toxic", "insult", "threat")},
    ),
    "lists of labels": Layout(_label_lists, {"films": {"head": "multilabel", "text": "plot", "label": "genres"}}),
    "labels divided at a semicolon": Layout(
        _divided_labels, {"things": {"head": "multilabel", "text": "text", "label": "tags", "separator": ";"}}
    ),
    "stars": Layout(_stars, {"shop": {"head": "regression", "text": "review", "label": "stars"}}),
    "a score": Layout(_score, {"essays": {"head": "regression", "text": "essay", "label": "score"}}),
    "similarity of sentences": Layout(
        _similarity, {"sts": {"head": "regression", "text": ["sentence1", "sentence2"], "label": "score"}}
    ),
    "premise and hypothesis": Layout(
        _inference,
        {"nli": {"head": "classification", "text": ["premise", "hypothesis"], "label": "label"}},
        also={"split": {"by": "premise"}},
    ),
    "paraphrases": Layout(
        _paraphrases,
        {"quora": {"head": "classification", "text": ["question1", "question2"], "label": "is_duplicate"}},
    ),
    "anchors and positives": Layout(_positives, {"pairs": {"head": "contrastive", "text": ["anchor", "positive"]}}),
    "triplets": Layout(
        _triplets, {"triplets": {"head": "contrastive", "text": ["query", "positive"], "negatives": ["negative"]}}
    ),
    "lists of hard negatives": Layout(
        _mined, {"mined": {"head": "contrastive", "text": ["query", "pos"], "negatives": "neg"}}
    ),
    "relevance of documents": Layout(
        _judgments,
        {"search": {"head": "ranking", "query": "query", "document": "document", "label": "relevance"}},
    ),
    "CoNLL of two columns": Layout(
        _bio, {"people": {"head": "token-classification", "words": "words", "tags": "tags"}}
    ),
    "CoNLL of four columns": Layout(
        _conll_2003, {"eng": {"head": "token-classification", "words": "words", "tags": "tags"}}
    ),
    "lists of words and tags": Layout(
        _tag_lists, {"ner": {"head": "token-classification", "words": "tokens", "tags": "ner_tags"}}
    ),
    "SQuAD's articles": Layout(
        _squad,
        {"squad": {"head": "span", "question": "question", "context": "context", "answer": "answers.text",
                   "answer_start": "answers.answer_start"}},
        also={"split": {"by": "context"}},
    ),
    "SQuAD 2 as on the hub": Layout(
        _squad_on_the_hub,
        {"squad2": {"head": "span", "question": "question", "context": "context", "answer": "answers.text",
                    "answer_start": "answers.answer_start", "version_2_with_negative": True}},
    ),
    "lists of choices": Layout(
        _choice_lists,
        {"exam": {"head": "multiple-choice", "text": "question", "choices": "choices", "label": "answer",
                  "label_is": "letter"}},
    ),
    "columns of choices": Layout(
        _choice_columns,
        {"swag": {"head": "multiple-choice", "text": "ctx", "choices": ["ending0", "ending1"], "label": "label"}},
    ),
    "OpenAI's messages": Layout(_openai, {"chats": {"head": "instruction", "messages": "messages"}}),
    "ShareGPT's conversations": Layout(
        _sharegpt, {"sharegpt": {"head": "instruction", "messages": "conversations"}}
    ),
    "Alpaca's instructions": Layout(
        _alpaca, {"alpaca": {"head": "instruction", "prompt": ["instruction", "input"], "response": "output"}}
    ),
    "questions and answers": Layout(
        _answers, {"faq": {"head": "instruction", "prompt": "question", "response": "answer"}}
    ),
    "articles and summaries": Layout(
        _summaries, {"cnn": {"head": "seq2seq", "source": "article", "target": "highlights"}}
    ),
    "translations": Layout(
        _translations, {"wmt": {"head": "seq2seq", "source": "translation.en", "target": "translation.zh"}}
    ),
    "lines of text": Layout(_lines, {"articles": {"head": "mlm", "text": "text"}}),
    "a folder of classes": Layout(_folders, {"bbc": {"head": "classification", **READ}}),
    "train, dev and test files, and texts without labels": Layout(
        _three_files,
        {"topics": {"head": "classification", **READ}, "articles": {"head": "mlm", "text": "text"}},
        unlabeled=_lines,
        also={"train": "topics-train.csv", "dev": "topics-dev.csv", "test": "topics-test.csv"},
    ),
}  # fmt: skip

WRONG = frozenset({"Alpaca's instructions"})
"""Layouts that `hft init` does not get right: `instruction` has no optional second column of the prompt."""
