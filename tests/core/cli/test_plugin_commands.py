"""Commands that installed distributions add to `hft`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.core.conftest import Site

GREET = """
import typer
from typing import Annotated

def greet(ctx: typer.Context, name: str, loud: Annotated[bool, typer.Option("--loud")] = False) -> None:
    \"\"\"Greet somebody.\"\"\"
    print(("HELLO " if loud else "hello ") + name, ctx.obj.catalogue is not None)
"""


def offer(site: Site, distribution: str, module: str, code: str, *names: str) -> None:
    """Install a distribution whose module has the function `greet`, offered as commands."""
    site.add(distribution, {f"{module}.py": code})
    info = site.folder / f"{distribution.replace('-', '_')}-0.1.dist-info"
    lines = "".join(f"{name} = {module}:greet\n" for name in names)
    (info / "entry_points.txt").write_text(f"[hft.commands]\n{lines}")


def test_a_command_is_called_with_the_catalogue_and_is_in_the_help(site: Site) -> None:
    offer(site, "hft-greet", "hft_greet", GREET, "greet", "run")
    done = site.hft("greet", "Ann", "--loud")
    assert (done.returncode, done.stdout) == (0, "HELLO Ann True\n"), done.stderr
    shown = site.hft("--help").stdout
    assert "Greet somebody." in shown
    assert "greet" not in site.hft("--help", "--no-third-party").stdout
    assert "Greet" not in site.hft("run", "--help").stdout, "hft's own commands cannot be replaced"


def test_a_wrong_line_is_told_as_for_hfts_own_commands(site: Site) -> None:
    offer(site, "hft-greet", "hft_greet", GREET, "greet")
    for arguments, message in (
        (("gret", "Ann"), "there is no command 'gret'. Did you mean 'greet'?"),
        (("greet", "Ann", "--lout"), "hft greet: there is no option --lout. Did you mean '--loud'?"),
        (("greet", "Ann", "--block", "hft-greet"), "there is no command 'greet'."),
    ):
        done = site.hft(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_command_that_cannot_be_loaded_leaves_the_others_alone(site: Site) -> None:
    offer(site, "hft-broken", "hft_broken", "raise ValueError('boom')", "break")
    offer(site, "hft-greet", "hft_greet", GREET, "greet")
    offer(site, "hft-other", "hft_other", GREET, "greet")
    done = site.hft("break")
    assert (done.returncode, done.stdout) == (2, "")
    assert "command 'break' of hft-broken cannot be loaded: ValueError: boom" in done.stderr
    done = site.hft("greet", "Ann")
    assert "several distributions offer the command 'greet': hft-greet and hft-other; leave one out" in done.stderr
    assert site.hft("greet", "Ann", "--block", "hft-other").returncode == 0
    shown = site.hft("--help")
    assert shown.returncode == 0
    assert "Cannot be used" in shown.stdout
    assert "init" in shown.stdout
