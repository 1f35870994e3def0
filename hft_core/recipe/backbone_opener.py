"""Find the backbone plugin that opens a model."""

from __future__ import annotations

import os

from hft_core.errors import HftError, PluginError, did_you_mean
from hft_core.plugins.allowlist import OWN
from hft_core.plugins.catalogue import Catalogue, Entry, State
from hft_core.plugins.entries import one_line


def opener_of(catalogue: Catalogue, model: str, place: str) -> str:
    """Return the name of the one usable backbone that opens `model`.

    Those of hft-core come first, so that other installed plugins do not change the meaning of a recipe without a
    type. Raises `PluginError` if there is none, or more than one.
    """
    entries = catalogue.seam("backbone")
    failed: dict[str, list[str]] = {}
    own = [entry for entry in entries if entry.provider.distribution == OWN]
    others = [entry for entry in entries if entry.provider.distribution != OWN]
    openers = _openers(catalogue, own, model, failed) or _openers(catalogue, others, model, failed)
    model = " ".join(model.split())
    if not openers:
        errors = "".join(f"; {', '.join(names)} could not be asked: {why}" for why, names in failed.items())
        known = ", ".join(e.name if e.state is State.OK else f"{e.name} ({e.status})" for e in entries) or "none"
        raise PluginError(
            f"{place}: no backbone opens '{model}' (known: {known}){errors or _path_hint(model)}"
            f"{catalogue.not_loaded()}"
        )
    if len(openers) > 1:
        raise PluginError(f"{place}: '{model}' can be opened by {', '.join(openers)}; say which one with 'type'")
    return openers[0]


def _openers(catalogue: Catalogue, backbones: list[Entry], model: str, failed: dict[str, list[str]]) -> list[str]:
    """Return the qualified names of the usable `backbones` that open `model`; add errors, with the names of the
    backbones, to `failed`."""
    names = []
    for entry in backbones:
        if entry.state not in (State.OK, State.CONFLICT):
            continue
        ambiguous = entry.state is State.CONFLICT
        name = f"{entry.provider.distribution}:{entry.name}" if ambiguous else entry.name
        try:
            opener = catalogue.load_opens(catalogue.get("backbone", name))
            if opener is not None and opener(model):
                names.append(name)
        except (Exception, SystemExit) as error:  # another backbone may open it; reported if none does
            why = " ".join(str(error).split()) if isinstance(error, HftError) else one_line(error)
            failed.setdefault(why, []).append(f"{entry.name} of {entry.provider.label}")
    return names


def _path_hint(model: str) -> str:
    """Return, for a message, what is at the path of a model that no backbone opens."""
    if os.path.exists(model):  # noqa: PTH110 (pathlib's raises for a long name)
        return "; expected a folder as transformers saves it (config.json, weights, tokenizer), a GGUF file or a hub id"
    folder, name = os.path.split(model)
    siblings = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    hub = " (not asked, since HF_HUB_OFFLINE is set)" if offline else ""
    nearest = did_you_mean(name, siblings)
    nearest = nearest if nearest.startswith(" Did") else ""
    return f"; it is neither a file or folder nor a model of the hub{hub}.{nearest}"
