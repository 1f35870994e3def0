"""Where the time of a training step goes, and which share of the machine's measured product rate it reaches.

python tests/benchmarks/step_time.py [--rounds N] [--steps N] [--json PATH]

Full fine-tuning at rows of 128 tokens and at mixed lengths, in float32 and in the number format that is fastest here.
`loop` is what is neither a forward nor a backward pass nor the optimizer: data, logging, all else.
"""

from __future__ import annotations

import statistics

import ours
import side_by_side
import workload


def main() -> None:
    settings = side_by_side.arguments(__doc__, rounds=3, steps=20)
    report = side_by_side.Report("step_time")
    for kind in ("full", "mixed", "short"):
        for precision in ("fp32", "auto"):
            parts, shares = [], []
            for _ in range(settings.rounds):
                _, result = ours.trained(
                    {"topic": workload.texts(kind, 1500)}, settings.steps, strategy="full", precision=precision
                )
                seconds = result.stages[0].seconds
                inside = sum(seconds[part] for part in ("forward", "backward", "optimizer"))
                training = inside + seconds["data"] + seconds["other"]
                parts.append({"loop": 1 - inside / training, **{p: seconds[p] / training for p in seconds}})
                shares.append(result.stages[0].gemm_share)
            report.add(
                texts=kind,
                precision=result.stages[0].precision,
                gemm_share=statistics.median(shares),
                **{
                    part: statistics.median(each[part] for each in parts)
                    for part in ("forward", "backward", "optimizer", "data", "loop")
                },
            )
    side_by_side.finish(report, settings.json)


if __name__ == "__main__":
    main()
