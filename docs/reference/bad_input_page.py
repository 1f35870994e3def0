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
# Error messages

The messages of `hft` for {count} invalid inputs, each of which a test reproduces. A message is one line on standard
error, after `error: `, without a traceback (`--debug` shows it). It names the file and the line, row or key, what was
found and expected, and the nearest valid name. Existing files are not changed.

| exit code | |
| --- | --- |
| 2 | invalid request, found before training; the command can be repeated once it is corrected |
| 1 | a run failed during training; its last checkpoint is untouched |
| 124 | stopped by `--max-time` |
| 143, 130, … | stopped by SIGTERM, by SIGINT (Ctrl-C), … ([all](../how-to/stop-and-resume.md)) |

`…` stands for any text. This page is written by `docs/reference/bad_input_page.py`; a test compares them. All cases
start from this `recipe.yaml`, with valid data (`news.csv`, `articles.txt`) and a valid encoder (`model/`):

```yaml
{recipe}```

`done/` is a finished run, `stopped/` an interrupted one, and `mine.py` a plugin.
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
            "| input | `hft …` | message | exit code |",
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
