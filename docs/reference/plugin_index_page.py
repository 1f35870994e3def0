"""Writes `plugin-index.md` from the index that comes with hft-core: `python docs/reference/plugin_index_page.py`."""

from __future__ import annotations

import json
from pathlib import Path

from hft_core.plugins.known_plugins import FILE, known_distributions

PAGE = Path(__file__).with_name("plugin-index.md")

INTRODUCTION = """\
# Known plugin distributions

The packages that a message of hft may name: `unknown strategy 'lora-pro'. It is a strategy of hft-lora-pro, which is
not loaded: pip install hft-lora-pro`. For any other name no package is suggested, since anybody can register one on a
package index. The list is a file of hft-core, `hft_core/plugins/known_plugins.json`, version {version}; nothing
is fetched to read it, and nothing is ever installed by itself. `hft list-plugins` shows what is installed, listed
here or not.

A package gets into the list by a change of that file, which raises its `version`: the package is published, its
conformance tests pass, and it is called `hft-<thing>`. This page is written by `docs/reference/plugin_index_page.py`;
a test compares them, and another one compares the list with what is kept in `contrib/`.

| distribution | plugins | summary |
| --- | --- | --- |
"""


def page() -> str:
    """The text of `plugin-index.md`."""
    version = json.loads(FILE.read_text(encoding="utf-8"))["version"]
    rows = [
        f"| `{known.name}` | "
        + "; ".join(f"{seam}: {', '.join(f'`{name}`' for name in names)}" for seam, names in known.plugins.items())
        + f" | {known.summary} |\n"
        for known in known_distributions()
    ]
    return INTRODUCTION.format(version=version) + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
