"""The wheel, an editable install, and a stranger's distribution beside them, in environments of their own."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.distributions.conftest import Environment

STRANGER = {
    "pyproject.toml": """
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"

        [project]
        name = "hft-align"
        version = "0.3"
        dependencies = ["hft-core"]

        [project.entry-points.hft]
        combiners = "hft_align"
    """,
    "hft_align/__init__.py": """
        from hft_core import CombinerSpec, hookimpl

        @hookimpl
        def hft_combiners():
            return [CombinerSpec(name="align", summary="Rewards gradients that agree",
                                 factory="hft_align.align:build", options="hft_align.align:Options")]
    """,
    "hft_align/align.py": """
        from hft_core.combiner import Combiner
        from hft_core.options import Options

        def build(options, *, tasks):
            return Combiner(tuple(tasks))
    """,
}


def listed(environment: Environment, **variables: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(environment.run("hft", "list-plugins", "--json", **variables))
    return rows


def importable(environment: Environment, *modules: str) -> set[str]:
    code = "import importlib.util, sys; print(*[m for m in sys.argv[1:] if importlib.util.find_spec(m)])"
    return set(environment.run("python", "-c", code, *modules).split())


def stranger(folder: Path) -> Path:
    place = folder / "hft-align"
    for name, text in STRANGER.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    return place


def test_the_wheel_works_where_nothing_else_of_the_project_is(environment: Environment, wheel: Path) -> None:
    environment.install(wheel)
    where = environment.run(
        "python", "-c", "import hft_core, hft_plugins; print(hft_core.__file__, hft_plugins.__file__)"
    )
    assert all(path.startswith(str(environment.site)) for path in where.split())
    assert environment.run("hft", "--version") == "hft 0.1.0\n"
    rows = listed(environment)
    assert {row["seam"] for row in rows} == {
        "backbone",
        "head",
        "strategy",
        "combiner",
        "recipe",
        "tracker",
        "launcher",
    }
    assert {(row["provider"], row["version"]) for row in rows} == {("hft-core", "0.1.0")}
    assert {row["state"] for row in rows if row["seam"] not in ("recipe", "tracker")} == {"ok"}


def test_blocking_the_built_in_plugins_leaves_a_working_command_without_plugins(
    environment: Environment, wheel: Path
) -> None:
    environment.install(wheel)
    assert {row["state"] for row in listed(environment, HFT_BLOCK="hft-core")} == {"blocked"}
    assert "list-plugins" in environment.run("hft", "--help", HFT_BLOCK="hft-core")


def test_a_strangers_distribution_is_listed_as_its_own(environment: Environment, wheel: Path) -> None:
    environment.install(wheel, stranger(environment.folder))
    rows = {row["name"]: row for row in listed(environment)}
    assert (rows["align"]["provider"], rows["align"]["version"], rows["align"]["state"]) == ("hft-align", "0.3", "ok")
    assert rows["pcgrad"]["provider"] == "hft-core"
    assert "example" in environment.run("hft", "describe", "combiner", "align")
    alone = listed(environment, HFT_BLOCK="hft-core")
    assert [row["name"] for row in alone if row["state"] == "ok"] == ["align"]


def test_an_editable_install_shows_what_the_wheel_has_and_nothing_else(environment: Environment, tree: Path) -> None:
    environment.install("--editable", tree)
    modules = ("hft_core", "hft_plugins", "plugins", "tests", "docs", "contrib")
    assert importable(environment, *modules) == {"hft_core", "hft_plugins"}
    assert "pcgrad" in {row["name"] for row in listed(environment)}
