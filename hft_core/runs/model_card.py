"""The model card of a run: `README.md` with the front matter that model hubs read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hft_core.recipe import recipe_file
from hft_core.results import RunResult, Scores, StageResult
from hft_core.runs.assembly import Material


def card(result: RunResult, material: Material, *, adapter_base: str) -> str:
    """What was trained from what, how it scores, and how it is opened.

    `adapter_base`: the model that the adapters in the tasks' folders belong on; empty where those hold whole models.
    """
    recipe = material.resolved.recipe
    base = str(recipe.backbone.options.get("model", ""))
    sections = [
        _front_matter(base, _library(material, adapter_base)),
        f"# {_plain(Path(base).name)} adapted by hybrid fine-tuning\n",
        f"Base model: {_code(base)}. Tasks: {', '.join(f'`{task}`' for task in recipe.tasks)}.\n",
        "## Scores\n",
        _scores(result),
        "## Stages\n",
        _stages(result.stages),
        *(["## Warnings\n", *(f"- {_plain(warning)}" for warning in result.warnings), ""] if result.warnings else []),
        "## Use\n",
        _use(material, adapter_base),
        "## Recipe\n",
        f"<details><summary>recipe.yaml</summary>\n\n{_block('yaml', recipe_file.dump(recipe))}\n</details>\n",
        "## Framework versions\n",
        *(f"- {name} {version}" for name, version in result.versions.items()),
        f"- Python plugins: {', '.join(sorted({_plugin(plugin) for plugin in result.plugins}))}",
    ]
    return "\n".join(sections) + "\n"


def _library(material: Material, adapter_base: str) -> str:
    """What opens the tasks' folders."""
    if not adapter_base:
        return "transformers"
    return "peft" if material.model.strategy.plain else "hft"


def _front_matter(base: str, library: str) -> str:
    facts = {"library_name": library, "base_model": base, "tags": ["hybrid-fine-tuning"]}
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---\n"


def _scores(result: RunResult) -> str:
    lines = ["| task | metric | dev | test |", "| --- | --- | --- | --- |"]
    for task, metric in result.main_metrics.items():
        dev, test = (_value(result.final.get(split, {}), task, metric) for split in ("dev", "test"))
        lines.append(f"| {_plain(task)} | {_plain(metric)} | {dev} | {test} |")
    return "\n".join(lines) + "\n"


def _value(scores: Scores, task: str, metric: str) -> str:
    return f"{scores[task][metric]:.4f}" if metric in scores.get(task, {}) else "–"


def _stages(stages: tuple[StageResult, ...]) -> str:
    lines = [
        "| stage | tasks | strategy | combiner | steps | trunk parameters trained | learning rate (trunk, heads) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for s in stages:
        share = f"{s.trainable:,} of {s.trunk:,}"
        lines.append(
            f"| {s.name} | {', '.join(s.tasks)} | {s.strategy or '–'} | {s.combiner or '–'} | {s.steps} | {share} | "
            f"{s.learning_rate:g}, {s.head_learning_rate:g} |"
        )
    return "\n".join(lines) + "\n"


def _use(material: Material, adapter_base: str) -> str:
    """How each task's folder is opened, by plain libraries where they can."""
    lines = []
    plain = not adapter_base or material.model.strategy.plain
    for task, head in material.heads.items():
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
    """A code block whose fence is longer than any in the text: nothing in it can end it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}{fence}\n"


def _code(text: str) -> str:
    """Text as inline code, in as many backticks as it takes."""
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{ticks}{pad}{' '.join(text.split())}{pad}{ticks}"


def _plain(text: str) -> str:
    """Text from data or plugins as Markdown shows it, and nothing else."""
    escaped = "".join(f"\\{c}" if c in "\\`*_[]|<>#&~" else c for c in " ".join(text.split()))
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in escaped)
