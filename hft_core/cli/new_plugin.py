"""`hft new-plugin`: write a complete package with one working plugin, from the templates beside this module.

A template is itself such a package: `hft-my-plugin` with the module `hft_my_plugin` and the plugin `my-plugin`. Names
are replaced, nothing else, so that what is checked and typed here is what an author gets.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from packaging.utils import canonicalize_name

from hft_core.cli.terminal import say
from hft_core.errors import UsageError
from hft_core.plugins.registration import SEAM_OF_HOOK
from hft_core.specs import NAME

if TYPE_CHECKING:
    from hft_core.plugins.catalogue import Catalogue

TEMPLATES = Path(__file__).with_name("templates")
IN_EVERY_PACKAGE = "package"
"""The template files of all seams."""
FILES = (".py", ".toml", ".md", ".csv")
"""What a template consists of; an installer leaves compiled files beside them."""
PREFIX = "hft-"


@dataclass(frozen=True)
class Names:
    """The names in a new package."""

    seam: str
    plugin: str
    distribution: str

    @classmethod
    def of(cls, seam: str, text: str) -> Names:
        """The names that follow from a plugin's, which may be given as that of its distribution (`hft-…`).

        Raises `UsageError` when it has not the form of a name.
        """
        plugin = text.removeprefix(PREFIX)
        if not NAME.fullmatch(plugin):
            near = re.sub(r"[^A-Za-z0-9_-]+", "-", plugin).strip("-_")[:64]
            hint = f" Did you mean '{near}'?" if near else ""
            raise UsageError(
                f"plugin name '{text}': expected up to 64 letters, digits, '-' and '_', a letter or digit first.{hint}"
            )
        return cls(seam, plugin, PREFIX + canonicalize_name(plugin).strip("-"))

    @property
    def package(self) -> str:
        return self.distribution.replace("-", "_")

    @property
    def prefix_of_classes(self) -> str:
        """`my-plugin` → `MyPlugin`; a name of a class cannot begin with a digit."""
        words = "".join(word[:1].upper() + word[1:] for word in re.split(r"[-_]+", self.plugin))
        return f"The{words}" if words[0].isdigit() else words

    def replaced(self, text: str) -> str:
        """A template's text with these names in it."""
        hook = next(hook for hook, seam in SEAM_OF_HOOK.items() if seam == self.seam)
        names = {
            "hft-my-plugin": self.distribution,
            "hft_my_plugin": self.package,
            "MyPlugin": self.prefix_of_classes,
            "my-plugin": self.plugin,
            "SEAM": self.seam,
            "HOOK": hook.removeprefix("hft_"),
        }
        return re.sub("|".join(names), lambda found: names[found[0]], text)


def new_plugin(
    ctx: typer.Context,
    seam: Annotated[str, typer.Argument(help="backbone, head, strategy, combiner, recipe, tracker or launcher.")],
    name: Annotated[str, typer.Argument(help="The plugin's name in recipes.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="New folder of the package; hft-NAME if left out.")
    ] = None,
) -> None:
    """Write a package with a working plugin, to start from."""
    catalogue: Catalogue = ctx.obj.catalogue
    catalogue.seam(seam)
    names = Names.of(seam, name)
    refuse_taken(names, catalogue)
    folder = out or Path(names.distribution)
    say(f"{names.distribution}, with the {seam} '{names.plugin}':")
    for path in write(names, folder):
        say(f"  {path}")
    say()
    say("next:")
    place = str(folder) if folder.is_absolute() else f"./{folder}"
    say(f"  pip install --editable {shlex.quote(place)}")
    say(f"  hft check-plugin {names.distribution}")
    say(f"  hft describe {seam} {names.plugin}")


def refuse_taken(names: Names, catalogue: Catalogue) -> None:
    """Raise `UsageError` when the new package could not be installed beside what is there."""
    for entry in catalogue.seam(names.seam):
        if entry.name == names.plugin:
            raise UsageError(
                f"{names.seam} '{names.plugin}' is there already, from {entry.provider.label}: take another name"
            )
    if find_spec(names.package) is not None:
        raise UsageError(
            f"a module called {names.package} is installed already: take another name than '{names.plugin}'"
        )


def write(names: Names, folder: Path) -> list[Path]:
    """Write the package into `folder`, which must not exist; return its files.

    Raises `UsageError` when the folder exists or cannot be written.
    """
    if folder.exists():
        raise UsageError(f"{folder} exists already: name a new folder with --out")
    written = []
    try:
        for template in (TEMPLATES / IN_EVERY_PACKAGE, TEMPLATES / names.seam):
            for source in sorted(path for path in template.rglob("*") if path.suffix in FILES):
                path = folder / names.replaced(source.relative_to(template).as_posix())
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(names.replaced(source.read_text(encoding="utf-8")), encoding="utf-8")
                written.append(path)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}") from error
    return sorted(written)
