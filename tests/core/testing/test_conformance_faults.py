"""Every check of the conformance suite fails for a plugin with the fault that it looks for."""

from __future__ import annotations

import itertools
import math
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from hft_core import (
    BackboneSpec,
    Catalogue,
    CombinerSpec,
    HeadSpec,
    LauncherSpec,
    RecipeSpec,
    StrategySpec,
    TrackerSpec,
    hookimpl,
)
from hft_core.backbone import Backbone, Features
from hft_core.combiner import Combiner
from hft_core.head import Draw, Encoded, Targets
from hft_core.launcher import Handle, Launcher, Slot
from hft_core.specs import Spec
from hft_core.strategy import Strategy
from hft_core.testing import Case, Result, Subject, cases, checks_of, suite
from hft_core.tracker import TrackedRun, Tracker
from hft_plugins import backbones
from hft_plugins.backbones import encoder
from hft_plugins.backbones.trunk import HfBackbone
from hft_plugins.heads.classification import Classification

OPTIONS = "hft_core.options:Options"
NOISE = itertools.count()
"""Never the same twice."""


class Holder:
    """A module with one plugin."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def of(self, seam: str) -> list[Any]:
        return [self.spec] if self.spec.seam == seam else []

    @hookimpl
    def hft_backbones(self) -> list[Any]:
        return self.of("backbone")

    @hookimpl
    def hft_heads(self) -> list[Any]:
        return self.of("head")

    @hookimpl
    def hft_strategies(self) -> list[Any]:
        return self.of("strategy")

    @hookimpl
    def hft_combiners(self) -> list[Any]:
        return self.of("combiner")

    @hookimpl
    def hft_recipes(self) -> list[Any]:
        return self.of("recipe")

    @hookimpl
    def hft_trackers(self) -> list[Any]:
        return self.of("tracker")

    @hookimpl
    def hft_launchers(self) -> list[Any]:
        return self.of("launcher")


def spec_of(kind: Any, target: Any, options: str = OPTIONS, **facts: Any) -> Any:
    factory = target if isinstance(target, str) else f"{__name__}:{target.__qualname__}"
    return kind(**{"name": "broken", "summary": "It has a fault", "factory": factory, "options": options, **facts})


# --- strategies


class Built(Strategy):
    def __init__(self, options: Any) -> None:
        self.steps = 0


def first(backbone: Backbone) -> nn.Parameter:
    return next(iter(backbone.trunk.parameters()))


class MovesTheFrozen(Built):
    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        super().apply(backbone, tasks)
        first(backbone).requires_grad_(False)

    def step_finished(self, backbone: Backbone, step: int) -> None:
        first(backbone).data.add_(0.1)


class SaysThatAllTrains(Built):
    def step_started(self, backbone: Backbone, step: int) -> None:
        first(backbone).requires_grad_(False)


class Noisy(Built):
    def forward(self, backbone: Backbone, inputs: Mapping[str, Tensor], rows: Any) -> Tensor:
        hidden = super().forward(backbone, inputs, rows)
        return hidden + 0.01 * torch.randn_like(hidden)


class KeepsItsPrompt(Built):
    def forward(self, backbone: Backbone, inputs: Mapping[str, Tensor], rows: Any) -> Tensor:
        hidden = super().forward(backbone, inputs, rows)
        return torch.cat([hidden[:, :2], hidden], dim=1)


class TakesTheTrunkOver(Built):
    """Says that it goes on from `broken`, which is itself, and sets all that was there to 0."""

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        super().apply(backbone, tasks)
        first(backbone).data.zero_()


class CentersTheBatch(Built):
    def forward(self, backbone: Backbone, inputs: Mapping[str, Tensor], rows: Any) -> Tensor:
        hidden = super().forward(backbone, inputs, rows)
        return hidden - hidden.mean(dim=0)


class TakesPrefixesForNames(Built):
    """A vector a task; rows of `a` go through those of `ab` and `a-b` as well."""

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        backbone.trunk.requires_grad_(False)
        backbone.trunk.own = nn.ParameterDict({task: torch.zeros(backbone.hidden_size) for task in tasks})

    def private(self, backbone: Backbone) -> Any:
        own: Any = backbone.trunk.own
        return {task: [vector] for task, vector in own.items()}

    def forward(self, backbone: Backbone, inputs: Mapping[str, Tensor], rows: Any) -> Tensor:
        hidden = backbone.forward(inputs).clone()
        for task, place in rows:
            for name, (vector,) in self.private(backbone).items():
                if name.startswith(task):
                    hidden[place] = hidden[place] + vector
        return hidden


class RoutesInSecret(Built):
    def forward(self, backbone: Backbone, inputs: Mapping[str, Tensor], rows: Any) -> Tensor:
        hidden = super().forward(backbone, inputs, rows).clone()
        for task, place in rows:
            hidden[place] = hidden[place] * len(task)
        return hidden


class ForgetsItsWayUp(Built):
    """A layer is said to be in common, and `upper` lacks what `forward` adds for each task."""

    routes_rows = True

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        super().apply(backbone, tasks)
        self.common_layers = 1

    def forward(self, backbone: Backbone, inputs: Mapping[str, Tensor], rows: Any) -> Tensor:
        hidden = super().forward(backbone, inputs, rows).clone()
        for task, place in rows:
            hidden[place] = hidden[place] * len(task)
        return hidden


class RatesOfStrangers(Built):
    def rate_factors(self, backbone: Backbone) -> Any:
        return {nn.Parameter(torch.zeros(1)): 0.5}


class PenaltyOfTwo(Built):
    def penalty(self, backbone: Backbone) -> Tensor:
        return first(backbone).sum() * torch.ones(2)


class ForgetsItsSteps(Built):
    def step_finished(self, backbone: Backbone, step: int) -> None:
        self.steps += 1

    def forward(self, backbone: Backbone, inputs: Mapping[str, Tensor], rows: Any) -> Tensor:
        return super().forward(backbone, inputs, rows) * (1 + self.steps)


class FoldsNothing(Built):
    def forward(self, backbone: Backbone, inputs: Mapping[str, Tensor], rows: Any) -> Tensor:
        return super().forward(backbone, inputs, rows) * 2


class AdapterThatTrainsTheTrunk(Built):
    adapter = True


class SavesZeros(Built):
    def base_state(self, backbone: Backbone) -> dict[str, Tensor]:
        return {name: torch.zeros_like(tensor) for name, tensor in super().base_state(backbone).items()}


class InfiniteInBfloat16(Built):
    def forward(self, backbone: Backbone, inputs: Mapping[str, Tensor], rows: Any) -> Tensor:
        hidden = super().forward(backbone, inputs, rows)
        return hidden * math.inf if torch.is_autocast_enabled("cpu") else hidden


STRATEGIES = {
    "what-stands-still-keeps-its-bytes": (spec_of(StrategySpec, MovesTheFrozen), "1 changed"),
    "what-is-said-to-train-moves": (spec_of(StrategySpec, SaysThatAllTrains), "1 did not"),
    "hidden-states-are-those-of-the-text": (
        spec_of(StrategySpec, KeepsItsPrompt),
        "of the shape (4, 64, 16)",
    ),
    "what-it-continues-is-taken-over": (
        spec_of(StrategySpec, TakesTheTrunkOver, continues=("broken",)),
        "what 'broken' left",
    ),
    "evaluation-is-deterministic": (spec_of(StrategySpec, Noisy), "equal hidden states twice"),
    "a-mixed-batch-gives-each-task-what-it-gets-alone": (spec_of(StrategySpec, CentersTheBatch), "alone and mixed"),
    "private-parts-are-as-the-spec-says": (spec_of(StrategySpec, Built, private_parts=True), "['a', 'a-b', 'ab']"),
    "private-parts-are-isolated": (
        spec_of(StrategySpec, TakesPrefixesForNames, private_parts=True),
        "unchanged outputs",
    ),
    "layers-in-common-are-those-of-all-tasks": (spec_of(StrategySpec, ForgetsItsWayUp), "by way of `upper`"),
    "rows-are-routed-only-where-it-says-so": (spec_of(StrategySpec, RoutesInSecret), "whichever task it is of"),
    "learning-rate-factors-are-of-what-trains": (spec_of(StrategySpec, RatesOfStrangers), "1 of others"),
    "the-penalty-is-a-finite-scalar": (spec_of(StrategySpec, PenaltyOfTwo), "scalar"),
    "resume-is-equal": (spec_of(StrategySpec, ForgetsItsSteps), "the same bytes after a resume"),
    "folding-changes-nothing-but-the-names": (spec_of(StrategySpec, FoldsNothing), "merged and not"),
    "an-adapter-leaves-the-trunk-its-weights": (spec_of(StrategySpec, AdapterThatTrainsTheTrunk), "unchanged"),
    "what-is-saved-loads-equal": (spec_of(StrategySpec, SavesZeros), "after loading"),
    "bfloat16-autocast-trains": (spec_of(StrategySpec, InfiniteInBfloat16), "a finite loss"),
}

# --- combiners


class Summed(Combiner):
    def __init__(self, options: Any, *, tasks: Sequence[str]) -> None:
        super().__init__(tuple(tasks))


class OfGradients(Summed):
    per_task_gradients = True

    def weigh(self, gradients: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        return torch.ones(len(gradients))


class OneTooMany(OfGradients):
    def weigh(self, gradients: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        return torch.ones(len(gradients) + 1)


class OwnRandomNumbers(Summed):
    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        return losses.sum() * (1 + next(NOISE))


class Backwards(Summed):
    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        return -losses.sum()


class FirstThingsFirst(Summed):
    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        return (losses / torch.arange(1, len(losses) + 1)).sum()


class LooksAtSizes(OfGradients):
    def weigh(self, gradients: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        return 1 / (1 + gradients.norm(dim=1))


class LooksAtOneComponent(OfGradients):
    by_products = True

    def weigh(self, gradients: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        return gradients[:, 0].abs()


class SaysLinear(Summed):
    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        return losses.pow(2).sum()


class Logarithms(Summed):
    linear = False

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        return losses.log().sum()


class Contrary(OfGradients):
    def weigh(self, gradients: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        return -torch.ones(len(gradients))


class PushesTheAbsent(Summed):
    def __init__(self, options: Any, *, tasks: Sequence[str]) -> None:
        super().__init__(options, tasks=tasks)
        self.log_var = nn.Parameter(torch.zeros(len(tasks)))

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        return (losses * (-self.log_var[present]).exp()).sum() + self.log_var.sum()


class ForgetsTheLosses(Summed):
    last: Any = None

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        return losses.sum() * (1.0 if self.last is None else self.last)

    def step_finished(self, losses: Tensor, present: Tensor) -> None:
        self.last = float(losses.sum())


class Spread(Summed):
    linear = False

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        return losses.std() + losses.sum()


COMBINERS = {
    "its-facts-are-those-of-the-spec": (spec_of(CombinerSpec, Summed, per_task_gradients=True), "as the spec says"),
    "factors-are-one-a-task": (spec_of(CombinerSpec, OneTooMany, per_task_gradients=True), "the shape (3,)"),
    "equal-random-numbers-give-equal-factors": (spec_of(CombinerSpec, OwnRandomNumbers), "from equal seeds"),
    "one-task-keeps-its-direction": (spec_of(CombinerSpec, Backwards), "one positive factor"),
    "the-order-of-tasks-does-not-matter": (spec_of(CombinerSpec, FirstThingsFirst), "('b', 'c', 'a')"),
    "the-scale-of-all-gradients-does-not-turn-the-result": (
        spec_of(CombinerSpec, LooksAtSizes, per_task_gradients=True),
        "a cosine of",
    ),
    "linear-means-that-weights-do-not-depend-on-losses": (spec_of(CombinerSpec, SaysLinear), "depend on the losses"),
    "products-are-all-it-goes-by-where-it-says-so": (
        spec_of(CombinerSpec, LooksAtOneComponent, per_task_gradients=True),
        "the same factors for the same products",
    ),
    "results-stay-finite": (spec_of(CombinerSpec, Logarithms), "finite factors on zeros"),
    "tasks-that-agree-get-their-mean": (spec_of(CombinerSpec, Contrary, per_task_gradients=True), "positive multiple"),
    "no-task-is-worked-against": (
        spec_of(CombinerSpec, OfGradients, per_task_gradients=True, non_conflicting=True),
        "no negative product",
    ),
    "an-absent-task-is-left-out": (spec_of(CombinerSpec, PushesTheAbsent), "'log_var' knows of the absent task"),
    "its-state-goes-on-where-it-was": (spec_of(CombinerSpec, ForgetsTheLosses), "equal factors in step 8"),
    "one-task-can-be-the-whole-stage": (spec_of(CombinerSpec, Spread), "finite factors in step 1"),
}

# --- heads


class Judge(Classification):
    """`classification` as it is; each class below has one fault."""

    def __init__(self, options: Any, *, task: str) -> None:
        super().__init__(task, options)


class TooLong(Judge):
    def encode(self, rows: Any, tokenizer: Any, max_length: int) -> Encoded:
        return super().encode(rows, tokenizer, 64)


class MasksInSecret(Judge):
    def collate(self, sequences: Any, targets: Any, examples: Any, draw: Draw) -> Any:
        return super().collate([[*sequence[:-1], 0] for sequence in sequences], targets, examples, draw)


class NeverTheSame(Judge):
    def collate(self, sequences: Any, targets: Any, examples: Any, draw: Draw) -> Any:
        sequences, made = super().collate(sequences, targets, examples, draw)
        return sequences, Targets(made.count, {name: t + next(NOISE) for name, t in made.tensors.items()})


class OneLossARow(Judge):
    def loss(self, features: Features, targets: Targets) -> Tensor:
        return super().loss(features, targets) * torch.ones(targets.count)


class MeanLoss(Judge):
    def loss(self, features: Features, targets: Targets) -> Tensor:
        return super().loss(features, targets) / targets.count


class OtherJointLoss(Judge):
    joint = True

    def embed(self, features: Features) -> Tensor:
        return features.hidden[:, 0]

    def joint_loss(self, embeddings: Tensor, targets: Targets) -> Tensor:
        return embeddings.sum()


class LearnsNothing(Judge):
    def loss(self, features: Features, targets: Targets) -> Tensor:
        return super().loss(features, targets).detach() * 0 + features.hidden.sum() * 0 + targets.count


class NothingKnown(Judge):
    def predict(self, features: Features, targets: Targets) -> list[Any]:
        return [[math.nan]] * len(features.hidden) if not targets.count else super().predict(features, targets)


class LooksAtPadding(Judge):
    def raw_outputs(self, features: Features) -> Tensor:
        return super().raw_outputs(features) * features.hidden.shape[1]


class OneShort(Judge):
    def predict(self, features: Features, targets: Targets) -> list[Any]:
        return super().predict(features, targets)[1:]


class DecodesOtherwise(Judge):
    def predict(self, features: Features, targets: Targets) -> list[Any]:
        return [[1.0, 0.0] for _ in super().predict(features, targets)]


class HalfOfTheLoss(Judge):
    def losses(self, features: Features, targets: Targets) -> Tensor | None:
        losses = super().losses(features, targets)
        return None if losses is None else losses / 2


class OtherMetric(Judge):
    main_metric = "beauty"


class KeepsFactsToItself(Judge):
    known = 1.0

    def learn(self, rows: Any) -> None:
        super().learn(rows)
        self.known = 3.0

    def raw_outputs(self, features: Features) -> Tensor:
        return super().raw_outputs(features) * self.known


class ExportsTwice(Judge):
    def export_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: 2 * tensor for name, tensor in state.items()}


class HeadInfiniteInBfloat16(Judge):
    def loss(self, features: Features, targets: Targets) -> Tensor:
        loss = super().loss(features, targets)
        return loss * math.inf if torch.is_autocast_enabled("cpu") else loss


def head(target: Any, **facts: Any) -> Any:
    return spec_of(HeadSpec, target, "hft_plugins.heads.classification:Options", **facts)


HEADS = {
    "its-facts-are-those-of-the-spec": (head(Judge, needs_labels=False), "supervised=False"),
    "no-sequence-is-longer-than-it-may-be": (head(TooLong), "at most 12 tokens"),
    "one-draw-gives-one-collation": (head(NeverTheSame), "equal targets"),
    "sequences-are-changed-only-where-it-says-so": (head(MasksInSecret), "or changes_sequences"),
    "the-loss-is-a-finite-scalar": (head(OneLossARow), "a scalar"),
    "the-loss-is-a-sum-over-targets": (head(MeanLoss), "sum of losses"),
    "the-joint-loss-is-the-loss-of-embeddings": (head(OtherJointLoss), "the joint loss"),
    "the-loss-falls-on-rows-that-can-be-learned": (head(LearnsNothing), "a mean loss below"),
    "rows-without-targets-give-no-nan": (head(NothingKnown), "predictions of finite numbers"),
    "padding-changes-nothing": (head(LooksAtPadding), "more padding"),
    "there-is-one-prediction-an-example": (head(OneShort), "predictions"),
    "predictions-are-decoded-from-outputs": (head(DecodesOtherwise), "the predictions from its outputs"),
    "losses-of-examples-add-up-to-the-loss": (head(HalfOfTheLoss), "losses that add up"),
    "metrics-are-finite-and-hold-the-main-one": (head(OtherMetric), "beauty"),
    "facts-and-weights-are-the-whole-head": (head(KeepsFactsToItself), "equal predictions of the new head"),
    "export-and-import-are-inverse": (head(ExportsTwice), "the exported state again"),
    "bfloat16-autocast-trains": (head(HeadInfiniteInBfloat16), "a loss near"),
}

# --- backbones


class Trunk(HfBackbone):
    """`hf-encoder` as it is; each class below has one fault."""

    @classmethod
    def build(cls, options: Any, *, trust_remote_code: bool = False) -> HfBackbone:
        made = encoder.build(options, trust_remote_code=trust_remote_code)
        made.__class__ = cls
        return made


class Narrow(Trunk):
    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return super().forward(inputs)[..., :-1]


class SeesPadding(Trunk):
    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return super().forward({**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])})


class SaysCausal(Trunk):
    causal = property(lambda self: True)  # type: ignore[assignment]


class SaysLonger(Trunk):
    max_length = property(lambda self: 65)  # type: ignore[assignment]


class TopDown(Trunk):
    @property
    def layers(self) -> Any:
        return list(super().layers)[::-1]


class CutOff(Trunk):
    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return super().forward(inputs).detach().requires_grad_()


class SavesHalf(Trunk):
    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        super().save(folder, {name: tensor / 2 for name, tensor in state.items()})


class FewWords(Trunk):
    @property
    def language_model(self) -> Any:
        module: Any = super().language_model
        whole = type(module).forward
        module.forward = lambda hidden: whole(module, hidden)[:, :3]
        return module


class SavesHalfATask(Trunk):
    def save_task(self, folder: Path, trunk_folder: Path, module: Any, state: Any, config: Any) -> None:
        super().save_task(folder, trunk_folder, module, {name: t / 2 for name, t in state.items()}, config)


def opens_anything(model: str) -> bool:
    return True


def opens_a_bert(model: str) -> bool:
    return model.endswith("bert")


def backbone(target: Any, opens: Any = opens_a_bert) -> Any:
    return spec_of(
        BackboneSpec,
        f"{__name__}:{target.__name__}.build",
        "hft_plugins.backbones.options:EncoderOptions",
        example={"model": "PATH"},
        opens=f"{__name__}:{opens.__name__}",
    )


BACKBONES = {
    "it-opens-its-models-and-nothing-else": (backbone(Trunk, opens_anything), "'/no/such/model'"),
    "hidden-states-have-their-shape": (backbone(Narrow), "the shape"),
    "padding-changes-nothing": (backbone(SeesPadding), "with more padding"),
    "causal-is-true": (backbone(SaysCausal), "causal=False"),
    "the-longest-text-passes": (backbone(SaysLonger), "size of tensor"),
    "layers-are-in-order": (backbone(TopDown), "[1, 0]"),
    "the-trunk-trains": (backbone(CutOff), "a gradient in layer 0"),
    "what-is-saved-opens-again": (backbone(SavesHalf), "after loading"),
    "what-is-saved-opens-in-transformers": (backbone(SavesHalf), "in transformers"),
    "the-language-model-scores-the-vocabulary": (backbone(FewWords), "tokens or more"),
    "a-sequence-module-is-that-of-its-plain-class": (backbone(SavesHalfATask), "AutoModelForSequenceClassification"),
}

# --- recipes and specs


def unknown_strategy(options: Any, *, folder: Path) -> dict[str, Any]:
    stages = [{"strategy": "no-such-strategy", "max_steps": 1}]
    return {"backbone": {"type": "hf-encoder", "model": "x"}, "tasks": {}, "stages": stages}


def lost_files(options: Any, *, folder: Path) -> dict[str, Any]:
    return {
        "backbone": {"type": "hf-encoder", "model": "x"},
        "tasks": {"t": {"head": "mlm", "data": {"files": str(folder / "lost.txt")}}},
        "stages": [{"max_steps": 1}],
    }


RECIPES = {
    "the-recipe-validates": (spec_of(RecipeSpec, unknown_strategy), "tasks"),
    "its-data-files-are-there": (spec_of(RecipeSpec, lost_files), "lost.txt"),
}


class Forgetful(Tracker):
    """A sound tracker but for what a fault adds."""

    def __init__(self, options: Any, *, run: TrackedRun) -> None:
        self.identity = run.identity or "it"

    def record(self, values: Mapping[str, float], step: int) -> None:
        pass

    def finish(self, *, failed: bool) -> None:
        pass


class Nameless(Forgetful):
    def __init__(self, options: Any, *, run: TrackedRun) -> None:
        self.identity = ""


class StartsAnew(Forgetful):
    def __init__(self, options: Any, *, run: TrackedRun) -> None:
        self.identity = f"run-{next(NOISE)}"


class Draws(Forgetful):
    def record(self, values: Mapping[str, float], step: int) -> None:
        torch.rand(1)


TRACKERS = {
    "a-run-is-recorded": (spec_of(TrackerSpec, Nameless), "an empty one"),
    "a-resumed-run-is-the-same-run": (spec_of(TrackerSpec, StartsAnew), "run-"),
    "random-numbers-are-left-alone": (spec_of(TrackerSpec, Draws), "drawn from torch"),
}


class Commands(Launcher):
    """A sound launcher of processes but for what a fault changes."""

    def __init__(self, options: Any) -> None:
        pass

    def slots(self, count: int | None) -> list[Slot]:
        return [Slot(i, 1) for i in range(count or 2)]

    def launch(self, argv: Sequence[str], slot: Slot, log: Path) -> Handle:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            return self.started(
                subprocess.Popen(self.words(argv), env=self.environment(slot), stdout=output, stderr=subprocess.STDOUT)
            )

    def words(self, argv: Sequence[str]) -> list[str]:
        return list(argv)

    def environment(self, slot: Slot) -> dict[str, str]:
        return slot.environment()

    def started(self, process: subprocess.Popen[bytes]) -> Handle:
        return Started(process)


class Started(Handle):
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)


class NoSlots(Commands):
    def slots(self, count: int | None) -> list[Slot]:
        return [Slot(0, 1)] * (count or 2)


class NeverFails(Started):
    def poll(self) -> int | None:
        return None if self.process.poll() is None else 0


class Kills(Started):
    def stop(self) -> None:
        self.process.kill()


class SaysNothingOfFailures(Commands):
    def started(self, process: subprocess.Popen[bytes]) -> Handle:
        return NeverFails(process)


class EndsAtOnce(Commands):
    def started(self, process: subprocess.Popen[bytes]) -> Handle:
        return Kills(process)


class AllThreads(Commands):
    def environment(self, slot: Slot) -> dict[str, str]:
        return {**slot.environment(), "OMP_NUM_THREADS": "64"}


class Splits(Commands):
    def words(self, argv: Sequence[str]) -> list[str]:
        return [*argv[:3], *" ".join(argv[3:]).split()]


LAUNCHERS = {
    "slots-are-counted": (spec_of(LauncherSpec, NoSlots), "slots that are numbered"),
    "a-command-writes-its-log": (spec_of(LauncherSpec, Splits), "a log with"),
    "a-command-that-fails-says-so": (spec_of(LauncherSpec, SaysNothingOfFailures), "another exit code than 0"),
    "a-command-has-the-threads-of-its-slot": (spec_of(LauncherSpec, AllThreads), "OMP_NUM_THREADS=1"),
    "a-command-can-save-when-it-is-stopped": (spec_of(LauncherSpec, EndsAtOnce), "a command that has saved"),
}


class TakesMore(BaseModel):
    strength: float


ANY_SEAM = {
    "what-the-spec-names-can-be-imported": (spec_of(CombinerSpec, "hft_core.combiner:Nothing"), "cannot load"),
    "the-example-fits-the-options": (spec_of(CombinerSpec, Summed, f"{__name__}:TakesMore"), "the example {}"),
    "an-unknown-option-is-refused": (
        spec_of(CombinerSpec, Summed, f"{__name__}:TakesMore", example={"strength": 1.0}),
        "it was accepted",
    ),
    "every-option-is-described": (spec_of(CombinerSpec, Summed, f"{__name__}:TakesMore"), "none of strength"),
    "the-summary-is-one-line": (spec_of(CombinerSpec, Summed, summary="x" * 121), "at most 120 characters"),
}

FAULTS: dict[str, dict[str, tuple[Spec, str]]] = {
    "strategy": STRATEGIES,
    "combiner": COMBINERS,
    "head": HEADS,
    "backbone": BACKBONES,
    "recipe": RECIPES,
    "tracker": TRACKERS,
    "launcher": LAUNCHERS,
}


@pytest.mark.parametrize("seam", FAULTS)
def test_every_check_has_a_plugin_that_fails_it(seam: str) -> None:
    assert {*FAULTS[seam], *ANY_SEAM} == {check.name for check in checks_of(seam)}


@pytest.mark.parametrize(
    ("seam", "name"),
    [
        *((seam, name) for seam, faults in FAULTS.items() for name in faults),
        *(("combiner", name) for name in ANY_SEAM),
    ],
)
def test_the_check_fails_and_says_what_was_expected_and_found(seam: str, name: str) -> None:
    spec, fragment = {**FAULTS[seam], **ANY_SEAM}[name]
    outcome = case_of(spec, name).outcome()
    assert outcome.result is Result.FAILS
    assert outcome.message.startswith("expected")
    assert "ound " in outcome.message
    assert "\n" not in outcome.message
    assert fragment in outcome.message


@pytest.mark.parametrize("sound", [spec_of(StrategySpec, Built), head(Judge), backbone(Trunk)], ids=lambda s: s.seam)
def test_the_plugins_that_the_faults_were_put_into_are_sound(sound: Spec) -> None:
    outcomes = [
        case.outcome() for case in cases("Holder", catalogue_of(sound)) if case.check.name != "listing-is-light"
    ]
    assert [o for o in outcomes if o.result is Result.FAILS] == []


def case_of(spec: Spec, name: str) -> Case:
    catalogue = catalogue_of(spec)
    entry = next(e for e in catalogue.entries if (e.seam, e.name) == (spec.seam, spec.name))
    check = next(check for check in checks_of(spec.seam) if check.name == name)
    return Case(Subject(entry, catalogue), check)


def catalogue_of(spec: Spec) -> Catalogue:
    """The plugin, and the built-in backbones unless it is one: two would open one model."""
    return Catalogue.of(Holder(spec), *([] if spec.seam == "backbone" else [backbones]))


# --- what is checked of a distribution


def failures(name: str, catalogue: Catalogue) -> dict[str, str]:
    outcomes = (case.outcome() for case in cases(name, catalogue))
    return {o.check: o.message for o in outcomes if o.result is Result.FAILS}


def test_a_distribution_of_which_nothing_can_be_used_fails() -> None:
    catalogue = Catalogue.of(Holder(spec_of(CombinerSpec, Summed, requires=("no-such-distribution",))))
    outcomes = {case.check.name: case.outcome() for case in cases("Holder", catalogue)}
    assert outcomes["can-be-used"].result is Result.NOT_CLAIMED
    assert "no-such-distribution" in outcomes["can-be-used"].message
    assert outcomes["some-plugin-can-be-used"].result is Result.FAILS


def test_a_plugin_that_is_incompatible_fails() -> None:
    found = failures("Holder", Catalogue.of(Holder(spec_of(CombinerSpec, Summed, api=99))))
    assert "written for hook API 99" in found["can-be-used"]


def test_a_seam_without_checks_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(suite.CHECKS, "combiner")
    found = failures("Holder", Catalogue.of(Holder(spec_of(CombinerSpec, Summed))))
    assert "found none" in found["seam-has-checks"]


def test_a_distribution_whose_listing_imports_a_heavy_library_fails(site: Any) -> None:
    package = site.add_combiner("hft-heavy", "heavy")
    init = site.folder / package / "__init__.py"
    init.write_text("import sklearn\n" + init.read_text())
    assert "sklearn" in failures("hft-heavy", Catalogue.discover())["listing-is-light"]
