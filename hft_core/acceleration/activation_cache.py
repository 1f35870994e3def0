"""Frozen work is not done twice: what the frozen part of a trunk makes of a row is computed before the first step of a
stage, where the row comes again, and read in every pass.

Rows are computed in batches that depend on the rows alone, so that what is stored, and all that is learned from it, is
the same after every resume. Entries are kept for later runs, by the hash of everything that made them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

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
from hft_core.device.distributed import Machine
from hft_core.device.flops import FlopCounter
from hft_core.model.activation_store import Row, Store, inputs_of, rows_of
from hft_core.model.frozen_layers import NOTHING
from hft_core.model.hybrid import HybridModel
from hft_core.runtime import cache, signals

if TYPE_CHECKING:
    from hft_core.training.loop import StageLoop
    from hft_core.training.progress import Progress

FORMAT = 1
"""Of what is kept under the keys."""
KIND, FILE = "activations", "hidden.bin"
LEAST_USES = 2
"""A row that the stage goes through less often is not stored."""
AUTO_BYTES = 4 * 10**9
"""What a stage may store where its recipe says nothing else."""
FREE_SHARE = 0.5
"""Of the disk's free space, so much is left."""


@dataclass(frozen=True)
class Source:
    """Rows that the stage goes through."""

    task: str
    examples: Examples
    uses: float
    """How often."""


@dataclass(frozen=True)
class Chosen:
    """What a stage stores."""

    told: str
    """What that is, or why it is nothing: for people."""
    rows: Sequence[Row] = ()
    """In the order in which they are computed; empty: nothing is stored."""
    sample: Tensor | None = None
    """`[seq, hidden]`: what the frozen part makes of some row."""


def of_stage(loop: StageLoop) -> FrozenWork:
    """What stands still in the stage of `loop`, which is about to run, is found, and what to store of it chosen."""
    model, stage = loop.model, loop.stage
    model.frozen = NOTHING
    probe = frozen_prefix.probe(model, stage.tasks, loop.train, seed=loop.seed)
    model.frozen = frozen_prefix.find(model, probe, loop.machine)
    train = {task: loop.train[task] for task in stage.tasks}
    dev = {task: loop.dev[task] for task in stage.tasks if task in loop.dev}
    if stage.cache_activations == "no":
        return FrozenWork(model, loop.machine, Chosen("nothing, as the recipe says"))
    passes = {task: loop.plan.passes(task) for task in stage.tasks}
    found = sources(model, train, passes, dev, len(loop.evaluations))
    limit = room(bytes_of(stage.cache_activations))
    return FrozenWork(model, loop.machine, choose(model, found, probe, loop.machine, limit=limit, seed=loop.seed))


def bytes_of(size: str) -> int:
    """Of `4GB` and the like, and of `auto`."""
    if size == "auto":
        return AUTO_BYTES
    return int(float(size[:-2]) * 10 ** {"MB": 6, "GB": 9, "TB": 12}[size[-2:]])


def sources(
    model: HybridModel,
    train: Mapping[str, Examples],
    passes: Mapping[str, float],
    dev: Mapping[str, Examples],
    times: int,
) -> list[Source]:
    """The rows of a stage that goes through each task's training rows `passes` times and its dev rows `times` times.

    Rows that are shown to the trunk in another way in each pass (masked) are left out. Of tasks over the same texts,
    one stands for all: a step has each text once, unless the strategy routes them.
    """
    steady = {task: part for task, part in train.items() if not model.head(task).changes_sequences}
    found = []
    for parts, uses in ((steady, passes), (dev, dict.fromkeys(dev, float(times)))):
        family = tasks_with_shared_inputs(parts, {task: model.head(task) for task in parts})
        for leader in dict.fromkeys(family.values()):
            of_members = [uses[task] for task in parts if family[task] == leader]
            together = sum(of_members) if model.strategy.routes_rows else max(of_members)
            found.append(Source(leader, parts[leader], together))
    return found


def choose(
    model: HybridModel,
    found: Sequence[Source],
    probe: Sequence[Batch],
    machine: Machine,
    *,
    limit: int,
    seed: int,
) -> Chosen:
    """What is worth storing: the rows of `found` that come again, if all of them have room in `limit` bytes."""
    if not model.frozen.depth:
        return Chosen("nothing: no layer stands still below what trains")
    if machine.group.world_size > 1:
        return Chosen("nothing: each of several processes would need the rows of all")
    found = [source for source in found if source.uses >= LEAST_USES]
    if not found:
        return Chosen("nothing: no row comes again")
    sample, reason = frozen_prefix.splits(model, model.frozen, probe, machine)
    if sample is None:
        return Chosen(f"nothing: {reason}")
    a_token = sample.shape[1] * sample.element_size()
    largest = max(int((source.examples.lengths * source.examples.sizes).sum()) for source in found) * a_token
    rows = _each_once(model, found, seed=seed) if largest <= limit else []
    size = max(largest, (1 + sum(len(row.ids) for row in rows)) * a_token)
    if size > limit:
        return Chosen(f"nothing: {_size(size)} are more than the {_size(limit)} that may be used")
    return Chosen(f"{len(rows)} rows, {_size(size)}", rows, sample)


def room(wanted: int) -> int:
    """`wanted` bytes, or what the disk allows for."""
    place = cache.folder()
    while not place.exists():
        place = place.parent
    return min(wanted, int(FREE_SHARE * shutil.disk_usage(place).free))


def _each_once(model: HybridModel, found: Sequence[Source], *, seed: int) -> list[Row]:
    """The rows, in an order that depends on nothing else: the shortest first."""
    rows: dict[bytes, Row] = {}
    for source in found:
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


class FrozenWork:
    """The stored rows of one stage, as a context around its steps."""

    def __init__(self, model: HybridModel, machine: Machine, chosen: Chosen) -> None:
        self.model, self.machine, self.chosen = model, machine, chosen
        self.problems: list[str] = []
        """Why nothing is stored after all."""
        self._held = ExitStack()

    def begin(self, progress: Progress) -> None:
        """Compute what is to be stored, or find what an earlier run computed; the model reads it until the end of the
        context. Nothing that it depends on changes from here on."""
        sample = self.chosen.sample
        if sample is None or not self.chosen.rows:
            return
        try:
            with self.machine.clock.part(FORWARD), FlopCounter() as counter:
                path = self._file()
            progress.work.flops += counter.flops
            lengths = {row.key: len(row.ids) for row in self.chosen.rows}
            self.model.stored = Store(path, lengths, hidden=sample.shape[1], dtype=sample.dtype)
            self.chosen = replace(self.chosen, rows=())  # the store knows them
        except OSError as error:
            self.problems.append(
                f"what the frozen layers made of {len(self.chosen.rows)} rows could not be stored, so that it was "
                f"computed in every pass: {error.strerror or error}"
            )

    def __enter__(self) -> FrozenWork:
        return self

    def __exit__(self, *exception: object) -> None:
        self.model.stored = None
        self._held.close()

    def _file(self) -> Path:
        """The file of what is stored, filled if need be. Raises `OSError`."""
        key, kept = self._key(), cache.Cache(KIND)
        found = kept.find(key)
        if found is not None:
            return found / FILE
        with kept.filling(key) as beside:
            found = kept.find(key)  # another process may have filled it meanwhile
            if found is None and beside is None:  # the cache cannot be written to
                folder = Path(self._held.enter_context(tempfile.TemporaryDirectory()))
                self._fill(folder / FILE)
                return folder / FILE
            if found is None:
                assert beside is not None
                self._fill(beside / FILE)
                found = kept.publish(beside, key)
            return found / FILE

    def _fill(self, path: Path) -> None:
        sample, device = self.chosen.sample, self.machine.device
        assert sample is not None
        with path.open("xb") as file, self.model.evaluating(), torch.inference_mode():
            _write(file, torch.zeros_like(sample[:1]))
            for rows in self._batches():
                signals.check()
                inputs = inputs_of(rows, self.model.backbone.tokenizer.pad_token_id)
                moved = {name: tensor.to(device) for name, tensor in inputs.items()}
                with self.machine.autocast():
                    hidden = self.model.backbone.lower(moved, self.model.frozen.depth)
                _write(file, hidden[moved["attention_mask"].bool()].to(sample.dtype))

    def _batches(self) -> Iterator[list[Row]]:
        rows = self.chosen.rows  # shortest first
        lengths = np.array([len(row.ids) for row in rows])
        tokens = tokens_at_once(self.machine.device)
        for run in runs_within(np.arange(len(rows)), lengths, np.ones_like(lengths), EVALUATION_ROWS, tokens):
            yield [rows[i] for i in run]

    def _key(self) -> str:
        """A hash of everything that the stored numbers depend on, to the last bit."""
        model, device, depth = self.model, self.machine.device, self.model.frozen.depth
        sample = self.chosen.sample
        assert sample is not None
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
        facts = (
            FORMAT,
            torch.__version__,
            where,
            torch.get_num_threads(),
            self.machine.precision.name,
            depth,
            model.backbone.tokenizer.pad_token_id,
            str(getattr(model.trunk, "config", "")),
            str(model.trunk),
        )
        digest = blake2b(repr(facts).encode(), digest_size=20)
        digest.update(_bytes(sample))  # for whatever else the trunk's code depends on
        layers = model.backbone.layers[depth:]
        above = {id(tensor) for layer in layers for tensor in (*layer.parameters(), *layer.buffers())}
        for tensor in (*model.trunk.parameters(), *model.trunk.buffers()):
            if id(tensor) not in above and not tensor.requires_grad:
                digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
                digest.update(_bytes(tensor))
        for row in self.chosen.rows:
            digest.update(row.key)
        return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    values: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(values)


def _write(file: IO[bytes], tensor: Tensor) -> None:
    file.write(_bytes(tensor))


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
