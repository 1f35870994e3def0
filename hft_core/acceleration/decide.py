"""Decide how a stage computes: what is frozen, cached, shared, compiled, or left to a fast path.

Every choice is made here, once, before the first step; `CONFLICTS` lists what excludes what. A path other than the
plain one is used only where a trial pass has given the same values. Where a stage is resumed, the choices that its
checkpoint records are used again, on whatever machine; only what excludes a choice is looked at anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from hft_core.acceleration import activation_cache, compile, frozen_prefix, shared_layers, weight_check
from hft_core.acceleration.kernel_check import Kernels, usable_kernels
from hft_core.batching.batch import Batch
from hft_core.combiner import Combiner
from hft_core.data.examples import Examples
from hft_core.device.machine import Machine
from hft_core.errors import RunError, UsageError
from hft_core.model import frozen_weights
from hft_core.model.activation_store import Store
from hft_core.model.execution_plan import ExecutionChoices, ExecutionPlan, FrozenPrefix
from hft_core.model.hybrid import HybridModel
from hft_core.recipe.stage import Stage

AUTO_DEVICES = ("cuda",)
"""Kinds of device on which `torch_compile: auto` compiles: on CPUs, `tests/benchmarks/compiled.py` measured no gain."""


class Fact(Enum):
    """What may stand against a choice."""

    SEVERAL_PROCESSES = auto()
    SHARDED = auto()
    GRADIENT_CHECKPOINTING = auto()
    ROUTED_ROWS = auto()
    KEY_VALUE_CACHE = auto()
    PACKED_ROWS = auto()
    CACHED_ACTIVATIONS = auto()
    FROZEN_TRUNK = auto()
    UNKNOWN_LAYERS = auto()
    COMPILED = auto()


CONFLICTS: Mapping[str, Mapping[Fact, str]] = {
    "store": {
        Fact.SEVERAL_PROCESSES: "each of several processes would need the rows of all",
    },
    "compiled": {
        Fact.SEVERAL_PROCESSES: "{processes} compute: train with one process",
        Fact.GRADIENT_CHECKPOINTING: "the layers are computed again: set gradient_checkpointing: false",
        Fact.ROUTED_ROWS: "{strategy} routes rows by their task: choose a strategy that does not",
        Fact.KEY_VALUE_CACHE: "{strategy} gives the layers a cache: choose a strategy that does not",
        Fact.PACKED_ROWS: "rows are packed: set packing: false in the backbone",
        Fact.CACHED_ACTIVATIONS: "activations of frozen layers are cached: set cache_activations: no",
        Fact.FROZEN_TRUNK: "nothing in the trunk trains: choose a strategy that trains some of it",
        Fact.UNKNOWN_LAYERS: "the layers of {trunk} are not known: choose another trunk",
    },
    "shared_depth": {
        Fact.SHARDED: "each process has a shard of the weights",
    },
    "one_pass": {
        Fact.COMPILED: "compiled layers compute their gradients themselves",
        Fact.GRADIENT_CHECKPOINTING: "the layers are computed again in the backward pass",
        Fact.SHARDED: "each process has a shard of the weights",
        Fact.ROUTED_ROWS: "{strategy} routes rows by their task",
        Fact.PACKED_ROWS: "rows are packed",
    },
    "fast_kernels": {
        Fact.COMPILED: "compiled layers have their own kernels",
    },
    "bfloat16_weights": {
        Fact.SHARDED: "each process has a shard of the weights",
    },
}
"""By the field of `ExecutionPlan`, the facts that exclude it and the reason that is given; the first that holds."""


def decide(
    stage: Stage,
    model: HybridModel,
    machine: Machine,
    combiner: Combiner,
    train: Mapping[str, Examples],
    dev: Mapping[str, Examples],
    *,
    passes: Mapping[str, float],
    evaluations: int,
    one_pass_matches: Callable[[HybridModel, Batch], bool],
    recorded: ExecutionChoices | None = None,
    seed: int,
) -> ExecutionPlan:
    """Decide for a stage whose strategy was applied to the model.

    `train`, `dev`: the examples of the stage's tasks; `passes`: how often each task's training rows are seen, and
    `evaluations`: the dev rows; `one_pass_matches`: whether a batch has the same gradients in one pass; `recorded`: the
    choices of the stage that is resumed.

    Raises `UsageError` or `RunError` where the stage asks for compiled layers, or began with them, and they cannot be
    used.
    """
    probe = frozen_prefix.probe(model, stage.tasks, train, seed=seed)
    frozen = frozen_prefix.find(model, probe, machine)
    facts = _Facts.of(model, machine, stage)
    rows = activation_cache.sources(model, train, passes, dev, evaluations) if frozen.depth else []
    store, why_store = _store(stage, model, frozen, facts, rows, probe, machine, recorded, seed)
    facts.note(Fact.CACHED_ACTIVATIONS, store is not None)
    compiled, why_compiled, warnings = _compiled(stage, model, frozen, facts, probe, machine, recorded, seed)
    facts.note(Fact.COMPILED, compiled)
    kernels, why_kernels = Kernels(()), facts.obstacle("fast_kernels")
    if not why_kernels and recorded is not None and not recorded.compiled:
        kernels, why_kernels = Kernels(recorded.fast_kernels), recorded.reasons["fast_kernels"]
    elif not why_kernels:
        kernels = usable_kernels(model, frozen, probe, machine, seed=seed)
        why_kernels = "; ".join(kernels.warnings)
    one_pass, why_one_pass = _one_pass(model, facts, combiner, probe, machine, one_pass_matches, recorded)
    exact = frozen_weights.representable(model) if machine.precision.name == "bf16" else []
    why_bfloat16 = facts.obstacle("bfloat16_weights")
    why_bfloat16 = why_bfloat16 or weight_check.obstacle(model, exact, frozen, probe, machine, seed=seed)
    return ExecutionPlan(
        strategy=model.strategy,
        frozen=frozen,
        store=store,
        shared_depth=_shared_depth(model, facts, train, machine, seed, recorded),
        one_pass=one_pass,
        compiled=compiled,
        fast_kernels=kernels.usable,
        bfloat16_weights=() if why_bfloat16 else tuple(exact),
        reasons={
            "store": why_store,
            "compiled": why_compiled,
            "one_pass": why_one_pass,
            "shared_depth": facts.obstacle("shared_depth"),
            "fast_kernels": why_kernels,
            "bfloat16_weights": why_bfloat16,
        },
        warnings=tuple(dict.fromkeys((*(() if recorded is None else recorded.warnings), *warnings, *kernels.warnings))),
    )


def decide_evaluation(
    model: HybridModel, examples: Mapping[str, Examples], machine: Machine, *, seed: int
) -> ExecutionPlan:
    """Decide for evaluation and prediction outside of a stage, of the tasks that have `examples`."""
    depth = _shared_depth(model, _Facts.of(model, machine), examples, machine, seed)
    return ExecutionPlan(strategy=model.strategy, shared_depth=depth)


@dataclass(frozen=True)
class _Facts:
    """The facts that hold, and the names that reasons mention."""

    holding: set[Fact]
    names: Mapping[str, str]

    @classmethod
    def of(cls, model: HybridModel, machine: Machine, stage: Stage | None = None) -> _Facts:
        facts = {
            Fact.SEVERAL_PROCESSES: machine.group.world_size > 1,
            Fact.SHARDED: machine.sharded,
            Fact.GRADIENT_CHECKPOINTING: stage is not None and stage.gradient_checkpointing,
            Fact.ROUTED_ROWS: model.strategy.routes_rows,
            Fact.KEY_VALUE_CACHE: not model.strategy.recomputes,
            Fact.PACKED_ROWS: model.backbone.packs,
            Fact.FROZEN_TRUNK: not model.trunk_parameters(),
            Fact.UNKNOWN_LAYERS: not compile.layers_of(model),
        }
        names = {
            "processes": machine.name,
            "strategy": type(model.strategy).__name__,
            "trunk": type(model.trunk).__name__,
        }
        return cls({fact for fact, holds in facts.items() if holds}, names)

    def note(self, fact: Fact, holds: bool) -> None:
        if holds:
            self.holding.add(fact)

    def obstacle(self, choice: str) -> str:
        """Why the choice is excluded; empty where nothing excludes it."""
        reasons = (reason for fact, reason in CONFLICTS[choice].items() if fact in self.holding)
        return next(reasons, "").format(**self.names)


def _store(
    stage: Stage,
    model: HybridModel,
    frozen: FrozenPrefix,
    facts: _Facts,
    rows: Sequence[activation_cache.Source],
    probe: Sequence[Batch],
    machine: Machine,
    recorded: ExecutionChoices | None,
    seed: int,
) -> tuple[Store | None, str]:
    """The store of the frozen prefix's hidden states, and the reason."""
    if stage.cache_activations == "no":
        return None, "nothing, as the recipe says"
    if frozen.depth and (obstacle := facts.obstacle("store")):
        return None, f"nothing: {obstacle}"
    if recorded is not None and not recorded.cached:
        return None, recorded.reasons["store"]
    limit = activation_cache.bytes_of(stage.cache_activations)
    if recorded is None:
        limit = activation_cache.room(limit)
    return activation_cache.choose(model, frozen, rows, probe, machine, limit=limit, seed=seed)


def _compiled(
    stage: Stage,
    model: HybridModel,
    frozen: FrozenPrefix,
    facts: _Facts,
    probe: Sequence[Batch],
    machine: Machine,
    recorded: ExecutionChoices | None,
    seed: int,
) -> tuple[bool, str, tuple[str, ...]]:
    """Whether the layers are compiled, why, and warnings."""
    if stage.torch_compile == "no":
        return False, "the recipe does not ask for it", ()
    if compile.is_disabled():
        return False, f"{compile.DISABLE} is set", (f"the layers were not compiled: {compile.DISABLE} is set",)
    if recorded is not None and not recorded.compiled:
        return False, recorded.reasons["compiled"], ()
    required, device = stage.torch_compile == "yes" or recorded is not None, machine.device.type
    asked, otherwise = "torch_compile is 'yes'", "set torch_compile: no"
    if recorded is not None:
        asked, otherwise = "it began with compiled layers", f"resume it with {compile.DISABLE}=1 in the environment"
    obstacle = facts.obstacle("compiled")
    if not required and device not in AUTO_DEVICES:
        obstacle = obstacle or f"auto compiles on {', '.join(AUTO_DEVICES)}, not on {device}"
    obstacle = obstacle or compile.missing_compiler(device)
    if obstacle and required:
        raise UsageError(f"stage '{stage.name}': {asked}, and {obstacle}, or {otherwise}")
    if obstacle:
        return False, obstacle, ()
    longest = max(probe, key=lambda batch: batch.inputs["input_ids"].numel())
    failure = compile.failure(model, ExecutionPlan(frozen=frozen), longest, machine, seed=seed)
    if failure and required:
        raise RunError(f"stage '{stage.name}': {asked}, and {failure}: {otherwise}")
    if failure:
        return False, failure, (f"the layers were not compiled: {failure}",)
    return True, "as the recipe says" if stage.torch_compile == "yes" else f"auto compiles on {device}", ()


def _shared_depth(
    model: HybridModel,
    facts: _Facts,
    examples: Mapping[str, Examples],
    machine: Machine,
    seed: int,
    recorded: ExecutionChoices | None = None,
) -> int:
    several = len(model.heads) > 1 and not facts.obstacle("shared_depth")
    if not several:
        return 0
    return shared_layers.depth(model, examples, machine, seed=seed) if recorded is None else recorded.shared_depth


def _one_pass(
    model: HybridModel,
    facts: _Facts,
    combiner: Combiner,
    probe: Sequence[Batch],
    machine: Machine,
    matches: Callable[[HybridModel, Batch], bool],
    recorded: ExecutionChoices | None,
) -> tuple[bool, str]:
    if not combiner.per_task_gradients or combiner.at != "shared" or not model.shared_parameters():
        return False, "the combiner needs no gradients of shared parameters"
    if obstacle := facts.obstacle("one_pass"):
        return False, obstacle
    if recorded is not None:
        return recorded.one_pass, recorded.reasons["one_pass"]
    alike = all(matches(model, batch.to(machine.device)) for batch in probe)
    if machine.group.any(not alike):
        return False, "in a trial pass, the gradients differed from those of a pass for each task"
    return True, ""
