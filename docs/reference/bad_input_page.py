"""Writes `bad-input.md` from the table of the tests: `python docs/reference/bad_input_page.py`.
`tests/e2e/test_bad_input.py` tries every line of it."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).with_name("bad-input.md")
TABLE = PAGE.parents[2] / "tests" / "e2e" / "bad_inputs"

INTRODUCTION = """\
# Bad input

What `hft` says when something that it is given is wrong: {count} cases, each of which a test makes and tries. The
answer is one line on standard error, `error: ` and what is below, and never a traceback (`--debug` shows it). It names
the file and the line, row or key, says what was found and what was expected, and gives the nearest valid name where
there is one. Files that were there before stay as they were.

| exit code | |
| --- | --- |
| 2 | what was asked for is wrong: found before anything is trained, and nothing is left in the way of the next try |
| 1 | a run that had begun could not go on; its last checkpoint is untouched |
| 143, 130 | ended by SIGTERM, by SIGINT (Ctrl-C) |

`…` stands for any text. This page is written by `docs/reference/bad_input_page.py`; a test compares them. All cases
start from this `recipe.yaml`, with good data (`news.csv`, `articles.txt`) and a good encoder (`model/`) beside it:

```yaml
{recipe}```

`done/` and `stopped/` are runs, one finished and one not, and `mine.py` is a plugin.
"""


def bad_inputs() -> ModuleType:
    """The tests' package with the table."""
    name = "hft_bad_inputs"
    if name not in sys.modules:
        spec = spec_from_file_location(name, TABLE / "__init__.py", submodule_search_locations=[str(TABLE)])
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def page() -> str:
    """The text of `bad-input.md`."""
    found = bad_inputs()
    count = sum(map(len, found.TABLE.values()))
    parts = [INTRODUCTION.format(count=count, recipe=found.RECIPE)]
    for where, cases in found.TABLE.items():
        lines = [
            f"## {where.capitalize()}\n",
            "| what is wrong | `hft …` | the answer | |",
            "| --- | --- | --- | --- |",
        ]
        lines += [_row(case) for case in cases]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _row(case: Any) -> str:
    before = "".join(f"{name}={value} " for name, value in case.variables.items())
    return f"| {case.what} | {_code(before + case.command)} | {_code(case.says)} | {case.code} |"


def _code(text: str) -> str:
    """Text as code in a cell of a table."""
    mark = "``" if "`" in text else "`"
    return f"{mark}{text}{mark}".replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
