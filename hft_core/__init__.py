"""hft: hybrid fine-tuning of pre-trained encoders and decoders.

Importing this package loads pluggy and the standard library only; what needs more is loaded when it is first named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hft_core.errors import DataError, HftError, ModelError, PluginError, RecipeError, RunError, UsageError
from hft_core.hooks import hookimpl
from hft_core.specs import (
    BackboneSpec,
    CombinerSpec,
    HeadSpec,
    LauncherSpec,
    RecipeSpec,
    StrategySpec,
    TrackerSpec,
    load,
)

if TYPE_CHECKING:
    from hft_core.plugins.catalogue import Catalogue
    from hft_core.predict.saved_run import SavedRun, open_run
    from hft_core.recipe.schema import Recipe
    from hft_core.results import RunResult
    from hft_core.runs.runner import resume, run, session
    from hft_core.runs.session import Session
    from hft_core.runtime.run_check import RunCheck, check_run
    from hft_core.studies.compare import compare

    __version__: str

__all__ = [
    "BackboneSpec",
    "Catalogue",
    "CombinerSpec",
    "DataError",
    "HeadSpec",
    "HftError",
    "LauncherSpec",
    "ModelError",
    "PluginError",
    "Recipe",
    "RecipeError",
    "RecipeSpec",
    "RunCheck",
    "RunError",
    "RunResult",
    "SavedRun",
    "Session",
    "StrategySpec",
    "TrackerSpec",
    "UsageError",
    "__version__",
    "check_run",
    "compare",
    "hookimpl",
    "open_run",
    "resume",
    "run",
    "session",
]

_LAZY = {
    "Catalogue": "hft_core.plugins.catalogue:Catalogue",
    "Recipe": "hft_core.recipe.schema:Recipe",
    "RunCheck": "hft_core.runtime.run_check:RunCheck",
    "RunResult": "hft_core.results:RunResult",
    "SavedRun": "hft_core.predict.saved_run:SavedRun",
    "Session": "hft_core.runs.session:Session",
    "check_run": "hft_core.runtime.run_check:check_run",
    "compare": "hft_core.studies.compare:compare",
    "open_run": "hft_core.predict.saved_run:open_run",
    "resume": "hft_core.runs.runner:resume",
    "run": "hft_core.runs.runner:run",
    "session": "hft_core.runs.runner:session",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _LAZY:
        value = load(_LAZY[name])
    else:
        raise AttributeError(f"module 'hft_core' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("hft-core")
    except PackageNotFoundError:
        return "0.0.0+uninstalled"
