"""A stage of a recipe: a set of tasks under one strategy and one combiner, with a budget."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hft_core.recipe.fields import KeyPathError, Model, Name, Names, PluginChoice

DEFAULT_EPOCHS = 3.0
"""The budget of a stage that gives none."""

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
    """How the rows of a step are divided among the tasks: task t gets a share ∝ weight_t · rows_t^(1/temperature).

    Temperature 1 is proportional sampling; it grows towards uniform. Source: the usual temperature sampling of
    multilingual and multi-task training (for instance Arivazhagan et al. 2019, arXiv:1907.05019).
    """

    temperature: Temperature = 1.0
    """1 is `proportional`, `.inf` is `uniform`."""
    temperature_end: Temperature | None = None
    """The temperature at the end of the stage; the exponent 1/temperature goes there in equal steps."""
    weights: dict[str, Annotated[float, Field(gt=0.0)]] = Field(default_factory=dict)
    """Factors on the shares by task; 1 for a task that is left out."""
    passes: dict[str, Annotated[float, Field(gt=0.0)]] = Field(default_factory=dict)
    """How often an epoch of the stage goes through a task's rows (2, or 0.5 for half of them); 1 for a task that is
    left out."""
    batch_size: dict[str, Annotated[int, Field(gt=0)]] = Field(default_factory=dict)
    """Rows of each task in every step, for all tasks of the stage: instead of shares, and of
    `per_device_train_batch_size` and `gradient_accumulation_steps`, which then only divide the step."""
    round_robin: bool = False
    """Each step has rows of one task only, the tasks taking turns; also `sampling: round-robin`."""
    adapt: Annotated[float, Field(ge=0.0)] = 0.0
    """Above 0, tasks whose dev loss has fallen least get more rows after each evaluation, the more the larger this
    is; also `sampling: adaptive` for 1."""
    max_epochs: dict[str, Annotated[float, Field(gt=0.0)]] = Field(default_factory=dict)
    """Passes over a task's rows after which it gets no more; the others have its share."""
    patience: dict[str, Annotated[int, Field(gt=0)]] = Field(default_factory=dict)
    """Evaluations without a better main metric after which a task gets no more rows; the others have its share."""

    @classmethod
    def expanded(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in SAMPLINGS:
            known = ", ".join(f"'{name}'" for name in SAMPLINGS)
            raise ValueError(f"expected {known} or a mapping such as {{temperature: 2}}, not '{value}'")
        return dict(SAMPLINGS[value]) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_way(self) -> Sampling:
        shares = [key for key in ("weights", "passes") if getattr(self, key)]
        shares += ["temperature"] if self.temperature != 1.0 or self.temperature_end is not None else []
        shares += ["adapt"] if self.adapt else []
        for way in ("batch_size", "round_robin"):
            if getattr(self, way) and shares:
                raise ValueError(f"'{way}' divides the rows by itself; take '{shares[0]}' away, or '{way}'")
        if self.batch_size and self.round_robin:
            raise ValueError("give 'batch_size' or 'round_robin', not both")
        return self

    @property
    def by_task(self) -> dict[str, Collection[str]]:
        """The tasks that each key with values by task names."""
        return {key: getattr(self, key) for key in ("weights", "passes", "batch_size", "max_epochs", "patience")}


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
    gradient_checkpointing: bool = False
    """Compute the inner values of the trunk's layers again in the backward pass instead of keeping them: less memory,
    about a third more time, the same gradients."""
    torch_compile: Literal["no", "yes", "auto"] = "no"
    """Compile the trunk's layers for the steps of the stage (`torch.compile`); `auto` does so where it saves more time
    than it takes, by an estimate. What is learned is the same but for rounding."""
    cache_activations: Literal["auto", "no"] | DiskSize = "auto"
    """What layers that stand still make of rows that come again is stored on disk and read from there: `auto` where it
    takes at most 4 GB; or the most that it may take, such as `20GB`; `no` computes it in every pass."""

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
