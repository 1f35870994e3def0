"""PEFT's methods by name: their configurations, checked, and the strategies that carry them out.

The methods are those that the installed PEFT registers, so that one that it gains can be used as it is.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from pydantic import TypeAdapter, ValidationError

from hft_core.errors import did_you_mean
from hft_plugins.strategies.peft.adalora import AdaLora
from hft_plugins.strategies.peft.injected import Injected
from hft_plugins.strategies.peft.prompt_learning import OWN_TOKENIZER, PromptLearning
from hft_plugins.strategies.peft.svd_initialized import INITIALISATIONS, Converted

ALIASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "DORA": ("LORA", {"use_dora": True}),
    "RSLORA": ("LORA", {"use_rslora": True}),
    "PISSA": ("LORA", {"init_lora_weights": "pissa"}),
    "OLORA": ("LORA", {"init_lora_weights": "olora"}),
    "PREFIX": ("PREFIX_TUNING", {}),
    "PROMPT": ("PROMPT_TUNING", {}),
    "LN": ("LN_TUNING", {}),
}
"""Names that are used for a method of PEFT with certain fields."""

SET_HERE = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "revision",
        "task_type",
        "total_step",
    }
)
"""Fields that follow from the recipe: the backbone, the heads and the steps of the stage."""

LEARNING_RATES = {
    "PROMPT_TUNING": 3e-2,  # PEFT's guide to prompt-based methods
    "PREFIX_TUNING": 1e-2,  # PEFT's guide to prefix tuning
    "P_TUNING": 1e-3,  # PEFT's guide to p-tuning for classification; the prompt comes out of an MLP
    "IA3": 3e-3,  # Liu et al. 2022, arXiv:2205.05638
    "VERA": 4e-3,  # Kopiczko et al. 2023, arXiv:2310.11454, on GLUE
    "FOURIERFT": 5e-2,  # Gao et al. 2024, arXiv:2405.03003, on GLUE
}
"""By method, where it is not `Injected.learning_rate`."""

UNMERGED = frozenset({"ADAPTION_PROMPT", "LILY"})
"""Methods that PEFT cannot merge, prompt learning apart; it says so only when it is asked to."""


def resolve_method(method: str) -> tuple[str, dict[str, Any]]:
    """PEFT's own name of `method`, however it is spelled (`p-tuning`), and the fields that the name implies.

    Raises `ValueError` for a name that the installed PEFT does not have.
    """
    name = method.upper().replace("-", "_")
    known = {str(getattr(kind, "value", kind)): kind for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    own, implied = (name, {}) if name in known else ALIASES.get(name, (name, {}))
    if own not in known:
        names = {each.lower() for each in (*known, *ALIASES)}
        raise ValueError(f"PEFT has no method '{method}'.{did_you_mean(name, names)}")
    return own, dict(implied)


def configuration(method: str, fields: Mapping[str, Any]) -> PeftConfig:
    """PEFT's configuration of `method` with `fields`, by PEFT's names.

    Raises `ValueError` with one line for a method or field that PEFT does not have, a value of the wrong type, and what
    PEFT itself refuses.
    """
    own, implied = resolve_method(method)
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[own]  # type: ignore[index]  # its keys are strings by value
    known = {field.name for field in dataclasses.fields(config_class)}
    hints = typing.get_type_hints(config_class)
    values = dict(implied)
    for name, value in fields.items():
        if name in SET_HERE and name in known:
            raise ValueError(f"method '{own}': '{name}' follows from the recipe, and cannot be set")
        if name not in known:
            raise ValueError(f"method '{own}' has no field '{name}'.{did_you_mean(name, known - SET_HERE)}")
        values[name] = _checked(own, name, value, hints[name])
    try:
        config: PeftConfig = config_class(**{**_for_now(own, values), **values})
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"PEFT refuses method '{own}': {' '.join(str(error).split())[:300]}") from error
    _check_whole(own, config)
    return config


def strategy(name: str, config: PeftConfig) -> Injected:
    """What carries out `config`; `name` is that of the strategy in the recipe."""
    kind: type[Injected] = Injected
    if config.is_prompt_learning:
        kind = PromptLearning
    elif config.peft_type == "ADALORA":
        kind = AdaLora
    elif converts(config):
        kind = Converted
    made = kind(config, name)
    made.learning_rate = LEARNING_RATES.get(str(getattr(config.peft_type, "value", "")), Injected.learning_rate)
    return made


def merges(config: PeftConfig) -> bool:
    """Whether what the method adds can be folded into the trunk."""
    return not config.is_prompt_learning and str(getattr(config.peft_type, "value", "")) not in UNMERGED


def converts(config: Any) -> bool:
    """Whether the method begins with a part of the trunk's weights and is saved as an ordinary LoRA."""
    start = getattr(config, "init_lora_weights", None)
    return isinstance(start, str) and start.lower().startswith(INITIALISATIONS)


def _checked(method: str, name: str, value: Any, hint: Any) -> Any:
    """`value` as the field's annotation has it. PEFT itself checks few types, and fails late."""
    value = list(value) if isinstance(value, tuple) else value
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        if isinstance(value, str) and any(problem["type"] == "literal_error" for problem in problems):
            return value  # PEFT takes names that its annotations leave out (`pissa_niter_4`), and refuses others itself
        raise ValueError(f"method '{method}', field '{name}': {problems[0]['msg']}, not {value!r}") from None


def _for_now(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields without which PEFT makes no configuration, and which are known later."""
    if method == "ADALORA":  # see `AdaLora.begin`
        return {"total_step": values.get("tinit", 0) + values.get("tfinal", 0) + 1}
    if values.get("prompt_tuning_init") == "TEXT":
        return {"tokenizer_name_or_path": OWN_TOKENIZER}
    return {}


def _check_whole(method: str, config: Any) -> None:
    """What PEFT would find out late or never. Raises `ValueError`."""
    if config.is_prompt_learning and not config.num_virtual_tokens:
        raise ValueError(f"method '{method}' needs the field 'num_virtual_tokens'")
    if method == "ADALORA" and config.target_r >= config.init_r:
        raise ValueError(f"method 'ADALORA': target_r {config.target_r} must be below init_r {config.init_r}")
    if getattr(config, "use_asa", False):
        raise ValueError(f"method '{method}': use_asa keeps a state in PEFT that no checkpoint could hold")
    if not converts(config):
        return
    if config.use_dora:
        raise ValueError(f"use_dora and init_lora_weights '{config.init_lora_weights}' cannot be saved as one LoRA")
    if config.use_rslora and (config.rank_pattern or config.alpha_pattern):
        raise ValueError(
            f"use_rslora, init_lora_weights '{config.init_lora_weights}' and a rank_pattern or alpha_pattern cannot be "
            "saved as one LoRA"
        )
