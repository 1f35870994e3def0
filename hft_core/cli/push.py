"""`hft push`: publish the model and card of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hft_core.cli.terminal import print_json, say, say_error


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    repo: Annotated[str, typer.Option("--repo", metavar="OWNER/NAME", help="The model repository on the hub.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be uploaded, and send nothing.")] = False,
    public: Annotated[bool, typer.Option("--public", help="Create the repository for everyone to see.")] = False,
    pull_request: Annotated[bool, typer.Option("--pull-request", help="Open a pull request instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Publish model and card of a finished run on the hub; data, answers, log and recipe stay here."""
    from hft_core.export import hub

    hub.check_name(repo)
    upload = hub.upload_of(run)
    for warning in upload.warnings:
        say_error(f"warning: {warning}")
    address = None if dry_run else hub.push(upload, repo, private=not public, pull_request=pull_request)
    if as_json:
        facts = {"repo": repo, "files": list(upload.files), "left_out": list(upload.left_out), "bytes": upload.size}
        print_json({**facts, "address": address})
        return
    for file in upload.files:
        say(f"{(run / file).stat().st_size:>14,}  {file}")
    say(f"{upload.size:>14,}  bytes in {len(upload.files)} files for {repo}")
    say(f"stays here: {', '.join(upload.left_out) or 'nothing'}")
    say(f"published: {address}" if address else "nothing was sent (--dry-run)")
