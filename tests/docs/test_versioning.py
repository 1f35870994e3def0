"""The worked example of `docs/explanation/versioning.md`, run: what a deprecated hook does to a plugin, and says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hft_core import PluginError, RecipeSpec, hookimpl, hooks, specs
from hft_core.plugins import discovery, registration
from hft_core.plugins.catalogue import Catalogue, Entry, Provider, State

TEXT = (Path(__file__).parents[2] / "docs" / "explanation" / "versioning.md").read_text(encoding="utf-8")


class Reviews:
    """A plugin module of API 1."""

    @hookimpl
    def hft_recipes(self) -> list[RecipeSpec]:
        return [RecipeSpec(name="reviews", summary="Sentiment", factory="m:build", options="m:Options", api=1)]


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """hft-core as the page has it: API 2 is the current one, and one hook is deprecated."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    scope: dict[str, object] = {}
    exec(code, scope)  # noqa: S102 (the page's own code is what is tested)
    monkeypatch.setattr(registration, "SPECIFICATIONS", (scope["SeamHooksOfApi2"], hooks.LifecycleHooks))
    monkeypatch.setattr(discovery, "SUPPORTED_API", range(1, 3))


def listed() -> Entry:
    provider = Provider("hft-reviews", "0.1")
    return Catalogue([discovery.collect_specs(Reviews(), provider)]).find("recipe", "reviews")


def said(title: str) -> list[str]:
    """The lines of the page that begin so."""
    return [line.removeprefix(f"{title}: ") for line in TEXT.splitlines() if line.startswith(f"{title}: ")]


def test_before_it_is_announced_nothing_is_said() -> None:
    assert (listed().state, listed().warnings) == (State.OK, ())


@pytest.mark.usefixtures("announced")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_announced_change_breaks_nothing_and_is_told_where_plugins_are_listed() -> None:
    entry = listed()
    assert entry.state is State.OK
    assert sorted(entry.warnings) == sorted(said("hft-reviews 0.1"))


@pytest.mark.usefixtures("announced")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_when_its_time_is_over_the_plugin_is_incompatible_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "SUPPORTED_API", range(2, 5))
    entry = listed()
    assert [entry.reason] == said("recipe reviews (hft-reviews 0.1) is incompatible")
    with pytest.raises(PluginError, match=r"recipe 'reviews' of hft-reviews 0\.1 is not available: incompatible"):
        Catalogue([discovery.collect_specs(Reviews(), entry.provider)]).get("recipe", "reviews")


def test_a_deprecated_argument_is_told_of_only_where_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lifecycle:
        @hooks.hookspec(warn_on_impl_args={"event": DeprecationWarning("take 'step'")})
        def hft_step_finished(self, event: object, step: object) -> None: ...

    class Takes:
        @hookimpl
        def hft_step_finished(self, event: object) -> None: ...

    class Leaves:
        @hookimpl
        def hft_step_finished(self, step: object) -> None: ...

    monkeypatch.setattr(registration, "SPECIFICATIONS", (hooks.SeamHooks, Lifecycle))
    with pytest.warns(DeprecationWarning, match="take 'step'"):
        (entry,) = Catalogue.of(Takes()).observing
    assert entry.warnings == ("argument 'event' of hook 'hft_step_finished' is deprecated: take 'step'",)
    (entry,) = Catalogue.of(Leaves()).observing
    assert entry.warnings == ()


def test_an_implementation_may_leave_out_arguments_that_were_added_since(monkeypatch: pytest.MonkeyPatch) -> None:
    class Grown(hooks.SeamHooks):
        @hooks.hookspec
        def hft_recipes(self, catalogue: object) -> list[RecipeSpec]:  # type: ignore[empty-body, override]
            """With an argument that API 1 did not have at first."""

    monkeypatch.setattr(registration, "SPECIFICATIONS", (Grown, hooks.LifecycleHooks))
    assert listed().state is State.OK


def test_the_page_gives_the_current_version_and_the_supported_range() -> None:
    assert f"which is **{specs.API_VERSION}**" in TEXT
    assert (specs.SUPPORTED_API.start, specs.SUPPORTED_API[-1]) == (1, specs.API_VERSION)
    assert discovery.supported_api() == str(specs.API_VERSION)
