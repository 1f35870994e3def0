"""The Optuna study of a sweep: kept in a journal in the sweep's folder, which any number of processes may share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

JOURNAL, LOCK = "trials.journal", ".trials.lock"
STARTUP_TRIALS = 5
"""Finished trials before the median prunes."""


class _Lock:
    """A lock of the journal that the system releases when its process is killed; Optuna's own ones stay behind."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path, thread_local=False)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def open_study(folder: Path, pruner: str, costs: int = 0) -> optuna.Study:
    """Open the study in `folder`, or begin it; higher values are better, and lower ones of so many costs behind it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    lock: Any = _Lock(folder / LOCK)  # the class that Optuna annotates is private
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL), lock_obj=lock))
    directions = [StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * costs]
    with _quiet():
        return optuna.create_study(
            storage=storage, pruner=_pruner(pruner), study_name="sweep", directions=directions, load_if_exists=True
        )


def _pruner(name: str) -> optuna.pruners.BasePruner:
    """`name`: one of `sweep_plan.PRUNERS`."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS)
    if name == "wilcoxon":
        return optuna.pruners.WilcoxonPruner()
    return optuna.pruners.HyperbandPruner() if name == "hyperband" else optuna.pruners.NopPruner()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna's warnings that parts of it are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def asked(study: optuna.Study, seed: int) -> optuna.Trial:
    """Begin a trial. What it tries is a function of the seed, its number and the trials before, whoever asks."""
    trial = study.ask()
    drawn = int(np.random.SeedSequence([seed, trial.number]).generate_state(1)[0])
    with _quiet():
        study.sampler = optuna.samplers.TPESampler(seed=drawn, multivariate=True, group=True)
    return trial


def trials_of(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    """Return the trials of a study in the order of their numbers, all or those in some states."""
    return list(study.get_trials(deepcopy=False, states=states or None))
