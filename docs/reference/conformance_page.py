"""Writes `conformance.md` from the docstrings of the checks: `python docs/reference/conformance_page.py`."""

from __future__ import annotations

from pathlib import Path

from hft_core.testing import Check, checks_of
from hft_core.testing.spec_checks import CAN_BE_USED, CHECKS_OF_A_PROVIDER, CHECKS_OF_EVERY_SEAM
from hft_core.testing.suite import CHECKS

PAGE = Path(__file__).with_name("conformance.md")

INTRODUCTION = """\
# Conformance

`hft_core.testing` is the contract of the seams as code: what every backbone, head, strategy, combiner, recipe and
tracker has to do, whoever wrote it. The built-in plugins pass it, and so can yours, with one line in a test file of its
distribution:

```python
from hft_core.testing import conformance

test_conformance = conformance("hft-mine")
```

pytest then shows one test a plugin and check, with ids like `combiner-pcgrad/results-stay-finite`. A single file is
checked by its path (`conformance("my_combiner.py")`). Without pytest:

```python
from hft_core.testing import examine

for outcome in examine("hft-mine"):
    print(outcome.plugin, outcome.check, outcome.result, outcome.message)
```

A message says in one line what was expected and what was found. A check is `not claimed` (skipped by pytest) where it
is about something that the plugin does not say it does, or where the plugin lacks what it requires. Nothing to check
is a failure: a name under which there are no plugins, plugins of which none can be used, a seam without checks.

No check names a plugin, and the names of the checks stay what they are. A check that your plugin cannot pass is named
with its reason, and fails when it passes after all:

```python
from hft_core.testing import conformance

test_conformance = conformance(
    "hft-mine",
    expected_failures={"strategy-mine/resume-is-equal": "what it keeps is not saved yet"},
)
```

## What a plugin is given

- It is built from its spec's `example`: the smallest options that work.
- Tiny trunks with random weights, made in code and opened by whatever installed backbone opens them: a BERT
  (bidirectional), a Llama (autoregressive) and a T5 (encoder-decoder), two layers of width 16. A head or strategy is
  looked at on the first two that it takes; a trunk is refused with a `ValueError` in the head's `attach`, and with a
  `PluginError` in the strategy's `apply`.
- A backbone opens those of them that its `opens` says it opens: `PATH` in its `example` stands for the folder. One
  that opens no folder of transformers names a function that writes a tiny model,
  `example_model="package.module:write"`.
- A head gets rows that are made up from its `columns()`: the class of a row decides the words of its texts, its labels
  and its numbers. Where cells depend on one another (a span and its context) the spec names a function `(count, seed)`
  that returns rows, `example_rows="package.module:rows"`; they should be learnable in 30 steps.
- A strategy is given three tasks called `ab`, `a` and `a-b`, and is driven as a stage drives it. One that
  continues another (`continues`) is applied after that one.
- A combiner is given made-up losses and gradients, some of which conflict, and a step in three without one of the
  tasks.
"""


def page() -> str:
    """The text of `conformance.md`."""
    parts = [INTRODUCTION, _section("A distribution, once", CHECKS_OF_A_PROVIDER)]
    parts.append(_section("Every plugin", [CAN_BE_USED, *CHECKS_OF_EVERY_SEAM]))
    for seam in CHECKS:
        own = [check for check in checks_of(seam) if check not in CHECKS_OF_EVERY_SEAM]
        parts.append(_section(f"{seam.capitalize()}s" if seam != "strategy" else "Strategies", own))
    return "\n".join(parts)


def _section(title: str, checks: list[Check]) -> str:
    rows = [f"| `{check.name}` | {check.says} |" for check in checks]
    return "\n".join([f"## {title}\n", "| check | what holds |", "| --- | --- |", *rows]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
