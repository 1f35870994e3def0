"""Settings of quantization that come with a checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AutoHfQuantizer

from hft_core.errors import ModelError, did_you_mean

FIELD = "quantization_config"


def check_method(model: str, config: PretrainedConfig) -> None:
    """Raise `ModelError` for weights in a format that transformers does not know, which it would take for plain ones
    with no more than a warning."""
    settings: Any = getattr(config, FIELD, None)
    if settings is None:
        return
    given = settings if isinstance(settings, dict) else settings.to_dict()
    method = given.get("quant_method")
    known = sorted(AUTO_QUANTIZATION_CONFIG_MAPPING)
    try:
        supported = AutoHfQuantizer.supports_quant_method(given)
    except ValueError:
        supported = False
    if not supported:
        said = f"the quantization method {method!r}" if method else f"no 'quant_method' in its {FIELD}"
        raise ModelError(f"model '{model}' has {said}, expected one of transformers.{did_you_mean(str(method), known)}")


def drop_settings(whole: PreTrainedModel, saved: PretrainedConfig) -> None:
    """Remove the settings of quantization from the configurations of a model whose weights are float32: whoever opens
    what is saved would take them for quantized."""
    if all(parameter.dtype == torch.float32 for parameter in whole.parameters()):
        for config in (whole.config, saved, whole.config.get_text_config(), saved.get_text_config()):
            if hasattr(config, FIELD):
                delattr(config, FIELD)
