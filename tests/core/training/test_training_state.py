"""A checkpoint's state as JSON, and back."""

from __future__ import annotations

import json
from dataclasses import replace

from hft_core.data.corpus import BlockStart
from hft_core.data.streamed_examples import StreamPlace
from hft_core.device.precision import Precision
from hft_core.model.execution_plan import ExecutionPlan
from hft_core.pins import Pins, Place
from hft_core.results import Evaluation, StageResult
from hft_core.training.progress import Progress
from hft_core.training.training_state import LoopState, RunState, StageState, TrainingState

EVALUATION = Evaluation(step=2, epoch=0.5, scores={"topic": {"loss": 0.25}}, score=-0.25)
RESULT = StageResult(
    name="first",
    tasks=("topic",),
    strategy="full",
    combiner="",
    steps=4,
    best_step=2,
    stopped_early=False,
    learning_rate=1e-4,
    head_learning_rate=1e-3,
    head_warmup_steps=0,
    trainable=10,
    trunk=20,
    heads=3,
    before={},
    after={"topic": {"loss": 0.25}},
    main_metrics={"topic": "loss"},
    history=(EVALUATION,),
    rows=8,
    tokens=64,
    rows_per_s=1.0,
    tokens_per_s=8.0,
    precision="fp32",
    precision_reason="asked for",
    gemm_share=None,
    seconds={"total": 8.0},
    skipped_steps=0,
    compilation={"chosen": False},
    warnings=("a warning",),
)
STATE = TrainingState(
    run=RunState(
        precision=Precision("bf16", "measured", 12.5),
        pins=Pins(weights="ab", rows={"train": {"topic": "cd"}}, accepted=("the tokenizer",)),
        place=Place(processes="1 process on cpu", device="a processor", instructions="AVX2", threads=2),
        notes=["resumed elsewhere"],
    ),
    stage=StageState(
        index=1,
        finished=[RESULT],
        trunk_changed=True,
        scores_before={"topic": {"loss": 0.5}},
        execution=ExecutionPlan(
            shared_depth=2, fast_kernels=("dropout",), reasons={"store": "nothing"}, warnings=("left out",)
        ).choices(),
    ),
    loop=LoopState(
        progress=replace(Progress(), step=3, history=[EVALUATION], best_score=0.1 + 0.2, seconds={"data": 0.1}),
        schedule={"last_epoch": 3},
        learning_rates=[1 / 3, 0.0],
        proportion_changes=[(2, {"topic": 0.5})],
        adaptive_mixture={"first_loss": {"topic": 0.5}},
        streams={"language": StreamPlace(BlockStart(epoch=1, file=2, after=30, block=4), portion=1, first=500)},
    ),
    random={"python": [3, [1, 2], None]},
    log_size=512,
)


def test_a_state_is_the_same_after_it_was_written_as_json() -> None:
    assert TrainingState.from_json(json.loads(json.dumps(STATE.to_json()))) == STATE


def test_a_state_as_json_is_a_copy() -> None:
    loop = replace(STATE.loop, progress=Progress(step=1))
    value = replace(STATE, loop=loop).to_json()
    loop.progress.step = 2
    assert value["loop"]["progress"]["step"] == 1
