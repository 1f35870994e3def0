"""Build what a resolved recipe needs to run: checked rows, heads with their labels, and the model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hft_core.backbone import Backbone
from hft_core.batching.mixture import epoch_rows
from hft_core.combiner import Combiner
from hft_core.data import loading, odd_columns, one_answer, row_notes, shared_texts
from hft_core.data.corpus import Corpus
from hft_core.data.examples import Examples, encode
from hft_core.data.row_checks import check, check_each
from hft_core.data.rows import Rows
from hft_core.data.token_cache import TokenCache
from hft_core.device.rank_environment import requested_rank
from hft_core.errors import DataError, PluginError, RecipeError, UsageError
from hft_core.head import Column, Head, HeadContext, RowError
from hft_core.model.hybrid import HybridModel
from hft_core.recipe.budget import with_budgets
from hft_core.recipe.resolve import Resolved, ResolvedStage
from hft_core.recipe.stage import Stage
from hft_core.strategy import Strategy

Splits = dict[str, Rows]
"""A task's rows by split: `train`, `dev`, `test`."""

HostData = Mapping[str, Any]
"""Rows that a host passes in Python, by task: a data set (to be split), or data sets by split."""


@dataclass(frozen=True)
class BuiltRun:
    """A recipe's data and model, built and checked."""

    resolved: Resolved
    rows: dict[str, Splits]
    model: HybridModel
    examples: dict[str, dict[str, Examples]]
    """Tokenized rows by split, then by task."""
    warnings: tuple[str, ...] = ()
    """What is odd about the rows, a line each."""
    streams: dict[str, Corpus] = field(default_factory=dict)
    """The training files of the tasks that stream: `rows` and `examples` have their first rows as `train`."""

    @property
    def heads(self) -> dict[str, Head]:
        return {task: self.model.head(task) for task in self.resolved.heads}


def assemble(resolved: Resolved, *, host_data: HostData, trust_remote_code: bool) -> BuiltRun:
    """Load and check the data, open the backbone, build the heads, and tokenize; the number of examples decides how
    long a stage trains where its recipe leaves that out.

    Raises `DataError`, `PluginError`, `RecipeError` or `ModelError`: whatever is wrong is found before training.
    """
    heads = build_heads(resolved)
    streams = open_streams(resolved, heads, host_data)
    rows = load_rows(resolved, heads, host_data)
    backbone = open_backbone(resolved, trust_remote_code=trust_remote_code)
    _refuse_routed_rows(resolved, backbone)
    model = attach(backbone, heads)
    examples = tokenize(resolved, rows, model)
    units = [units_in_epoch(resolved, stage, examples["train"]) for stage in resolved.recipe.stages]
    return BuiltRun(with_budgets(resolved, units), rows, model, examples, _warnings(heads, rows, examples), streams)


def units_in_epoch(resolved: Resolved, stage: Stage, train: Mapping[str, Examples]) -> int:
    """Count the units in one epoch of a stage; one with a stream that is not replayed is a single epoch."""
    if any(task not in resolved.recipe.replay_in(stage) for task in resolved.recipe.streamed(stage)):
        return (stage.max_steps or 1) * (stage.train_batch_size or 1)
    counts = {task: len(train[task].lengths) for task in stage.tasks}
    return epoch_rows(counts, stage.sampling, resolved.recipe.replay_in(stage))


def build_heads(resolved: Resolved) -> dict[str, Head]:
    """Build the heads of all tasks, not yet attached to a trunk."""
    return {
        task: chosen.build_a(Head, optional={"context": HeadContext(chosen.catalogue)}, task=task)  # type: ignore[type-abstract]
        for task, chosen in resolved.heads.items()
    }


def open_streams(resolved: Resolved, heads: Mapping[str, Head], host_data: HostData) -> dict[str, Corpus]:
    """Open the training files of the tasks in `heads` that stream. Raises `DataError`."""
    data = {name: resolved.recipe.tasks[name].data for name in heads if name not in host_data}
    return {
        name: Corpus.open(of_task, heads[name].columns(), task=name)
        for name, of_task in data.items()
        if of_task is not None and of_task.stream
    }


def load_rows(resolved: Resolved, heads: Mapping[str, Head], host_data: HostData) -> dict[str, Splits]:
    """Load and check the rows of the tasks in `heads`, by split; of a stream, the first ones. Heads without labels find
    them in the training rows; those of a saved run keep theirs."""
    found: dict[str, Splits] = {}
    for name, head in heads.items():
        columns = head.columns()
        found[name] = _load(name, resolved, head, host_data)
        if not head.facts:
            _learn(name, head, found[name]["train"], columns)
        for split, rows in found[name].items():
            _check_labels(name, head, rows, split)
    return found


def _load(name: str, resolved: Resolved, head: Head, host_data: HostData) -> Splits:
    task, seed = resolved.recipe.tasks[name], resolved.recipe.seed
    columns, group = head.columns(), head.group_column
    labels_from = next((c.name for c in columns if c.target and c.kind == "label" and c.classes and not c.many), None)
    keys: dict[str, Any] = {"labels_from": labels_from, "group": group, "classes_of": classes_of(head)}
    if name in host_data:
        return loading.of_host(name, host_data[name], columns, seed=seed, **keys)
    if task.data is None:
        raise RecipeError(
            f"{resolved.where(('tasks', name))}: 'data' is missing: give files, or pass the rows when the run is "
            "started in Python"
        )
    return loading.load(name, task.data, columns, seed=seed, **keys)


def classes_of(head: Head) -> loading.ClassesOf | None:
    """Return what finds the classes of a row, for a head whose rows have several each."""
    columns = head.columns()
    if not any(c.target and c.kind == "label" and c.many and c.classes for c in columns):
        return None

    def of_row(row: Mapping[str, Any]) -> Collection[str]:
        own = head.classes_of(row)
        return loading.labels_in(row, columns) if own is None else own

    return of_row


def _learn(name: str, head: Head, rows: Rows, columns: Sequence[Column]) -> None:
    """Let the head find its facts (label names) in the training rows. Raises `DataError`."""
    try:
        head.learn(_Columns(rows, [column.name for column in columns]))
    except RowError as error:
        raise DataError(f"task '{name}' (train): {rows.where(error.row)}: {error}") from error
    except ValueError as error:
        raise DataError(f"task '{name}', train: {error}") from error


class _Columns(Mapping[str, Sequence[Any]]):
    """Columns of some rows, each loaded on access."""

    def __init__(self, rows: Rows, names: Sequence[str]) -> None:
        self._rows, self._names = rows, tuple(names)

    def __getitem__(self, name: str) -> Sequence[Any]:
        if name not in self._names:
            raise KeyError(name)
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _check_labels(name: str, head: Head, rows: Rows, split: str) -> None:
    """Check what only the head knows (labels unknown to training), row by row. Raises `DataError`."""
    columns = head.columns()
    if head.supervised or any(column.target for column in columns):
        check_each(rows, head.check, [column.name for column in columns], task=name, split=split)


def check_rows(name: str, head: Head, rows: Rows, split: str, *, need_targets: bool) -> None:
    """Check rows that are not the recipe's own. Raises `DataError`."""
    check(rows, head.columns(), task=name, split=split, need_targets=need_targets, of_recipe=False)
    if need_targets:
        _check_labels(name, head, rows, split)


def open_backbone(resolved: Resolved, *, trust_remote_code: bool) -> Backbone:
    """Open the backbone. Raises `ModelError` when it cannot be opened."""
    return resolved.backbone.build_a(
        Backbone,  # type: ignore[type-abstract]
        trust_remote_code=trust_remote_code,
    )


def _refuse_routed_rows(resolved: Resolved, backbone: Backbone) -> None:
    """Raise `PluginError` for a strategy that treats the rows of each task differently, on a trunk that packs them."""
    for stage in resolved.stages:
        if backbone.packs and stage.strategy is not None and strategy_of(stage).routes_rows:
            raise PluginError(
                f"stage '{stage.stage.name}': strategy '{stage.strategy.entry.name}' treats the rows of each task in "
                "its own way, and backbone.packing puts several in one: leave 'packing' out"
            )


def attach(backbone: Backbone, heads: Mapping[str, Head]) -> HybridModel:
    """Build the model of all tasks. Raises `PluginError` when a head does not fit the backbone."""
    for task, head in heads.items():
        try:
            head.attach(backbone)
        except ValueError as error:
            raise PluginError(f"task '{task}': {error}") from error
    return HybridModel(backbone, heads)


def tokenize(resolved: Resolved, rows: Mapping[str, Splits], model: HybridModel) -> dict[str, dict[str, Examples]]:
    """Tokenize all rows, by split and task."""
    made: dict[str, dict[str, Examples]] = {"train": {}, "dev": {}, "test": {}}
    cache = TokenCache(model.backbone, resolved.backbone, resolved.heads)
    limits = max_lengths(resolved, rows, model)
    for name, splits in rows.items():
        for split, part in splits.items():
            made[split][name] = encode(part, model.head(name), model.backbone.tokenizer, limits[name], cache=cache)
    return made


def _warnings(
    heads: Mapping[str, Head], rows: Mapping[str, Splits], examples: Mapping[str, Mapping[str, Examples]]
) -> tuple[str, ...]:
    """Return what the heads found odd about their rows. Raises `DataError` for training rows without any token."""
    found = [f"task '{task}' (train): {warning}" for task, head in heads.items() for warning in head.warnings]
    for task, splits in rows.items():
        found += row_notes.warnings(task, splits, {split: examples[split][task].notes() for split in splits})
    columns = {task: head.columns() for task, head in heads.items()}
    if requested_rank() == 0:  # these read all rows, and only the first process reports
        for check_all in (odd_columns, one_answer, shared_texts):
            found += check_all.warnings(columns, rows)
    return tuple(found)


def max_length(resolved: Resolved, task: str, model: HybridModel) -> int:
    """Return one task's maximum of tokens, as `max_lengths` does."""
    return max_lengths(resolved, [task], model)[task]


def max_lengths(resolved: Resolved, tasks: Iterable[str], model: HybridModel) -> dict[str, int]:
    """Return each task's maximum of tokens: its own limit, or the backbone's without a strategy's virtual tokens.

    Raises `RecipeError` above that.
    """
    virtual = max(strategy_of(stage).virtual_tokens for stage in resolved.stages)
    limit = model.backbone.max_length - virtual
    found = {}
    for task in tasks:
        wanted = resolved.recipe.tasks[task].max_length
        if wanted is not None and wanted > limit:
            why = f" beside the {virtual} virtual ones of a stage's strategy" if virtual else ""
            place = resolved.where(("tasks", task, "max_length"))
            raise RecipeError(f"{place}: {wanted} is too long: the backbone takes at most {limit} tokens{why}")
        found[task] = wanted or min(limit, model.backbone.default_length or limit)
    return found


def strategy_of(stage: ResolvedStage) -> Strategy:
    """Build the stage's strategy; without one, every trunk parameter is trainable."""
    if stage.strategy is None:
        return Strategy()
    return stage.strategy.build_a(Strategy)


def combiner_of(stage: ResolvedStage) -> Combiner:
    """Build the stage's combiner; without one, the losses are added up."""
    tasks = tuple(stage.stage.tasks)
    if stage.combiner is None:
        return Combiner(tasks)
    return stage.combiner.build_a(Combiner, tasks=tasks)


def check_divisible(resolved: Resolved) -> None:
    """Raise `UsageError` when a stage needs the trunk's unsharded weights or gradients in every process."""
    reason = "and no process has them where the trunk is divided (FSDP): expected another one, or no FSDP"
    for each in resolved.stages:
        stage = f"stage '{each.stage.name}'"
        if each.combiner is not None and combiner_of(each).per_task_gradients:
            name = each.combiner.entry.name
            raise UsageError(f"{stage}: combiner '{name}' combines the gradients of all weights, {reason}")
        if each.strategy is not None and not strategy_of(each).divisible:
            name = each.strategy.entry.name
            raise UsageError(f"{stage}: strategy '{name}' reads whole weights of the trunk, {reason}")
