"""Run the stages of a run, one after another: make the parts of each, run its loop, measure what it changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hft_core import events
from hft_core.acceleration.activation_cache import ActivationCache
from hft_core.acceleration.decide import decide
from hft_core.batching.mixture import AdaptiveMixture
from hft_core.batching.plan import Plan
from hft_core.combiner import Combiner
from hft_core.device.clock import SAVING
from hft_core.device.machine import Machine
from hft_core.device.peak_memory import peak_memory
from hft_core.gradients import one_pass
from hft_core.head import Head
from hft_core.memory import advice
from hft_core.memory.forecast import Held, forecast, may_take_much
from hft_core.model import frozen_weights, fsdp, tied_weights
from hft_core.model.execution_plan import PLAIN, ExecutionChoices, ExecutionPlan
from hft_core.pins import Pins
from hft_core.plugins.observers import Observers
from hft_core.recipe.resolve import ResolvedStage
from hft_core.recipe.stage import Stage
from hft_core.results import LabelScores, Scores, StageResult
from hft_core.runs import assembly, stage_report
from hft_core.runs.assembly import BuiltRun
from hft_core.runs.shared_stages import SharedStages
from hft_core.runs.stage_parts import begin, head_steps_of, plan_of, selection_of, streams_of
from hft_core.runtime import random_state
from hft_core.runtime.run_folder import RunFolder
from hft_core.strategy import Strategy
from hft_core.training import weights
from hft_core.training.checkpoint import Checkpoint
from hft_core.training.checkpointing import CheckpointScheduler, StageCheckpoints
from hft_core.training.evaluation import Keep, Measured, measure, score_and_report
from hft_core.training.head_input_scale import rate_factors
from hft_core.training.learning_rates import learning_rates
from hft_core.training.loop import StageLoop
from hft_core.training.optimizer import make_optimizer
from hft_core.training.phases import evaluation_steps
from hft_core.training.stage_setup import StageSetup
from hft_core.training.training_state import StageState
from hft_core.training.watch import watch_of


@dataclass
class Stages:
    """The stages of a run, one after another on one model."""

    material: BuiltRun
    machine: Machine
    observers: Observers
    folder: RunFolder
    """Where the best weights are kept while training."""
    pins: Pins = field(default_factory=Pins)
    """Digests of what the run was begun with."""
    name: str = ""
    """Of the stage that runs."""
    trunk_changed: bool = False
    """The trunk's own weights are not those that the backbone was opened with."""
    scores: Scores = field(default_factory=dict)
    """Dev scores of the tasks that know something, with the weights as they are now."""
    execution: ExecutionPlan = PLAIN
    """How passes through the model are computed; of evaluations between stages too."""
    scheduler: CheckpointScheduler | None = None
    """Saves checkpoints; None in other processes than the first and for a run without a folder."""
    shared: SharedStages | None = None
    """Where runs that begin alike leave their first stages for each other."""
    done: list[StageResult] = field(default_factory=list)
    """The results of the stages before."""
    predicted_memory: int = 0
    """The most bytes that this process was predicted to hold; 0 where no stage was predicted."""
    _own: frozenset[int] = frozenset()
    """The ids of the parameters that the trunk was opened with."""
    _resume_from: Checkpoint | None = None
    """The checkpoint from which the next stage is resumed."""

    def begin(self, resume_from: Checkpoint | None = None) -> None:
        """Make the model ready for the first stage, or for the one that the checkpoint is of."""
        self.material.model.to(self.machine.device)
        self._own = frozenset(id(parameter) for parameter in self.material.model.trunk.parameters())
        for each in self.material.resolved.stages:  # a later stage's mistake is not to be found after hours
            selection_of(each.stage, self.material, self.machine)
        if resume_from is not None:
            self._restore(resume_from)
        elif self.shared is not None and (taken := self.shared.take(self.material, self.pins, self.folder)):
            self.done, self.scores, self.trunk_changed = taken
            self._know_tasks()
        self._resume_from = resume_from

    def next(self) -> StageResult:
        """Run the stage after those that are done."""
        index, resume_from, self._resume_from = len(self.done), self._resume_from, None
        resolved = self.material.resolved
        result = self.run(index, resolved.stages[index], fold=resolved.folds_after(index), resume_from=resume_from)
        self.done.append(result)
        if self.shared is not None:
            left = (self.material, self.pins, self.done, self.scores, self.trunk_changed, self.folder)
            self.shared.leave(*left)
        return result

    def _know_tasks(self) -> None:
        """Mark the heads as trained that the stages before have trained."""
        for result in self.done:
            for task in result.tasks:
                self.material.model.head(task).pretrained = True

    def _restore(self, resume_from: Checkpoint) -> None:
        """Bring the model to where the checkpoint's stage began."""
        state, model, resolved = resume_from.state.stage, self.material.model, self.material.resolved
        self.done = list(state.finished)
        self.trunk_changed, self.scores = state.trunk_changed, state.scores_before
        self._know_tasks()
        for stage in resolved.strategies_before(state.index):  # parts that the stage found in the trunk
            model.apply_strategy(assembly.strategy_of(stage), stage.stage.tasks)
        base = resume_from.tensors("base")
        if base:
            tied_weights.untie(model, base.keys() - weights.whole_state(model).keys())
            weights.put(base, weights.whole_state(model))

    def run(
        self, index: int, resolved: ResolvedStage, *, fold: bool, resume_from: Checkpoint | None = None
    ) -> StageResult:
        """Run stage `index`, from its beginning or from a checkpoint of it; with `fold`, what its strategy added is
        folded into the trunk afterwards."""
        self.machine.clock.restart()
        stage, model = resolved.stage, self.material.model
        self.name = stage.name
        base = self._keep_base(index)
        # A stage's fresh weights depend on the seed and the stage, and not on what came before it.
        random_state.seed(random_state.random_seed(self.material.resolved.recipe.seed, index))
        strategy, combiner, counts = begin(resolved, model)
        model.to(self.machine.device)  # what the strategy added
        combiner.to(self.machine.device)
        division = fsdp.divide(model, self._own, self.machine)
        moves = counts.trainable > 0
        plan, an_epoch = plan_of(stage, self.material, index)
        recorded = None if resume_from is None else resume_from.state.stage.execution
        self.execution = self._decide(stage, combiner, plan, an_epoch, recorded)
        if resume_from is None:
            self.measure([task for task in model.heads if model.head(task).pretrained])
        before = dict(self.scores)
        setup = self._setup(index, resolved, strategy, combiner, plan, an_epoch)
        too_large = self._predict_memory(setup)
        step = 0 if resume_from is None else resume_from.step
        stages = len(self.material.resolved.stages)
        told = stage_report.announcement(index, stages, resolved, setup, counts, before, step)
        self.observers.emit("stage_started", told)
        checkpoints = self._checkpoints(index, before, base)
        with frozen_weights.held(model, self.execution), ActivationCache(model, self.execution, self.machine) as cache:
            progress = StageLoop(setup, checkpoints).run(cache, resume_from)
        if combiner.state_dict() and self.machine.group.is_main:
            weights.save(self.folder.combiner_state(index, stage.name), combiner.state_dict())
        for task in stage.tasks:
            model.head(task).pretrained = True
        still_true = {} if moves else {task: s for task, s in before.items() if task not in stage.tasks}
        at_best = next((e.scores for e in progress.history if e.step == progress.best_step), {})
        self.scores = {**still_true, **at_best}
        self.measure([*before, *stage.tasks], progress.best_step)
        result = stage_report.result(resolved, setup, progress, counts, before, self.scores, cache)
        result = replace(result, warnings=(*too_large, *result.warnings))
        division.undo()
        if fold:
            result = replace(result, warnings=(*result.warnings, *model.fold_strategy()))
            self.execution = PLAIN
            self.trunk_changed = self.trunk_changed or moves
        self.observers.emit("stage_finished", events.StageFinished(result=result))
        return result

    def _predict_memory(self, setup: StageSetup) -> tuple[str, ...]:
        """Predict the memory of a stage that may take much of what is free, and warn where it does not fit."""
        if self.machine.sharded or not may_take_much(setup.batcher, setup.plan):
            return ()
        held = Held.now(setup.model, self.machine)
        processes = self.machine.group.world_size
        memory = forecast(setup.batcher, setup.plan, rest=held.rest, processes=processes)
        self.predicted_memory = max(self.predicted_memory, peak_memory(self.machine.device), memory.total)
        warning = advice.warning(setup.batcher, setup.plan, memory, held.room, processes=processes)
        if not warning:
            return ()
        self.observers.emit("noticed", events.Noticed(stage=self.name, step=0, text=warning))
        return (warning,)

    def _checkpoints(self, index: int, before: Scores, links: Mapping[str, Path]) -> StageCheckpoints | None:
        """Prepare the checkpoints of stage `index`."""
        if self.scheduler is None:
            return None
        state = StageState(
            index=index,
            finished=list(self.done),
            trunk_changed=self.trunk_changed,
            scores_before=before,
            execution=self.execution.choices(),
        )
        return StageCheckpoints(scheduler=self.scheduler, stage=state, links=links)

    def _keep_base(self, index: int) -> dict[str, Path]:
        """Save the model as earlier stages left it, a file that all checkpoints of the stage contain."""
        if index == 0 or self.scheduler is None:
            return {}
        path = self.folder.base_weights(index, self.name)
        with self.machine.clock.part(SAVING):
            weights.save(path, weights.whole_state(self.material.model))
        return {"base": path}

    def measure(self, tasks: Iterable[str], step: int = 0, *, keep: Keep | None = None) -> None:
        """Fill in the dev scores of those of `tasks` that have none with the weights as they are."""
        unknown = [task for task in dict.fromkeys(tasks) if task not in self.scores]
        self.scores |= self.score("dev", unknown, step, keep=keep).scores

    def score(self, split: str, tasks: Iterable[str], step: int = 0, *, keep: Keep | None = None) -> Measured:
        """The scores of those of `tasks` that have rows in `split`, announced to the observers."""
        examples, seed = self.material.examples[split], self.material.resolved.recipe.seed
        scored = tuple(task for task in tasks if task in examples)
        if not scored:
            return Measured({}, {})
        return score_and_report(
            self.material.model,
            scored,
            examples,
            self.machine,
            self.observers,
            stage=self.name,
            split=split,
            step=step,
            seed=seed,
            plan=self.execution,
            keep=keep,
        )

    def evaluate_dev_again(
        self, unanswered: Sequence[str], untested: Sequence[str], keep: Keep | None
    ) -> dict[str, LabelScores]:
        """Evaluate dev rows, whose scores are known, in one more pass: those of `unanswered` for `keep`, and those of
        `untested` for the scores by label that are returned."""
        material, examples = self.material, self.material.examples["dev"]
        labeled = [t for t in untested if t in examples and type(material.model.head(t)).by_label is not Head.by_label]
        tasks = tuple(dict.fromkeys((*unanswered, *labeled)))
        if not tasks:
            return {}
        seed = material.resolved.recipe.seed
        found = measure(material.model, tasks, examples, self.machine, seed=seed, plan=self.execution, keep=keep)
        return {task: scores for task, scores in found.by_label.items() if task in labeled}

    def _decide(
        self, stage: Stage, combiner: Combiner, plan: Plan, an_epoch: int, recorded: ExecutionChoices | None
    ) -> ExecutionPlan:
        train, dev = self.material.examples["train"], self.material.examples["dev"]
        dev = {task: dev[task] for task in stage.tasks if task in dev}
        evaluated = evaluation_steps(stage, plan.steps, batch=plan.batch, an_epoch=an_epoch) if dev else ()
        return decide(
            stage,
            self.material.model,
            self.machine,
            combiner,
            {task: train[task] for task in stage.tasks},
            dev,
            passes={task: plan.passes(task) for task in stage.tasks},
            evaluations=len(evaluated),
            one_pass_matches=one_pass.matches,
            recorded=recorded,
            seed=self.material.resolved.recipe.seed,
        )

    def _head_factors(self, stage: Stage) -> dict[str, float]:
        """Return the factors on the learning rates of fresh heads; none where the stage states the rate."""
        if stage.head_learning_rate is not None:
            return {}
        train, seed = self.material.examples["train"], self.material.resolved.recipe.seed
        return rate_factors(self.material.model, stage.tasks, train, self.machine, seed=seed)

    def _setup(
        self,
        index: int,
        resolved: ResolvedStage,
        strategy: Strategy,
        combiner: Combiner,
        plan: Plan,
        an_epoch: int,
    ) -> StageSetup:
        stage, material, model = resolved.stage, self.material, self.material.model
        fresh = any(not model.head(task).pretrained and model.head_parameters([task]) for task in stage.tasks)
        trunk_trains = bool(model.trunk_parameters())
        head_steps = head_steps_of(stage, plan.steps, fresh=fresh, trunk_trains=trunk_trains)
        factors = self._head_factors(stage)
        rates = learning_rates(stage, strategy.learning_rate, factors, trunk_trains=trunk_trains)
        adamw, schedule = make_optimizer(model, combiner, stage, rates, steps=plan.steps, head_steps=head_steps)
        return StageSetup(
            stage=stage,
            index=index,
            seed=material.resolved.recipe.seed,
            model=model,
            execution=self.execution,
            combiner=combiner,
            plan=plan,
            units_per_epoch=an_epoch,
            head_steps=head_steps,
            learning_rates=rates,
            optimizer=adamw,
            schedule=schedule,
            train=material.examples["train"],
            streams=streams_of(stage, material, index),
            dev=material.examples["dev"],
            machine=self.machine,
            selection=selection_of(stage, material, self.machine),
            watch=watch_of(model, stage, rates, strategy.learning_rate, steps=plan.steps),
            adaptive_mixture=AdaptiveMixture(stage.sampling, stage.tasks),
            observers=self.observers,
            best_file=self.folder.best_weights(index, stage.name),
        )
