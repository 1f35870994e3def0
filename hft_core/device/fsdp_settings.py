"""Whether a trunk is to be divided among the processes, as Accelerate's launcher and configuration say it; light.

`accelerate launch --use_fsdp --fsdp_version 2` tells its processes by environment variables. Only an `AcceleratorState`
reads them, and not on CPUs: they are read here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hft_core.errors import UsageError

if TYPE_CHECKING:
    from accelerate.state import AcceleratorState

USE, VERSION = "ACCELERATE_USE_FSDP", "FSDP_VERSION"
LOADING = "FSDP_CPU_RAM_EFFICIENT_LOADING"
INSTEAD = (
    "divide the trunk by FSDP2: 'hft run --processes N --fsdp', or 'accelerate launch --use_fsdp --fsdp_version 2'"
)
REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": f"DeepSpeed is not supported, as it moves heads that a step does not use: {INSTEAD}",
    "ACCELERATE_USE_MEGATRON_LM": f"Megatron-LM is not supported: {INSTEAD}",
}
"""What else could divide a model."""
REFUSED_SETTINGS = {
    "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params is not supported: each process keeps its share on its device",
    "FSDP_ACTIVATION_CHECKPOINTING": "fsdp_activation_checkpointing is not supported: activations are kept",
}
"""What would be missed if it were passed over."""


def ask() -> None:
    """Let this process, and those that it starts, divide the trunk."""
    os.environ.update({USE: "true", VERSION: "2"})


def asked(state: AcceleratorState | None) -> bool:
    """Whether the trunk is to be divided; `state`: that of the host's Accelerator, if it has one (a plugin that it was
    given is also told by the environment). Raises `UsageError` for what cannot be done."""
    for name, reason in REFUSED.items():
        if _is_set(name):
            raise UsageError(reason)
    if not _is_set(USE):
        return False
    plugin = getattr(state, "fsdp_plugin", None)
    version = str(plugin.fsdp_version) if plugin is not None else os.environ.get(VERSION, "1")
    if version != "2":
        raise UsageError(f"fsdp_version: {version} is not supported, expected 2 (torch's fully_shard)")
    for name, reason in REFUSED_SETTINGS.items():
        if _is_set(name):
            raise UsageError(reason)
    # Otherwise transformers leaves the weights unread in all processes but the first, for Accelerate to send.
    os.environ[LOADING] = "false"
    return True


def _is_set(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1", "yes")
