"""Write the model card of a run: `README.md` with the metadata that model hubs read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hft_core.head import Head
from hft_core.recipe import recipe_file
from hft_core.results import RunResult, Scores, StageResult
from hft_core.runs.assembly import BuiltRun
from hft_core.sanitize import plain

HUB_TASKS = {
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "QuestionAnswering": "question-answering",
    "MultipleChoice": "multiple-choice",
    "MaskedLM": "fill-mask",
    "Seq2SeqLM": "text2text-generation",
    "ConditionalGeneration": "text2text-generation",
    "CausalLM": "text-generation",
}
"""The hub's name of a task, by how the class of transformers ends that has trunk and head together."""
OTHER_TASK = "other"
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
HUB_SPLITS = {"dev": "validation", "test": "test"}
"""The hub's names of hft's splits."""


def card(result: RunResult, built: BuiltRun, *, adapter_base: str) -> str:
    """Return the text of the card: what was trained from what, its scores, and how to open it.

    `adapter_base`: the model that the adapters in the tasks' folders belong on; empty where those hold whole models.
    """
    recipe = built.resolved.recipe
    base = str(recipe.backbone.options.get("model", ""))
    title = f"{Path(base).name} adapted by hybrid fine-tuning"
    metadata = ModelCardData(
        base_model=base if _is_on_hub(base) else None,
        library_name=_library(built, adapter_base),
        tags=["hybrid-fine-tuning"],
        model_name=plain(title),
        eval_results=list(_eval_results(result, built.heads)),
    )
    sections = [
        f"# {_plain(title)}\n",
        f"Base model: {_code(base)}. Tasks: {', '.join(f'`{task}`' for task in recipe.tasks)}.\n",
        "## Scores\n",
        _scores(result),
        "## Stages\n",
        _stages(result.stages),
        *(["## Warnings\n", *(f"- {_plain(warning)}" for warning in result.warnings), ""] if result.warnings else []),
        "## Use\n",
        _use(built, adapter_base),
        "## Recipe\n",
        f"<details><summary>recipe.yaml</summary>\n\n{_block('yaml', recipe_file.dump(recipe))}\n</details>\n",
        "## Framework versions\n",
        *(f"- {name} {version}" for name, version in result.versions.items()),
        f"- Python plugins: {', '.join(sorted({_plugin(plugin) for plugin in result.plugins}))}",
    ]
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n" + "\n".join(sections) + "\n"))


def _is_on_hub(model: str) -> bool:
    """Return whether `model` is a name on the hub; a path of this machine does not belong into metadata."""
    return _HUB_NAME.fullmatch(model) is not None and not Path(model).exists()


def _library(built: BuiltRun, adapter_base: str) -> str:
    """Return the name of the library that opens the tasks' folders."""
    if not adapter_base:
        return "transformers"
    return "peft" if built.model.strategy.plain else "hft"


def _eval_results(result: RunResult, heads: Mapping[str, Head]) -> Iterator[EvalResult]:
    """Yield the final scores for the metadata's `model-index`; those that are not finite are left out."""
    for split, scores in result.final.items():
        for task, metrics in scores.items():
            for metric, value in metrics.items():
                if math.isfinite(value):
                    yield EvalResult(
                        task_type=_hub_task(heads[task]),
                        dataset_type=plain(task),
                        dataset_name=plain(task),
                        dataset_split=HUB_SPLITS.get(split, split),
                        metric_type=plain(metric),
                        metric_value=round(value, 6),
                    )


def _hub_task(head: Head) -> str:
    """Return the hub's name of what a head does."""
    plain_class = head.family.plain_class if head.family is not None else ""
    return next((task for end, task in HUB_TASKS.items() if plain_class.endswith(end)), OTHER_TASK)


def _scores(result: RunResult) -> str:
    lines = ["| task | metric | dev | test |", "| --- | --- | --- | --- |"]
    for task, metric in result.main_metrics.items():
        dev, test = (_value(result.final.get(split, {}), task, metric) for split in ("dev", "test"))
        lines.append(f"| {_plain(task)} | {_plain(metric)} | {dev} | {test} |")
    return "\n".join(lines) + "\n"


def _value(scores: Scores, task: str, metric: str) -> str:
    return f"{scores[task][metric]:.4f}" if metric in scores.get(task, {}) else "–"


def _stages(stages: tuple[StageResult, ...]) -> str:
    columns = ("stage", "tasks", "strategy", "combiner", "steps", "rows a step", "trunk parameters trained")
    lines = [f"| {' | '.join(columns)} | learning rate (trunk, heads) |", f"|{' --- |' * (len(columns) + 1)}"]
    for s in stages:
        share = f"{s.trainable:,} of {s.trunk:,}"
        lines.append(
            f"| {s.name} | {', '.join(s.tasks)} | {s.strategy or '–'} | {s.combiner or '–'} | {s.steps} | "
            f"{s.train_batch_size} | {share} | {s.learning_rate:g}, {s.head_learning_rate:g} |"
        )
    return "\n".join(lines) + "\n"


def _use(built: BuiltRun, adapter_base: str) -> str:
    """Return code that opens each task's folder, with transformers and PEFT where they can."""
    lines = []
    plain = not adapter_base or built.model.strategy.plain
    for task, head in built.heads.items():
        if head.family is None or not plain:
            lines.append(f"# {task}: `hft predict RUN --task {task}`")
            continue
        plain_class, labels = head.family.plain_class, head.config().get("id2label", {})
        if adapter_base:
            extra = f", num_labels={len(labels)}" if labels else ""
            lines += [
                f"base = transformers.{plain_class}.from_pretrained({adapter_base!r}{extra})",
                f'model = peft.PeftModel.from_pretrained(base, "model/{task}")',
            ]
        else:
            lines.append(f'model = transformers.{plain_class}.from_pretrained("model/{task}")')
    if all(line.startswith("#") for line in lines):
        return _block("sh", "\n".join(line.partition("`")[2].rstrip("`") for line in lines) + "\n")
    imports = "import transformers\n" + ("import peft\n" if adapter_base else "")
    return _block("python", imports + "\n".join(lines) + "\n")


def _plugin(origin: Mapping[str, Any]) -> str:
    return _plain(f"{origin['distribution']} {origin['version']}".strip())


def _block(language: str, text: str) -> str:
    """Return a code block with a fence longer than any in the text, so that nothing in it can end the block."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}{fence}\n"


def _code(text: str) -> str:
    """Return text as inline code, in more backticks than it holds."""
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{ticks}{pad}{' '.join(text.split())}{pad}{ticks}"


def _plain(text: str) -> str:
    """Escape text from data or plugins so that Markdown shows it as it is."""
    escaped = "".join(f"\\{c}" if c in "\\`*_[]|<>#&~" else c for c in " ".join(text.split()))
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in escaped)
