"""Write the model card of a run: `README.md` with the metadata that model hubs read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache

from hft_core.data.readers import hub
from hft_core.head import Head
from hft_core.recipe import recipe_file
from hft_core.recipe.schema import Recipe
from hft_core.results import RunResult, StageResult
from hft_core.runs import usage_lines
from hft_core.runs.assembly import BuiltRun, max_length
from hft_core.runs.floors import standard_error
from hft_core.runs.model_folders import plain_pooled_output
from hft_core.runs.usage_lines import Usage
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
MAX_LABELS = 20
"""Rows of a table of scores by label."""
HUB_SPLITS = {"dev": "validation", "test": "test"}
"""The hub's names of hft's splits."""


def card(result: RunResult, built: BuiltRun, *, adapter_base: str) -> str:
    """Return the text of the card: what was trained from what, its scores, and how to open it.

    `adapter_base`: the model that the adapters in the tasks' folders belong on; empty where those hold whole models.
    """
    recipe = built.resolved.recipe
    base = str(recipe.backbone.options.get("model", ""))
    on_hub = _is_on_hub(base)
    name = base if on_hub else Path(base).name
    title = f"{Path(base).name} adapted by hybrid fine-tuning"
    of_base = usage_lines.base_facts(_base_metadata(base))
    metadata = ModelCardData(
        base_model=base if on_hub else None,
        base_model_relation=("adapter" if adapter_base else "finetune") if on_hub else None,
        library_name=_library(built, adapter_base),
        pipeline_tag=_pipeline_tag(built.heads),
        tags=["hybrid-fine-tuning"],
        datasets=_hub_data(built) or None,
        model_name=plain(title),
        eval_results=list(_eval_results(result, built.heads)),
        **of_base,
    )
    sections = [
        f"# {_plain(title)}\n",
        f"Base model: {_code(name)}. Tasks: {', '.join(f'`{task}`' for task in recipe.tasks)}.\n",
        "## Scores\n",
        _scores(result),
        *_by_label(result),
        *_calibration(result),
        "## Stages\n",
        _stages(result.stages),
        *(["## Warnings\n", *(f"- {_plain(warning)}" for warning in result.warnings), ""] if result.warnings else []),
        "## Use\n",
        _use(built, adapter_base),
        "## Data and limits\n",
        _data(built),
        _limits(built.heads) + "\n",
        *([] if "license" in of_base else ["No license was found with the base model: see its source for one.\n"]),
        "## Recipe\n",
        f"<details><summary>recipe.yaml</summary>\n\n{_block('yaml', _recipe(recipe))}\n</details>\n",
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


def _pipeline_tag(heads: Mapping[str, Head]) -> str | None:
    """Return the hub's name of what all heads do; None where they do several things, or none that the hub has."""
    found = {_hub_task(head) for head in heads.values()} - {OTHER_TASK}
    return found.pop() if len(found) == 1 else None


def _hub_task(head: Head) -> str:
    """Return the hub's name of what a head does."""
    plain_class = head.family.plain_class if head.family is not None else ""
    return next((task for end, task in HUB_TASKS.items() if plain_class.endswith(end)), OTHER_TASK)


def _scores(result: RunResult) -> str:
    """Return the table of main metrics; a share has its standard error beside it."""
    lines = ["| task | metric | dev | test | ignoring the text |", "| --- | --- | --- | --- | --- |"]
    for task, metric in result.main_metrics.items():
        dev, test = (_value(result, split, task, metric) for split in ("dev", "test"))
        floor = next((result.floors[s][task] for s in ("test", "dev") if task in result.floors.get(s, {})), None)
        guessed = "–" if floor is None else f"{floor.value:.4f}"
        lines.append(f"| {_plain(task)} | {_plain(metric)} | {dev} | {test} | {guessed} |")
    return "\n".join(lines) + "\n"


def _by_label(result: RunResult) -> Iterator[str]:
    """Yield a table of the scores by label for each task that has labels; of many, those with the lowest F1."""
    for split, by_task in result.by_label.items():
        for task, labels in by_task.items():
            shown = sorted(labels.items(), key=lambda item: item[1]["f1"])[:MAX_LABELS]
            rest = f" ({len(shown)} of {len(labels)}, those with the lowest F1)" if len(shown) < len(labels) else ""
            lines = [f"### {_plain(task)} by label, {split} split{rest}\n"]
            lines += ["| label | precision | recall | F1 | support | predicted |", f"|{' --- |' * 6}"]
            for label, values in shown:
                shares = " | ".join(f"{values[name]:.3f}" for name in ("precision", "recall", "f1"))
                lines.append(f"| {_plain(label)} | {shares} | {values['support']} | {values['predicted']} |")
            yield "\n".join(lines) + "\n"


def _calibration(result: RunResult) -> Iterator[str]:
    """Yield a table of what the probabilities are worth, and what was fitted to the dev rows."""
    rows = [(split, task, c) for split, by_task in result.calibration.items() for task, c in by_task.items()]
    if rows:
        lines = ["### Calibration\n", "| task | split | ECE | Brier | NLL |", f"|{' --- |' * 5}"]
        lines += [
            f"| {_plain(task)} | {split} | {c.ece:.4f} | {c.brier:.4f} | {c.nll:.4f} |" for split, task, c in rows
        ]
        yield "\n".join(lines) + "\n"
    for task, fitted in result.decisions.items():
        thresholds = ", ".join(f"{threshold:.4g}" for threshold in fitted["thresholds"])
        parts = [f"temperature {fitted['temperature']:.4g}"] if fitted["temperature"] != 1.0 else []
        parts += [f"thresholds {thresholds}"] if thresholds else []
        if parts:
            yield f"Fitted to the dev rows of {_plain(task)}: {'; '.join(parts)}.\n"


def _value(result: RunResult, split: str, task: str, metric: str) -> str:
    scores = result.final.get(split, {})
    if metric not in scores.get(task, {}):
        return "–"
    value, floor = scores[task][metric], result.floors.get(split, {}).get(task)
    error = standard_error(value, floor.rows) if floor is not None else None
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"


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
    """Return what opens each task's folder and predicts, with transformers and PEFT where they can."""
    plain, backbone = not adapter_base or built.model.strategy.plain, built.model.backbone
    parts = ['`hft predict RUN --task TASK "a text"` predicts with any task, where RUN is the folder of this README.\n']
    by_task = {
        task: usage_lines.lines(
            Usage(
                task=task,
                head=head,
                max_length=max_length(built.resolved, task, built.model),
                adapter_base=adapter_base,
                room=backbone.max_target_length if backbone.encoder_decoder else backbone.max_length,
                revision=str(built.resolved.recipe.backbone.options.get("revision") or ""),
                quantization=backbone.quantization,
            )
        )
        for task, head in built.heads.items()
        if plain and (head.family is not None or plain_pooled_output(built.model, task) is not None)
    }
    if by_task:
        libraries = "transformers and PEFT" if adapter_base else "transformers"
        parts.append(f"With {libraries} alone, from that folder (or set `run` to it):\n")
    for task, lines in by_task.items():
        parts += [f"### {_plain(task)}\n", _block("python", "\n".join(lines) + "\n")]
    return "\n".join(parts)


def _data(built: BuiltRun) -> str:
    """Return what each task learned from, and what is not known of the model."""
    lines = ["| task | files | train | dev | test | tokens at most |", "| --- | --- | --- | --- | --- | --- |"]
    for task, splits in built.rows.items():
        data = built.resolved.recipe.tasks[task].data
        files = (
            [] if data is None else [*data.files, *data.train, *data.dev, *data.test, *filter(None, [data.database])]
        )
        names = ", ".join(_plain(file if "://" in file else Path(file).name) for file in files) or "–"
        counted = {split: str(len(rows)) for split, rows in splits.items()}
        counted |= {"train": "a stream"} if task in built.streams else {}
        counts = " | ".join(counted.get(split, "–") for split in ("train", "dev", "test"))
        lines.append(f"| {_plain(task)} | {names} | {counts} | {max_length(built.resolved, task, built.model)} |")
    return "\n".join(lines) + "\n"


def _hub_data(built: BuiltRun) -> list[str]:
    """Return the names of the data sets of the hub that the run learned from."""
    sources = (source for splits in built.rows.values() for rows in splits.values() for source in rows.sources)
    return list(dict.fromkeys(hub.parse(source.name).name for source in sources if hub.is_address(source.name)))


def _limits(heads: Mapping[str, Head]) -> str:
    whole = [_plain(task) for task, head in heads.items() if head.chunks_long_texts]
    but = f", but read in chunks by {', '.join(whole)}" if whole else ""
    return (
        f"Longer texts than the table says are cut{but}. The scores are those of rows from the same source as the "
        "training rows: other sources, other languages, and how errors are spread over groups of people were not "
        "measured."
    )


def _base_metadata(base: str) -> dict[str, Any]:
    """Return the metadata of the base model's own card, from its folder or the hub's cache; empty without one."""
    folder = Path(base)
    path: Any = folder / "README.md" if folder.is_dir() else None
    if path is None and _is_on_hub(base):
        path = try_to_load_from_cache(base, "README.md")
    try:
        return dict(vars(ModelCard(Path(path).read_text(encoding="utf-8")).data)) if path else {}
    except Exception:  # a stranger's card may hold anything, and the run is finished
        return {}


def _recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML, with the names of local files and folders in place of their paths."""
    text = recipe_file.dump(recipe)
    paths = sorted({path for path in _texts(recipe.model_dump(mode="json")) if Path(path).is_absolute()}, key=len)
    for path in reversed(paths):  # the longest first: one may begin with another
        text = text.replace(path, f"…/{Path(path).name}")
    return text


def _texts(value: Any) -> Iterator[str]:
    """Yield every string in nested dicts and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


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
