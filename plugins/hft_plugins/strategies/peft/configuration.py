"""Build and check the configuration of a PEFT method, by PEFT's own names.

The methods are those that the installed PEFT registers, so that new ones can be used without a change here.
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
from hft_plugins.strategies.peft.prompt_learning import OWN_TOKENIZER
from hft_plugins.strategies.peft.svd_initialized import INITIALIZATIONS

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

UNMERGED = frozenset({"ADAPTION_PROMPT", "LILY"})
"""Methods besides prompt learning that PEFT cannot merge; PEFT raises only when it is asked to."""


def resolve_method(method: str) -> tuple[str, dict[str, Any]]:
    """Return PEFT's own name of `method`, in any spelling (`p-tuning`), and the fields that the name implies.

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
    """Build PEFT's configuration of `method` with `fields`, by PEFT's names.

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
        config: PeftConfig = config_class(**{**_placeholders(own, values), **values})
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"PEFT refuses method '{own}': {' '.join(str(error).split())[:300]}") from error
    _check_combination(own, config)
    return config


def merges(config: PeftConfig) -> bool:
    """Tell whether what the method adds can be merged into the trunk."""
    return not config.is_prompt_learning and str(getattr(config.peft_type, "value", "")) not in UNMERGED


def converts(config: Any) -> bool:
    """Tell whether the method initializes from the trunk's weights and is saved as an ordinary LoRA."""
    start = getattr(config, "init_lora_weights", None)
    return isinstance(start, str) and start.lower().startswith(INITIALIZATIONS)


def _checked(method: str, name: str, value: Any, hint: Any) -> Any:
    """Validate `value` by the field's annotation: PEFT itself checks few types, and fails late."""
    value = list(value) if isinstance(value, tuple) else value
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        if isinstance(value, str) and any(problem["type"] == "literal_error" for problem in problems):
            return value  # PEFT takes names that its annotations leave out (`pissa_niter_4`), and refuses others itself
        raise ValueError(f"method '{method}', field '{name}': {problems[0]['msg']}, not {value!r}") from None


def _placeholders(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return placeholders for fields that PEFT requires and that are known only when the stage begins."""
    if method == "ADALORA":  # see `AdaLora.begin`
        return {"total_step": values.get("tinit", 0) + values.get("tfinal", 0) + 1}
    if values.get("prompt_tuning_init") == "TEXT":
        return {"tokenizer_name_or_path": OWN_TOKENIZER}
    return {}


def _check_combination(method: str, config: Any) -> None:
    """Raise `ValueError` for combinations of fields that PEFT refuses late or not at all."""
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
