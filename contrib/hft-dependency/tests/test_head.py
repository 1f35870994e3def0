"""The head on a tiny BERT: its rows, its words, its loss, its answers and its scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from hft_core.backbone import Features
from hft_core.head import Draw, Targets
from hft_dependency.head import NONE
from hft_dependency.words import first_tokens

ROW = {
    "words": ["the", "cat", "saw", "the", "dog"],
    "heads": [2, 3, 0, 5, 3],
    "relations": ["det", "nsubj", "root", "det", "obj"],
}
Make = Callable[..., Any]


def batch_of(head: Any, rows: list[dict[str, Any]], max_length: int = 64) -> tuple[Features, Targets]:
    """The rows as the head sees them in a step."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    tokenizer = head.backbone.tokenizer
    encoded = head.encode(columns, tokenizer, max_length)
    sequences, targets = head.collate(encoded.sequences, encoded.targets, range(len(rows)), Draw(0, 0))
    inputs = tokenizer.pad({"input_ids": sequences}, return_tensors="pt")
    with torch.no_grad():
        hidden = head.backbone.forward(dict(inputs))
    return Features(hidden, inputs["input_ids"], inputs["attention_mask"]), targets


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"heads": [2, 3, 0, 5]}, "columns 'words' and 'heads' differ in length: found 5 words and 4 heads"),
        ({"relations": ["det"] * 6}, "columns 'words' and 'relations' differ in length: found 5 words and 6 relations"),
        ({"heads": [2, 1, 0, 5, 3]}, "column 'heads': found the cycle 1 → 2 → 1, expected a tree"),
        ({"heads": [2, 0, 0, 5, 3]}, "column 'heads': found 2 roots (words 2, 3), expected one word with the head 0"),
        ({"heads": [2, 3, 0, 9, 3]}, "column 'heads': item 4: found the head 9"),
        ({"heads": [2, 3, 0, 2.5, 3]}, "column 'heads', item 4: found the head 2.5, expected a whole number"),
        ({"relations": ["det", "nsubi", "root", "det", "obj"]}, "item 2: found the unknown relation 'nsubi'"),
        ({"relations": ["det", "nsubi", "root", "det", "obj"]}, "Did you mean 'nsubj'?"),
    ],
)
def test_a_row_that_is_no_parse_is_told_by_its_fault(head: Make, change: dict[str, Any], says: str) -> None:
    assert says in head().check({**ROW, **change})


def test_rows_from_a_table_are_read_like_lists(head: Make) -> None:
    texts = {"words": "the cat saw the dog", "heads": "2 3 0 5 3", "relations": "det nsubj root det obj"}
    made = head()
    assert made.check(texts) == made.check(ROW) == ""
    (_, one), (_, other) = batch_of(made, [texts]), batch_of(made, [ROW])
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def test_relations_may_be_given_and_are_sorted_otherwise(head: Make) -> None:
    assert head().labels == ["dep", "det", "nsubj", "obj", "root"]
    assert head(labels=("root", "dep", "det", "obj", "nsubj")).labels[0] == "root"


def test_a_word_is_its_first_token(head: Make) -> None:
    """BERT spells `Zyx`, which is not in its vocabulary, and `investor` is two pieces."""
    made = head()
    words = ["the", "Zyx", "saw", "an", "investor", "again"]
    encoding = made.backbone.tokenizer(" ".join(words), return_offsets_mapping=True)
    tokens = made.backbone.tokenizer.convert_ids_to_tokens(encoding["input_ids"])
    positions, found = first_tokens(words, encoding["offset_mapping"])
    assert found == [0, 1, 2, 3, 4, 5]
    assert [tokens[position] for position in positions] == ["the", "z", "saw", "a", "inve", "again"]
    assert len(tokens) == len(words) + 2 + 2 + 1 + 1


def test_words_with_blanks_inside_and_words_that_the_tokenizer_drops_keep_their_numbers(head: Make) -> None:
    words = ["the", "old river", "\u200b", "cat"]
    encoding = head().backbone.tokenizer(" ".join(words), return_offsets_mapping=True)
    assert first_tokens(words, encoding["offset_mapping"])[1] == [0, 1, 3]


def test_the_loss_is_the_cross_entropies_of_heads_and_of_relations_to_the_true_heads(head: Make) -> None:
    made = head()
    short = {"words": ["saw", "again"], "heads": [0, 1], "relations": ["root", "dep"]}
    features, targets = batch_of(made, [ROW, short])
    assert targets.count == 7
    expected = 0.0
    for row in (ROW, short):
        alone, own = batch_of(made, [row])
        words = alone.hidden[:, own.tensors["position"][0]]
        arcs = made.scorer.arcs(words)[0].detach()
        labels = made.scorer.labels(words, torch.tensor([row["heads"]]))[0].detach()
        ids = torch.tensor([made.labels.index(relation) for relation in row["relations"]])
        expected += float(functional.cross_entropy(arcs, torch.tensor(row["heads"]), reduction="sum"))
        expected += float(functional.cross_entropy(labels, ids, reduction="sum"))
    assert made.loss(features, targets).item() == pytest.approx(expected, rel=1e-4)


def test_words_beyond_the_cut_are_not_learned_and_count_as_not_found(head: Make) -> None:
    """Five tokens are [CLS], three words and [SEP]: the heads of those three words are seen or the root."""
    made = head()
    features, targets = batch_of(made, [ROW], max_length=5)
    assert targets.tensors["word"].tolist() == [[0, 1, 2]]
    assert targets.count == 3
    (said,) = made.predict(features, targets)
    assert [word for word, _, _ in said] == [0, 1, 2]
    assert {head for _, head, _ in said} <= {0, 1, 2, 3}
    answer = made.answer([said], ROW)["value"]
    assert [each["word"] for each in answer] == ROW["words"]
    assert answer[3] == {"word": "the", "head": None, "relation": None}
    scores = made.metrics([said], made.references({"head": [ROW["heads"]], "relation": [[0] * 5]}), 1.0)
    assert scores["cut_words"] == pytest.approx(0.4)


def test_a_word_whose_head_has_no_token_is_not_learned(head: Make) -> None:
    made = head()
    row = {"words": ["cat", "dog", "saw"], "heads": [3, 1, 0], "relations": ["nsubj", "dep", "root"]}
    _, targets = batch_of(made, [row], max_length=4)
    assert targets.tensors["head"].tolist() == [[NONE, 1]]
    assert targets.count == 1


def test_a_batch_without_any_word_has_no_loss_and_empty_parses(head: Make) -> None:
    made = head()
    row = {"words": ["\u200b"], "heads": [0], "relations": ["root"]}
    features, targets = batch_of(made, [row, row])
    assert targets.count == 0
    assert made.loss(features, targets).item() == 0.0
    assert made.predict(features, targets) == [[], []]
    assert made.answer([[]], row)["value"] == [{"word": "\u200b", "head": None, "relation": None}]


def test_numbers_are_those_of_the_sentence_where_words_before_have_no_token(head: Make) -> None:
    made = head()
    rows = [{"words": ["\u200b", "cat", "saw"], "heads": [2, 3, 0], "relations": ["dep", "nsubj", "root"]}]
    features, targets = batch_of(made, rows)
    assert targets.tensors["head"].tolist() == [[2, 0]]
    with torch.no_grad():  # the first word that is seen hangs on the second, which hangs on the root
        made.scorer.arcs = lambda words: torch.tensor([[[0.0, 0.0, 9.0], [9.0, 0.0, 0.0]]])
        (said,) = made.predict(features, targets)
    assert [parsed[:2] for parsed in said] == [[1, 3], [2, 0]]


def test_scores_are_shares_of_words_with_the_right_head_and_with_the_right_relation_too(head: Make) -> None:
    made = head()
    truth = [([2, 0], [1, 4]), ([0], [4])]
    said = [[[0, 2, 1], [1, 0, 3]], [[0, 0, 4]]]
    scores = made.metrics(said, truth, 0.5)
    assert scores == {"loss": 0.5, "uas": 1.0, "las": pytest.approx(2 / 3), "cut_words": 0.0}
    said[0][0][1] = 0
    assert made.metrics(said, truth, 0.5)["uas"] == pytest.approx(2 / 3)


def test_every_parse_is_a_tree(head: Make) -> None:
    from hft_dependency import tree
    from hft_dependency.example_rows import dependency

    made = head()
    features, targets = batch_of(made, dependency(12, 1))
    for said in made.predict(features, targets):
        assert tree.fault([head for _, head, _ in said]) == ""


def test_autocast_in_bfloat16_gives_scores_in_float32_and_near_the_exact_ones(head: Make) -> None:
    made = head()
    features, targets = batch_of(made, [ROW])
    exact = made.loss(features, targets).item()
    with torch.autocast("cpu", torch.bfloat16):
        _, arcs = made.arcs(features, targets)
        near = made.loss(features, targets)
    assert arcs.dtype == near.dtype == torch.float32
    assert math.isclose(near.item(), exact, rel_tol=0.05)
