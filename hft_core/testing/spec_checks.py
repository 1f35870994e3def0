"""Check the specs of plugins of every seam, and what they name; imports no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from pydantic import BaseModel, ValidationError

from hft_core.plugins.entries import State
from hft_core.testing.check import Check, Failed, NotClaimed, Subject, check, expect

CHECKS_OF_A_PROVIDER: list[Check] = []
"""Checks of a distribution or file as a whole."""
CHECKS_OF_EVERY_SEAM: list[Check] = []
"""Checks of every plugin."""

HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "sklearn", "scipy", "torchjd", "pandas")
"""Libraries that a module with entry points must not import."""

_IMPORT = """
import importlib.metadata, json, sys
for point in importlib.metadata.entry_points(group="hft"):
    if point.dist.name == sys.argv[1]:
        point.load()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def can_be_used(subject: Subject) -> None:
    """The plugin's state is ok; of one that is not, nothing else is checked."""
    entry = subject.entry
    if entry.state is State.NEEDS:
        raise NotClaimed(f"not checked: {entry.reason}")
    expect(entry.state is State.OK, "the state 'ok'", f"{entry.status}: {entry.reason}")


CAN_BE_USED = Check("can-be-used", "", can_be_used)


@check("", CHECKS_OF_A_PROVIDER)
def some_plugin_can_be_used(subject: Subject) -> None:
    """At least one plugin can be used, so that something is checked at all."""
    provider = subject.entry.provider
    entries = [entry for entry in subject.catalogue.entries if entry.provider.distribution == provider.distribution]
    states = ", ".join(f"{entry.name} ({entry.status})" for entry in entries)
    expect(any(entry.state is State.OK for entry in entries), "a plugin that can be used", states or "no plugins")


@check("", CHECKS_OF_A_PROVIDER)
def listing_is_light(subject: Subject) -> None:
    """Importing the modules of the distribution's entry points imports no heavy library."""
    if subject.entry.provider.path is not None:
        raise NotClaimed("a single file is imported where it is asked for, not where plugins are listed")
    distribution = subject.entry.provider.distribution
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT, distribution],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )
    last = done.stderr.strip().splitlines()[-1:] or [""]
    expect(done.returncode == 0, "the entry points to be importable", last[0])
    heavy = sorted(set(HEAVY) & set(json.loads(done.stdout)))
    expect(not heavy, "entry-point modules that import the standard library and hft_core only", ", ".join(heavy))


@check("", CHECKS_OF_EVERY_SEAM)
def what_the_spec_names_can_be_imported(subject: Subject) -> None:
    """The factory is callable, and the options are a pydantic model."""
    subject.catalogue.load_factory(subject.entry)
    options = subject.catalogue.load_options(subject.entry)
    expect(isinstance(options, type) and issubclass(options, BaseModel), "options that are a pydantic model", options)


@check("", CHECKS_OF_EVERY_SEAM)
def the_example_fits_the_options(subject: Subject) -> None:
    """The options accept the spec's `example`, which YAML can hold."""
    example = dict(subject.spec.example)
    try:
        written = json.loads(json.dumps(example))
        subject.options(written)
    except (TypeError, ValidationError) as error:
        raise Failed(
            f"expected options that accept the example {example}; found {' '.join(str(error).split())}"
        ) from None


@check("", CHECKS_OF_EVERY_SEAM)
def an_unknown_option_is_refused(subject: Subject) -> None:
    """The options refuse a key that they do not know (`extra="forbid"`), unless they say that they take any."""
    model = subject.catalogue.load_options(subject.entry)
    if model.model_config.get("extra") == "allow":
        raise NotClaimed("the options take any key")
    try:
        subject.options({**subject.spec.example, "no_such_option": 1})
    except ValidationError as error:
        named = any("no_such_option" in problem["loc"] for problem in error.errors())
        expect(named, "an error at the key 'no_such_option'", error)
    else:
        raise Failed("expected an error for the option 'no_such_option'; found that it was accepted")


@check("", CHECKS_OF_EVERY_SEAM)
def every_option_is_described(subject: Subject) -> None:
    """Every option has a description, which `hft describe` prints."""
    fields = subject.catalogue.load_options(subject.entry).model_fields
    bare = [name for name, field in fields.items() if not (field.description or "").strip()]
    expect(not bare, "a description of every option", f"none of {', '.join(bare)}")


@check("", CHECKS_OF_EVERY_SEAM)
def the_summary_is_one_line(subject: Subject) -> None:
    """The summary is one line of at most 120 characters."""
    summary = subject.spec.summary
    expect(bool(summary.strip()), "a summary", "none")
    expect(len(summary.splitlines()) == 1 and len(summary) <= 120, "one line of at most 120 characters", repr(summary))
