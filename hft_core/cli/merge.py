"""`hft merge`: several finished runs of one base model in one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hft_core.cli.run import TrustOption
from hft_core.cli.terminal import print_json, print_table, say
from hft_core.errors import HftError, UsageError, did_you_mean


def merge(
    ctx: typer.Context,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders of two finished runs or more.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="RUN", help="New folder for the merged run.")] = None,
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="linear, task-arithmetic, ties, dare, soup or greedy-soup.")
    ] = "linear",
    scale: Annotated[
        float | None, typer.Option("--scale", min=0.0, help="Factor on the changes; 1 for ties, otherwise 0.4.")
    ] = None,
    density: Annotated[
        float | None, typer.Option("--density", min=0.0, max=1.0, help="Share of changes kept (ties, dare); 0.2.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what dare drops.")] = 0,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0.0, help="How far a main metric may fall before the exit code is 1.")
    ] = 0.02,
    trust_remote_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Merge runs of one base model into one, and score each task beside its own run (a soup: beside the best run)."""
    if out is None:
        raise UsageError("--out RUN is missing: the folder for the merged run")
    if len(runs) < 2:
        raise UsageError(f"only {len(runs)} run is given, expected two or more")
    from hft_core.studies import merge as merging
    from hft_core.studies import merge_weights, soup

    methods = (*merge_weights.METHODS, *soup.METHODS)
    if method not in methods:
        raise UsageError(f"there is no method '{method}'.{did_you_mean(method, methods)}")
    if method in soup.METHODS:
        if scale is not None or density is not None:
            raise UsageError(f"--scale and --density are not for '{method}', which takes the mean of the weights")
        summary = soup.soup(runs, out, method, ctx.obj.catalogue, trust=trust_remote_code)
    else:
        chosen = merge_weights.method_of(method, len(runs), scale, density, seed)
        summary = merging.merge(runs, out, chosen, ctx.obj.catalogue, trust=trust_remote_code)
    if as_json:
        print_json(summary.to_json())
    else:
        rows = [
            (s.task, s.run, f"{s.split} {s.metric}", f"{s.own:.4g}", f"{s.merged:.4g}", f"{s.merged - s.own:+.4g}")
            for s in summary.scores
        ]
        print_table(("task", "run", "metric", "own run", "merged", "difference"), rows)
        say()
        if summary.delta_m is not None:
            say(f"Δm {summary.delta_m:+.2%} ({summary.method})")
        say(f"the merged run is in {out}")
    fallen = [s for s in summary.scores if s.loss > tolerance]
    if fallen:
        worst = max(fallen, key=lambda s: s.loss)
        more = f" (and {len(fallen) - 1} more)" if len(fallen) > 1 else ""
        raise HftError(
            f"task '{worst.task}' got worse by more than --tolerance {tolerance:g}: {worst.split} {worst.metric} "
            f"{worst.own:.4g} became {worst.merged:.4g}{more}; the merged run is in {out} all the same"
        )
