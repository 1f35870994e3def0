"""A run's record of plugins against the plugins that are here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hft_core import ModelError, PluginError
from hft_core.plugins import provenance
from hft_core.plugins.catalogue import Catalogue
from hft_core.runtime import run_folder

if TYPE_CHECKING:
    from tests.core.conftest import Site


def used(name: str, distribution: str, version: str = "0.1", sha256: str = "") -> dict[str, str]:
    return {"seam": "combiner", "name": name, "distribution": distribution, "version": version, "sha256": sha256}


def here(**lists: object) -> Catalogue:
    return Catalogue.discover(block=["hft-core"], **lists)  # type: ignore[arg-type]


def missing(record: dict[str, str], catalogue: Catalogue) -> str:
    with pytest.raises(PluginError) as raised:
        provenance.differences([record], catalogue)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_same_plugins_make_no_difference(site: Site, tmp_path: Path) -> None:
    site.add_combiner("hft-a", "a")
    file = tmp_path / "mine.py"
    file.write_text(site.combiner("mine", "mine"))
    catalogue = here(inline=[file])
    record = [provenance.origin(catalogue.get("combiner", name)) for name in ("a", "mine")]
    assert record[0].keys() == set(run_folder.PROVENANCE) - {"sha256"}
    assert len(record[1]["sha256"]) == 64
    assert provenance.differences(record, catalogue) == []
    moved = tmp_path / "moved.py"
    file.rename(moved)
    assert provenance.differences(record, here(inline=[moved])) == [], "a file is known by its content"


def test_another_version_is_told_with_both_and_what_comes_from_it(site: Site) -> None:
    site.add_combiner("hft-a", "a", version="0.2")
    assert provenance.differences([used("a", "hft-a")], here()) == [
        "made with hft-a 0.1 and opened with hft-a 0.2: combiner 'a'"
    ]


def test_a_file_with_other_content_is_told_by_its_digests(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(site.combiner("mine", "mine"))
    (told,) = provenance.differences([used("mine", "mine.py", "", "0" * 64)], here(inline=[file]))
    shown = (
        r"made with mine\.py \(sha256 0{12}…\) and opened with \S+mine\.py \(sha256 [0-9a-f]{12}…\): combiner 'mine'"
    )
    assert re.fullmatch(shown, told)


def test_a_plugin_that_moved_to_another_distribution_is_found_there(site: Site) -> None:
    site.add_combiner("hft-b", "a")
    assert provenance.differences([used("a", "hft-a")], here()) == [
        "made with hft-a 0.1 and opened with hft-b 0.1: combiner 'a'"
    ]


def test_a_missing_plugin_is_named_with_its_distribution_and_version(site: Site, tmp_path: Path) -> None:
    site.add_combiner("hft-b", "b")
    assert missing(used("a", "hft-a"), here()).startswith(
        "the run was made with combiner 'a' of hft-a 0.1: unknown combiner 'a'."
    )
    assert "pip install" not in missing(used("a", "hft-a"), here()), "a run folder does not say what to install"
    assert "pip install hft-db-mtl" in missing(used("db-mtl", "hft-db-mtl"), here())
    assert missing(used("a", "hft-b"), here()).startswith(
        "the run was made with combiner 'a' of hft-b 0.1, and hft-b 0.1, which is here, has none: unknown combiner 'a'."
    )
    gone = missing(used("mine", "mine.py", "", "0" * 64), here())
    assert gone.startswith(
        "the run was made with combiner 'mine' of mine.py (sha256 000000000000…): give that file with"
    )


def test_a_plugin_that_is_there_and_cannot_be_used_is_told_with_its_state(site: Site) -> None:
    site.add_combiner("hft-a", "a")
    assert "Not loaded: hft-a 0.1 (combiners): distribution 'hft-a' is not on the allow list." in missing(
        used("a", "hft-a"), here(allow=())
    )


def test_the_run_means_the_distribution_that_it_used_whatever_else_has_the_name(site: Site) -> None:
    site.add_combiner("hft-a", "a")
    site.add_combiner("hft-b", "a")
    record = [used("a", "hft-b")]
    assert provenance.differences(record, here()) == []
    found = here().preferring(provenance.owners(record)).get("combiner", "a")
    assert found.provider.distribution == "hft-b"
    assert provenance.owners([*record, used("a", "hft-a")]) == {}, "its recipe says which one it means where"
    assert "is provided by hft-a 0.1 and by hft-b 0.1" in missing(used("a", "hft-c"), here())


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"plugins": [{"seam": "head"}]}', '{"plugins": ["x"]}'])
def test_a_record_that_cannot_be_read_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ModelError, match=r"results\.json does not say which plugins the run used: "):
        run_folder.RunFolder(tmp_path).plugins()
