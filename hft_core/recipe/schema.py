"""Define the recipe as pydantic models, without importing torch or any plugin.

A recipe is a backbone, tasks, and a list of stages; a stage trains a set of tasks with one strategy and one combiner.
`hft_core.recipe.recipe_file` reads recipes from YAML, `hft_core.recipe.resolve` checks them against the plugins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from hft_core.errors import did_you_mean
from hft_core.recipe import names, streams
from hft_core.recipe.fields import KeyPathError, Model, Name, Names, PluginChoice, refuse_passwords
from hft_core.recipe.stage import Sampling, Stage

__all__ = [
    "BackboneChoice",
    "Data",
    "Output",
    "PluginChoice",
    "Queries",
    "Recipe",
    "Sampling",
    "Split",
    "Stage",
    "Task",
]

TRUNK_FOLDER = "trunk"
"""Name of the shared trunk's folder in a finished run, beside those of the tasks."""

MOST = 10_000
"""Tasks and stages of a recipe."""
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
REPLAY_SHARE = 0.1
"""Share of a stage's rows that `replay: true` takes."""


class BackboneChoice(PluginChoice):
    """The trunk: `{type: hf-encoder, model: PATH}`; `type` is optional if exactly one installed backbone opens it."""

    type: str = ""
    """The backbone plugin; by default, the installed one that can open the model."""

    @classmethod
    def expanded(cls, value: Any) -> Any:
        return {"type": "", "options": {"model": value}} if isinstance(value, str) else super().expanded(value)


class Split(Model):
    """How `files` is split: seeded, and stratified by label if there is one."""

    dev: Share = 0.1
    """Share of the rows for dev."""
    test: Share = 0.1
    """Share of the rows for test."""
    by: str | None = None
    """A column; rows with equal values in it stay in the same split, to avoid leakage."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Seed of the split; by default, the recipe's. Given, runs with other seeds have the same dev and test rows."""

    @model_validator(mode="after")
    def _train_share_is_positive(self) -> Split:
        if self.dev + self.test >= 1:
            raise ValueError("dev and test together must leave rows for training (their sum must be below 1)")
        return self


SHUFFLE_BUFFER = 10_000
"""Rows of a stream that are shuffled together."""
DATA_FILES = ("files", "train", "dev", "test")
"""The keys of `Data` that hold lists of paths."""
Query = Annotated[str, Field(min_length=1, max_length=20_000)]


class Queries(Model):
    """SELECT statements whose results are rows: one to be split, or one for each split. Each needs an ORDER BY."""

    rows: Query | None = None
    """Rows to split into train, dev and test."""
    train: Query | None = None
    """Training rows, if the splits are separate statements."""
    dev: Query | None = None
    """Rows for evaluation during training."""
    test: Query | None = None
    """Rows for evaluation at the end."""

    @classmethod
    def expanded(cls, value: Any) -> Any:
        return {"rows": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _rows_or_splits(self) -> Queries:
        if (self.rows is None) == (self.train is None) or (self.rows is not None and (self.dev or self.test)):
            raise ValueError("give either one statement (to be split), or 'train' with 'dev' and 'test' beside it")
        return self


class Data(Model):
    """Where a task's rows come from. Paths may have wildcards; those in a recipe file are relative to that file.

    A data set of the library `datasets` is named by its folder, `FOLDER:SPLIT`, or
    `hf://OWNER/NAME[@REVISION][:[CONFIG/]SPLIT]` on the hub.
    """

    files: Names = ()
    """Files to split into train, dev and test."""
    train: Names = ()
    """Training files, if the splits are separate files."""
    dev: Names = ()
    """Files for evaluation during training."""
    test: Names = ()
    """Files for evaluation at the end."""
    sql: Queries | None = None
    """In place of files: a SELECT statement, whose rows are split, or one each for `train`, `dev` and `test`."""
    database: str | None = None
    """A file of DuckDB or SQLite, for `sql`."""
    format: (
        Literal[
            "csv",
            "tsv",
            "json",
            "jsonl",
            "parquet",
            "xlsx",
            "txt",
            "folder",
            "dataset",
            "conll",
            "label-studio",
            "doccano",
            "prodigy",
            "argilla",
        ]
        | None
    ) = None
    """By default, from the path; `folder`: one subfolder of text files per class; `dataset`: a folder that
    `save_to_disk` of `datasets` wrote, or `hf://OWNER/NAME`."""
    row: Literal["line", "file"] = "line"
    """For `txt`: whether a line or a file is a row."""
    quoting: Literal["minimal", "none"] = "minimal"
    """For `csv` and `tsv`: whether double quotes enclose cells, or are text as any other character (`none`)."""
    sheet: str | None = None
    """For `xlsx`: the sheet to read; needed where several have cells."""
    split: Split = Split()
    """How `files` is split."""
    max_rows: Annotated[int, Field(gt=0)] | None = None
    """Train on at most this many rows, sampled with the recipe's seed."""
    stream: bool = False
    """Read `train` while training, not before it, for more text than memory or disk holds (language modelling)."""
    shuffle_buffer: Annotated[int, Field(gt=0)] = SHUFFLE_BUFFER
    """With `stream`: consecutive rows that are shuffled together."""

    @classmethod
    def expanded(cls, value: Any) -> Any:
        value = {"files": value} if isinstance(value, str | list | tuple) else value
        if not isinstance(value, dict):
            return value
        return {k: [v] if k in DATA_FILES and isinstance(v, str) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _files_or_splits(self) -> Data:
        if (self.sql is None) != (self.database is None):
            raise ValueError("'sql' and 'database' go together")
        if self.sql is not None:
            if self.files or self.train or self.dev or self.test or self.format or self.sheet:
                raise ValueError("'sql' is in place of files: expected neither paths nor their 'format' and 'sheet'")
            return self
        if bool(self.files) == bool(self.train):
            raise ValueError("give either 'files' (to be split) or 'train' (with 'dev' and 'test' beside it)")
        if self.files and (self.dev or self.test):
            raise ValueError("'dev' and 'test' go with 'train'; 'files' is split by 'split'")
        if any(not path.strip() for key in DATA_FILES for path in getattr(self, key)):
            raise ValueError("a path is empty")
        return self

    @model_validator(mode="after")
    def _stream_is_of_train(self) -> Data:
        if self.stream and not self.train:
            raise ValueError("'stream' reads files in 'train', with others in 'dev' and 'test': it is not split")
        for key, why in (("split", "is not split"), ("max_rows", "is not sampled: give 'max_steps' to the stage")):
            if self.stream and key in self.model_fields_set and getattr(self, key) not in (None, Split()):
                raise ValueError(f"'{key}' and 'stream' cannot be combined: a stream {why}")
        if not self.stream and self.shuffle_buffer != SHUFFLE_BUFFER:
            raise ValueError("'shuffle_buffer' goes with 'stream': other rows are shuffled as a whole")
        return self

    @property
    def is_divided(self) -> bool:
        """Whether `split` divides the rows."""
        return bool(self.files) or (self.sql is not None and self.sql.rows is not None)


class Task(Model):
    """A head and its data.

    Other keys are options of the head: `{head: classification, data: …, label: topic}` is
    `{head: {type: classification, label: topic}, data: …}`.
    """

    head: PluginChoice
    """The head plugin."""
    data: Data | None = None
    """The data, or only its path; empty only if the host passes rows in Python."""
    max_length: Annotated[int, Field(ge=4)] | None = None
    """Maximum tokens of a text; longer ones are truncated (some heads chunk them). By default, the backbone's limit."""
    replay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """For a self-supervised task: its share of the rows of every stage (`true`: 0.1), against forgetting. No effect in
    a stage that trains only such tasks."""

    @classmethod
    def expanded(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "head" not in value:
            return value
        if isinstance(value.get("replay"), bool):
            value = {**value, "replay": REPLAY_SHARE if value["replay"] else 0.0}
        head = PluginChoice.expanded(value["head"])
        inline = {k: v for k, v in value.items() if k not in cls.model_fields}
        options = head.get("options", {}) if isinstance(head, dict) else None
        if not inline or not isinstance(options, dict):
            return value
        for key in inline:
            if key in options:
                raise KeyPathError((key,), f"the head option '{key}' is given twice, in the task and in its 'head'")
        own = {k: v for k, v in value.items() if k in cls.model_fields}
        return {**own, "head": {**head, "options": {**options, **inline}}}


class Output(Model):
    """What is written, and how often."""

    logging_steps: Annotated[int, Field(gt=0)] = 10
    """Steps between lines of `log.jsonl`."""
    save_strategy: Literal["auto", "steps", "epoch", "no"] = "auto"
    """When to save checkpoints for resuming: `auto` saves every two minutes, less often if saving is slow."""
    save_steps: Annotated[int, Field(gt=0)] | None = None
    """Steps between checkpoints, for `save_strategy: steps`."""
    save_total_limit: Annotated[int, Field(gt=0)] = 2
    """Number of checkpoints to keep; a finished run keeps none."""
    predictions: bool = True
    """Keep the answer to every dev and test row, and its loss, in `predictions/`."""
    track: Annotated[tuple[PluginChoice, ...], Field(strict=False)] = ()
    """Trackers that record the run: `[tensorboard]`, or with options `[{type: wandb, project: news}]`."""

    @classmethod
    def expanded(cls, value: Any) -> Any:
        track = value.get("track") if isinstance(value, dict) else None
        return {**value, "track": [track]} if isinstance(track, str) or _is_choice(track) else value

    @model_validator(mode="after")
    def _steps_are_given(self) -> Output:
        if self.save_strategy == "steps" and self.save_steps is None:
            raise ValueError("save_strategy 'steps' needs 'save_steps'")
        return self


def _is_choice(value: Any) -> bool:
    return isinstance(value, dict) and "type" in value


class Recipe(Model):
    """A backbone, tasks, and a list of stages."""

    backbone: BackboneChoice
    """The pre-trained trunk."""
    tasks: Annotated[dict[Name, Task], Field(min_length=1)]
    """The tasks by name."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, strict=False)]
    """The stages in order; a single stage needs no list."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the splits, sampling, weight initialization, masking and dropout."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: the faster one on this machine, as measured."""
    output: Output = Output()
    """What is written."""

    _folder: Path = PrivateAttr(default_factory=Path.cwd)

    @property
    def folder(self) -> Path:
        """The folder that relative paths in plugins' options start from: that of the file the recipe was read from."""
        return self._folder

    @classmethod
    def expanded(cls, value: Any) -> Any:
        refuse_passwords(value)
        if not isinstance(value, dict):
            return value
        tasks = value.get("tasks")
        for key, part in (("tasks", tasks), ("stages", value.get("stages"))):
            if isinstance(part, dict | list | tuple) and len(part) > MOST:
                raise KeyPathError((key,), f"{len(part):,} {key}, expected at most {MOST:,}")
        if isinstance(tasks, dict) and len({names.normalized(str(name)) for name in tasks}) < len(tasks):
            raise KeyPathError(("tasks",), "two tasks have one name, written in two of Unicode's forms")
        if "stages" in value:  # they name tasks, also in options of their plugins
            stages = names.normalized_data(value["stages"])
            value = {**value, "stages": [stages] if isinstance(stages, dict) else stages}
        return value

    @model_validator(mode="after")
    def _stages_fit_tasks(self) -> Recipe:
        replayed = [name for name, task in self.tasks.items() if task.replay]
        stages = tuple(
            stage.model_copy(update={"name": stage.name or f"stage-{i}", "tasks": self._tasks_of(stage, replayed)})
            for i, stage in enumerate(self.stages, start=1)
        )
        for name in self.tasks:
            if names.folded(name) == TRUNK_FOLDER:
                raise KeyPathError(("tasks", name), "this name is kept for the trunk; call the task otherwise")
        _check_distinct("tasks", self.tasks)
        seen: set[str] = set()
        for i, stage in enumerate(stages):
            if stage.name in seen:
                raise KeyPathError(("stages", i, "name"), f"two stages are called '{stage.name}'")
            seen.add(stage.name)
            self._check_task_names(i, stage)
        _check_distinct("stages", seen)
        trained = {name for stage in stages for name in stage.tasks}
        for name in self.tasks:
            if name not in trained:
                raise KeyPathError(
                    ("tasks", name), f"no stage trains the task '{name}'; add it to a stage or remove it"
                )
        object.__setattr__(self, "stages", stages)  # the model is immutable from here on
        return self

    def _tasks_of(self, stage: Stage, replayed: Sequence[str]) -> tuple[str, ...]:
        """Return the stage's own tasks, or all, and those of `replayed` with them."""
        if not stage.tasks:
            return tuple(self.tasks)
        replayed = [name for name in replayed if name not in stage.tasks]
        only_replay = all(name in self.tasks and self.tasks[name].replay for name in stage.tasks)
        return stage.tasks if only_replay else (*stage.tasks, *replayed)

    def replay_in(self, stage: Stage) -> dict[str, float]:
        """Return the share of each task that is replayed in the stage."""
        shares = {name: self.tasks[name].replay for name in stage.tasks if self.tasks[name].replay}
        return shares if len(shares) < len(stage.tasks) else {}

    def streamed(self, stage: Stage) -> tuple[str, ...]:
        """Return the stage's tasks whose training rows are a stream."""
        return tuple(name for name in stage.tasks if (data := self.tasks[name].data) is not None and data.stream)

    def _check_task_names(self, index: int, stage: Stage) -> None:
        """Raise `KeyPathError` for an unknown task name in a stage."""
        for i, name in enumerate(stage.tasks):
            _check_known(name, self.tasks, "task", ("stages", index, "tasks", i))
        own = set(stage.tasks)
        for key, named in stage.sampling.by_task.items():
            for name in named:
                _check_known(name, own, "task of this stage", ("stages", index, "sampling", key, name))
        self._check_sampling(("stages", index, "sampling"), stage)
        streams.check(index, stage, streamed=self.streamed(stage), replayed=self.replay_in(stage))
        if stage.metric_for_best_model is not None:
            path = ("stages", index, "metric_for_best_model")
            task, dot, metric = stage.metric_for_best_model.partition(".")
            if not (dot and metric):
                raise KeyPathError(path, f"expected TASK.METRIC, not '{stage.metric_for_best_model}'")
            _check_known(task, self.tasks, "task", path)

    def _check_sampling(self, path: tuple[str | int, ...], stage: Stage) -> None:
        """Raise `KeyPathError` if the stage's sampling contradicts its other keys."""
        sampling, replay = stage.sampling, self.replay_in(stage)
        missing = [name for name in stage.tasks if sampling.batch_size and name not in sampling.batch_size]
        if missing:
            raise KeyPathError((*path, "batch_size"), f"the task '{missing[0]}' of the stage is missing")
        if replay and (sampling.batch_size or sampling.round_robin):
            raise KeyPathError(path, f"the task '{next(iter(replay))}' has a 'replay' share, which needs shares")
        if sum(replay.values()) >= 1:
            raise KeyPathError(path[:2], "the replay shares of its tasks leave no rows for the others")
        if (sampling.patience or sampling.adapt) and stage.eval_strategy == "no":
            key = "patience" if sampling.patience else "adapt"
            raise KeyPathError((*path, key), "this needs evaluations (eval_strategy 'epoch' or 'steps')")


def _check_known(name: str, known: Iterable[str], kind: str, path: tuple[str | int, ...]) -> None:
    if name not in known:
        raise KeyPathError(path, f"no {kind} is called '{name}'.{did_you_mean(name, known)}")


def _check_distinct(key: str, given: Iterable[str]) -> None:
    """Raise `KeyPathError` for two names of the recipe's `key` that a file system may take for one."""
    if pair := names.collision(given):
        raise KeyPathError(
            (key,), f"the {key} '{pair[0]}' and '{pair[1]}' are one file where case does not count; rename one"
        )
