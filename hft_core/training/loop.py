"""Train one stage, from its first step to its best weights.

    for step in plan:
        slices = plan(seed, stage, step)            which examples of which tasks
        batches = batcher(slices)                   padded, rows of similar length together, tasks mixed
        gradients.fill(model, combiner, batches)    each loss over the step's targets, combined
        if all finite: clip, optimizer.step()
        schedule.step()
        evaluate, keep the best, stop early         on the dev splits

`hft_core.training.step` is the body, `hft_core.training.phases` decides what follows a step.
"""

from __future__ import annotations

from hft_core import events
from hft_core.acceleration import fast_paths
from hft_core.acceleration.activation_cache import ActivationCache
from hft_core.device.clock import SAVING
from hft_core.errors import DataError, RunError
from hft_core.results import Evaluation
from hft_core.runtime import random_state, signals
from hft_core.training import snapshot
from hft_core.training.checkpoint import Checkpoint
from hft_core.training.checkpointing import StageCheckpoints
from hft_core.training.combiner_feedback import CombinerFeedback
from hft_core.training.evaluation import score_and_report
from hft_core.training.phases import Phase, next_phase
from hft_core.training.progress import Progress
from hft_core.training.selection import BestTracker, main_scores
from hft_core.training.stage_setup import RandomUse, StageSetup
from hft_core.training.step import NotFiniteError, TrainingStep

CONSISTENCY_CHECK_STEPS = 100
"""Steps between two checks that all processes have the same weights."""


class StageLoop:
    """Trains one stage."""

    def __init__(self, setup: StageSetup, checkpoints: StageCheckpoints | None = None) -> None:
        """`checkpoints`: saves the loop's state; None in other processes than the first, and to save none."""
        self.setup, self.checkpoints = setup, checkpoints
        self.feedback = CombinerFeedback(
            model=setup.model,
            execution=setup.execution,
            combiner=setup.combiner,
            dev=setup.dev,
            machine=setup.machine,
            seed=setup.seed,
        )
        self.step = TrainingStep(setup, self.feedback)
        self.best = BestTracker(
            stage=setup.stage,
            file=setup.best_file,
            trained_state=setup.trained_state,
            machine=setup.machine,
            observers=setup.observers,
        )
        self.trunk = setup.model.trunk_parameters()
        # By the plan as it is before an evaluation changes it:
        self.planned_steps, self.evaluation_steps = setup.plan.steps, setup.evaluation_steps

    def run(self, cache: ActivationCache, resume_from: Checkpoint | None = None) -> Progress:
        """Train, from the beginning or from `resume_from`; the model ends with the best weights.

        Raises `RunError` when the losses stay non-finite, the disk is full or a row of a stream cannot be used, and
        `Interrupted`, after saving the state, when the process was asked to end.
        """
        setup = self.setup
        setup.model.strategy.begin(setup.model.backbone, setup.plan.steps - setup.head_steps)
        progress = Progress() if resume_from is None else snapshot.restore(setup, resume_from)
        setup.machine.clock.add(progress.seconds)
        self._set_trunk_trainable(progress.step >= setup.head_steps)
        try:
            progress.work.flops += cache.open()
            with fast_paths.compiled(setup.model, setup.execution):
                self._train(progress)
        except signals.Interrupted:
            self._save_checkpoint(progress)
            raise
        except NotFiniteError as error:
            kept = self._save_checkpoint(progress)
            then = "; the weights before these steps are kept in a checkpoint" if kept else ""
            raise RunError(f"{error}{then}") from None
        except DataError as error:  # in a stream, before the step has changed anything
            alone = setup.machine.group.world_size == 1  # others may be waiting for this process
            kept = alone and self._save_checkpoint(progress)
            then = "; once the data is put right, resume with --accept-changed: no step is lost" if kept else ""
            raise RunError(f"stage '{setup.stage.name}', step {progress.step + 1}: {error}{then}") from None
        self._set_trunk_trainable(True)
        self.best.finish(progress)
        return progress

    def _train(self, progress: Progress) -> None:
        """Go through the phases that are left. Fast kernels are for training steps: dev is scored as a finished run
        computes, so that scores, best weights and early stopping are those of the model that is saved."""
        while (phase := self._next_phase(progress)) is not Phase.END:
            if phase is Phase.MEASURE_DEV_LOSSES:
                self.feedback.measure_dev_losses(progress.step)
                progress.dev_losses_step = progress.step
            elif phase is Phase.EVALUATE:
                self._evaluate(progress)
            else:
                with fast_paths.patched(self.setup.model, self.setup.execution):
                    while self._next_phase(progress) is phase:
                        self._train_step(progress)

    def _next_phase(self, progress: Progress) -> Phase:
        return next_phase(
            progress,
            steps=self.setup.plan.steps,
            evaluation_steps=self.evaluation_steps,
            dev_losses_every=self.setup.combiner.dev_every,
        )

    def _train_step(self, progress: Progress) -> None:
        """Run a step, then check and save what is due after it."""
        setup = self.setup
        setup.machine.check_interruption()
        if progress.step == setup.head_steps > 0:
            self._set_trunk_trainable(True)
        self.step.run(progress)
        if progress.step % CONSISTENCY_CHECK_STEPS == 0:
            setup.machine.group.check_equal(list(setup.trained_state().values()), "the weights")
            setup.machine.group.check_equal(list(setup.model.strategy.state().values()), "the strategy's state")
        epoch_ended = setup.ends_epoch(progress.step)
        is_due = self.checkpoints is not None and self.checkpoints.is_due(progress.step, epoch_ended=epoch_ended)
        if setup.machine.agree(is_due):
            self._save_checkpoint(progress)

    def _evaluate(self, progress: Progress) -> None:
        """Score the stage's tasks, keep the weights if they are the best, adapt the mixture, maybe stop early."""
        setup, step = self.setup, progress.step
        random_state.seed(setup.random_seed(step, RandomUse.EVALUATION, setup.machine.group.rank))
        measured = score_and_report(
            setup.model,
            [task for task in setup.stage.tasks if task in setup.dev],
            setup.dev,
            setup.machine,
            setup.observers,
            stage=setup.stage.name,
            split="dev",
            step=step,
            seed=setup.seed,
            plan=setup.execution,
        )
        scores = measured.scores
        for text in setup.watch.see_labels(progress, measured.by_label):
            setup.observers.emit("noticed", events.Noticed(stage=setup.stage.name, step=step, text=text))
        score = setup.selection(scores)
        progress.history.append(Evaluation(step=step, epoch=setup.epoch(step), scores=scores, score=score))
        if score is not None:
            self.best.update(progress, score, setup.selection.loss(scores), setup.selection.noise(scores))
        losses = {task: values["loss"] for task, values in scores.items() if "loss" in values}
        factors = setup.adaptive_mixture.factors(losses, main_scores(scores, setup.selection.heads))
        if factors is not None and step < setup.plan.steps:
            setup.plan.change(step, factors)
        if step == setup.plan.steps < self.planned_steps:  # no task is left in the mixture
            progress.stopped_early = True

    def _save_checkpoint(self, progress: Progress) -> bool:
        """Save everything from which the stage can be resumed. Returns whether anything is kept."""
        setup = self.setup
        if not setup.machine.agree(self.checkpoints is not None):
            return False
        with setup.machine.clock.part(SAVING):
            progress.seconds = setup.machine.clock.seconds()
            taken = snapshot.take(setup, progress)
            best = {"best": setup.best_file} if setup.best_file.exists() else {}
            if self.checkpoints is not None:
                self.checkpoints.save(setup.machine.group.world_size, taken, best)
        return self.checkpoints is not None and self.checkpoints.keeps

    def _set_trunk_trainable(self, trainable: bool) -> None:
        """Freeze the trunk while fresh heads warm up, or train it."""
        for parameter in self.trunk:
            parameter.requires_grad_(trainable)
        self.setup.model.train_under(self.setup.execution)
