"""Write `images/demo.svg`, a recording of the demo, from its saved output: `python docs/make_recording.py`.

`images/demo.txt` is the complete output of `COMMAND` (standard output and standard error). The recording leaves out
evaluations, most progress lines, and what depends on how busy the machine was.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

IMAGES = Path(__file__).with_name("images")
OUTPUT, RECORDING = IMAGES / "demo.txt", IMAGES / "demo.svg"
COMMAND = "hft demo --set precision=fp32 --out runs/news"
WIDTH = 104
SHOWN_STEPS = {"2/24", "12/24", "24/24", "36/360", "180/360", "360/360"}
PROGRESS = re.compile(r"\w+ (\d+/\d+): ")
LEFT_OUT = re.compile(r"cpu, |\w+, step \d+, (dev|test): |\w+: \d+ rows/s|\d+ s on ")


def shown(output: str) -> list[str]:
    """Select the lines of the output that the recording has, without rates and times."""
    lines: list[str] = []
    for line in output.splitlines():
        progress = PROGRESS.match(line)
        if LEFT_OUT.match(line) or (progress and progress[1] not in SHOWN_STEPS):
            continue
        text = line.partition("; ")[0] if progress else line
        if text or (lines and lines[-1]):  # no two empty lines in a row
            lines.append(text)
    return lines


def recording() -> str:
    """Render the recording as SVG, with the reader's own monospace font: nothing is loaded from elsewhere."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False, legacy_windows=False)
    console.print(f"[bold green]$[/] {COMMAND}")
    for line in shown(OUTPUT.read_text(encoding="utf-8")):
        console.print(line, markup=False, style="bold" if line.startswith("stage ") else "")
    code = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    svg = console.export_svg(title="hft demo", code_format=code, unique_id="demo")
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


if __name__ == "__main__":
    RECORDING.write_text(recording(), encoding="utf-8")
