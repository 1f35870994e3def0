"""Point a key, option or flag that hft does not have to the one that does the same.

Used wherever an unknown name is reported: in recipes, in `--set`, in plugins' options and among the flags.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from functools import cache

from hft_core.errors import did_you_mean

SYNONYMS: dict[str, tuple[str, ...]] = {
    "train_batch_size": ("batch_size", "batchsize", "bs", "batch", "global_batch_size", "total_batch_size"),
    "per_device_train_batch_size": (
        *("micro_batch_size", "per_gpu_train_batch_size", "train_micro_batch_size_per_gpu", "per_device_batch_size"),
    ),
    "gradient_accumulation_steps": (
        "grad_accum",
        "accumulation_steps",
        "gradient_accumulation",
        "accumulate_grad_batches",
    ),
    "max_tokens_per_batch": ("max_tokens", "tokens_per_batch", "batch_tokens"),
    "num_train_epochs": ("num_epochs", "n_epochs", "epoch", "epochs", "max_epochs", "train_epochs"),
    "max_steps": ("steps", "num_steps", "train_steps", "total_steps", "iterations", "max_iters", "num_train_steps"),
    "learning_rate": ("lr", "peak_lr", "base_lr", "learningrate", "trunk_lr", "encoder_lr", "backbone_lr"),
    "head_learning_rate": ("head_lr", "lr_head", "classifier_lr", "heads_lr"),
    "lr_scheduler_type": ("lr_scheduler", "scheduler", "schedule", "lr_schedule", "scheduler_type"),
    "warmup_ratio": ("warmup", "warmup_proportion", "warmup_share"),
    "warmup_steps": ("num_warmup_steps", "n_warmup"),
    "weight_decay": ("wd", "l2", "decay"),
    "adam_beta1": ("beta1", "betas"),
    "adam_beta2": ("beta2",),
    "adam_epsilon": ("eps", "epsilon", "adam_eps"),
    "max_grad_norm": ("grad_clip", "gradient_clipping", "clip_grad_norm", "max_norm", "clip", "gradient_clip_val"),
    "gradient_checkpointing": ("grad_checkpointing", "activation_checkpointing"),
    "torch_compile": ("compile",),
    "early_stopping_patience": ("patience", "early_stopping"),
    "eval_strategy": ("evaluation_strategy", "evaluate", "do_eval"),
    "eval_steps": ("eval_every", "val_check_interval", "evaluation_steps"),
    "metric_for_best_model": ("metric", "monitor", "best_metric"),
    "load_best_model_at_end": ("load_best", "save_best", "restore_best"),
    "strategy": ("peft", "adapter", "adapters", "method", "finetuning", "peft_config", "tuning"),
    "combiner": ("loss_combiner", "loss_weighting", "mtl", "aggregator", "weighting"),
    "sampling": ("sampler", "mixture", "task_sampling", "mixing"),
    "backbone": (
        *("model", "model_name", "model_name_or_path", "model_id", "pretrained_model_name_or_path", "base_model"),
        *("encoder", "trunk", "pretrained", "checkpoint"),
    ),
    "tasks": ("task", "heads", "objectives"),
    "stages": ("stage", "train", "training", "phases", "training_args", "training_arguments"),
    "seed": ("random_seed", "random_state", "rng_seed"),
    "precision": ("fp16", "bf16", "fp32", "mixed_precision", "dtype", "torch_dtype", "half"),
    "output": ("outputs", "logging", "saving"),
    "logging_steps": ("log_every", "log_steps", "log_interval"),
    "save_steps": ("save_every", "checkpoint_every", "checkpointing_steps"),
    "save_strategy": ("checkpointing",),
    "save_total_limit": ("keep_checkpoints", "max_checkpoints"),
    "data": ("dataset", "datasets", "file", "path", "data_path", "dataset_name"),
    "head": ("task_type", "problem_type", "type", "objective"),
    "max_length": (
        "max_seq_length",
        "max_seq_len",
        "max_len",
        "seq_length",
        "sequence_length",
        "block_size",
        "cutoff_len",
    ),
    "files": ("data_files", "paths"),
    "train": ("train_file", "train_files", "training", "train_data", "train_path"),
    "dev": ("validation", "valid", "val", "eval", "validation_file", "val_file", "eval_file", "development"),
    "test": ("test_file", "holdout", "test_size", "test_split"),
    "max_rows": ("max_train_samples", "max_samples", "limit", "num_samples"),
    "by": ("group", "group_by", "groups", "stratify"),
    "r": ("rank", "lora_r", "lora_rank"),
    "lora_alpha": ("alpha", "lora_scaling"),
    "lora_dropout": ("dropout",),
    "target_modules": ("modules", "targets", "target", "lora_target", "lora_target_modules"),
    "label": ("labels_column", "label_column", "target_column", "y", "class"),
    "text": ("text_column", "sentence", "input", "inputs", "text_field", "x"),
    "mask_probability": ("mlm_probability", "masking_probability", "mask_prob"),
    "teacher": ("teacher_model",),
}
"""What other programs, or a guess, call a key of a recipe or an option of a plugin."""

FLAGS: dict[str, tuple[str, ...]] = {
    "--backbone": SYNONYMS["backbone"],
    "--out": ("output", "output_dir", "o", "save_dir", "run_dir", "dest"),
    "--processes": ("num_processes", "nproc_per_node", "gpus", "num_gpus", "n_gpu", "devices", "nproc", "workers"),
    "--resume": ("resume_from_checkpoint", "continue"),
    "--task": ("data", "dataset", "head", "train_file", "tasks"),
    "--input": ("file", "data", "dataset", "texts", "in"),
    "--output": ("out", "predictions", "o"),
    "--json": ("format", "as_json"),
    "--set": ("override", "overrides"),
}
"""What other programs, or a guess, call a flag."""

COMMANDS: dict[str, tuple[str, ...]] = {
    "run": ("train", "fit", "finetune", "fine-tune", "start"),
    "evaluate": ("eval", "test", "score", "benchmark"),
    "predict": ("infer", "inference", "generate", "classify", "answer"),
    "validate": ("dry-run", "plan", "lint"),
    "list-plugins": ("plugins", "list", "ls"),
    "describe": ("show", "info", "explain"),
    "resume": ("continue", "restart"),
}
"""What other programs, or a guess, call a command."""


def suggest_key(name: str, known: Iterable[str]) -> str:
    """Return a sentence that helps with an unknown key, beginning with a blank.

    It names the key of that meaning among the `known` ones, else elsewhere in a recipe, else the nearest name among the
    known ones, else elsewhere, else all known ones.
    """
    known = [str(key) for key in known]
    meanings = _meanings(name, SYNONYMS)
    found = next((key for key in meanings if key in known), None) or _place(meanings)
    if found is None and _near(name, known) is None:
        found = _place([_near(name, places()) or ""])
    return f" Did you mean '{found}'?" if found else did_you_mean(name, known)


def suggest_flag(flag: str, known: Collection[str]) -> str:
    """Return a sentence that helps with an unknown flag: a flag that does the same, or the key to `--set`."""
    name = flag.lstrip("-")
    found = next((key for key in _meanings(name, FLAGS) if key in known), None)
    if found is None and "--set" in known:
        near = _near(name, places()) if _near(flag, known) is None else None
        place = _place([near or "", *_meanings(name, SYNONYMS)])
        found = place and f"--set {place}=…"
    return f" Did you mean '{found}'?" if found else did_you_mean(flag, known)


def suggest_command(name: str, known: Collection[str]) -> str:
    """Return a sentence that helps with an unknown command."""
    same = [command for command in _meanings(name, COMMANDS) if command in known]
    return f" Did you mean '{same[0]}'?" if same else did_you_mean(name, known)


def _meanings(name: str, table: dict[str, tuple[str, ...]]) -> list[str]:
    """Return the names that `name` may stand for: itself, spelled as hft spells names, and those it is a synonym of."""
    plain = name.lower().replace("-", "_").strip()
    synonyms = [key for key, names in table.items() if {plain, plain.replace("_", "-")} & set(names)]
    return list(dict.fromkeys([plain, *synonyms]))


def _place(keys: Sequence[str]) -> str | None:
    """Return the place in a recipe of the last of `keys` that has one: a synonym before the name itself."""
    return next((places()[key] for key in reversed(keys) if key in places()), None)


def _near(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.6)), None)


@cache
def places() -> dict[str, str]:
    """Return where each key of a recipe belongs, as `--set` spells it; a key of several places by its first one."""
    from hft_core.recipe.schema import Data, Output, Recipe, Split, Task
    from hft_core.recipe.stage import Sampling, Stage

    models = (
        (Recipe, ""),
        (Stage, "stages.0."),
        (Task, "tasks.NAME."),
        (Output, "output."),
        (Data, "tasks.NAME.data."),
        (Split, "tasks.NAME.data.split."),
        (Sampling, "stages.0.sampling."),
    )
    found: dict[str, str] = {}
    for model, prefix in models:
        for key in model.model_fields:
            found.setdefault(key, f"{prefix}{key}")
    return found
