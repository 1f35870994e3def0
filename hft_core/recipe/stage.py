"""Define a stage of a recipe: a set of tasks, one strategy, one combiner, and a budget."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hft_core.recipe.fields import KeyPathError, Model, Name, Names, PluginChoice

DEFAULT_EPOCHS = 3.0
"""Epochs of a stage without a budget; more on few rows (`hft_core.recipe.budget`)."""
DEFAULT_BATCH_SIZE = 32
"""Rows of a step in all processes, where no key says how many; fewer on few rows."""

DiskSize = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)? ?(MB|GB|TB)$")]
"""Such as `20GB`."""
Temperature = Annotated[float, Field(ge=1.0, allow_inf_nan=True)]
SAMPLINGS: dict[str, dict[str, Any]] = {
    "proportional": {"temperature": 1.0},
    "uniform": {"temperature": math.inf},
    "round-robin": {"round_robin": True},
    "adaptive": {"adapt": 1.0},
}


class Sampling(Model):
    """How the rows of a step are divided among tasks: task t gets a share ∝ weight_t · rows_t^(1/temperature).

    Temperature 1 is proportional sampling, infinity is uniform. Source: temperature sampling as in Arivazhagan et al.
    2019 (arXiv:1907.05019).
    """

    temperature: Temperature = 1.0
    """1 is `proportional`, `.inf` is `uniform`."""
    temperature_end: Temperature | None = None
    """Temperature at the end of the stage; the exponent 1/temperature changes linearly."""
    weights: dict[str, Annotated[float, Field(gt=0.0)]] = Field(default_factory=dict)
    """Factors on the tasks' shares; 1 by default."""
    passes: dict[str, Annotated[float, Field(gt=0.0)]] = Field(default_factory=dict)
    """Passes over a task's rows in one epoch of the stage (0.5: half of them); 1 by default."""
    batch_size: dict[str, Annotated[int, Field(gt=0)]] = Field(default_factory=dict)
    """Rows of each task in every step, for all tasks of the stage. Replaces shares, and their sum is the stage's
    `train_batch_size`; `per_device_train_batch_size` then only divides the step into forward passes."""
    round_robin: bool = False
    """Each step has rows of one task only, in turn; also `sampling: round-robin`."""
    adapt: Annotated[float, Field(ge=0.0)] = 0.0
    """How strongly each evaluation shifts rows to the tasks whose dev loss has decreased least; 0: not at all;
    `sampling: adaptive`: 1."""
    max_epochs: dict[str, Annotated[float, Field(gt=0.0)]] = Field(default_factory=dict)
    """Passes over a task's rows after which it stops; the other tasks get its share."""
    patience: dict[str, Annotated[int, Field(gt=0)]] = Field(default_factory=dict)
    """Evaluations without a better main metric after which a task stops; the other tasks get its share."""

    @classmethod
    def expanded(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in SAMPLINGS:
            known = ", ".join(f"'{name}'" for name in SAMPLINGS)
            raise ValueError(f"expected {known} or a mapping such as {{temperature: 2}}, not '{value}'")
        return dict(SAMPLINGS[value]) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Sampling:
        shares = [key for key in ("weights", "passes") if getattr(self, key)]
        shares += ["temperature"] if self.temperature != 1.0 or self.temperature_end is not None else []
        shares += ["adapt"] if self.adapt else []
        for key in ("batch_size", "round_robin"):
            if getattr(self, key) and shares:
                raise ValueError(f"'{key}' and '{shares[0]}' cannot be combined; remove one of them")
        if self.batch_size and self.round_robin:
            raise ValueError("give 'batch_size' or 'round_robin', not both")
        return self

    @property
    def by_task(self) -> dict[str, Collection[str]]:
        """The task names in each key that maps task names to values."""
        return {key: getattr(self, key) for key in ("weights", "passes", "batch_size", "max_epochs", "patience")}


class Stage(Model):
    """A set of tasks, one strategy, one combiner, and a budget. Field names are those of Hugging Face."""

    name: Name = ""
    """By default, `stage-N`."""
    tasks: Names = ()
    """By default, all tasks of the recipe."""
    strategy: PluginChoice | None = None
    """By default, all trunk parameters are trained."""
    combiner: PluginChoice | None = None
    """By default, losses are summed."""
    sampling: Sampling = Sampling()
    """A name such as `uniform`, or keys."""

    num_train_epochs: Annotated[float, Field(gt=0)] | None = None
    """Also `epochs`; if `max_steps` is not given either, 3, or on few rows as many (up to 20) as 100 steps take. An
    epoch has as many rows as all tasks of the stage together."""
    max_steps: Annotated[int, Field(gt=0)] | None = None
    """Optimizer steps, instead of epochs."""
    train_batch_size: Annotated[int, Field(gt=0)] | None = None
    """Rows of all tasks together in one optimizer step, over all processes: the same result on any number of them. If
    the next two keys are not given either, 32, or on few rows 16 or 8, so that there are 100 steps."""
    per_device_train_batch_size: Annotated[int, Field(gt=0)] | None = None
    """As in transformers: rows in one forward pass on one device, so that a step has this × processes ×
    `gradient_accumulation_steps` rows."""
    gradient_accumulation_steps: Annotated[int, Field(gt=0)] | None = None
    """As in transformers: forward passes of each process in one optimizer step; 1 by default."""
    max_rows_per_batch: Annotated[int, Field(gt=0)] | None = None
    """Maximum rows in one forward pass of one process; larger batches are split. By default, as many as the keys above
    say; fewer where memory is too small."""
    max_tokens_per_batch: Annotated[int, Field(gt=0)] | None = None
    """Maximum tokens (rows times longest row) in one forward pass; larger batches are split."""
    gradient_checkpointing: bool = False
    """Recompute the activations of the trunk's layers in the backward pass: less memory, about a third more time, the
    same gradients."""
    torch_compile: Literal["no", "yes", "auto"] = "no"
    """Compile the trunk's layers (`torch.compile`); `auto`: on CUDA devices. Results differ only by rounding."""
    cache_activations: Literal["auto", "no"] | DiskSize = "auto"
    """Cache the frozen layers' output on disk for rows seen more than once, up to this size; `auto`: up to 4 GB."""

    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """For the trunk; by default, the strategy's own."""
    head_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """For heads and combiner weights; by default, the larger of 1e-3 and the trunk's."""
    head_warmup_steps: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Steps at the start that train only the heads, with the trunk frozen. `auto`: a tenth of the steps if the trunk is
    trainable and a head has fresh weights, else 0."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial"] = "linear"
    """Learning rate schedule of the stage."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.06
    """Share of the steps that warm up the learning rates from 0."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Replaces `warmup_ratio`."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's weight decay."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW's beta1."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """AdamW's beta2."""
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: Annotated[float, Field(ge=0)] | None = 1.0
    """Gradient clipping norm; null or 0: no clipping."""

    eval_strategy: Literal["epoch", "steps", "no"] = "epoch"
    """When to evaluate on the dev split."""
    eval_steps: Annotated[int, Field(gt=0)] | None = None
    """Steps between evaluations, for `eval_strategy: steps`."""
    load_best_model_at_end: bool = True
    """Use the best evaluated weights instead of the last ones."""
    metric_for_best_model: str | None = None
    """`task.metric` on the dev split, for instance `topic.f1_macro`. By default, the mean main metric of the supervised
    tasks or, without any, minus the mean loss."""
    greater_is_better: bool | None = None
    """By default, the metric's own direction."""
    early_stopping_patience: Annotated[int, Field(gt=0)] | None = None
    """Evaluations without a better score after which the stage ends."""

    @classmethod
    def expanded(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "epochs" in value and "num_train_epochs" in value:
            raise KeyPathError(("epochs",), "'epochs' and 'num_train_epochs' are the same key; give one of them")
        value = {("num_train_epochs" if k == "epochs" else k): v for k, v in value.items()}
        if isinstance(value.get("torch_compile"), bool):  # as in transformers
            value = {**value, "torch_compile": "yes" if value["torch_compile"] else "no"}
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
