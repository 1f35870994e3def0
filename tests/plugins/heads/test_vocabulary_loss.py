"""The loss over a vocabulary in chunks: same loss and gradients as in one piece, logits never all at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hft_plugins.heads.parts import vocabulary_loss

TOKENS, SIZE, WORDS = 23, 8, 40


class Counting(nn.Linear):
    """An LM head that counts its passes and records the most rows of one."""

    passes = most = 0

    def forward(self, input: Tensor) -> Tensor:
        self.passes, self.most = self.passes + 1, max(self.most, len(input))
        return super().forward(input)


@pytest.fixture
def given() -> tuple[Counting, Tensor, Tensor]:
    torch.manual_seed(0)
    return Counting(SIZE, WORDS), torch.randn(TOKENS, SIZE, requires_grad=True), torch.randint(WORDS, (TOKENS,))


@pytest.mark.parametrize("trains", [False, True], ids=["frozen head", "trained head"])
def test_chunks_give_the_loss_and_gradients_of_one_piece(
    given: tuple[Counting, Tensor, Tensor], trains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, hidden, label = given
    head.requires_grad_(trains)
    monkeypatch.setattr(vocabulary_loss, "LOGITS", 5 * WORDS)
    monkeypatch.setattr(vocabulary_loss, "RECOMPUTED_ROWS", 5)
    wanted = [hidden, *(head.parameters() if trains else ())]
    whole = functional.cross_entropy(head(hidden), label, reduction="sum")
    expected = torch.autograd.grad(3 * whole, wanted)
    head.passes = head.most = 0
    found = vocabulary_loss.cross_entropy(head, hidden, label, vocabulary=WORDS)
    torch.testing.assert_close(found, whole)
    torch.testing.assert_close(torch.autograd.grad(3 * found, wanted), expected)
    assert head.most == 5
    assert head.passes == (10 if trains else 5)


def test_a_frozen_head_gives_a_gradient_for_each_of_several_directions(
    given: tuple[Counting, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    head, hidden, label = given
    head.requires_grad_(False)
    monkeypatch.setattr(vocabulary_loss, "LOGITS", 5 * WORDS)
    loss = vocabulary_loss.cross_entropy(head, hidden, label, vocabulary=WORDS)
    directions = torch.tensor([1.0, -2.0])
    (found,) = torch.autograd.grad(loss, hidden, directions, is_grads_batched=True, retain_graph=True)
    (single,) = torch.autograd.grad(loss, hidden)
    torch.testing.assert_close(found, directions[:, None, None] * single)


def test_without_gradients_logits_are_made_in_chunks_too(
    given: tuple[Counting, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    head, hidden, label = given
    monkeypatch.setattr(vocabulary_loss, "LOGITS", 5 * WORDS)
    with torch.no_grad():
        found = vocabulary_loss.cross_entropy(head, hidden, label, vocabulary=WORDS)
        assert head.most == 5
        torch.testing.assert_close(found, functional.cross_entropy(head(hidden), label, reduction="sum"))
