"""Run an open run stage by stage, and write its results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, replace
from importlib import metadata

from hft_core import events
from hft_core.device import failures
from hft_core.device.machine import Machine
from hft_core.device.peak_memory import peak_memory
from hft_core.errors import RunError, UsageError
from hft_core.model.execution_plan import ExecutionPlan
from hft_core.model.hybrid import HybridModel
from hft_core.recipe.resolve import Resolved
from hft_core.results import RunResult, Scores, StageResult
from hft_core.runs import floors, model_folders
from hft_core.runs.answer_files import AnswerFiles
from hft_core.runs.assembly import max_lengths
from hft_core.runs.decision_fitting import fit_decisions
from hft_core.runs.model_card import card
from hft_core.runs.stages import Stages
from hft_core.runtime.files import follow_umask
from hft_core.runtime.run_folder import RunFolder
from hft_core.runtime.run_lock import RunLock
from hft_core.runtime.system_errors import say_how_to_resume

VERSIONS_OF = ("hft-core", "torch", "transformers", "peft", "accelerate", "torchjd", "datasets", "safetensors")


class Session:
    """A run that is open: its stages are run one after another, and its host may look at the model in between.

    `hft_core.session` opens one. It ends with `finish`, with `close`, at the end of a `with`, or with the first error.
    """

    def __init__(
        self,
        stages: Stages,
        lock: RunLock,
        folder: RunFolder | None,
        *,
        started: float,
        problems: Sequence[str],
        resources: ExitStack,
    ) -> None:
        self._stages, self._lock, self._folder = stages, lock, folder
        self._started, self._problems, self._resources = started, problems, resources
        self._over = False
        self.machine: Machine | None = stages.machine
        """Where it computes."""
        self.plan: ExecutionPlan | None = None
        """How it predicts several tasks at once, with the model as it is now."""
        self.result: RunResult | None = None
        """What `finish` returned."""

    @property
    def resolved(self) -> Resolved:
        """The recipe with all defaults filled in, and its plugins."""
        return self._stages.material.resolved

    @property
    def model(self) -> HybridModel:
        """The model as the stages so far have left it; `model.trunk` is the module of transformers."""
        return self._stages.material.model

    @property
    def left(self) -> tuple[str, ...]:
        """Names of the stages still to be run, in order."""
        names = tuple(each.stage.name for each in self.resolved.stages)
        return names[len(self._stages.done) :]

    @property
    def done(self) -> tuple[StageResult, ...]:
        """The results of the stages that have been run, by an earlier session where the run was resumed."""
        return tuple(self._stages.done)

    def run_stage(self) -> StageResult:
        """Run the next stage. Raises `UsageError` when none is left or the session is over, and what `run` raises."""
        if not self.left:
            raise UsageError("no stage is left to be run; 'finish' ends the run")
        with self._computing():
            return self._stages.next()

    def finish(self) -> RunResult:
        """Measure the test splits and, with a folder, write everything that a run leaves behind.

        Raises `UsageError` while stages are left, or when the session is over.
        """
        if self.left:
            raise UsageError(f"stage '{self.left[0]}' is still to be run: a run is finished after its last stage")
        with self._computing():
            writes = self._folder is not None and self._stages.machine.group.is_main
            if self._folder is not None and writes:
                self._folder.remove_partial_model()
            result = _result(self._stages, self.done, self._folder, self._problems)
            base = _save_model(self._stages, self._folder) if self._folder is not None and writes else ""
            result = replace(result, seconds=time.perf_counter() - self._started)
            if self._folder is not None and writes:
                self._folder.write_results(card(result, self._stages.material, adapter_base=base), result.to_json())
            self.result = result
            self._stages.observers.emit("run_finished", events.RunFinished(result=result))
        self.close()
        return result

    def close(self) -> None:
        """End the session. A run that is not finished stays as it is: another session may resume it."""
        self._end(RunError("the session was closed before its run was finished"))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
        else:
            self._end(error)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Hold the run's lock, unless the session is over; an error inside ends the session."""
        if self._over:
            raise UsageError("the session is over: open another")
        with self._lock:
            try:
                with failures.propagate_failure(), self._told_how_to_go_on():
                    yield
            except BaseException as error:
                self._end(error)
                raise

    def _told_how_to_go_on(self) -> AbstractContextManager[None]:
        path, recipe = (None, None) if self._folder is None else (self._folder.path, self._folder.recipe)
        return say_how_to_resume(path, recipe)

    def _end(self, error: BaseException) -> None:
        """Release lock and folder; a run without a result failed with `error`."""
        if self._over:
            return
        self._over = True
        with self._resources:
            if self.result is None:
                self._stages.observers.emit("run_failed", events.RunFailed(stage=self._stages.name, error=error))


def _result(
    stages: Stages, done: Sequence[StageResult], folder: RunFolder | None, problems: Sequence[str]
) -> RunResult:
    """Score all tasks on the test split, and collect the stages' results; the seconds are not known yet."""
    built, machine = stages.material, stages.machine
    kept = AnswerFiles(built, folder, writes=machine.group.is_main)
    unfitted = fit_decisions(stages, kept.of("dev"))
    stages.measure(built.heads, keep=kept.of("dev"))
    test = stages.score("test", tuple(built.heads), done[-1].best_step, keep=kept.of("test"))
    untested = [task for task in built.heads if task not in test.scores]
    of_dev = stages.evaluate_dev_again(kept.missing("dev"), untested, kept.of("dev"))
    by_label = {"test": test.by_label, "dev": of_dev}
    final, found = {"dev": stages.scores, "test": test.scores}, floors.floors(built.heads, built.examples)
    warnings = [f"stage '{stage.name}': {warning}" for stage in done for warning in stage.warnings]
    training = {task: facts for stage in done for task, facts in stage.training.items()}
    guessing = floors.no_better_than_guessing(built.heads, final, found, training)
    return RunResult(
        folder=None if folder is None else folder.path,
        final=final,
        main_metrics={task: head.main_metric for task, head in built.heads.items()},
        base_lm_loss={
            task: {"before": first["loss"], "after": stages.scores[task]["loss"]}
            for task, first in _first_known(done).items()
            if not built.heads[task].supervised and task in stages.scores
        },
        stages=tuple(done),
        seconds=0.0,
        device=str(machine.device),
        precision=machine.precision.name,
        precision_reason=machine.precision.reason,
        versions={name: metadata.version(name) for name in VERSIONS_OF if _installed(name)},
        plugins=tuple(built.resolved.providers()),
        warnings=(*warnings, *guessing, *unfitted, *kept.problems, *problems),
        by_label={split: found_labels for split, found_labels in by_label.items() if found_labels},
        floors=found,
        pins=stages.pins,
        peak_memory=peak_memory(machine.device),
        predicted_memory=stages.predicted_memory,
        greater_is_better={task: head.greater_is_better for task, head in built.heads.items()},
        calibration=kept.calibration,
        decisions={task: asdict(head.decision()) for task, head in built.heads.items() if head.fits_decision},
    )


def _first_known(done: Sequence[StageResult]) -> Scores:
    """Return each task's scores before the first stage whose start it could be evaluated at."""
    return {task: scores for stage in reversed(done) for task, scores in stage.before.items()}


def _save_model(stages: Stages, folder: RunFolder) -> str:
    """Save the model; `results.json` comes after it and marks it as complete. Returns the base of its adapters."""
    built = stages.material
    limits = max_lengths(built.resolved, built.heads, built.model)
    base = model_folders.save_model(folder.model, built.model, trunk_changed=stages.trunk_changed, max_lengths=limits)
    follow_umask(folder.model)
    return base


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
