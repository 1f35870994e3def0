from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from hft_core.device.flops import EVERY, FlopCounter, Work, is_counted

ROWS, LENGTH, HIDDEN, INNER, LAYERS = 3, 7, 16, 24, 2


def bert() -> BertModel:
    config = BertConfig(
        vocab_size=30, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=2
    )
    config._attn_implementation = "eager"
    return BertModel(config, add_pooling_layer=False)


def counted(model: BertModel) -> int:
    """The operations of a pass forward and, where anything trains, one backward."""
    with FlopCounter() as counter:
        loss = model(input_ids=torch.ones(ROWS, LENGTH, dtype=torch.long)).last_hidden_state.square().sum()
        if loss.requires_grad:
            loss.backward()
    return counter.flops


TOKENS = ROWS * LENGTH
MATRICES = 2 * TOKENS * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER)
"""Two operations for each value of a layer's matrices and each token."""
ATTENTION = 2 * 2 * ROWS * LENGTH * LENGTH * HIDDEN
"""Of a layer: queries times keys, and weights times values."""


def test_a_pass_forward_is_two_operations_a_value_and_token_and_the_attention() -> None:
    model = bert().requires_grad_(False)
    assert counted(model) == LAYERS * (MATRICES + ATTENTION)


def test_a_backward_pass_has_the_gradients_of_inputs_and_weights() -> None:
    assert counted(bert()) == 3 * LAYERS * (MATRICES + ATTENTION)


def test_below_what_trains_there_is_no_backward_pass_and_of_frozen_weights_no_gradient() -> None:
    model = bert().requires_grad_(False)
    upper = model.encoder.layer[1]
    upper.requires_grad_(True)
    no_input = 3 * 2 * TOKENS * HIDDEN * HIDDEN  # nobody needs the gradient of what the first three products take
    assert counted(model) == (MATRICES + ATTENTION) + 3 * (MATRICES + ATTENTION) - no_input
    model.requires_grad_(False)
    model.embeddings.word_embeddings.weight.requires_grad_(True)  # all inputs, no weights
    assert counted(model) == LAYERS * (2 * MATRICES + 3 * ATTENTION)


def test_a_fused_attention_of_a_cpu_is_counted() -> None:
    query = torch.rand(1, 2, 64, 8)
    with FlopCounter() as counter:
        nn.functional.scaled_dot_product_attention(query, query, query)
    assert counter.flops == 2 * 2 * 2 * 64 * 64 * 8


def test_counting_changes_nothing() -> None:
    found = []
    for counting in (False, True):
        torch.manual_seed(0)
        model = bert().train()
        ids = torch.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) % 30
        if counting:
            with FlopCounter():
                model(input_ids=ids).last_hidden_state.sum().backward()
        else:
            model(input_ids=ids).last_hidden_state.sum().backward()
        found.append([*(parameter.grad for parameter in model.parameters()), torch.rand(3)])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize(("head_steps", "first"), [(0, [0, EVERY]), (5, [0, 5, 5 + EVERY])])
def test_the_first_steps_of_both_kinds_and_every_so_many_are_counted(head_steps: int, first: list[int]) -> None:
    assert [step for step in range(2 * EVERY) if is_counted(step, head_steps)] == first


def test_steps_between_are_taken_to_cost_as_much_a_token_as_those_of_their_kind() -> None:
    def batch(tokens: int) -> Any:
        return SimpleNamespace(inputs={"input_ids": torch.zeros(1, tokens)})

    left, work = torch.ones(4, 4), Work()
    done = []
    for step, (tokens, products) in enumerate([(10, 1), (20, 0), (10, 3), (5, 0)]):  # the trunk moves from step 2 on
        before = work.flops
        with work.of_step(step, 2, tokens):
            for _ in range(products):
                left @ left
        done.append((work.flops - before) / (2 * 4**3))
    assert done == [1, 2, 3, 1.5]


def test_a_step_that_failed_counts_nothing() -> None:
    work = Work()
    with pytest.raises(RuntimeError), work.of_step(0, 0, 0):
        raise RuntimeError("out of memory")
    assert work == Work()
