"""The scores, against the equations of Dozat and Manning 2017 written out one by one."""

from __future__ import annotations

import torch

from hft_dependency.biaffine import Biaffine, DeepBiaffine

BATCH, WORDS, SIZE, RELATIONS = 2, 4, 6, 3


def scorer() -> DeepBiaffine:
    torch.manual_seed(0)
    return DeepBiaffine(SIZE, RELATIONS, arc_size=5, label_size=4, dropout=0.33).double().eval()


def test_equals_the_papers_equation_of_arcs() -> None:
    """s_i = H_head U h_i + H_head u, with the MLPs of equations 4 and 5 (equation 6)."""
    model = scorer()
    words = torch.randn(BATCH, WORDS, SIZE, dtype=torch.float64)
    found = model.arcs(words)
    assert found.shape == (BATCH, WORDS, WORDS + 1)
    weight = model.arc.weight[0]
    matrix, vector = weight[:-1], weight[-1]
    for b in range(BATCH):
        candidates = [model.arc_head(model.root), *(model.arc_head(words[b, j]) for j in range(WORDS))]
        for i in range(WORDS):
            dependent = model.arc_dependent(words[b, i])
            for j, candidate in enumerate(candidates):
                expected = dependent @ matrix @ candidate + vector @ candidate
                torch.testing.assert_close(found[b, i, j], expected)


def test_equals_the_papers_equation_of_labels() -> None:
    """s_i = h_headᵀ U h_i + (h_head ⊕ h_i)ᵀ V + b for each label (equation 3)."""
    model = scorer()
    words = torch.randn(BATCH, WORDS, SIZE, dtype=torch.float64)
    heads = torch.tensor([[0, 1, 2, 1], [2, 0, 4, 2]])
    found = model.labels(words, heads)
    assert found.shape == (BATCH, WORDS, RELATIONS)
    for b in range(BATCH):
        for i in range(WORDS):
            head = model.root if heads[b, i] == 0 else words[b, heads[b, i] - 1]
            x, y = model.label_dependent(words[b, i]), model.label_head(head)
            for label, weight in enumerate(model.label.weight):
                alone = torch.cat([y, x]) @ torch.cat([weight[-1, :-1], weight[:-1, -1]])
                expected = y @ weight[:-1, :-1].T @ x + alone + weight[-1, -1]
                torch.testing.assert_close(found[b, i, label], expected)


def test_equals_torch_bilinear_where_nothing_speaks_alone() -> None:
    torch.manual_seed(1)
    model = Biaffine(5, RELATIONS, both_alone=True)
    plain = torch.nn.Bilinear(5, 5, RELATIONS)
    with torch.no_grad():
        plain.weight.copy_(model.weight[:, :-1, :-1])
        plain.bias.copy_(model.weight[:, -1, -1])
        model.weight[:, -1, :-1] = 0
        model.weight[:, :-1, -1] = 0
    x, y = torch.randn(2, BATCH, WORDS, 5)
    torch.testing.assert_close(model.each_pair(x, y), plain(x, y), atol=1e-6, rtol=1e-5)
    pairs = model.every_pair(x, y)
    for i in range(WORDS):
        for j in range(WORDS):
            torch.testing.assert_close(pairs[:, :, i, j], plain(x[:, i], y[:, j]), atol=1e-6, rtol=1e-5)


def test_every_part_gets_a_gradient() -> None:
    model = scorer()
    words = torch.randn(BATCH, WORDS, SIZE, dtype=torch.float64)
    labels = model.labels(words, torch.zeros(BATCH, WORDS, dtype=torch.long))
    (model.arcs(words).pow(2).sum() + labels.pow(2).sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
