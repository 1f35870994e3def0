"""Third-party distributions as wheels, written directly: a wheel is a zip file with its metadata.

Building thirty of them by a build backend would take minutes. Used by the tests and by the start-up benchmark.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

COMBINER = """
from hft_core import CombinerSpec, hookimpl

@hookimpl
def hft_combiners():
    return [CombinerSpec(name={name!r}, summary={summary!r}, factory="{module}.own:build",
                         options="{module}.own:Options", api={api}, source={source!r})]
"""
OWN = """
from hft_core.combiner import Combiner
from hft_core.options import Options

def build(options, *, tasks):
    return Combiner(tuple(tasks))
"""


@dataclass(frozen=True)
class Stranger:
    """One distribution: `entry` is the code of the module that its entry point names."""

    name: str
    entry: str
    version: str = "0.1"
    requires: tuple[str, ...] = ()
    point: str = "plugins"
    """The entry point's name."""

    @property
    def module(self) -> str:
        return self.name.replace("-", "_").lower()

    def wheel(self, folder: Path) -> Path:
        """Write the wheel into `folder`."""
        info = f"{self.module}-{self.version}.dist-info"
        requires = "".join(f"Requires-Dist: {text}\n" for text in self.requires)
        files = {
            f"{self.module}/__init__.py": dedent(self.entry),
            f"{self.module}/own.py": OWN,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n{requires}",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": f"[hft]\n{self.point} = {self.module}\n",
        }
        record = "".join(f"{name},sha256={_digest(text)},{len(text.encode())}\n" for name, text in files.items())
        path = folder / f"{self.module}-{self.version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
                archive.writestr(name, text)
        return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def combiner(
    distribution: str,
    name: str,
    *,
    before: str = "",
    summary: str = "A combiner",
    source: str = "",
    api: int = 1,
    version: str = "0.1",
) -> Stranger:
    """A distribution with one combiner that works; `before` is code that its entry module begins with."""
    module = distribution.replace("-", "_").lower()
    code = COMBINER.format(name=name, summary=summary, module=module, api=api, source=source)
    return Stranger(distribution, f"{before}\n{code}", version)


def healthy(number: int) -> list[Stranger]:
    """So many distributions of which nothing bad can be said."""
    return [combiner(f"hft-healthy-{i:02}", f"healthy-{i:02}") for i in range(number)]


HOOK = "from hft_core import CombinerSpec, hookimpl\n"
PATH_NAME = """
from dataclasses import dataclass
from hft_core import CombinerSpec, hookimpl

class Unchecked(CombinerSpec):
    def __post_init__(self):
        pass

@hookimpl
def hft_combiners():
    return [Unchecked(name="../../etc/cron.d/x", summary="One line", factory="m:f", options="m:O")]
"""
OPENS_ALL = """
from hft_core import BackboneSpec, hookimpl

@hookimpl
def hft_backbones():
    return [BackboneSpec(name=name, summary="Takes every model for its own", factory="hft_opens.own:build",
                         options="hft_opens.own:Options", opens=f"hft_opens:{function}")
            for name, function in (("opens-all", "yes"), ("opens-none", "leave"))]

def yes(model):
    return True

def leave(model):
    raise SystemExit(0)
"""
OBSERVES = """
from hft_core import hookimpl

@hookimpl
def hft_run_started(event):
    raise RuntimeError("I do not like this run")
"""
NEWER_CORE = """
from hft_core import SamplerSpec, hookimpl
"""
EVIL = '=HYPERLINK("http://evil") [red]x[/red] <b>x</b> `x` \x1b[2J\x9b31m\u202e'
EVIL_NAME = f"""
{HOOK}
@hookimpl
def hft_combiners():
    return [CombinerSpec(name={EVIL!r}, summary="One line", factory="m:f", options="m:O")]
"""

BAD = [
    combiner("hft-torch", "torchy", before="import torch"),
    Stranger("hft-raises", "raise RuntimeError('boom')"),
    combiner("hft-twin-a", "twin"),
    combiner("hft-twin-b", "twin", version="0.2"),
    combiner("hft-usurper", "pcgrad"),
    Stranger("hft-parrot", "from hft_plugins.combiners import hft_combiners"),
    combiner("hft-newer", "newer", api=99),
    Stranger("hft-newer-core", NEWER_CORE, requires=("hft-core>=99",)),
    Stranger("hft-misspells", f"{HOOK}\n@hookimpl\ndef hft_combinres():\n    return []"),
    Stranger("hft-odd", f"{HOOK}\n@hookimpl\ndef hft_combiners():\n    return [7, object()]"),
    combiner("hft-sleeps", "sleepy", before="import time\ntime.sleep(0.6)"),
    Stranger("hft-exits", "import sys\nsys.exit(0)"),
    combiner("hft-prints", "printy", before="import sys\nprint('NOISE')\nprint('NOISE', file=sys.stderr)"),
    combiner("hft-escapes", "escapes", summary=EVIL, source=EVIL),
    Stranger("hft-escapes-name", EVIL_NAME, point="@SUM(1+1)*cmd"),
    Stranger("hft-path", PATH_NAME),
    Stranger("hft-opens", OPENS_ALL),
    Stranger("hft-observes", OBSERVES),
]
"""One of each kind of fault."""

ALL = [*BAD, *healthy(30 - len(BAD))]
