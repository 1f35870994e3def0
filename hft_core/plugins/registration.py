"""Register one plugin object in a pluggy manager of its own and check its hooks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import pluggy

from hft_core.errors import did_you_mean
from hft_core.hooks import GROUP, LifecycleHooks, SeamHooks

SEAM_OF_HOOK = {
    "hft_backbones": "backbone",
    "hft_heads": "head",
    "hft_strategies": "strategy",
    "hft_combiners": "combiner",
    "hft_recipes": "recipe",
    "hft_trackers": "tracker",
    "hft_launchers": "launcher",
}
"""The seam of each seam hook."""

SPECIFICATIONS: tuple[type, ...] = (SeamHooks, LifecycleHooks)
"""The classes with the hook specifications."""

LIFECYCLE_HOOKS = tuple(name for name in vars(LifecycleHooks) if name.startswith("hft_"))
"""Names of the hooks that observe a run."""


@dataclass(frozen=True)
class Registration:
    """The hooks that one plugin object implements."""

    manager: pluggy.PluginManager
    implemented: tuple[str, ...]
    problems: tuple[str, ...]
    """One line for each implementation that cannot be called as written."""
    deprecated: tuple[str, ...] = ()
    """One line for each use of a deprecated hook or hook argument."""

    @property
    def observes(self) -> bool:
        """Whether the plugin implements a lifecycle hook."""
        return any(name in LIFECYCLE_HOOKS for name in self.implemented)

    def implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """Return the plugin's functions for `hook`: one, or several with that `specname`."""
        caller: pluggy.HookCaller = getattr(self.manager.hook, hook)
        return caller.get_hookimpls()


def register(plugin: object) -> Registration:
    """Register `plugin` in a new plugin manager and check what it implements.

    Raises `pluggy.PluginValidationError` for a hook with unknown arguments.
    """
    manager = pluggy.PluginManager(GROUP)
    for specification in SPECIFICATIONS:
        manager.add_hookspecs(specification)
    manager.register(plugin)
    callers = manager.get_hookcallers(plugin) or []
    problems = [problem for caller in callers for problem in _problems(caller)]
    implemented = tuple(caller.name for caller in callers if not _problems(caller) and caller.has_spec())
    problems += [f"'{name}' is not marked with @hookimpl" for name in _known() if _is_unmarked(plugin, name)]
    if not implemented and not problems:
        problems.append("implements no hook (functions named hft_… and marked with @hookimpl)")
    return Registration(manager, implemented, tuple(problems), tuple(dict.fromkeys(_deprecated(callers))))


def _deprecated(callers: list[pluggy.HookCaller]) -> Iterator[str]:
    """Yield the messages of the hook specifications' `warn_on_impl` and `warn_on_impl_args`.

    pluggy also issues them, but as Python warnings, which are not shown where plugins are listed.
    """
    for caller in callers:
        if caller.spec is None:
            continue
        if caller.spec.warn_on_impl:
            yield f"hook '{caller.name}' is deprecated: {caller.spec.warn_on_impl}"
        for implementation in caller.get_hookimpls():
            for argument, warning in (caller.spec.warn_on_impl_args or {}).items():
                if argument in implementation.argnames:
                    yield f"argument '{argument}' of hook '{caller.name}' is deprecated: {warning}"


def _problems(caller: pluggy.HookCaller) -> list[str]:
    """Return why the plugin's implementations of one hook cannot be called."""
    problems = []
    for implementation in caller.get_hookimpls():
        if not caller.has_spec():
            if not implementation.optionalhook:
                problems.append(f"unknown hook '{caller.name}'.{did_you_mean(caller.name, _known())}")
        elif implementation.wrapper or implementation.hookwrapper or _is_deferred(caller.name, implementation):
            problems.append(f"hook '{caller.name}' must be a plain function, not a wrapper, generator or coroutine")
    return problems


def _known() -> tuple[str, ...]:
    return (*SEAM_OF_HOOK, *LIFECYCLE_HOOKS)


def _is_deferred(hook: str, implementation: pluggy.HookImpl) -> bool:
    """Return whether calling the function would only create a generator or coroutine, which is never run."""
    function = implementation.function
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return True
    return hook in LIFECYCLE_HOOKS and inspect.isgeneratorfunction(function)


def _is_unmarked(plugin: object, hook: str) -> bool:
    """Return whether `plugin` has a function of that name without `@hookimpl` (a specification does not count)."""
    function = getattr(plugin, hook, None)
    return function is not None and not hasattr(function, f"{GROUP}_impl") and not hasattr(function, f"{GROUP}_spec")
