from __future__ import annotations

import math
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from hft_core.errors import PluginError, RecipeError, UsageError
from hft_core.hooks import hookimpl
from hft_core.options import LocalPath, Options
from hft_core.plugins.catalogue import Catalogue
from hft_core.plugins.discovery import collect_specs, file_plugin
from hft_core.plugins.entries import Provider
from hft_core.recipe.recipe_file import dump, from_dict, load, override, parse, read, validate
from hft_core.recipe.resolve import Resolved, resolve
from hft_core.specs import BackboneSpec, CombinerSpec, HeadSpec, Spec, StrategySpec

HERE = "hft_fake_plugins"


class Backbone(Options):
    model: str
    dropout: float = Field(0.1, ge=0, le=1)


class Classification(Options):
    label: str
    loss: Literal["ce", "bce"] = "ce"
    text: list[str] = ["text"]


class Lora(Options):
    r: int = Field(8, gt=0)
    alpha: float = math.inf
    targets: tuple[str, ...] = ("q", "v")


class Lax(BaseModel):
    """A plugin's model that forgot to forbid unknown names."""

    weight: float = 1.0


class Free(BaseModel):
    model_config = ConfigDict(extra="allow")


class Crashing(Options):
    @classmethod
    def model_validate(cls, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("two\nlines")


def build(options: BaseModel, **arguments: Any) -> tuple[BaseModel, dict[str, Any]]:
    return options, arguments


def opens_tiny(model: str) -> bool:
    return model.startswith("tiny")


def opens_all(model: str) -> bool:
    return True


def opens_badly(model: str) -> bool:
    raise OSError("the disk\nis gone")


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the specs' import strings lead to."""
    module = types.ModuleType(HERE)
    vars(module).update({name: value for name, value in globals().items() if not name.startswith("__")})
    monkeypatch.setitem(sys.modules, HERE, module)


def names(factory: str, options: str) -> dict[str, str]:
    return {"summary": "A fake", "factory": f"{HERE}:{factory}", "options": f"{HERE}:{options}"}


TINY = BackboneSpec(name="tiny", **names("build", "Backbone"), opens=f"{HERE}:opens_tiny")
ANY = BackboneSpec(name="any", **names("build", "Backbone"), opens=f"{HERE}:opens_all")
SHY = BackboneSpec(name="shy", **names("build", "Backbone"))
BAD = BackboneSpec(name="bad", **names("build", "Backbone"), opens=f"{HERE}:opens_badly")
NEEDY = BackboneSpec(
    name="needy", **names("build", "Backbone"), opens=f"{HERE}:opens_all", requires=("no-such-distribution-xyz",)
)
CLASSIFICATION = HeadSpec(name="classification", **names("build", "Classification"))
MLM = HeadSpec(name="mlm", **names("build", "Lax"), needs_labels=False, streams=True)
LORA = StrategySpec(name="lora", **names("build", "Lora"))
PREFIX = StrategySpec(name="prefix", **names("build", "Free"), merges=False)
LOST = StrategySpec(name="lost", **names("build", "Missing"))
CRASHING = StrategySpec(name="crashing", **names("build", "Crashing"))
SUM = CombinerSpec(name="sum", **names("build", "Lax"))


def module(name: str, *specs: Spec) -> types.ModuleType:
    """A plugin module that offers `specs`."""
    made = types.ModuleType(name)
    hooks = {
        "backbone": "hft_backbones",
        "head": "hft_heads",
        "strategy": "hft_strategies",
        "combiner": "hft_combiners",
    }
    for seam, hook in hooks.items():
        offered = [spec for spec in specs if spec.seam == seam]
        if offered:
            setattr(made, hook, hookimpl(_returning(offered)))
    return made


def _returning(offered: list[Spec]) -> Any:
    def hook() -> list[Spec]:
        return offered

    return hook


def catalogue(*backbones: BackboneSpec) -> Catalogue:
    rest = (CLASSIFICATION, MLM, LORA, PREFIX, LOST, CRASHING, SUM)
    return Catalogue.of(module("hft_fake", *(backbones or (TINY, SHY)), *rest))


GOOD = """\
backbone: {model: tiny-1}
tasks:
  topic: {head: classification, data: /news.csv, label: topic}
  language: {head: mlm, data: /a.txt}
stages:
  - {name: pretrain, tasks: language, max_steps: 5}
  - name: finetune
    strategy: {type: lora, r: 16}
    combiner: sum
"""


def resolved(text: str = GOOD, *backbones: BackboneSpec, overrides: tuple[str, ...] = ()) -> Resolved:
    source = override(parse(text, "recipe.yaml"), overrides)
    return resolve(validate(source), catalogue(*backbones), source.where)


def message(
    text: str, *backbones: BackboneSpec, overrides: tuple[str, ...] = (), error: type[UsageError] = PluginError
) -> str:
    with pytest.raises(error) as caught:
        resolved(text, *backbones, overrides=overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_resolved_recipe_has_its_plugins_with_checked_options() -> None:
    result = resolved()
    assert result.backbone.entry.name == "tiny"
    assert result.heads["topic"].options == Classification(label="topic")
    pretrain, finetune = result.stages
    assert (pretrain.strategy, pretrain.combiner) == (None, None)
    assert finetune.strategy is not None and finetune.strategy.options == Lora(r=16)
    assert finetune.combiner is not None and finetune.combiner.entry.name == "sum"


def test_build_calls_the_factory_with_options_and_arguments() -> None:
    options, arguments = resolved().heads["topic"].build(task="topic")
    assert options == Classification(label="topic")
    assert arguments == {"task": "topic"}


def test_an_optional_argument_reaches_only_a_factory_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = resolved().heads["topic"]
    assert chosen.build(optional={"context": 1}, task="topic")[1] == {"task": "topic"}, "`**arguments` names none"

    def named(options: BaseModel, *, task: str, context: int = 0) -> tuple[str, int]:
        return task, context

    monkeypatch.setattr(sys.modules[HERE], "build", named)
    assert chosen.build(optional={"context": 1}, task="topic") == ("topic", 1)
    assert chosen.build(task="topic") == ("topic", 0)
    monkeypatch.setattr(sys.modules[HERE], "build", lambda options, *, task: task)
    assert chosen.build(optional={"context": 1}, task="topic") == "topic"


def test_the_resolved_recipe_pins_the_type_and_all_options() -> None:
    recipe = resolved().recipe
    assert recipe.backbone.type == "tiny"
    assert recipe.backbone.options == {"model": "tiny-1", "dropout": 0.1}
    assert recipe.tasks["topic"].head.options == {"label": "topic", "loss": "ce", "text": ["text"]}
    assert recipe.tasks["language"].head.options == {"weight": 1.0}
    pretrain, finetune = recipe.stages
    assert (pretrain.strategy, pretrain.combiner, pretrain.num_train_epochs) == (None, None, None)
    assert finetune.strategy is not None
    assert finetune.strategy.options == {"r": 16, "alpha": math.inf, "targets": ["q", "v"]}
    assert finetune.num_train_epochs is None  # the data decide (hft_core.recipe.budget)


def test_a_saved_resolved_recipe_resolves_to_itself() -> None:
    first = resolved()
    again = load(parse(dump(first.recipe), "saved"))
    assert again == first.recipe
    second = resolve(again, catalogue())
    assert second.recipe == first.recipe
    assert second.stages == first.stages


def test_providers_are_sorted_and_named_once(tmp_path: Path) -> None:
    text = GOOD + "  - {strategy: lora}\n"
    assert resolved(text).providers() == [
        {"seam": seam, "name": name, "distribution": "hft_fake", "version": ""}
        for seam, name in [
            ("backbone", "tiny"),
            ("combiner", "sum"),
            ("head", "classification"),
            ("head", "mlm"),
            ("strategy", "lora"),
        ]
    ]


def test_a_single_files_provider_carries_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from hft_core.hooks import hookimpl\n"
        "from hft_core.options import Options as Base\n"
        "from hft_core.specs import StrategySpec\n"
        "class Options(Base):\n"
        "    k: int = 1\n"
        "def build(options):\n"
        "    return options\n"
        "@hookimpl\n"
        "def hft_strategies():\n"
        "    return [StrategySpec(name='mine', summary='Mine', factory='mine:build', options='mine:Options')]\n",
        encoding="utf-8",
    )
    source = parse(GOOD.replace("{type: lora, r: 16}", "mine"), "recipe.yaml")
    fakes = collect_specs(module("hft_fake", TINY, CLASSIFICATION, MLM, SUM), Provider("hft_fake"))
    result = resolve(validate(source), Catalogue([fakes, file_plugin(file)]), source.where)
    (mine,) = [provider for provider in result.providers() if provider["name"] == "mine"]
    assert len(mine["sha256"]) == 64
    assert result.stages[1].strategy is not None and result.stages[1].strategy.build().k == 1


# --- what is wrong with plugins and options


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("type: lora", "type: lorra", ["recipe.yaml, line 8, stages.1.strategy: unknown strategy 'lorra'", "'lora'?"]),
        ("head: mlm", "head: mlmm", ["recipe.yaml, line 4, tasks.language.head: unknown head 'mlmm'", "'mlm'?"]),
        ("combiner: sum", "combiner: add", ["recipe.yaml, line 9, stages.1.combiner: unknown combiner 'add'"]),
        ("combiner: sum", 'combiner: "a\\nb"', ["line 9, stages.1.combiner: unknown combiner 'a b'"]),
        ("r: 16", '"a\\nb": 16', ["line 8, stages.1.strategy.a b: strategy 'lora' has no option 'a b'"]),
        ("combiner: sum", "combiner: ''", ["line 9, stages.1.combiner: unknown combiner ''"]),
        (
            "label: topic}",
            "label: topic, los: ce}",
            ["line 3, tasks.topic.los: head 'classification' has no option 'los'. Did you mean 'loss'?"],
        ),
        (
            "label: topic}",
            "label: topic, max_lenght: 5}",
            ["line 3, tasks.topic.max_lenght: head 'classification' has no option 'max_lenght'", "'max_length'?"],
        ),
        ("label: topic}", "lable: topic}", ["tasks.topic.lable", "'label'?", "needs the option 'label'"]),
        (", label: topic", "", ["line 3, tasks.topic.head: head 'classification' needs the option 'label'"]),
        ("label: topic}", "label: 3}", ["tasks.topic.label: head 'classification': expected text, not 3"]),
        (
            "label: topic}",
            "label: topic, loss: mse}",
            ["tasks.topic.loss: head 'classification': expected one of 'ce' or 'bce', not 'mse'"],
        ),
        ("label: topic}", "label: topic, text: [a, 1]}", ["tasks.topic.text.1: head", "expected text, not 1"]),
        ("r: 16", "r: 0", ["line 8, stages.1.strategy.r: strategy 'lora': expected a number > 0, not 0"]),
        ("r: 16", "rank: 16", ["line 8, stages.1.strategy.rank: strategy 'lora' has no option 'rank'"]),
        ("combiner: sum", "combiner: {type: sum, wieght: 2}", ["combiner.wieght", "has no option", "'weight'?"]),
        ("{model: tiny-1}", "{type: tiny}", ["line 1, backbone: backbone 'tiny' needs the option 'model'"]),
        (
            "{model: tiny-1}",
            "{type: tiny, model: x, dropout: 2}",
            ["backbone.dropout: backbone 'tiny': expected a number"],
        ),
        ("type: lora, r: 16", "type: lost", ["stages.1.strategy: strategy 'lost' of hft_fake", "Missing"]),
        (
            "type: lora, r: 16",
            "type: crashing",
            ["line 8, stages.1.strategy: strategy 'crashing' of hft_fake", "RuntimeError"],
        ),
    ],
)
def test_what_a_plugin_refuses_is_one_line_with_the_place(old: str, new: str, parts: list[str]) -> None:
    assert GOOD.count(old) == 1
    line = message(GOOD.replace(old, new))
    for part in parts:
        assert part in line


def test_an_option_set_by_a_flag_is_blamed_on_the_flag() -> None:
    line = message(GOOD, overrides=("stages.finetune.strategy.r=0",))
    assert line == "--set stages.finetune.strategy.r=0: strategy 'lora': expected a number > 0, not 0"
    line = message(GOOD, overrides=("tasks.topic.los=ce",))
    assert line == "--set tasks.topic.los=ce: head 'classification' has no option 'los'. Did you mean 'loss'?"


def test_without_a_file_the_key_path_alone_is_named() -> None:
    data = {"backbone": "tiny", "tasks": {"a": {"head": "mlm"}}, "stages": [{"strategy": {"type": "lora", "q": 1}}]}
    with pytest.raises(PluginError, match=r"^recipe, stages\.0\.strategy\.q: strategy 'lora' has no option 'q'"):
        resolve(from_dict(data), catalogue())


def test_a_plugin_that_takes_any_option_gets_it() -> None:
    result = resolved(GOOD.replace("type: lora", "type: prefix"))
    assert result.recipe.stages[1].strategy is not None
    assert result.recipe.stages[1].strategy.options == {"r": 16}


# --- the backbone's type


def test_a_backbone_without_opens_is_used_by_its_type_only() -> None:
    assert resolved(GOOD.replace("{model", "{type: shy, model")).backbone.entry.name == "shy"
    line = message(GOOD, SHY)
    assert line.startswith(
        "recipe.yaml, line 1, backbone.model: no backbone opens 'tiny-1' (known: shy); it is neither a file"
    )


def test_a_built_in_backbone_that_opens_a_model_is_meant_whatever_else_opens_it() -> None:
    source = parse(GOOD, "recipe.yaml")
    own = collect_specs(module("hft_fake", TINY, CLASSIFICATION, MLM, LORA, SUM), Provider("hft-core"))
    namesake = BackboneSpec(name="tiny", **names("opens_badly", "Backbone"), opens=f"{HERE}:opens_all")
    for rival in (ANY, TINY, BAD, namesake):
        stranger = collect_specs(module("hft_stranger", rival), Provider("hft-stranger"))
        chosen = resolve(validate(source), Catalogue([stranger, own]), source.where).backbone.entry
        assert (chosen.name, chosen.provider.distribution) == ("tiny", "hft-core")


def test_a_model_that_several_backbones_open_needs_a_type() -> None:
    line = message(GOOD, TINY, ANY)
    assert line == "recipe.yaml, line 1, backbone.model: 'tiny-1' can be opened by any, tiny; say which one with 'type'"


def test_a_backbone_that_cannot_be_asked_matters_only_when_no_other_opens_the_model() -> None:
    assert resolved(GOOD, TINY, BAD).backbone.entry.name == "tiny"
    line = message(GOOD, SHY, BAD)
    assert "bad of hft_fake could not be asked: OSError: the disk is gone" in line


def test_a_backbone_that_cannot_be_used_is_not_asked_but_named() -> None:
    assert resolved(GOOD, TINY, NEEDY).backbone.entry.name == "tiny"
    assert "needy (needs no-such-distribution-xyz)" in message(GOOD, SHY, NEEDY)


def test_a_backbone_without_a_model_is_refused() -> None:
    line = message(GOOD.replace("{model: tiny-1}", "{dropout: 0.2}"), error=RecipeError)
    assert line.startswith("recipe.yaml, line 1, backbone: 'model' is missing")


# --- stages that do not fit together


def test_no_stage_follows_a_strategy_that_cannot_be_merged() -> None:
    text = GOOD.replace("max_steps: 5}", "max_steps: 5, strategy: prefix}")
    line = message(text, error=RecipeError)
    assert line.startswith("recipe.yaml, line 6, stages.0.strategy: strategy 'prefix'")
    assert "'finetune' cannot follow" in line
    assert resolved(GOOD.replace("{type: lora, r: 16}", "prefix")).stages[1].strategy is not None


def test_resolving_imports_no_torch() -> None:
    modules = "hft_core.recipe.resolve, hft_core.recipe.recipe_file, hft_core.recipe.flags"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Lists(Options):
    words: LocalPath | None = None
    more: tuple[LocalPath, ...] = ()


def _with_words(place: Path, *overrides: str) -> Resolved:
    """The recipe of a file in `place` whose strategy has options that are paths."""
    words = StrategySpec(name="words", **names("build", "Lists"))
    (place / "recipe.yaml").write_text(GOOD.replace("lora, r: 16", "words, words: a.txt, more: [b.txt, /c.txt, ~/d]"))
    source = override(read(place / "recipe.yaml"), overrides)
    known = Catalogue.of(module("hft_fake", TINY, CLASSIFICATION, MLM, SUM, words))
    return resolve(validate(source), known, source.where)


def _paths(resolved: Resolved) -> Lists:
    strategy = resolved.stages[1].strategy
    assert strategy is not None
    assert isinstance(strategy.options, Lists)
    return strategy.options


def test_the_paths_of_plugins_options_start_from_the_recipes_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes, elsewhere = tmp_path / "recipes", tmp_path / "elsewhere"
    recipes.mkdir(), elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    found = _with_words(recipes)
    paths = _paths(found)
    assert (paths.words, paths.more) == (f"{recipes}/a.txt", (f"{recipes}/b.txt", "/c.txt", str(Path.home() / "d")))
    saved = found.recipe.stages[1].strategy
    assert saved is not None
    assert saved.options["words"] == f"{recipes}/a.txt", "the saved recipe works from any folder"


def test_a_path_that_the_command_line_sets_starts_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes, elsewhere = tmp_path / "recipes", tmp_path / "elsewhere"
    recipes.mkdir(), elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    paths = _paths(_with_words(recipes, "stages.1.strategy.words=z.txt"))
    assert (paths.words, paths.more[0]) == (f"{elsewhere}/z.txt", f"{recipes}/b.txt")


def test_a_recipe_equals_one_of_another_folder_with_the_same_content(tmp_path: Path) -> None:
    one, two = (validate(parse(GOOD, "recipe", folder)) for folder in (tmp_path, tmp_path / "other"))
    assert one == two
    assert hash(one) == hash(two)
    assert (one.folder, two.folder) == (tmp_path, tmp_path / "other")
    assert one.model_copy(update={"seed": 1}).folder == tmp_path


def test_a_head_that_reads_all_rows_at_once_cannot_learn_from_a_stream() -> None:
    task = "{head: classification, data: {train: /news.csv, stream: true}, label: topic}"
    text = f"backbone: {{model: tiny-1}}\ntasks:\n  topic: {task}\nstages: {{max_steps: 5}}\n"
    with pytest.raises(RecipeError, match=r"'classification' reads all of its rows .* from a stream: 'mlm'"):
        resolved(text)
