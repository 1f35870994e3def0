"""Write a trained model in the formats of transformers, PEFT and safetensors.

`RUN/model/` holds a folder for each task that a plain library opens (the family's own class for a trunk that was
trained, PEFT for an adapter), and `RUN/model/trunk` where the trunk is not the one that was started from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from hft_core.backbone import PooledOutput
from hft_core.head import Head
from hft_core.model.hybrid import HybridModel
from hft_core.recipe.schema import TRUNK_FOLDER
from hft_core.runtime.files import write_json

TASK_FILE, OWN_HEAD_FILE = "task.json", "head.safetensors"


def save_model(
    folder: Path,
    model: HybridModel,
    *,
    trunk_changed: bool,
    max_lengths: Mapping[str, int] | None = None,
    tasks: Iterable[str] | None = None,
) -> str:
    """Write `tasks`, or all, into `folder`; return the base model of their adapters, or nothing where they are whole
    models.

    `trunk_changed`: an earlier stage changed the trunk's own weights, so that they are not those of its source.
    `max_lengths`: tokens of a text, by task; the backbone's limit when left out.
    """
    backbone, strategy = model.backbone, model.strategy
    trunk_folder = folder / TRUNK_FOLDER
    if trunk_changed or not strategy.adapter or not backbone.source:
        backbone.save(trunk_folder, strategy.base_state(backbone))
    base = str(trunk_folder.resolve()) if trunk_folder.exists() else _absolute(backbone.source)
    for task in model.heads if tasks is None else tasks:
        head = model.head(task)
        if strategy.adapter:
            plain_class = head.family.plain_class if head.family is not None else ""
            state = _adapter_head(head, trunk_folder.exists())
            strategy.save_adapter(backbone, task, folder / task, base, plain_class, state)
            backbone.tokenizer.save_pretrained(folder / task)
        elif head.family is not None:
            state = head.export_state(head.family.plain_state())
            backbone.save_task(folder / task, trunk_folder, head.family, state, head.config())
        if head.family is None:
            (folder / task).mkdir(parents=True, exist_ok=True)
            save_file(_contiguous(own_state(model, task)), folder / task / OWN_HEAD_FILE)
            output = plain_pooled_output(model, task)
            if output is not None:
                limit = (max_lengths or {}).get(task, backbone.max_length)
                base_folder = None if strategy.adapter else trunk_folder
                backbone.save_pooled(folder / task, output, max_length=limit, trunk_folder=base_folder)
        write_json(folder / task / TASK_FILE, {"facts": head.facts})
    return base if strategy.adapter else ""


def plain_pooled_output(model: HybridModel, task: str) -> PooledOutput | None:
    """Return the linear layer on a pooled text that plain libraries compute as `Head.predict` does; None where they
    compute something else. On a bare trunk with virtual tokens, PEFT leaves out `token_type_ids` and returns the
    virtual tokens' hidden states with those of the text."""
    strategy = model.strategy
    if not model.backbone.saves_pooled or (strategy.adapter and (not strategy.plain or strategy.virtual_tokens)):
        return None
    return model.head(task).pooled_output()


def _absolute(source: str) -> str:
    """Return a folder's path from the root, so that an adapter finds it from any working directory; else a hub id."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def _adapter_head(head: Head, trunk_saved: bool) -> dict[str, Tensor]:
    """The weights of a head that go with an adapter: all that its modules need; none where the base model has them.

    `trunk_saved`: the base model is the trunk that the run saved, without the LM head of where it came from."""
    if head.family is None or not head.family.plain_state() or (head.part_of_trunk and not trunk_saved):
        return {}
    return head.export_state(head.family.plain_state(tied=True))


def own_state(model: HybridModel, task: str) -> dict[str, Tensor]:
    """The weights of a head that no plain class knows, by the head's own names."""
    shared = {id(parameter) for parameter in model.trunk.parameters()}
    state = model.heads[task].state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if id(tensor) not in shared}


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items()}
