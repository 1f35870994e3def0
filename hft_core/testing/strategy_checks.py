"""Check sharing strategies on tiny trunks."""

from __future__ import annotations

import copy
import math
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from hft_core.errors import PluginError
from hft_core.strategy import Strategy
from hft_core.testing import trunks
from hft_core.testing.check import Check, Failed, NotClaimed, Subject, check, expect
from hft_core.testing.stage import STEPS, TASKS, Stage, changed, gap, hidden, stages, values_of
from hft_core.testing.trunks import backbone

CHECKS: list[Check] = []
TOLERANCE = 1e-4


@check("strategy", CHECKS)
def what_stands_still_keeps_its_bytes(subject: Subject) -> None:
    """Trunk parameters that require no gradient after `apply` do not change in training with weight decay."""
    for family, stage in stages(subject):
        before, trained = stage.parameters(), stage.trained()
        stage.run(range(STEPS))
        moved = sorted(changed(before, stage.parameters()) - set(trained))
        expect(not moved, f"{family}: unchanged frozen parameters", f"{len(moved)} changed: {', '.join(moved[:3])}")


@check("strategy", CHECKS)
def what_is_said_to_train_moves(subject: Subject) -> None:
    """Every trunk parameter that requires a gradient after `apply` is updated in some step, so that the number of
    trainable parameters is right."""
    for family, stage in stages(subject):
        before, still = stage.parameters(), set(stage.trained())
        count = len(still)
        for step in range(STEPS):
            stage.run([step])
            still -= changed(before, stage.parameters())
        found = f"{len(still)} did not: {', '.join(sorted(still)[:3])}"
        expect(not still, f"{family}: all {count} trained tensors to move", found)


@check("strategy", CHECKS)
def hidden_states_are_those_of_the_text(subject: Subject) -> None:
    """`forward` returns finite `[batch, seq, hidden_size]` without the positions that the strategy adds, for texts of
    up to `max_length` - `virtual_tokens` tokens."""
    for family, stage in stages(subject, TASKS[:1]):
        width = stage.backbone.max_length - stage.strategy.virtual_tokens
        states = hidden(stage.backbone, stage.strategy, TASKS[:1], width)[TASKS[0]]
        expect(states.shape[1] == width, f"{family}: {width} positions", states.shape[1])
        expect(bool(torch.isfinite(states).all()), f"{family}: finite hidden states", "some that are not")


@check("strategy", CHECKS)
def evaluation_is_deterministic(subject: Subject) -> None:
    """In evaluation mode, two calls of `forward` are bit-identical."""
    for family, stage in stages(subject):
        stage.run(range(2))
        first, second = stage.hidden(), stage.hidden()
        expect(
            not changed(first, second), f"{family}: equal hidden states twice", f"a difference of {gap(first, second)}"
        )


@check("strategy", CHECKS)
def a_mixed_batch_gives_each_task_what_it_gets_alone(subject: Subject) -> None:
    """Hidden states of a task's rows do not depend on rows of other tasks in the batch."""
    for family, stage in stages(subject):
        stage.run(range(2))
        mixed = stage.hidden()
        alone = {task: stage.hidden([task])[task] for task in TASKS}
        difference = gap(mixed, alone)
        expect(
            difference <= TOLERANCE, f"{family}: equal hidden states alone and mixed", f"a difference of {difference}"
        )


@check("strategy", CHECKS)
def rows_are_routed_only_where_it_says_so(subject: Subject) -> None:
    """Without `routes_rows`, hidden states of a text do not depend on its task, so that tasks can share its encoding; a
    strategy with private parts has `routes_rows`."""
    for family, stage in stages(subject):
        if stage.strategy.routes_rows:
            raise NotClaimed("the strategy routes rows")
        expect(not any(stage.private.values()), f"{family}: routes_rows of a strategy with private parts", False)
        stage.run(range(2))
        found = {task: stage.hidden_as(task) for task in TASKS}
        difference = max(gap({"text": found[TASKS[0]]}, {"text": states}) for states in found.values())
        told = f"{family}: equal hidden states of a text whichever task it is of, or routes_rows"
        expect(difference <= TOLERANCE, told, f"a difference of {difference}")


@check("strategy", CHECKS)
def layers_in_common_are_those_of_all_tasks(subject: Subject) -> None:
    """With `common_layers`, hidden states after these layers do not depend on the task, and `upper` of them equals
    `forward`, for rows of any task."""
    claimed = False
    for family, stage in stages(subject):
        depth = stage.strategy.common_layers
        if not (depth and stage.backbone.splits):
            continue
        claimed = True
        expect(0 < depth <= len(stage.backbone.layers), f"{family}: common_layers of the trunk's layers", depth)
        stage.run(range(2))
        lower = {task: stage.lower_as(task, depth) for task in TASKS}
        difference = max(gap({"text": lower[TASKS[0]]}, {"text": states}) for states in lower.values())
        told = f"{family}: equal hidden states of a text above {depth} layers whichever task it is of"
        expect(difference <= TOLERANCE, told, f"a difference of {difference}")
        difference = max(gap({task: stage.hidden_as(task)}, {task: stage.hidden_as(task, depth)}) for task in TASKS)
        told = f"{family}: equal hidden states by way of `upper`"
        expect(difference <= TOLERANCE, told, f"a difference of {difference}")
    if not claimed:
        raise NotClaimed("the strategy names no layers that tasks share")


@check("strategy", CHECKS)
def private_parts_are_as_the_spec_says(subject: Subject) -> None:
    """`private` has trunk parameters for every task of the stage if the spec says `private_parts`, and none otherwise;
    no parameter belongs to two tasks."""
    for family, stage in stages(subject):
        wanted = set(TASKS) if subject.spec.private_parts else set()
        named = {task for task, parameters in stage.private.items() if list(parameters)}
        expect(named == wanted, f"{family}: private parameters of {sorted(wanted)}", sorted(named))
        own = [id(p) for parameters in stage.private.values() for p in parameters]
        expect(len(own) == len(set(own)), f"{family}: private parameters of one task each", "one of two tasks")
        foreign = set(own) - {id(p) for p in stage.backbone.trunk.parameters()}
        expect(not foreign, f"{family}: private parameters that are the trunk's", f"{len(foreign)} that are not")


@check("strategy", CHECKS)
def private_parts_are_isolated(subject: Subject) -> None:
    """Training one task with weight decay does not change the private parameters of the others, nor their hidden states
    once the shared parameters are restored; task names are prefixes of one another."""
    if not subject.spec.private_parts:
        raise NotClaimed("the strategy keeps no part of the trunk for a task")
    for trained in TASKS[:2]:
        for family, stage in stages(subject):
            stage.run(range(2))
            before, outputs = stage.parameters(), stage.hidden()
            names = {id(p): name for name, p in stage.backbone.trunk.named_parameters()}
            stage.run(range(2, STEPS), [trained])
            moved = changed(before, stage.parameters())
            for task in [task for task in TASKS if task != trained]:
                own = {names[id(p)] for p in stage.private[task]}
                found = f"{len(own & moved)} of {len(own)} moved"
                expect(not own & moved, f"{family}: training '{trained}' to leave '{task}' alone", found)
            with values_of(stage.shared(), before):
                after = stage.hidden()
            difference = max(gap({t: outputs[t]}, after) for t in TASKS if t != trained)
            expect(
                difference <= TOLERANCE, f"{family}: unchanged outputs of other tasks", f"a difference of {difference}"
            )


@check("strategy", CHECKS)
def learning_rate_factors_are_of_what_trains(subject: Subject) -> None:
    """`rate_factors` are finite, not negative, and of trainable trunk parameters."""
    for family, stage in stages(subject):
        factors = stage.strategy.rate_factors(stage.backbone)
        known = {id(p) for p in stage.trained().values()}
        odd = [value for value in factors.values() if not (math.isfinite(value) and value >= 0)]
        expect(not odd, f"{family}: finite factors of at least 0", odd[:3])
        foreign = [p for p in factors if id(p) not in known]
        expect(not foreign, f"{family}: factors of parameters that train", f"{len(foreign)} of others")


@check("strategy", CHECKS)
def the_penalty_is_a_finite_scalar(subject: Subject) -> None:
    """`penalty` returns None or a finite scalar."""
    for family, stage in stages(subject):
        stage.run(range(2))
        penalty = stage.strategy.penalty(stage.backbone)
        if penalty is None:
            raise NotClaimed("the strategy adds nothing to the loss")
        expect(penalty.shape == (), f"{family}: a scalar", f"the shape {tuple(penalty.shape)}")
        expect(bool(torch.isfinite(penalty)), f"{family}: a finite penalty", penalty.item())


@check("strategy", CHECKS)
def resume_is_equal(subject: Subject) -> None:
    """A stage that is resumed from the trunk's parameters, the strategy's `state` and the optimizer is bit-identical to
    an uninterrupted one."""
    for family, whole in stages(subject):
        half = STEPS // 2
        whole.run(range(half))
        trunk = copy.deepcopy(whole.backbone.trunk.state_dict())
        state = {name: tensor.clone() for name, tensor in whole.strategy.state().items()}
        probes, optimizer = copy.deepcopy(whole.probes.state_dict()), copy.deepcopy(whole.optimizer.state_dict())
        whole.run(range(half, STEPS))
        again = Stage(subject, family, after=whole.after)
        again.backbone.trunk.load_state_dict(trunk)
        again.probes.load_state_dict(probes)
        again.optimizer.load_state_dict(optimizer)
        again.strategy.load_state(state)
        again.run(range(half, STEPS))
        different = sorted(changed(whole.parameters(), again.parameters()))
        expect(
            not different,
            f"{family}: the same bytes after a resume",
            f"{len(different)} differ: {', '.join(different[:3])}",
        )


@check("strategy", CHECKS)
def folding_changes_nothing_but_the_names(subject: Subject) -> None:
    """`fold` restores the trunk's original tensor names and keeps its hidden states; a second stage of the strategy can
    follow."""
    if not getattr(subject.options(), "merges", subject.spec.merges):
        raise NotClaimed("the strategy says merges=False")
    for family, stage in stages(subject, TASKS[:1]):
        stage.run(range(3), TASKS[:1])
        before = stage.hidden()
        stage.strategy.fold(stage.backbone)
        state = stage.backbone.trunk.state_dict()
        odd = sorted(state.keys() ^ stage.built.keys())
        expect(not odd, f"{family}: the tensors that the trunk was built with", f"other names: {', '.join(odd[:3])}")
        difference = gap(before, hidden(stage.backbone, Strategy(), TASKS[:1]))
        expect(
            difference <= TOLERANCE, f"{family}: equal hidden states merged and not", f"a difference of {difference}"
        )
        if not stage.after:
            subject.build().apply(stage.backbone, TASKS[:1])


@check("strategy", CHECKS)
def what_it_continues_is_taken_over(subject: Subject) -> None:
    """Applied after a strategy that the spec `continues`, it keeps that one's tensors in the trunk, and trains."""
    if not subject.spec.continues:
        raise NotClaimed("the strategy continues no other")
    for after in subject.spec.continues:
        for family in trunks.families(subject.catalogue):
            try:
                stage = Stage(subject, family, after=after)
            except PluginError as error:
                raise Failed(f"expected {family}: a stage after '{after}'; found {error}") from error
            state = stage.backbone.trunk.state_dict()
            lost = sorted(n for n, t in stage.found.items() if n not in state or not torch.equal(t, state[n]))
            expect(not lost, f"{family}: what '{after}' left", f"{len(lost)} other tensors: {', '.join(lost[:3])}")
            before = stage.parameters()
            stage.run(range(2))
            expect(bool(changed(before, stage.parameters())), f"{family}: a stage that trains", "that nothing moved")


@check("strategy", CHECKS)
def an_adapter_leaves_the_trunk_its_weights(subject: Subject) -> None:
    """With `adapter`, `base_state` is the trunk as it was opened, so that its weights need not be saved."""
    for family, stage in stages(subject):
        if not stage.strategy.adapter:
            raise NotClaimed("what trains is not saved apart from the trunk")
        stage.run(range(3))
        difference = gap(stage.built, stage.strategy.base_state(stage.backbone))
        expect(difference <= TOLERANCE, f"{family}: the trunk's own weights unchanged", f"a difference of {difference}")


@check("strategy", CHECKS)
def what_is_saved_loads_equal(subject: Subject) -> None:
    """Saving and loading keeps hidden states: an adapter for each task on a freshly opened trunk, or else the whole
    trunk."""
    for family, stage in stages(subject):
        stage.run(range(3))
        before = stage.hidden()
        base = stage.strategy.base_state(stage.backbone)
        odd = sorted(base.keys() ^ stage.built.keys())
        expect(not odd, f"{family}: a base state of the trunk's own tensors", f"other names: {', '.join(odd[:3])}")
        with tempfile.TemporaryDirectory() as place:
            load = _adapter_again if stage.strategy.adapter else _trunk_again
            after = load(subject, stage, family, Path(place))
        difference = gap(before, after)
        expect(difference <= TOLERANCE, f"{family}: equal hidden states after loading", f"a difference of {difference}")


def _adapter_again(subject: Subject, stage: Stage, family: str, folder: Path) -> dict[str, Tensor]:
    """Save each task's adapter, load it on a fresh trunk, and return the hidden states."""
    again = Stage(subject, family, after=stage.after)
    for task in TASKS:
        stage.strategy.save_adapter(stage.backbone, task, folder / task, again.backbone.source, "", {})
        again.strategy.load_adapter(again.backbone, task, folder / task, ())
    return again.hidden()


def _trunk_again(subject: Subject, stage: Stage, family: str, folder: Path) -> dict[str, Tensor]:
    """Save the strategy's `base_state`, open it, and return the hidden states."""
    stage.backbone.save(folder, stage.strategy.base_state(stage.backbone))
    trunk = backbone(subject.catalogue, folder)
    expect(trunk is not None, f"{family}: a saved trunk that an installed backbone opens", "that none does")
    assert trunk is not None
    return hidden(trunk, Strategy(), TASKS)


@check("strategy", CHECKS)
def bfloat16_autocast_trains(subject: Subject) -> None:
    """A step under bfloat16 autocast has a finite loss and finite gradients."""
    for family, stage in stages(subject):
        with torch.autocast("cpu", torch.bfloat16):
            loss = stage.loss(0)
        expect(bool(torch.isfinite(loss)), f"{family}: a finite loss", loss.item())
        loss.backward()  # type: ignore[no-untyped-call]
        odd = [n for n, p in stage.trained().items() if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
        expect(not odd, f"{family}: finite gradients", f"{len(odd)} that are not: {', '.join(odd[:3])}")
