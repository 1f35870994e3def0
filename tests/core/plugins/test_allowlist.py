from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from hft_core import PluginError
from hft_core.plugins.allowlist import Allowlist
from hft_core.plugins.catalogue import Catalogue

if TYPE_CHECKING:
    from tests.core.conftest import Site


def loaded(**lists: object) -> set[str]:
    """The distributions beside hft-core whose plugins are there."""
    entries = Catalogue.discover(**lists).entries  # type: ignore[arg-type]
    return {e.provider.distribution for e in entries if e.spec is not None} - {"hft-core"}


def test_without_an_allow_list_everything_is_loaded(site: Site) -> None:
    site.add_combiner("hft-a", "a")
    assert loaded() >= {"hft-a"}


def test_only_what_is_on_the_allow_list_is_imported_beside_the_built_ins(site: Site) -> None:
    site.add_combiner("Hft.A", "a")
    module = site.add_combiner("hft-b", "b")
    assert loaded(allow=["HFT_a"]) == {"Hft.A"}
    assert module not in sys.modules
    assert loaded(allow=()) == set()
    catalogue = Catalogue.discover(allow=())
    assert catalogue.get("combiner", "pcgrad").provider.distribution == "hft-core"
    with pytest.raises(PluginError, match=r"Not loaded: hft-b 0\.1 .*: distribution 'hft-b' is not on the allow list"):
        catalogue.get("combiner", "b")


def test_the_environment_only_narrows_what_a_host_allows(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add_combiner("hft-a", "a")
    site.add_combiner("hft-b", "b")
    monkeypatch.setenv("HFT_ALLOW", "hft-a, ,hft-other")
    assert loaded() == {"hft-a"}
    assert loaded(allow=["hft-a", "hft-b"]) == {"hft-a"}
    assert loaded(allow=["hft-b"]) == set()
    refusal = Allowlist.of((), ["hft-b"]).refusal
    assert refusal("hft-c") == "distribution 'hft-c' is not on the allow list nor on HFT_ALLOW"
    assert refusal("hft-b") == "distribution 'hft-b' is not on HFT_ALLOW"


def test_a_list_set_to_nothing_allows_no_third_party(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add_combiner("hft-a", "a")
    monkeypatch.setenv("HFT_ALLOW", "")
    assert loaded() == set()


def test_a_block_outweighs_an_allowance(site: Site) -> None:
    site.add_combiner("hft-a", "a")
    assert loaded(allow=["hft-a"], block=["hft-a"]) == set()
    assert Allowlist.of(["hft-core"], ["hft-core"]).refusal("hft-core") == "distribution 'hft-core' is blocked"


@pytest.mark.parametrize("name", ["hft a", "hft-a;hft-b", "-hft", "hft-", "../hft", "hft\x1b[2J", "hft-a\nhft-b"])
def test_what_is_no_name_is_refused_wherever_it_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PluginError, match=r"block: .* is not the name of a distribution"):
        Allowlist.of([name], None)
    with pytest.raises(PluginError, match=r"allow: .* is not the name of a distribution"):
        Allowlist.of((), [name])
    monkeypatch.setenv("HFT_BLOCK", name)
    with pytest.raises(PluginError, match=r"HFT_BLOCK: .* is not the name of a distribution"):
        Allowlist.of((), None)


def test_a_text_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(PluginError, match="allow: expected a list of distribution names, not the text 'hft-a'"):
        Allowlist.of((), "hft-a")


def test_a_catalogue_of_given_modules_does_not_ask_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from hft_plugins import combiners

    monkeypatch.setenv("HFT_ALLOW", "not a name")
    monkeypatch.setenv("HFT_BLOCK", "hft-core")
    assert Catalogue.of(combiners).get("combiner", "sum").name == "sum"
