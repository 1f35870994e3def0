"""Plugins that are broken, missing, ambiguous, or not admitted."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from .case import Case, Change, every, nothing, replace, write

CHECK = "validate recipe.yaml"
FILE = "--plugin mine.py validate recipe.yaml"
COMBINER = """
from hft_core import CombinerSpec, hookimpl
from hft_core.combiner import Combiner
from hft_core.options import Options

{own}
def build(options, *, tasks):
    return Combiner(tuple(tasks))

@hookimpl
def hft_combiners():
    return [CombinerSpec(name="mine", summary="s", factory="{module}:build", options="{module}:Options"{more})]
"""
"""A module with one combiner."""


def code(*, module: str = "mine", own: str = "", more: str = "") -> str:
    return COMBINER.format(module=module, own=dedent(own), more=more)


def uses(name: str = "mine") -> Change:
    return replace("recipe.yaml", "combiner: sum", f"combiner: {name}")


def installed(distribution: str, text: str) -> Change:
    """A distribution whose entry point is a module with this code."""
    module = distribution.replace("-", "_")

    def make(folder: Path) -> None:
        info = folder / "site" / f"{module}-0.1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.1\n")
        (info / "entry_points.txt").write_text(f"[hft]\nplugins = {module}\n")
        (folder / "site" / f"{module}.py").write_text(text)

    return make


FILES = [
    Case(
        what="no such file",
        given=nothing,
        command=FILE,
        says="plugin file 'mine.py': cannot be read: No such file or directory",
    ),
    Case(
        what="not a Python file",
        given=nothing,
        command="--plugin news.csv validate recipe.yaml",
        says="plugin file 'news.csv': expected a .py file",
    ),
    Case(
        what="a syntax error",
        given=write("mine.py", "def f(:\n"),
        command=FILE,
        says="plugin file 'mine.py': import failed: SyntaxError: invalid syntax (mine.py, line 1)",
        process=True,
    ),
    Case(
        what="an error on import",
        given=write("mine.py", "1 / 0\n"),
        command=FILE,
        says="plugin file 'mine.py': import failed: ZeroDivisionError: division by zero",
    ),
    Case(
        what="an exit on import",
        given=write("mine.py", "import sys\nsys.exit(0)\n"),
        command=FILE,
        says="plugin file 'mine.py': import failed: SystemExit: 0",
    ),
    Case(
        what="no hook",
        given=write("mine.py", "x = 1\n"),
        command=FILE,
        says="plugin file 'mine.py': implements no hook (functions named hft_… and marked with @hookimpl)",
    ),
    Case(
        what="a misspelt hook",
        given=write("mine.py", code().replace("hft_combiners", "hft_combinres")),
        command=FILE,
        says="plugin file 'mine.py': unknown hook 'hft_combinres'. Did you mean 'hft_combiners'?",
    ),
    Case(
        what="a hook that returns something else",
        given=write("mine.py", code().replace("return [C", "return 3 or [C")),
        command=FILE,
        says="plugin file 'mine.py': hft_combiners failed: TypeError: returned int, expected a list of CombinerSpec",
    ),
    Case(
        what="a name that leads out of the folder",
        given=write("mine.py", code().replace('name="mine"', 'name="../x"')),
        command=FILE,
        says="plugin file 'mine.py': hft_combiners failed: ValueError: plugin name '../x' is not of the form …",
    ),
]

USED = [
    Case(
        what="another version of the hooks",
        given=every(write("mine.py", code(more=", api=99")), uses()),
        command=FILE,
        says="recipe.yaml, line 13, stages.0.combiner: combiner 'mine' of mine.py is not available: incompatible: "
        "written for hook API 99, and this hft-core supports 1",
    ),
    Case(
        what="a package that is missing",
        given=every(write("mine.py", code(more=', requires=("no-such-dist>=2",)')), uses()),
        command=FILE,
        says="recipe.yaml, line 13, stages.0.combiner: combiner 'mine' of mine.py is not available: needs "
        "no-such-dist: "
        "…; run: pip install 'no-such-dist>=2'",
    ),
    Case(
        what="a factory that there is not",
        given=every(write("mine.py", code().replace("mine:build", "mine:bulid")), uses()),
        command=FILE,
        says="combiner 'mine' of mine.py: cannot load its factory 'mine:bulid': AttributeError: …'bulid'",
    ),
    Case(
        what="options that are no pydantic model",
        given=every(write("mine.py", code(own="class Options:\n    pass\n")), uses()),
        command=FILE,
        says="recipe.yaml, line 13, stages.0.combiner: combiner 'mine' of mine.py: its options 'mine:Options' are "
        "not a "
        "pydantic model",
    ),
    Case(
        what="a factory that fails",
        given=every(write("mine.py", code().replace("return Combiner", "1 / 0; return Combiner")), uses()),
        command=FILE,
        says="combiner 'mine' of mine.py could not be made: ZeroDivisionError: division by zero",
    ),
    Case(
        what="a factory that returns something else",
        given=every(write("mine.py", code().replace("return Combiner(tuple(tasks))", "return None")), uses()),
        command=FILE,
        says="combiner 'mine' of mine.py: its factory returned a NoneType, expected a Combiner",
    ),
    Case(
        what="a name that two distributions have",
        given=every(
            installed("hft-xone", code(module="hft_xone")), installed("hft-xtwo", code(module="hft_xtwo")), uses()
        ),
        command=CHECK,
        says="recipe.yaml, line 13, stages.0.combiner: combiner 'mine' is provided by hft-xone 0.1 and by hft-xtwo "
        "0.1; "
        "write 'hft-xone:mine' or 'hft-xtwo:mine', or block one of them",
    ),
    Case(
        what="a distribution that cannot be imported",
        given=every(installed("hft-xone", "1 / 0\n"), uses()),
        command=CHECK,
        says="recipe.yaml, line 13, stages.0.combiner: unknown combiner 'mine'.… Not loaded: hft-xone 0.1 "
        "(plugins): import "
        "failed: ZeroDivisionError: division by zero.",
    ),
    Case(
        what="a blocked distribution",
        given=every(installed("hft-xone", code(module="hft_xone")), uses()),
        command="--block hft-xone validate recipe.yaml",
        says="recipe.yaml, line 13, stages.0.combiner: unknown combiner 'mine'.… Not loaded: hft-xone 0.1 (plugins): "
        "distribution 'hft-xone' is blocked.",
    ),
    Case(
        what="a distribution that the environment does not allow",
        given=every(installed("hft-xone", code(module="hft_xone")), uses()),
        command=CHECK,
        variables={"HFT_ALLOW": "hft-other"},
        says="recipe.yaml, line 13, stages.0.combiner: unknown combiner 'mine'.… Not loaded: hft-xone 0.1 (plugins): "
        "distribution 'hft-xone' is not on HFT_ALLOW.",
    ),
    Case(
        what="a known plugin whose package is not installed",
        given=uses("db-mtl"),
        command=CHECK,
        says="recipe.yaml, line 13, stages.0.combiner: unknown combiner 'db-mtl'. It is a combiner of hft-db-mtl, "
        "which is "
        "not loaded: pip install hft-db-mtl.…",
    ),
    Case(
        what="the built-in plugins blocked",
        given=nothing,
        command="--block hft-core validate recipe.yaml",
        says="recipe.yaml, line 1, backbone: no backbone opens 'model' (known: none)…blocked…",
    ),
    Case(
        what="a list to block that is none",
        given=nothing,
        command="--block 'a b' validate recipe.yaml",
        says="--block: 'a b' is not the name of a distribution (letters, digits, '-', '_' and '.')",
    ),
]

CASES = [*FILES, *USED]
