"""Cache the hidden states of a trunk's frozen prefix for rows that a stage sees more than once.

They are computed before the first step and read in every pass. Rows are computed in batches that depend on the rows
alone, so that the cached values, and all that is learned from them, are the same after every resume. Entries are kept
for later runs, by the hash of everything that they depend on.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from hft_core.acceleration import frozen_prefix
from hft_core.batching.batch import Batch
from hft_core.batching.buckets import EVALUATION_ROWS, EVALUATION_TOKENS, runs_within, tokens_at_once
from hft_core.batching.collate import Collator
from hft_core.batching.shared_inputs import tasks_with_shared_inputs
from hft_core.data.examples import Examples
from hft_core.device.clock import FORWARD
from hft_core.device.flops import FlopCounter
from hft_core.device.machine import Machine
from hft_core.model.activation_store import Row, Store, inputs_of, rows_of
from hft_core.model.execution_plan import ExecutionPlan, FrozenPrefix
from hft_core.model.hybrid import HybridModel
from hft_core.runtime import cache, signals

FORMAT = 1
"""Of what is kept under the keys."""
FILE = "hidden.bin"
LEAST_USES = 2
"""A row that the stage sees less often is not cached."""
AUTO_BYTES = 4 * 10**9
"""What a stage may store where its recipe says nothing else."""
FREE_SHARE = 0.5
"""This share of the disk's free space is left free."""


@dataclass(frozen=True)
class Source:
    """Rows that the stage passes over."""

    task: str
    examples: Examples
    uses: float
    """How often it passes over them."""


def bytes_of(size: str) -> int:
    """The bytes of `4GB` and the like, and of `auto`."""
    if size == "auto":
        return AUTO_BYTES
    return int(float(size[:-2]) * 10 ** {"MB": 6, "GB": 9, "TB": 12}[size[-2:]])


def sources(
    model: HybridModel,
    train: Mapping[str, Examples],
    passes: Mapping[str, float],
    dev: Mapping[str, Examples],
    evaluations: int,
) -> list[Source]:
    """The rows of a stage with so many passes over each task's training rows, and so many evaluations of its dev rows.

    Rows whose inputs differ in each pass (masked ones) are left out. Of tasks over the same texts, one stands for all:
    a step has each text once, unless the strategy routes rows.
    """
    steady = {task: part for task, part in train.items() if not model.head(task).changes_sequences}
    rows = []
    for parts, uses in ((steady, passes), (dev, dict.fromkeys(dev, float(evaluations)))):
        family = tasks_with_shared_inputs(parts, {task: model.head(task) for task in parts})
        for leader in dict.fromkeys(family.values()):
            of_members = [uses[task] for task in parts if family[task] == leader]
            together = sum(of_members) if model.strategy.routes_rows else max(of_members)
            rows.append(Source(leader, parts[leader], together))
    return rows


def choose(
    model: HybridModel,
    frozen: FrozenPrefix,
    rows: Sequence[Source],
    probe: Sequence[Batch],
    machine: Machine,
    *,
    limit: int,
    seed: int,
) -> tuple[Store | None, str]:
    """A store of those of `rows` that are seen more than once, if they fit into `limit` bytes; and the reason."""
    if not frozen.depth:
        return None, "nothing: no layer below the trainable ones is frozen"
    rows = [source for source in rows if source.uses >= LEAST_USES]
    if not rows:
        return None, "nothing: no row is seen more than once"
    sample = frozen_prefix.sample_or_obstacle(model, frozen, probe, machine)
    if isinstance(sample, str):
        return None, f"nothing: {sample}"
    token_bytes = sample.shape[1] * sample.element_size()
    largest = max(int((source.examples.lengths * source.examples.sizes).sum()) for source in rows) * token_bytes
    distinct = _distinct(model, rows, seed=seed) if largest <= limit else []
    size = max(largest, (1 + sum(len(row.ids) for row in distinct)) * token_bytes)
    if size > limit:
        return None, f"nothing: {_size(size)} are more than the {_size(limit)} that may be used"
    return Store(distinct, sample), f"{len(distinct)} rows, {_size(size)}"


def room(wanted: int) -> int:
    """`wanted` bytes, or what the disk has room for."""
    folder = cache.folder() or Path(tempfile.gettempdir())
    while not os.path.exists(folder):  # noqa: PTH110 (pathlib's raises for a long name)
        folder = folder.parent
    return min(wanted, int(FREE_SHARE * shutil.disk_usage(folder).free))


def _distinct(model: HybridModel, sources: Sequence[Source], *, seed: int) -> list[Row]:
    """The rows without duplicates, in an order that depends on nothing else: the shortest first."""
    rows: dict[bytes, Row] = {}
    for source in sources:
        collator = Collator(
            {source.task: source.examples},
            {source.task: model.head(source.task)},
            seed=seed,
            pad=model.backbone.tokenizer.pad_token_id,
        )
        for batch in collator.in_length_order(max_rows=EVALUATION_ROWS, max_tokens=EVALUATION_TOKENS):
            signals.check()
            rows |= {row.key: row for row in rows_of(batch.inputs)}
    return [row for _, row in sorted(rows.items(), key=lambda item: (len(item[1].ids), item[0]))]


class ActivationCache:
    """The store of a stage's plan, as a context around the stage's steps."""

    def __init__(self, model: HybridModel, plan: ExecutionPlan, machine: Machine) -> None:
        self._model, self._machine, self._depth, self._store = model, machine, plan.frozen.depth, plan.store
        self.warnings: list[str] = []
        """Why nothing is cached after all."""
        self._held = ExitStack()

    def open(self) -> float:
        """Compute the hidden states of the store's rows, or find those that an earlier run computed; the store is open
        until the end of the context. Returns the floating-point operations that this took.

        Nothing that they depend on changes from here on.
        """
        if self._store is None:
            return 0.0
        rows = len(self._store.rows)
        try:
            with self._machine.clock.part(FORWARD), FlopCounter() as counter:
                path = self._file(self._store)
            self._store.open(path)
        except OSError as error:
            self.warnings.append(
                f"the activations of {rows} rows could not be stored, so that they were computed in every pass: "
                f"{error.strerror or error}"
            )
        return float(counter.flops)

    def __enter__(self) -> ActivationCache:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._store is not None:
            self._store.close()
        self._held.close()

    def _file(self, store: Store) -> Path:
        """The store's file, filled if need be. Raises `OSError`."""
        key, kept, rows = self._key(store), cache.Cache(cache.ACTIVATIONS), len(store.rows)
        entry = kept.find(key, rows=rows)
        if entry is not None:
            return entry / FILE
        with kept.filling(key) as beside:
            entry = kept.find(key, rows=rows)  # another process may have filled it meanwhile
            if entry is not None:
                return entry / FILE
            if beside is None:  # the cache cannot be written to
                path = self._temporary_file()
                self._fill(path, store)
                return path
            self._fill(beside / FILE, store)
            try:
                return kept.publish(beside, key, rows=rows) / FILE
            except OSError:  # a damaged entry that cannot be removed: this run has the file all the same
                return Path(shutil.move(beside / FILE, self._temporary_file()))

    def _temporary_file(self) -> Path:
        return Path(self._held.enter_context(tempfile.TemporaryDirectory())) / FILE

    def _fill(self, path: Path, store: Store) -> None:
        device, sample = self._machine.device, store.sample
        with path.open("xb") as file, self._model.evaluating(), torch.inference_mode():
            _write(file, torch.zeros_like(sample[:1]))
            for rows in self._batches(store.rows):
                signals.check()
                inputs = inputs_of(rows, self._model.backbone.tokenizer.pad_token_id)
                moved = {name: tensor.to(device) for name, tensor in inputs.items()}
                with self._machine.autocast():
                    hidden = self._model.backbone.lower(moved, self._depth)
                _write(file, hidden[moved["attention_mask"].bool()].to(sample.dtype))

    def _batches(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        lengths = np.array([len(row.ids) for row in rows])  # shortest first
        tokens = tokens_at_once(self._machine.device)
        for run in runs_within(np.arange(len(rows)), lengths, np.ones_like(lengths), EVALUATION_ROWS, tokens):
            yield [rows[i] for i in run]

    def _key(self, store: Store) -> str:
        """A hash of everything that the stored numbers depend on, to the last bit."""
        model, device, depth = self._model, self._machine.device, self._depth
        on_cuda = device.type == "cuda"
        processor = torch.cuda.get_device_name(device) if on_cuda else torch.backends.cpu.get_cpu_capability()
        facts = (
            FORMAT,
            torch.__version__,
            processor,
            torch.get_num_threads(),
            self._machine.precision.name,
            depth,
            model.backbone.tokenizer.pad_token_id,
            str(getattr(model.trunk, "config", "")),
            str(model.trunk),
        )
        digest = blake2b(repr(facts).encode(), digest_size=20)
        digest.update(_bytes(store.sample))  # for whatever else the trunk's code depends on
        layers = model.backbone.layers[depth:]
        above = {id(tensor) for layer in layers for tensor in (*layer.parameters(), *layer.buffers())}
        for tensor in (*model.trunk.parameters(), *model.trunk.buffers()):
            if id(tensor) not in above and not tensor.requires_grad:
                digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
                digest.update(_bytes(tensor))
        for row in store.rows:
            digest.update(row.key)
        return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    values: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(values)


def _write(file: IO[bytes], tensor: Tensor) -> None:
    file.write(_bytes(tensor))


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
