"""Try out the strategies of a run on copies of its model, one after another."""

from __future__ import annotations

import copy
import gc
from collections.abc import Mapping, Sequence

import torch

from hft_core.acceleration import frozen_prefix
from hft_core.acceleration.kernel_check import usable_kernels
from hft_core.batching.batch import Batch
from hft_core.data.examples import Examples
from hft_core.device.free_memory import free_memory
from hft_core.device.machine import Machine
from hft_core.device.out_of_memory import is_out_of_memory
from hft_core.errors import HftError, ModelError
from hft_core.model.hybrid import HybridModel
from hft_core.runtime import random_state, signals
from hft_core.trial.batch import trial_batches
from hft_core.trial.findings import Candidate, Failed, Findings
from hft_core.trial.folding import check_folding
from hft_core.trial.gradients import check_gradients
from hft_core.trial.hidden_states import check_hidden_states
from hft_core.trial.reopening import check_reopening


def try_out(
    model: HybridModel,
    candidates: Sequence[Candidate],
    examples: Mapping[str, Examples],
    machine: Machine,
    *,
    seed: int,
    kernels: bool = False,
) -> Findings:
    """Try out each candidate, and with `kernels` its fast paths; the model and the random state stay as they are.

    `examples`: the training rows by task. Raises `ModelError` with one line for what would not be trained as it should
    be, and what the strategy itself raises.
    """
    if not _room(model, machine):
        return Findings(("the trial before the run was left out: memory has no room for a second model",))
    state = random_state.snapshot()
    warnings: dict[str, None] = {}
    left_out: dict[str, None] = {}
    try:
        for candidate in candidates:
            signals.check()
            copied = _copy(model)
            if copied is None:
                return Findings(("the trial before the run was left out: the model cannot be copied",))
            found = _try(copied.to(machine.device), candidate, examples, machine, seed, kernels)
            warnings |= dict.fromkeys(found.warnings)
            left_out |= dict.fromkeys(found.left_out)
            gc.collect(0)
    finally:
        random_state.restore(*state)
    return Findings(tuple(warnings), tuple(left_out))


def _copy(model: HybridModel) -> HybridModel | None:
    """Return a copy that may be changed; None where a plugin holds what cannot be copied."""
    try:
        return copy.deepcopy(model)
    except Exception as error:  # plugins may hold anything
        if is_out_of_memory(error):
            raise
        return None


def _try(
    model: HybridModel,
    candidate: Candidate,
    examples: Mapping[str, Examples],
    machine: Machine,
    seed: int,
    kernels: bool,
) -> Findings:
    random_state.seed(seed)
    for strategy, tasks in candidate.before:
        model.apply_strategy(strategy, tasks)
    model.apply_strategy(candidate.strategy, candidate.tasks)
    model.to(machine.device)
    model.choose_heads(candidate.tasks)
    batches = trial_batches(model, candidate.tasks, examples, machine, seed=seed)
    place = f"stage '{candidate.stage}', strategy '{candidate.name}'"
    try:
        warnings = _check(model, candidate, batches, machine, seed)
    except (HftError, torch.cuda.OutOfMemoryError):
        raise
    except Failed as error:
        raise ModelError(f"{place}: on a trial batch, {error}") from error
    except Exception as error:  # a model's code fails in any way
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{place}: on a trial batch, {type(error).__name__}: {reason}") from error
    left_out: tuple[str, ...] = ()
    if kernels and not candidate.folds:
        frozen = frozen_prefix.find(model, list(batches.values()), machine)
        found = usable_kernels(model, frozen, list(batches.values()), machine, seed=seed)
        left_out = tuple(f"stage '{candidate.stage}': {warning}" for warning in found.warnings)
    return Findings(tuple(warnings), left_out)


def _check(
    model: HybridModel, candidate: Candidate, batches: Mapping[str, Batch], machine: Machine, seed: int
) -> list[str]:
    """Return what to warn of. Raises `Failed`."""
    first, *_ = batches.values()
    warnings = check_hidden_states(model, first, machine)
    for task, batch in batches.items():
        check_gradients(model, task, batch, machine)
    if candidate.folds:
        check_folding(model, batches, machine, seed=seed)
    else:
        check_reopening(model, candidate.tasks)
    return warnings


def _room(model: HybridModel, machine: Machine) -> bool:
    """Tell whether the device has room for a copy of the model and its gradients."""
    needed = 2 * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    free = free_memory(machine.device)
    return free is None or free > needed
