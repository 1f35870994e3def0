"""Read from Accelerate's environment variables whether FSDP shards the trunk; imports no torch.

`accelerate launch --use_fsdp --fsdp_version 2` sets them. Only `AcceleratorState` reads them, and not on CPUs.
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
"""Variables of launchers that shard a model in ways that are not supported, with the reason."""
REFUSED_SETTINGS = {
    "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params is not supported: each process keeps its share on its device",
    "FSDP_ACTIVATION_CHECKPOINTING": "fsdp_activation_checkpointing is not supported: activations are kept",
}
"""FSDP settings that have no effect here, so that they are errors."""


def request() -> None:
    """Request FSDP for this process and the processes that it starts."""
    os.environ.update({USE: "true", VERSION: "2"})


def requested(state: AcceleratorState | None) -> bool:
    """Return whether FSDP is requested, by the environment alone: Accelerate also sets it for a plugin object.

    `state`: that of the host's `Accelerator`, for the FSDP version. Raises `UsageError` for unsupported settings.
    """
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
    # Otherwise transformers loads weights in rank 0 only, and expects Accelerate to broadcast them.
    os.environ[LOADING] = "false"
    return True


def _is_set(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1", "yes")
