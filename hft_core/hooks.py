"""Define the hooks that a plugin package may implement; imports pluggy and the standard library only.

A plugin package registers a *module* under the entry-point group `hft`; the module holds functions marked with
`@hookimpl` and imports nothing heavy, because listing plugins imports it. Two kinds of hook:

- **Seam hooks** return light specs. They are called when plugins are listed or a recipe is resolved, never in the loop.
- **Lifecycle hooks** observe a run. They return nothing and change nothing; one that raises is reported once and then
  left out for the rest of the run. An implementation may leave out arguments it does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from hft_core import events
    from hft_core.specs import BackboneSpec, CombinerSpec, HeadSpec, LauncherSpec, RecipeSpec, StrategySpec, TrackerSpec

GROUP = "hft"
"""The entry-point group, and pluggy's project name."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class SeamHooks:
    """Declare plugins: one hook per kind, each of which returns a list of specs."""

    @hookspec
    def hft_backbones(self) -> list[BackboneSpec]:  # type: ignore[empty-body]
        """Declare backbones. Factory: `(options, *, trust_remote_code: bool) -> hft_core.backbone.Backbone`.

        Example::

            @hookimpl
            def hft_backbones():
                return [BackboneSpec(name="tiny", summary="A small trunk from scratch",
                                     factory="hft_tiny.trunk:build", options="hft_tiny.trunk:Options")]
        """

    @hookspec
    def hft_heads(self) -> list[HeadSpec]:  # type: ignore[empty-body]
        """Declare task heads.

        Factory: `(options, *, task: str, context: hft_core.head.HeadContext) -> hft_core.head.Head`; one that needs no
        `context` leaves it out.

        Example::

            @hookimpl
            def hft_heads():
                return [HeadSpec(name="span-pair", summary="Scores a pair of spans",
                                 factory="hft_spans.pair:build", options="hft_spans.pair:Options")]
        """

    @hookspec
    def hft_strategies(self) -> list[StrategySpec]:  # type: ignore[empty-body]
        """Declare parameter-sharing strategies. Factory: `(options) -> hft_core.strategy.Strategy`.

        Example::

            @hookimpl
            def hft_strategies():
                return [StrategySpec(name="galore", summary="Full training with low-rank gradients",
                                     factory="hft_galore.strategy:build", options="hft_galore.strategy:Options")]
        """

    @hookspec
    def hft_combiners(self) -> list[CombinerSpec]:  # type: ignore[empty-body]
        """Declare loss combiners. Factory: `(options, *, tasks: Sequence[str]) -> hft_core.combiner.Combiner`.

        Example::

            @hookimpl
            def hft_combiners():
                return [CombinerSpec(name="align", summary="Rewards tasks whose gradients agree",
                                     factory="hft_align.combiner:build", options="hft_align.combiner:Options")]
        """

    @hookspec
    def hft_recipes(self) -> list[RecipeSpec]:  # type: ignore[empty-body]
        """Declare ready-made recipes. Factory: `(options, *, folder: pathlib.Path) -> dict`, the recipe as in YAML; it
        writes the data files that the recipe needs under `folder`.

        Example::

            @hookimpl
            def hft_recipes():
                return [RecipeSpec(name="reviews", summary="Sentiment with a domain language model",
                                   factory="hft_reviews.recipe:build", options="hft_reviews.recipe:Options")]
        """

    @hookspec
    def hft_trackers(self) -> list[TrackerSpec]:  # type: ignore[empty-body]
        """Declare trackers. Factory: `(options, *, run: hft_core.tracker.TrackedRun) -> hft_core.tracker.Tracker`.

        Example::

            @hookimpl
            def hft_trackers():
                return [TrackerSpec(name="graphite", summary="Sends numbers to a Graphite server",
                                    factory="hft_graphite.tracker:build", options="hft_graphite.tracker:Options")]
        """

    @hookspec
    def hft_launchers(self) -> list[LauncherSpec]:  # type: ignore[empty-body]
        """Declare launchers. Factory: `(options) -> hft_core.launcher.Launcher`.

        Example::

            @hookimpl
            def hft_launchers():
                return [LauncherSpec(name="kubernetes", summary="Jobs of a Kubernetes cluster",
                                     factory="hft_k8s.launcher:build", options="hft_k8s.launcher:Options")]
        """


class LifecycleHooks:
    """Observe a run, by events in this order::

        run_started
        for stage in stages:
            stage_started                      # scores of all known tasks before it
            for step in plan:
                step_finished                  # losses and weights by task, rows, tokens, seconds
                noticed                        # only when something is wrong with the training
                if evaluation is due:
                    evaluation_started
                    evaluation_finished        # scores by task
                    checkpoint_saved           # only when it is the best so far
            stage_finished                     # scores of all known tasks after it, best step, warnings
        evaluation_started, evaluation_finished    # the test splits, once
        run_finished                           # the whole result
        run_failed                             # instead of run_finished, whatever the moment

    Evaluations before the first and after the last step of a stage are announced in the same way. Within one event the
    observers are called in the order in which they were registered: installed plugins by distribution name first, then
    the host's own. Each event is a frozen dataclass of `hft_core.events`; fields are only ever added.
    """

    @hookspec
    def hft_run_started(self, event: events.RunStarted) -> None:
        """Observe the start of a run: the recipe is resolved, the data checked and the model built.

        Example::

            @hookimpl
            def hft_run_started(event):
                print(f"on {event.device} in {event.precision}: {event.precision_reason}")
        """

    @hookspec
    def hft_stage_started(self, event: events.StageStarted) -> None:
        """Observe the start of a stage: its strategy is applied and its schedule known.

        Example::

            @hookimpl
            def hft_stage_started(event):
                print(f"{event.name}: {event.trainable:,} of {event.trunk:,} parameters, {event.steps} steps")
        """

    @hookspec
    def hft_step_finished(self, event: events.StepFinished) -> None:
        """Observe a step: the optimizer has updated the parameters, or the step was skipped (the event says why).

        Example::

            @hookimpl
            def hft_step_finished(event):
                print(f"step {event.step} of {event.steps}: {dict(event.losses)}")
        """

    @hookspec
    def hft_noticed(self, event: events.Noticed) -> None:
        """Observe that a stage diverges or learns nothing, while it trains; at the end of the stage this is among its
        warnings, if it is still so.

        Example::

            @hookimpl
            def hft_noticed(event):
                print(f"step {event.step}: {event.text}")
        """

    @hookspec
    def hft_evaluation_started(self, event: events.EvaluationStarted) -> None:
        """Observe the start of an evaluation; nothing trains until `evaluation_finished`.

        Example::

            @hookimpl
            def hft_evaluation_started(event):
                print(f"{event.split}: scoring {', '.join(event.tasks)}")
        """

    @hookspec
    def hft_evaluation_finished(self, event: events.EvaluationFinished) -> None:
        """Observe the scores by task on one split.

        Example::

            @hookimpl
            def hft_evaluation_finished(event):
                for task, scores in event.scores.items():
                    print(f"{event.split} at step {event.step}: {task} {dict(scores)}")
        """

    @hookspec
    def hft_checkpoint_saved(self, event: events.CheckpointSaved) -> None:
        """Observe a new checkpoint of the best weights so far, written completely.

        Example::

            @hookimpl
            def hft_checkpoint_saved(event):
                print(f"best so far: {event.score:.4f} at step {event.step}, in {event.path}")
        """

    @hookspec
    def hft_stage_finished(self, event: events.StageFinished) -> None:
        """Observe the end of a stage: its best weights are in the model.

        Example::

            @hookimpl
            def hft_stage_finished(event):
                print(f"{event.result.name} ended with the weights of step {event.result.best_step}")
        """

    @hookspec
    def hft_run_finished(self, event: events.RunFinished) -> None:
        """Observe the end of a run: all its files are written.

        Example::

            @hookimpl
            def hft_run_finished(event):
                print(f"done in {event.result.seconds:.0f} s: {event.result.final}")
        """

    @hookspec
    def hft_run_failed(self, event: events.RunFailed) -> None:
        """Observe the failure of a run; the error is raised to the caller afterwards.

        Example::

            @hookimpl
            def hft_run_failed(event):
                print(f"failed in stage '{event.stage}': {event.error}")
        """
