"""Check the hidden states of a trunk under a strategy: finite, the same for a row alone, blind to later tokens."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hft_core.acceleration.frozen_prefix import tolerance
from hft_core.batching.batch import Batch
from hft_core.device.machine import Machine
from hft_core.head import OWN_LENGTH
from hft_core.model.hybrid import HybridModel
from hft_core.trial.batch import lengths, rows_alone
from hft_core.trial.findings import Failed

ROUNDINGS = 4.0
"""Times the rounding of the number format that hidden states may differ by: both are rounded, in either direction."""


def hidden_of(model: HybridModel, batch: Batch, machine: Machine) -> Tensor:
    """Return the hidden states of a batch in evaluation mode."""
    with model.evaluating(), torch.no_grad(), machine.autocast():
        return model.hidden(batch)


def check_hidden_states(model: HybridModel, batch: Batch, machine: Machine) -> list[str]:
    """Return what to warn of. Raises `Failed` for hidden states that cannot be trained on."""
    hidden = hidden_of(model, batch, machine)
    if not bool(torch.isfinite(hidden).all()):
        raise Failed("the hidden states hold values that are not finite numbers")
    limit = tolerance(hidden.dtype, machine)
    gap = padding_gap(model, batch, hidden, machine)
    if not gap <= limit:
        limit = max(limit, ROUNDINGS * _rounding(model, batch, machine))
    if not gap <= limit and not _depends_by_nature(model, batch, machine, limit):
        raise Failed(
            f"the hidden states of a row in a padded batch differ by {gap:.1e} of the largest value from those of the "
            "row alone, and do not without the strategy"
        )
    if model.backbone.causal:
        _check_causality(model, batch, hidden, machine, limit)
    if not gap <= limit:
        warning = (
            f"{type(model.trunk).__name__} computes other hidden states for a row in a padded batch than for the row "
            f"alone (they differ by {gap:.1e} of the largest value): its answers depend on the rows beside it"
        )
        return [warning]
    return []


def padding_gap(model: HybridModel, batch: Batch, hidden: Tensor, machine: Machine) -> float:
    """Return the largest difference between rows alone and in the batch, relative to the largest value."""
    largest = float(hidden.abs().max())
    gaps = [
        float((hidden_of(model, alone, machine)[0, :length] - hidden[row, :length]).abs().max())
        for row, length, alone in rows_alone(batch)
    ]
    return max(gaps) / largest if largest else 0.0


def _rounding(model: HybridModel, batch: Batch, machine: Machine) -> float:
    """Return how far the number format rounds the hidden states of rows alone, relative to the largest value: values of
    a real decoder are of very different size, and a row in a batch is summed in another order. Zero where float32 has
    hidden states that depend on the batch as well."""
    if machine.precision.name == "fp32":
        return 0.0
    single = replace(machine, precision=replace(machine.precision, name="fp32"))
    exact = hidden_of(model, batch, single)
    if not padding_gap(model, batch, exact, single) <= tolerance(exact.dtype, single):
        return 0.0
    gaps = [
        float((hidden_of(model, alone, machine)[0] - hidden_of(model, alone, single)[0])[:length].abs().max())
        for _, length, alone in rows_alone(batch)
    ]
    return max(gaps) / float(exact.abs().max())


def _depends_by_nature(model: HybridModel, batch: Batch, machine: Machine, limit: float) -> bool:
    """Tell whether the trunk as it was opened, with nothing injected, depends on padding as well."""
    return not model.strategy.adapter or _plain_gap(model, batch, machine) > limit


def _plain_gap(model: HybridModel, batch: Batch, machine: Machine) -> float:
    with model.evaluating(), torch.no_grad(), machine.autocast():
        hidden = model.backbone.forward(batch.inputs)
        gaps = [
            float((model.backbone.forward(alone.inputs)[0, :length] - hidden[row, :length]).abs().max())
            for row, length, alone in rows_alone(batch)
        ]
    return max(gaps) / float(hidden.abs().max())


def _check_causality(model: HybridModel, batch: Batch, hidden: Tensor, machine: Machine, limit: float) -> None:
    """Raise `Failed` where earlier positions change with the last token."""
    prefix = OWN_LENGTH if f"{OWN_LENGTH}attention_mask" in batch.inputs else ""
    if model.backbone.encoder_decoder and not prefix:
        return  # the decoder reads the encoder's text, of which each position sees all
    name, row_lengths = f"{prefix}input_ids", lengths(batch, prefix)
    ids = batch.inputs[name].clone()
    for row, length in enumerate(row_lengths):
        ids[row, length - 1] = ids[row, 0] if ids[row, 0] != ids[row, length - 1] else ids[row, 0] + 1
    changed = hidden_of(model, replace(batch, inputs={**batch.inputs, name: ids}), machine)
    gaps = [
        float((changed[row, : length - 1] - hidden[row, : length - 1]).abs().max())
        for row, length in enumerate(row_lengths)
        if length > 1
    ]
    gap = max(gaps, default=0.0) / float(hidden.abs().max())
    if not gap <= limit:
        raise Failed(
            f"earlier positions change with the last token, by {gap:.1e} of the largest value: expected a trunk that "
            "does not see later tokens"
        )
