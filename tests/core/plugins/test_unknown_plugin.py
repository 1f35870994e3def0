from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hft_core import CombinerSpec, HeadSpec, PluginError, hookimpl
from hft_core.plugins.catalogue import Catalogue

if TYPE_CHECKING:
    from tests.core.conftest import Site


class Plugin:
    """A provider of two combiners and a head."""

    @hookimpl
    def hft_combiners(self) -> list[CombinerSpec]:
        return [CombinerSpec(name=n, summary="s", factory="m:f", options="m:O") for n in ("uncertainty", "sum")]

    @hookimpl
    def hft_heads(self) -> list[HeadSpec]:
        return [HeadSpec(name="classification", summary="s", factory="m:f", options="m:O")]


def told(seam: str, name: str, catalogue: Catalogue | None = None) -> str:
    with pytest.raises(PluginError) as raised:
        (catalogue or Catalogue.of(Plugin())).get(seam, name)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_nearest_name_of_the_seam_comes_first() -> None:
    assert told("combiner", "uncertanty") == "unknown combiner 'uncertanty'. Did you mean 'uncertainty'?"


def test_a_name_of_another_seam_is_told_with_its_seam() -> None:
    assert told("combiner", "classification") == ("unknown combiner 'classification'. There is a head of that name.")
    assert told("combiner", "clasification").endswith(" Did you mean the head 'classification'?")


def test_a_package_is_suggested_only_when_the_index_lists_the_name() -> None:
    assert told("strategy", "lora-pro") == (
        "unknown strategy 'lora-pro'. It is a strategy of hft-lora-pro, which is not loaded: pip install hft-lora-pro."
    )
    assert told("strategy", "lorapro").endswith(
        " Did you mean 'lora-pro' of hft-lora-pro, which is not loaded? (pip install hft-lora-pro)"
    )
    unheard = told("combiner", "zzz")
    assert "pip install" not in unheard
    assert unheard == ("unknown combiner 'zzz'. Known: sum, uncertainty. Other packages with plugins are called hft-….")


def test_a_distribution_that_is_asked_for_and_not_there_is_named() -> None:
    assert told("head", "hft-nowhere:classification") == (
        "unknown head 'hft-nowhere:classification'. No plugin of 'hft-nowhere' is loaded. "
        "'classification' is provided by Plugin."
    )
    assert "No plugin of 'HFT_Chinese' is loaded: pip install hft-chinese." in told("head", "HFT_Chinese:mlm-jieba")


def test_of_many_that_were_not_loaded_three_are_named(site: Site) -> None:
    for letter in "abcde":
        site.add_combiner(f"hft-{letter}", letter)
    message = told("combiner", "zzz", Catalogue.discover(block=["hft-core"], allow=()))
    assert message.count("is not on the allow list") + message.count("is blocked") == 3
    assert message.endswith(" more, see 'hft list-plugins'.")
