"""Write the answers of a run when its tasks are evaluated with the final weights."""

from __future__ import annotations

from functools import partial

from hft_core.plugins.entries import one_line
from hft_core.results import CalibrationScores
from hft_core.runs import answer_statistics, answers
from hft_core.runs.assembly import BuiltRun
from hft_core.runtime.run_folder import RunFolder
from hft_core.training.evaluation import Keep, TaskEvaluation


class AnswerFiles:
    """The files in `predictions/` of a run that is being finished; none without a folder, or where the recipe says
    so."""

    def __init__(self, built: BuiltRun, folder: RunFolder | None, *, writes: bool) -> None:
        """`writes`: this process is the one that writes files."""
        self._built, self._writes = built, writes
        self._folder = folder if built.resolved.recipe.output.predictions else None
        self._seen: set[tuple[str, str]] = set()
        self.problems: list[str] = []
        """What could not be kept, a line each."""
        self.calibration: dict[str, dict[str, CalibrationScores]] = {}
        """By split and task, of the answers that were kept."""

    def of(self, split: str) -> Keep | None:
        """Return what takes the evaluations of a split; None where nothing is kept."""
        return None if self._folder is None else partial(self._keep, split)

    def missing(self, split: str) -> list[str]:
        """Return the tasks with rows in a split whose evaluation was not seen yet; none where nothing is kept."""
        tasks = [] if self._folder is None else self._built.examples[split]
        return [task for task in tasks if (split, task) not in self._seen]

    def _keep(self, split: str, task: str, evaluation: TaskEvaluation) -> None:
        self._seen.add((split, task))
        if self._folder is None or not self._writes:
            return
        head, rows = self._built.heads[task], self._built.rows[task][split]
        try:
            table = answers.table_of(head, rows, self._built.examples[split][task], evaluation)
        except Exception as error:  # a plugin's `answer` may raise anything, and the run is trained
            self.problems.append(
                f"task '{task}' ({split}): its answers are not in {self._folder.predictions.name}/: {one_line(error)}"
            )
            return
        answers.write(self._folder.predictions, split, task, table)
        measured = None if table is None else answer_statistics.calibration(answers.of_table(table))
        if measured is not None:
            self.calibration.setdefault(split, {})[task] = measured.scores
