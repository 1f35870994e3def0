"""The recipe: what is learned, from what, in which stages. Pydantic models only; no torch, no plugin is imported.

**Everything that is learned is a task; a stage is a set of tasks under one strategy and one combiner; a recipe is a
list of stages.** `hft_core.recipe_file` reads recipes from YAML, `hft_core.resolve` checks them against the plugins.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_serializer, model_validator

from hft_core.errors import did_you_mean
from hft_core.specs import NAME

DEFAULT_EPOCHS = 3.0
"""The budget of a stage that gives none."""

TRUNK_FOLDER = "trunk"
"""Folder of the shared trunk beside those of the tasks in a finished run."""

Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Names = Annotated[tuple[str, ...], Field(strict=False)]  # lists are welcome
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
SAMPLINGS = {"proportional": {"temperature": 1.0}, "uniform": {"temperature": math.inf}}


class KeyPathError(ValueError):
    """What is wrong with a key below the model that finds out; `path` leads to the key from that model."""

    def __init__(self, path: tuple[str | int, ...], problem: str) -> None:
        super().__init__(problem)
        self.path = path


class Model(BaseModel):
    """Base of all recipe parts: unknown keys are errors, values keep their kind, nothing changes later."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        return cls.expanded(value)

    @classmethod
    def expanded(cls, value: Any) -> Any:
        """`value` with the model's short forms written out; anything else comes back as it is.

        Raises `ValueError` when a short form contradicts itself.
        """
        return value

    def __hash__(self) -> int:
        return hash((type(self), tuple(_hashable(value) for value in self.__dict__.values())))


class PluginChoice(Model):
    """A plugin by name, with its options: `lora` or `{type: lora, r: 16}`."""

    type: str
    """The plugin's name, or `distribution:name` where two distributions offer it."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The plugin's own options; they may also be written beside `type`."""

    @classmethod
    def expanded(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"type": value, "options": {}}
        if isinstance(value, dict) and not (set(value) <= {"type", "options"}):
            named = {"type": value["type"]} if "type" in value else {}
            return {**named, "options": {k: v for k, v in value.items() if k != "type"}}
        return value

    @field_validator("options")
    @classmethod
    def _plain(cls, options: dict[str, Any]) -> dict[str, Any]:
        return {key: _plain_data(value, (key,)) for key, value in options.items()}

    @model_serializer
    def _to_short_form(self) -> dict[str, Any]:
        if {"type", "options"} & self.options.keys():
            return {"type": self.type, "options": self.options}
        return {"type": self.type, **self.options}


class BackboneChoice(PluginChoice):
    """The trunk: `{type: hf-encoder, model: PATH}`; the type may be left out where one installed backbone opens it."""

    type: str = ""
    """Found by asking the installed backbones when left out."""

    @classmethod
    def expanded(cls, value: Any) -> Any:
        return {"type": "", "options": {"model": value}} if isinstance(value, str) else super().expanded(value)


class Split(Model):
    """How `files` is split: seeded, and stratified by label where there is one."""

    dev: Share = 0.1
    """Share of the rows."""
    test: Share = 0.1
    """Share of the rows."""
    by: str | None = None
    """A column whose equal values stay in the same split (so that near-copies do not leak)."""

    @model_validator(mode="after")
    def _something_is_left(self) -> Split:
        if self.dev + self.test >= 1:
            raise ValueError("dev and test together must leave rows for training (their sum must be below 1)")
        return self


DATA_FILES = ("files", "train", "dev", "test")
"""The keys of `Data` that hold paths."""


class Data(Model):
    """Where a task's rows come from. Paths may hold wildcards; those in a recipe file are relative to that file."""

    files: Names = ()
    """Rows to be split into train, dev and test."""
    train: Names = ()
    """Training rows, where the splits are files of their own."""
    dev: Names = ()
    """Rows that choose the best checkpoint."""
    test: Names = ()
    """Rows that are only measured at the end."""
    format: Literal["csv", "tsv", "json", "jsonl", "parquet", "txt", "folder"] | None = None
    """Taken from the file name when left out; `folder`: one subfolder of text files a class."""
    row: Literal["line", "file"] = "line"
    """For `txt`: what makes a row."""
    split: Split = Split()
    """How `files` is divided."""
    max_rows: Annotated[int, Field(gt=0)] | None = None
    """Keep only this many training rows, drawn with the recipe's seed."""

    @classmethod
    def expanded(cls, value: Any) -> Any:
        value = {"files": value} if isinstance(value, str | list | tuple) else value
        if not isinstance(value, dict):
            return value
        return {k: [v] if k in DATA_FILES and isinstance(v, str) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _files_or_splits(self) -> Data:
        if bool(self.files) == bool(self.train):
            raise ValueError("give either 'files' (to be split) or 'train' (with 'dev' and 'test' beside it)")
        if self.files and (self.dev or self.test):
            raise ValueError("'dev' and 'test' go with 'train'; 'files' is split by 'split'")
        if any(not path.strip() for key in DATA_FILES for path in getattr(self, key)):
            raise ValueError("a path is empty")
        return self


class Task(Model):
    """One thing to learn: a head and its data.

    Keys that are not the task's own are the head's options: `{head: classification, data: …, label: topic}` is
    `{head: {type: classification, label: topic}, data: …}`.
    """

    head: PluginChoice
    """The head plugin: what is learned."""
    data: Data | None = None
    """The rows, or only their path. None only where the host passes the rows in Python."""
    max_length: Annotated[int, Field(ge=4)] | None = None
    """Tokens; longer texts are cut (or chunked, by heads that say so). The backbone's limit when left out."""

    @classmethod
    def expanded(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "head" not in value:
            return value
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


class Sampling(Model):
    """How the rows of a step are divided among the tasks: task t gets a share ∝ weight_t · rows_t^(1/temperature).

    Temperature 1 is proportional sampling; it grows towards uniform. Source: the usual temperature sampling of
    multilingual and multi-task training (for instance Arivazhagan et al. 2019, arXiv:1907.05019).
    """

    temperature: Annotated[float, Field(ge=1.0, allow_inf_nan=True)] = 1.0
    """1 is `proportional`, `.inf` is `uniform`."""
    weights: dict[str, Annotated[float, Field(gt=0.0)]] = Field(default_factory=dict)
    """Factors on the shares by task; 1 for a task that is left out."""

    @classmethod
    def expanded(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in SAMPLINGS:
            raise ValueError(f"expected 'proportional', 'uniform' or {{temperature: T}}, not '{value}'")
        return dict(SAMPLINGS[value]) if isinstance(value, str) else value


class Stage(Model):
    """A set of tasks under one strategy and one combiner, with a budget. Field names are those of Hugging Face."""

    name: Name = ""
    """`stage-N` when left out."""
    tasks: Names = ()
    """All tasks of the recipe when left out."""
    strategy: PluginChoice | None = None
    """None trains every trunk parameter."""
    combiner: PluginChoice | None = None
    """None adds the losses up."""
    sampling: Sampling = Sampling()
    """`proportional`, `uniform` or its own keys."""

    num_train_epochs: Annotated[float, Field(gt=0)] | None = None
    """Also `epochs`; 3 when neither this nor `max_steps` is given. An epoch is as many rows as all tasks of the stage
    have together."""
    max_steps: Annotated[int, Field(gt=0)] | None = None
    """Steps of the optimizer, instead of epochs."""
    per_device_train_batch_size: Annotated[int, Field(gt=0)] = 32
    """Rows, over all tasks, in one forward pass of one process."""
    max_tokens_per_batch: Annotated[int, Field(gt=0)] | None = None
    """A token budget for one forward pass (rows times longest row); longer batches are divided. None: no limit."""
    gradient_accumulation_steps: Annotated[int, Field(gt=0)] = 1
    """Forward passes for one step of the optimizer."""

    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Of the trunk; the strategy's own default when left out."""
    head_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Of heads and combiner weights; the larger of 1e-3 and the trunk's when left out."""
    head_warmup_steps: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Steps at the start in which only heads train, on a trunk that stands still. `auto`: a tenth of the steps when a
    head of the stage has no pre-trained weights and the trunk trains, none otherwise."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial"] = "linear"
    """How the learning rates fall over the stage."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.06
    """Share of the steps in which the learning rates rise from 0."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Overrides `warmup_ratio`."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's weight decay."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW's first decay."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """AdamW's second decay."""
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are clipped to this norm; null clips nothing."""

    eval_strategy: Literal["epoch", "steps", "no"] = "epoch"
    """When the dev split is measured."""
    eval_steps: Annotated[int, Field(gt=0)] | None = None
    """Steps between evaluations, for `eval_strategy: steps`."""
    load_best_model_at_end: bool = True
    """Go on from the best evaluated weights instead of the last ones."""
    metric_for_best_model: str | None = None
    """`task.metric` on the dev split, for instance `topic.f1_macro`. When left out: the mean of the main metrics of the
    stage's supervised tasks, or, without any, minus the mean loss of the others."""
    greater_is_better: bool | None = None
    """The metric's own direction when left out."""
    early_stopping_patience: Annotated[int, Field(gt=0)] | None = None
    """Evaluations without a better score before the stage ends."""

    @classmethod
    def expanded(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "epochs" in value and "num_train_epochs" in value:
            raise KeyPathError(("epochs",), "'epochs' and 'num_train_epochs' are the same key; give one of them")
        value = {("num_train_epochs" if k == "epochs" else k): v for k, v in value.items()}
        return {k: [v] if k == "tasks" and isinstance(v, str) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        if self.num_train_epochs is not None and self.max_steps is not None:
            raise ValueError("give 'num_train_epochs' or 'max_steps', not both (null takes one away)")
        if self.eval_strategy == "steps" and self.eval_steps is None:
            raise ValueError("eval_strategy 'steps' needs 'eval_steps'")
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            raise ValueError("'early_stopping_patience' needs evaluations (eval_strategy 'epoch' or 'steps')")
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError("'tasks' names a task twice")
        return self


class Output(Model):
    """What is written, and how often."""

    logging_steps: Annotated[int, Field(gt=0)] = 10
    """A line of `log.jsonl` every so many steps."""


class Recipe(Model):
    """A backbone, tasks, and a list of stages."""

    backbone: BackboneChoice
    """The pre-trained trunk."""
    tasks: Annotated[dict[Name, Task], Field(min_length=1)]
    """The tasks by name."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, strict=False)]
    """What is done, in order; a single stage may stand without a list."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the splits, the plan, fresh weights, masks and dropout."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: the faster of both on this machine, by a measurement."""
    output: Output = Output()
    """What is written."""

    @classmethod
    def expanded(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("stages"), dict):
            return {**value, "stages": [value["stages"]]}
        return value

    @model_validator(mode="after")
    def _stages_fit_tasks(self) -> Recipe:
        stages = tuple(
            stage.model_copy(update={"name": stage.name or f"stage-{i}", "tasks": stage.tasks or tuple(self.tasks)})
            for i, stage in enumerate(self.stages, start=1)
        )
        names = [stage.name for stage in stages]
        for i, stage in enumerate(stages):
            if stage.name in names[:i]:
                raise KeyPathError(("stages", i, "name"), f"two stages are called '{stage.name}'")
            self._check_task_names(i, stage)
        if TRUNK_FOLDER in self.tasks:
            raise KeyPathError(("tasks", TRUNK_FOLDER), "this name is kept for the trunk; call the task otherwise")
        for name in self.tasks:
            if not any(name in stage.tasks for stage in stages):
                raise KeyPathError(
                    ("tasks", name), f"no stage trains the task '{name}'; add it to a stage or remove it"
                )
        object.__setattr__(self, "stages", stages)  # the model is frozen from here on
        return self

    def _check_task_names(self, index: int, stage: Stage) -> None:
        """Raise `KeyPathError` for a task name in a stage that no task has."""
        for i, name in enumerate(stage.tasks):
            _check_known(name, self.tasks, "task", ("stages", index, "tasks", i))
        for name in stage.sampling.weights:
            _check_known(name, stage.tasks, "task of this stage", ("stages", index, "sampling", "weights", name))
        if stage.metric_for_best_model is not None:
            path = ("stages", index, "metric_for_best_model")
            task, dot, metric = stage.metric_for_best_model.partition(".")
            if not (dot and metric):
                raise KeyPathError(path, f"expected TASK.METRIC, not '{stage.metric_for_best_model}'")
            _check_known(task, self.tasks, "task", path)


def _check_known(name: str, known: Iterable[str], kind: str, path: tuple[str | int, ...]) -> None:
    if name not in known:
        raise KeyPathError(path, f"no {kind} is called '{name}'.{did_you_mean(name, known)}")


def _plain_data(value: Any, path: tuple[str | int, ...]) -> Any:
    """`value` as YAML would give it back. Raises `KeyPathError` for what YAML cannot hold."""
    if isinstance(value, Mapping):
        return {str(k): _plain_data(v, (*path, str(k))) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_data(v, (*path, i)) for i, v in enumerate(value)]
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, PurePath):
        return str(value)
    raise KeyPathError(
        path, f"expected text, a number, true, false, null, a list or a mapping, not {type(value).__name__}"
    )


def _hashable(value: Any) -> Hashable:
    if isinstance(value, dict):
        return frozenset((k, _hashable(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return tuple(_hashable(v) for v in value)
    return value  # type: ignore[no-any-return]
