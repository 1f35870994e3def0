from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import BILOU, IOB2, IOBES, Entities
from transformers import AutoModelForTokenClassification

import hft_core
from hft_core import Catalogue
from hft_core.backbone import Features
from hft_core.data import loading
from hft_core.errors import DataError
from hft_core.head import Draw, RowError, Targets
from hft_core.predict import prediction, saved_run
from hft_plugins.backbones import decoder, encoder
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions
from hft_plugins.heads.parts import tag_notations, tag_schemes
from hft_plugins.heads.token_classification import Options, TokenClassification, build, first_tokens

SCHEMES = {"bio": IOB2, "iobes": IOBES, "bilou": BILOU}


def head_of(*sentences: Any, **options: Any) -> TokenClassification:
    head = build(Options(**options), task="t")
    tags = [s.split() if isinstance(s, str) else s for s in sentences]
    head.learn({head.tags.name: tags, head.words.name: [["word"] * len(each) for each in tags]})
    return head


def learned(words: list[str], tags: list[str], **options: Any) -> TokenClassification:
    head = build(Options(**options), task="t")
    head.learn({"words": words, "tags": tags})
    return head


def any_tags(scheme: str, max_size: int = 8) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(tag_schemes.tags_of(["LOC", "PER"], scheme)), max_size=max_size)


# --- schemes


@pytest.mark.parametrize("scheme", SCHEMES)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_equals_the_strict_entities_of_seqeval(scheme: str, data: st.DataObject) -> None:
    tags = data.draw(any_tags(scheme))
    (reference,) = Entities([tags], SCHEMES[scheme]).entities
    assert tag_schemes.well_formed(tags, scheme) == [(e.start, e.end, e.tag) for e in reference]


@pytest.mark.parametrize("scheme", [*SCHEMES, "iob1", "ioe1", "ioe2"])
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_what_is_written_is_well_formed_and_read_again(scheme: str, data: st.DataObject) -> None:
    chunks = tag_schemes.read(data.draw(any_tags("iobes")))
    tags = tag_schemes.write(chunks, 8, scheme)
    assert tag_schemes.fault(tags, scheme) is None
    assert tag_schemes.read(tags) == chunks


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        (["B-PER I-PER O", "O B-LOC"], "bio"),
        (["B-PER O", "I-PER O"], "bio"),  # malformed: B where IOB1 has I
        (["I-PER I-PER O", "O I-LOC B-LOC"], "iob1"),
        (["I-PER O I-PER"], "iob1"),
        (["S-PER O B-LOC E-LOC"], "iobes"),
        (["U-PER O B-LOC I-LOC L-LOC"], "bilou"),
        (["B-PER M-PER E-PER O", "S-LOC O"], "bmes"),
        (["B-PER M-PER E-PER O", "W-LOC O"], "bmes"),
        (["B M E S", "B E S"], "bmes"),
        (["B I E S", "B E S"], "iobes"),
        (["I-PER E-PER O", "E-LOC I-LOC E-LOC"], "ioe2"),
        (["I-PER I-PER O", "I-LOC E-LOC I-LOC"], "ioe1"),
        (["DT NN VB"], "plain"),
        (["NN-SBJ VB-S DT IN S-NOM"], "plain"),
        (["B-x NN VB DT O"], "plain"),
        (["PRON_I PRON_S NOUN VERB"], "plain"),
        (["NOUN VERB X ADP INTJ"], "plain"),
        (["O O"], "plain"),
        (["B I O"], "bio"),
        (["b i o"], "bio"),
        (["B O S"], "plain"),
    ],
)
def test_the_scheme_is_found_from_all_sentences(sentences: list[str], scheme: str) -> None:
    assert tag_notations.detect([sentence.split() for sentence in sentences], "tags")[0] == scheme


@pytest.mark.parametrize(
    ("tags", "read"),
    [
        ("B_PER I_PER O B_LOC", "B-PER I-PER O B-LOC"),
        ("PER-B PER-I O LOC-B", "B-PER I-PER O B-LOC"),
        ("PER_B PER_I O LOC_B", "B-PER I-PER O B-LOC"),
        ("b-per i-per o b-loc", "B-per I-per O B-loc"),
        ("b-per i-per O b-loc", "B-per I-per O B-loc"),
        ("B:PER I:PER O", "B-PER I-PER O"),
        ("B/PER I/PER O", "B-PER I-PER O"),
        ("B-人名 I-人名 O", "B-人名 I-人名 O"),
        ("B-PER-x I-PER-x O", "B-PER-x I-PER-x O"),
        ("B-PER M-PER E-PER S-LOC O", "B-PER I-PER E-PER S-LOC O"),
        ("NN_B NN_M NN_E VV_S", "B-NN I-NN E-NN S-VV"),
        ("I-PER E-PER E-LOC O", "B-PER I-PER B-LOC O"),
        ("I-PER I-PER O I-LOC E-LOC I-LOC", "B-PER I-PER O B-LOC I-LOC B-LOC"),
    ],
)
def test_tags_in_another_notation_are_learned_as_usual_ones(tags: str, read: str, models: Any) -> None:
    head = head_of(tags)
    words = ["a"] * len(tags.split())
    assert head.check({"words": words, "tags": tags}) == ""
    tokenizer = encoder.build(EncoderOptions(model=str(models["bert"]))).tokenizer
    encoded = head.encode({"words": [words], "tags": [tags]}, tokenizer, 32)
    assert " ".join(head.labels[i] for i in encoded.targets["label"][0]) == read
    again = build(Options(), task="t")
    again.facts = json.loads(json.dumps(head.facts))
    assert again.check({"words": words, "tags": tags}) == ""


@pytest.mark.parametrize(
    ("sentences", "row", "message"),
    [
        (["B-PER I-PER O", "O B-LOC", "0 O"], 2, "item 1: found the tag '0', expected a tag like 'B-LOC' or 'B-PER'"),
        (["B-PER I-PER O", "O 0 B-PER", "0 0 0"], 1, "item 2: found the tag '0' (4 such tags)"),
        (["B-PER I-PER O", "O o"], 1, "item 2: found the tag 'o'"),
        (["B-PER I-PER O", "B-LOC X"], 1, "item 2: found the tag 'X'"),
        (["B-PER I-PER O", "B-LOC b-LOC"], 1, "item 2: found the tag 'b-LOC'"),
        (["B-PER I-PER O", "LOC-B O"], 1, "item 1: found the tag 'LOC-B'"),
        (["B-PER I_PER O", "B-PER I_PER O"], 0, "item 2: found the tag 'I_PER' (2 such tags)"),
        (["B-PER I-PER O", "B O"], 1, "item 1: found the tag 'B'"),
        (
            ["B-PER I-PER O", "B-per O"],
            1,
            "found the tag 'B-per', which is the type 'PER' of other tags in another case",
        ),
        (["B-a S-b U-c"], 0, "found the tag 'U-c', but the letters B, S, U are of no one scheme"),
    ],
)
def test_a_few_odd_tags_are_refused_with_their_row_and_item(sentences: list[str], row: int, message: str) -> None:
    with pytest.raises(RowError) as error:
        head_of(*sentences)
    assert error.value.row == row
    assert message in str(error.value)
    assert "scheme: plain" in str(error.value)
    assert head_of(*sentences, scheme="plain").scheme == "plain"


@pytest.mark.parametrize(
    ("words", "tags", "message"),
    [
        (["1 2 3", "1 2"], ["O B-A O", "O O"], "column 'words' holds the numbers of the words (1, 2, 3, …)"),
        (["0 1", "0"], ["O B-A", "O"], "holds the numbers of the words (0, 1, …), expected the words"),
        (["O B-PER", "O"], ["the cat", "saw"], "column 'words' holds tags and column 'tags' none: exchange the two"),
        (["cat"] * 20, ["B-A", "O"] * 10, "each of the 20 rows has one word ('cat'), expected a sentence a row"),
        (["the,cat"] * 20, ["O,B-A"] * 20, "each of the 20 rows has one word ('the,cat')"),
        (["a cat", "a"], ["-100 1", "0"], "column 'tags', item 1: found -100, which marks tokens that are not learned"),
    ],
)
def test_rows_that_are_no_sentences_with_a_tag_a_word_are_refused(
    words: list[str], tags: list[str], message: str
) -> None:
    with pytest.raises(RowError) as error:
        learned(words, tags)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("words", "tags"),
    [
        (["1 2 3", "2 1"], ["O B-A O", "O O"]),
        (["O B-PER", "O"], ["O B-A", "O"]),
        (["O the", "a"], ["B-A O", "O"]),
        (["cat"] * 19 + ["a cat"], ["B-A"] * 19 + ["O O"]),
    ],
)
def test_words_that_look_a_little_like_numbers_or_tags_are_words(words: list[str], tags: list[str]) -> None:
    assert learned(words, tags).warnings == []


@pytest.mark.parametrize(
    ("tags", "share"),
    [
        ("PER O O LOC O", "60% of the words have the tag 'O'"),
        ("0 1 2 0 3", "40% of the words have the tag '0'"),
        ("BEGIN-A INSIDE-A O O O", "60% of the words have the tag 'O'"),
        ("(PER* *) * * (LOC)", "40% of the words have the tag '*'"),
        ("SAME SAME CHANGED SAME", "75% of the words have the tag 'SAME'"),
        ("DT NN O VB DT", ""),
        ("B-A I-A O O O", ""),
    ],
)
def test_tags_without_chunks_that_mostly_mark_nothing_are_told(tags: str, share: str) -> None:
    assert [share in warning for warning in head_of(tags).warnings] == [True] * bool(share)
    assert head_of(tags, scheme="plain").warnings == []


def test_malformed_tags_are_told_in_the_notation_of_the_rows() -> None:
    head = head_of("B_PER I_PER O B_LOC")
    message = head.check({"words": "a b", "tags": "O I_PER"})
    assert "item 2: found 'I_PER' behind 'O', expected 'B_PER' in the scheme BIO" in message
    head = head_of("B-x M-x E-x S-x O")
    assert "found 'M-x' behind 'B-x', expected 'E-x' in the scheme BMES" in head.check(
        {"words": "a b c", "tags": "B-x M-x O"}
    )
    head = head_of("I-x E-x E-y I-x E-x")
    assert "found 'I-x' at the start, expected 'E-x' in the scheme IOE2" in head.check(
        {"words": "a b", "tags": "I-x O"}
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_rare_type_is_trained_and_another_tag_of_a_trained_type_moves_no_row(seed: int, models: Any) -> None:
    rows = [{"words": "a b c", "tags": "B-x O O"} for _ in range(60)]
    rows[17]["tags"] = "B-rare O O"
    rows[23]["tags"] = "B-x I-x O"
    recipe = {
        "backbone": str(models["bert"]),
        "tasks": {"t": {"head": "token-classification"}},
        "stages": {"max_steps": 1},
        "seed": seed,
    }
    with hft_core.session(recipe, data={"t": rows}) as session:
        assert session.model.head("t").facts["labels"] == ["O", "B-rare", "I-rare", "B-x", "I-x"]
    head = build(Options(), task="t")
    assert head.classes_of({"tags": "B-x I-x O"}) == {"x", "O"}
    assert head.classes_of({"tags": "x_B x_I O"}) == {"x", "O"}


def test_iob1_is_learned_as_bio_and_the_facts_say_so(models: Any) -> None:
    head = head_of("I-PER I-PER O I-LOC", "I-LOC B-LOC O")
    assert head.facts == {"labels": ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"], "scheme": "bio", "read_as": "iob1"}
    words = ["a", "b", "c"]
    assert head.check({"words": words, "tags": ["O", "I-PER", "O"]}) == ""
    tokenizer = encoder.build(EncoderOptions(model=str(models["bert"]))).tokenizer
    encoded = head.encode({"words": [words], "tags": [["I-LOC", "B-LOC", "I-LOC"]]}, tokenizer, 16)
    assert [head.labels[i] for i in encoded.targets["label"][0]] == ["B-LOC", "B-LOC", "I-LOC"]


# --- rows


def test_labels_are_the_whole_scheme_for_the_types_of_the_training_rows() -> None:
    assert head_of("B-PER O", "B-LOC I-LOC").labels == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert head_of("S-x O").labels == ["O", "B-x", "I-x", "E-x", "S-x"]
    assert head_of("NN DT", "VB").labels == ["DT", "NN", "VB"]
    assert head_of([2, 10], [1]).labels == ["1", "2", "10"]
    assert head_of("B-PER O", labels=("I-PER", "B-PER", "O")).labels == ["I-PER", "B-PER", "O"]
    with pytest.raises(ValueError, match=r"column 'tags' has 'O' only; expected two different tags"):
        head_of("O O")


@pytest.mark.parametrize(
    ("words", "tags", "message"),
    [
        ("a b c", "O O", "columns 'words' and 'tags' differ in length: found 3 words and 2 tags"),
        ("a b", [], "found 2 words and 0 tags"),
        ("a b", "O I-PER", "item 2: found 'I-PER' behind 'O', expected 'B-PER' in the scheme BIO (repair: true"),
        ("a b", "B-LOC I-PER", "item 2: found 'I-PER' behind 'B-LOC', expected 'B-PER'"),
        ("a b", "I-PER O", "item 1: found 'I-PER' at the start, expected 'B-PER'"),
        ("a b", "O B-PRE", "item 2: found the unknown label 'B-PRE'; expected one of the 5 labels"),
        ("a b", "O b-per", "unknown label 'b-per'"),
    ],
)
def test_a_row_whose_tags_do_not_fit_is_refused(words: Any, tags: Any, message: str) -> None:
    head = head_of("B-PER I-PER O B-LOC")
    assert message in head.check({"words": words, "tags": tags})
    assert head.check({"words": "a b", "tags": "B-PER I-PER"}) == ""


def test_iobes_is_checked_as_well() -> None:
    head = head_of("B-x I-x E-x S-x O")
    assert head.check({"words": "a b", "tags": "B-x E-x"}) == ""
    assert "item 1: found 'B-x' at the start, expected 'S-x' in the scheme IOBES" in head.check(
        {"words": "a b", "tags": "B-x O"}
    )


def test_repair_reads_malformed_tags_as_conlleval_does(models: Any) -> None:
    head = head_of("B-PER I-PER O B-LOC", repair=True)
    assert head.check({"words": "a b c d", "tags": "O I-PER I-LOC I-LOC"}) == ""
    assert "unknown label 'X'" in head.check({"words": "a", "tags": "X"})
    tokenizer = encoder.build(EncoderOptions(model=str(models["bert"]))).tokenizer
    encoded = head.encode({"words": ["a b c d"], "tags": ["O I-PER I-LOC I-LOC"]}, tokenizer, 16)
    assert [head.labels[i] for i in encoded.targets["label"][0]] == ["O", "B-PER", "B-LOC", "I-LOC"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("EU B-ORG\nrejects O\n\na O\nGerman I-MISC\n", r"data.conll, line 4: column 'tags', item 2: found 'I-MISC'"),
        ("EU B-ORG\nrejects O\n\na O\nb B-ORG O\n", r"data.conll, line 5: found 3 columns, expected 2 as in line 1"),
    ],
)
def test_a_malformed_file_ends_the_run_before_it_begins(
    lines: str, message: str, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data.conll").write_text(lines + "\nx B-MISC\n")
    recipe = {
        "backbone": str(models["bert"]),
        "tasks": {"ner": {"head": "token-classification", "data": {"train": "data.conll"}}},
        "stages": {"max_steps": 1},
    }
    with pytest.raises(DataError, match=message):
        hft_core.run(recipe)


# --- tokens


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama"])
def test_each_word_is_scored_at_its_first_token(name: str, models: Any) -> None:
    path = str(models[name])
    decodes = name in ("llama", "gpt2")
    tokenizer = decoder.build(DecoderOptions(model=path)) if decodes else encoder.build(EncoderOptions(model=path))
    words = ["the", "goalkeeper", "saw", "naïve", "早", "goalkeeper"]
    encoding = tokenizer.tokenizer(" ".join(words), return_offsets_mapping=True)
    found = first_tokens(words, encoding["offset_mapping"])
    assert [word for _, word in found] == list(range(6))
    text = tokenizer.tokenizer.decode(encoding["input_ids"][found[1][0] : found[2][0]]).strip()
    assert text == "goalkeeper"


def test_equals_the_first_tokens_of_words_given_as_lists(models: Any) -> None:
    tokenizer = encoder.build(EncoderOptions(model=str(models["bert"]))).tokenizer
    words = ["the", "goalkeeper's", "market", ",", "investor", "(again)"]
    reference = tokenizer(words, is_split_into_words=True)
    encoding = tokenizer(" ".join(words), return_offsets_mapping=True)
    assert encoding["input_ids"] == reference["input_ids"]
    ids = reference.word_ids()
    expected = [(i, w) for i, w in enumerate(ids) if w is not None and w not in ids[:i]]
    assert first_tokens(words, encoding["offset_mapping"]) == expected


def test_words_that_are_cut_or_have_no_token_are_not_trained_on_but_count_in_evaluation(models: Any) -> None:
    head = head_of("B-x I-x O")
    tokenizer = encoder.build(EncoderOptions(model=str(models["bert"]))).tokenizer
    rows = {"words": [["the", "cat", "\x07", "dog", "horse"]], "tags": [["B-x", "I-x", "O", "B-x", "I-x"]]}
    encoded = head.encode(rows, tokenizer, 5)
    assert len(encoded.sequences[0]) == 5
    assert encoded.targets["word"] == [[0, 1, 3]]
    _, targets = head.collate(encoded.sequences, encoded.targets, [0], Draw(0, 0))
    assert targets.count == 3
    assert targets.tensors["label"].tolist() == [1, 2, 1]
    scores = head.metrics([[[0, 1], [1, 2], [3, 1]]], head.references(encoded.targets), 0.1)
    assert scores == pytest.approx(
        {"loss": 0.1, "precision": 0.5, "recall": 0.5, "f1": 0.5, "accuracy": 0.8, "cut_words": 0.4}
    )
    plain = head_of("a b")
    scores = plain.metrics([[[0, 0]], []], [[0, 1], [1]], 0.1)
    assert scores["accuracy"] == pytest.approx(1 / 3)
    assert (scores["precision"], scores["recall"], scores["f1"]) == pytest.approx((1.0, 1 / 3, 0.5))


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert", "llama", "gpt2"])
def test_equals_automodel_for_token_classification(name: str, models: Any, toys: Any) -> None:
    path = str(models[name])
    decodes = name in ("llama", "gpt2")
    backbone: Any = decoder.build(DecoderOptions(model=path)) if decodes else encoder.build(EncoderOptions(model=path))
    head = head_of("B-x I-x O B-y")
    head.attach(backbone)
    head.eval()
    backbone.trunk.eval()
    sentences = [row["text"].split() for row in toys.rows(5)]
    random = np.random.default_rng(3)
    tags = [[head.labels[i] for i in random.integers(5, size=len(words))] for words in sentences]
    encoded = head.encode({"words": sentences, "tags": tags}, backbone.tokenizer, 64)
    sequences, targets = head.collate(encoded.sequences, encoded.targets, range(5), Draw(0, 0))
    inputs = backbone.tokenizer.pad({"input_ids": sequences}, padding_side="right", return_tensors="pt")
    features = Features(backbone.forward(dict(inputs)), inputs["input_ids"], inputs["attention_mask"])
    plain = AutoModelForTokenClassification.from_pretrained(path, **head.config()).eval()
    assert head.family is not None
    assert not plain.load_state_dict(head.family.plain_state(), strict=False).unexpected_keys
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[targets.tensors["sequence"], targets.tensors["position"]] = targets.tensors["label"]
    told = plain(**inputs, labels=labels)
    torch.testing.assert_close(head.raw_outputs(features), told.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(head.loss(features, targets) / targets.count, told.loss, atol=1e-5, rtol=0)
    best = told.logits.argmax(dim=2)
    for i, said in enumerate(head.predict(features, targets)):
        assert [word for word, _ in said] == list(range(len(sentences[i])))
        assert [label for _, label in said] == [int(best[i, p]) for p in encoded.targets["position"][i]]


def test_a_batch_without_words_has_a_loss_of_zero_and_a_gradient(models: Any) -> None:
    backbone: Any = encoder.build(EncoderOptions(model=str(models["splinter"])))
    head = head_of("B-x O")
    head.attach(backbone)
    assert head.family is None or head.family.plain_class == "AutoModelForTokenClassification"
    inputs = backbone.tokenizer(["the"], return_tensors="pt")
    features = Features(backbone.forward(dict(inputs)), inputs["input_ids"], inputs["attention_mask"])
    _, targets = head.collate([[2, 3]], {"position": [[]], "word": [[]], "label": [[0]]}, [0], Draw(0, 0))
    loss = head.loss(features, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    assert targets.count == 0
    assert loss.item() == 0
    assert head.predict(features, Targets(0, targets.tensors)) == [[]]


# --- scores and answers


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_scores_of_seqeval(scheme: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = tag_schemes.tags_of(["LOC", "PER"], scheme)
    head = head_of("B-PER O", scheme=scheme, labels=labels)
    truth, said = ([[labels[i] for i in random.integers(len(labels), size=9)] for _ in range(30)] for _ in range(2))
    said = [
        [t if random.random() < 0.7 else s for t, s in zip(*pair, strict=True)]
        for pair in zip(truth, said, strict=True)
    ]
    predictions = [[[i, labels.index(tag)] for i, tag in enumerate(tags)] for tags in said]
    scores = head.metrics(predictions, [[labels.index(tag) for tag in tags] for tags in truth], 0.5)
    strict: dict[str, Any] = {"mode": "strict", "scheme": SCHEMES[scheme], "zero_division": 0}
    assert scores["precision"] == pytest.approx(precision_score(truth, said, **strict))
    assert scores["recall"] == pytest.approx(recall_score(truth, said, **strict))
    assert scores["f1"] == pytest.approx(f1_score(truth, said, **strict))
    assert 0 < scores["f1"] < 1


def test_a_split_without_any_chunk_scores_0() -> None:
    scores = head_of("B-x O").metrics([[[0, 0]]], [[0]], 0.5)
    assert (scores["precision"], scores["recall"], scores["f1"], scores["accuracy"]) == (0, 0, 0, 1)


def test_an_answer_names_the_entities_with_their_words() -> None:
    head = head_of("B-x I-x O B-y I-y")
    ids = {label: i for i, label in enumerate(head.labels)}
    said = [[i, ids[tag]] for i, tag in enumerate(["B-x", "I-x", "O", "I-y"])]
    answer = head.answer([said], {"words": "New York is big today"})
    assert answer["value"] == ["B-x", "I-x", "O", "I-y", "O"]
    assert answer["entities"] == [{"label": "x", "text": "New York", "start": 0, "end": 2}]
    assert head_of("NN DT").answer([[[0, 1]]], {"words": ["a", "b"]}) == {"value": ["NN", ""]}


def conll(rows: list[dict[str, Any]]) -> str:
    """The rows as CoNLL-2003 writes them, in IOB1: four columns."""
    sentences = []
    for row in rows:
        tags = tag_schemes.write(tag_schemes.read(row["tags"]), len(row["tags"]), "iob1")
        sentences.append("".join(f"{word} NN I-NP {tag}\n" for word, tag in zip(row["words"], tags, strict=True)))
    return "-DOCSTART- -X- -X- O\n\n" + "\n".join(sentences)


def test_it_learns_from_conll_files_and_answers(models: Any, tmp_path: Path) -> None:
    from hft_plugins.heads.parts.example_rows import token_classification

    for split, count in (("train", 100), ("test", 40)):
        (tmp_path / f"{split}.txt").write_text(conll(token_classification(count, len(split))))
    files = {split: str(tmp_path / f"{split}.txt") for split in ("train", "test")}
    recipe = {
        "backbone": {"model": str(models["bert"]), "dropout": 0.0},
        "tasks": {"ner": {"head": "token-classification", "data": {**files, "format": "conll"}}},
        "stages": [{"max_steps": 60, "learning_rate": 5e-3, "per_device_train_batch_size": 16, "eval_strategy": "no"}],
        "precision": "fp32",
    }
    result = hft_core.run(recipe, output=tmp_path / "run")
    scores = result.final["test"]["ner"]
    assert scores["f1"] > 0.9
    opened = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    assert opened.model.head("ner").facts["read_as"] == "iob1"
    again = prediction.evaluate(opened, "ner", loading.read([files["test"]], "conll", "line", task="ner"))
    assert again == pytest.approx(scores, abs=1e-5)
    (answer,) = prediction.predict(
        opened, "ner", prediction.rows_from_texts(opened, "ner", ["the broker saw the trader"])
    )
    assert [(e["label"], e["start"], e["end"]) for e in answer["entities"]] == [("money", 0, 2), ("money", 3, 5)]
    plain = AutoModelForTokenClassification.from_pretrained(tmp_path / "run" / "model" / "ner")
    assert plain.config.id2label[1] == "B-animals"
