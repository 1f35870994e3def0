"""Recipes that do not say what a recipe must say."""

from __future__ import annotations

from .case import Case, Change, every, nothing, replace, write

CHECK = "validate recipe.yaml"


def recipe(old: str, new: str) -> Change:
    return replace("recipe.yaml", old, new)


def stage(key: str) -> Change:
    """A further key of the stage, in line 15."""
    return recipe("max_steps: 2\n", f"max_steps: 2\n    {key}\n")


def streamed(task: str, file: str) -> Change:
    """The rows of a task as a stream."""
    old = {"topic": "news.csv", "language": "articles.txt"}[task]
    return recipe(f"data: {old}", f"data: {{train: {file}, stream: true}}")


YAML = [
    Case(
        what="empty",
        given=write("recipe.yaml", ""),
        command=CHECK,
        says="recipe.yaml: is empty; a recipe has 'backbone', 'tasks' and 'stages'",
        process=True,
    ),
    Case(
        what="a list",
        given=write("recipe.yaml", "- a\n- b\n"),
        command=CHECK,
        says="recipe.yaml, line 1: expected a mapping with 'backbone', 'tasks' and 'stages', not a list",
    ),
    Case(
        what="a key given twice",
        given=recipe("stages:", "tasks: {}\nstages:"),
        command=CHECK,
        says="recipe.yaml, line 9: the key 'tasks' is given twice (first in line 2)",
    ),
    Case(
        what="an alias",
        given=recipe("combiner: sum", "combiner: *other"),
        command=CHECK,
        says="recipe.yaml, line 13: anchors and aliases (& and *) are not allowed; quote text that starts so",
    ),
    Case(
        what="an alias bomb",
        given=write("recipe.yaml", "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"),
        command=CHECK,
        says="recipe.yaml, line 1: anchors and aliases (& and *) are not allowed; quote text that starts so",
    ),
    Case(
        what="a merge key",
        given=recipe("combiner: sum", "<<: {combiner: sum}"),
        command=CHECK,
        says="recipe.yaml, line 13: merge keys (<<) are not allowed; write the keys out",
    ),
    Case(
        what="a tag that would run code",
        given=recipe("combiner: sum", "combiner: !!python/object/apply:os.system [ls]"),
        command=CHECK,
        says="recipe.yaml, line 13: tags (tag:yaml.org,2002:python/object/apply:os.system) are not allowed; "
        "quote text that starts with '!'",
    ),
    Case(
        what="not UTF-8",
        given=write("recipe.yaml", "backbone: model\n# Gr\u00fc\u00dfe\n".encode("latin-1")),
        command=CHECK,
        says="recipe.yaml, line 2: not valid UTF-8; save the file as UTF-8",
    ),
    Case(
        what="UTF-16",
        given=write("recipe.yaml", "backbone: model\n".encode("utf-16")),
        command=CHECK,
        says="recipe.yaml, line 1: not valid UTF-8; save the file as UTF-8",
    ),
    Case(
        what="a control character",
        given=recipe("combiner: sum", "combiner: \x07"),
        command=CHECK,
        says="recipe.yaml, line 13: the character U+0007 is not allowed",
    ),
    Case(
        what="larger than any recipe",
        given=write("recipe.yaml", "a: '" + "x" * (1 << 20) + "'\n"),
        command=CHECK,
        says="recipe.yaml: larger than 1 MiB, which no recipe is",
    ),
    Case(
        what="nested without end",
        given=write("recipe.yaml", "a: " + "[" * 100_000),
        command=CHECK,
        says="recipe.yaml, line 1: nested more than 32 levels deep",
    ),
    Case(
        what="indented by a tab",
        given=recipe("    combiner", "\tcombiner"),
        command=CHECK,
        says="recipe.yaml, line 13: not valid YAML: a tab where YAML expects blanks",
    ),
    Case(
        what="a colon in unquoted text",
        given=recipe("name: train", "name: train: again"),
        command=CHECK,
        says="recipe.yaml, line 10: not valid YAML: a second ': ' in one line, or a wrong indentation; "
        "quote text that contains ': '",
    ),
    Case(
        what="two documents",
        given=recipe("stages:", "---\nstages:"),
        command=CHECK,
        says="recipe.yaml, line 9: not valid YAML: a second document ('---'); a recipe is one document",
    ),
    Case(
        what="a number of 5,000 digits",
        given=recipe("max_steps: 2", "max_steps: " + "9" * 5000),
        command=CHECK,
        says="recipe.yaml, line 14: a number of more than 100 digits",
    ),
    Case(
        what="YAML 1.1: no for false",
        given=stage("load_best_model_at_end: no"),
        command=CHECK,
        says="recipe.yaml, line 15, stages.0.load_best_model_at_end: expected true or false, not 'no'",
    ),
    Case(
        what="a number in quotes",
        given=stage("learning_rate: '1e-4'"),
        command=CHECK,
        says="recipe.yaml, line 15, stages.0.learning_rate: expected a number, not '1e-4'",
    ),
    Case(
        what="a folder",
        given=nothing,
        command="validate model",
        says="model: expected a recipe file (YAML), not a folder",
    ),
    Case(
        what="no such file",
        given=nothing,
        command="validate recipes.yaml",
        says="recipes.yaml: there is no such recipe file. Did you mean 'recipe.yaml'?",
        process=True,
    ),
]

KEYS = [
    Case(
        what="an unknown key at the top",
        given=recipe("backbone: model", "bakcbone: model"),
        command=CHECK,
        says="recipe.yaml, line 1, bakcbone: unknown key. Did you mean 'backbone'? (and 1 more: recipe.yaml: "
        "'backbone' is missing)",
    ),
    Case(
        what="an unknown key of a stage",
        given=stage("learning_rat: 0.1"),
        command=CHECK,
        says="recipe.yaml, line 15, stages.0.learning_rat: unknown key. Did you mean 'learning_rate'?",
    ),
    Case(
        what="an unknown key of sampling",
        given=stage("sampling: {temprature: 2}"),
        command=CHECK,
        says="recipe.yaml, line 15, stages.0.sampling.temprature: unknown key. Did you mean 'temperature'?",
    ),
    Case(
        what="batch sizes that contradict each other",
        given=stage("train_batch_size: 64\n    per_device_train_batch_size: 24"),
        command=CHECK,
        says="recipe.yaml, line 15, stages.0.train_batch_size: 64 rows a step is not a multiple of "
        "per_device_train_batch_size 24 × 1 process = 24; change one of them ('max_rows_per_batch' limits the memory "
        "of a pass without changing the rows of a step)",
    ),
    Case(
        what="an unknown key of data",
        given=recipe("data: news.csv", "data: {files: news.csv, fromat: csv}"),
        command=CHECK,
        says="recipe.yaml, line 5, tasks.topic.data.fromat: unknown key. Did you mean 'format'?",
    ),
    Case(
        what="an unknown key of a split",
        given=recipe("data: news.csv", "data: {files: news.csv, split: {tset: 0.2}}"),
        command=CHECK,
        says="recipe.yaml, line 5, tasks.topic.data.split.tset: unknown key. Did you mean 'test'?",
    ),
    Case(
        what="an unknown key of the output",
        given=recipe("stages:", "output: {save_step: 1}\nstages:"),
        command=CHECK,
        says="recipe.yaml, line 9, output.save_step: unknown key. Did you mean 'save_steps'?",
    ),
    Case(
        what="a whole number with a fraction",
        given=recipe("max_steps: 2", "max_steps: 1.5"),
        command=CHECK,
        says="recipe.yaml, line 14, stages.0.max_steps: expected a whole number, not 1.5",
    ),
    Case(
        what="out of range",
        given=stage("learning_rate: -1"),
        command=CHECK,
        says="recipe.yaml, line 15, stages.0.learning_rate: expected a number > 0, not -1",
    ),
    Case(
        what="infinite",
        given=stage("weight_decay: .inf"),
        command=CHECK,
        says="recipe.yaml, line 15, stages.0.weight_decay: expected a finite number, not inf",
    ),
    Case(
        what="a choice that there is not",
        given=stage("lr_scheduler_type: cosin"),
        command=CHECK,
        says="recipe.yaml, line 15, stages.0.lr_scheduler_type: expected one of 'linear', 'cosine', …, not 'cosin'",
    ),
    Case(
        what="both of two budgets",
        given=stage("epochs: 2"),
        command=CHECK,
        says="recipe.yaml, line 10, stages.0: give 'num_train_epochs' or 'max_steps', not both (null takes one away)",
    ),
    Case(
        what="files and splits",
        given=recipe("data: news.csv", "data: {files: news.csv, dev: news.csv}"),
        command=CHECK,
        says="recipe.yaml, line 5, tasks.topic.data: 'dev' and 'test' go with 'train'; 'files' is split by 'split'",
    ),
    Case(
        what="a split that leaves nothing",
        given=recipe("data: news.csv", "data: {files: news.csv, split: {dev: 0.5, test: 0.5}}"),
        command=CHECK,
        says="recipe.yaml, line 5, tasks.topic.data.split: dev and test together must leave rows for training "
        "(their sum must be below 1)",
    ),
    Case(
        what="steps of evaluation without their number",
        given=stage("eval_strategy: steps"),
        command=CHECK,
        says="recipe.yaml, line 10, stages.0: eval_strategy 'steps' needs 'eval_steps'",
    ),
    Case(
        what="no stages",
        given=write("recipe.yaml", "backbone: model\ntasks: {a: {head: mlm}}\nstages: []\n"),
        command=CHECK,
        says="recipe.yaml, line 3, stages: expected at least one entry, not an empty list",
    ),
    Case(
        what="two stages of one name",
        given=recipe("max_steps: 2\n", "max_steps: 2\n  - {name: train}\n"),
        command=CHECK,
        says="recipe.yaml, line 15, stages.1.name: two stages are called 'train'",
    ),
    Case(
        what="a stage with an unknown task",
        given=recipe("[topic, language]", "[topics, language]"),
        command=CHECK,
        says="recipe.yaml, line 11, stages.0.tasks.0: no task is called 'topics'. Did you mean 'topic'?",
    ),
    Case(
        what="a task that no stage trains",
        given=recipe("[topic, language]", "[topic]"),
        command=CHECK,
        says="recipe.yaml, line 6, tasks.language: no stage trains the task 'language'; add it to a stage or remove it",
    ),
    Case(
        what="a task name that leads out of the folder",
        given=recipe("  topic:\n", "  ../topic:\n"),
        command=CHECK,
        says="recipe.yaml, line 3, tasks.../topic: expected a name of letters, digits, '-' and '_' that starts with a "
        "letter or digit, not '../topic': it has '.'",
    ),
    Case(
        what="a task name that is a device on Windows",
        given=recipe("  topic:\n", "  NUL:\n"),
        command=CHECK,
        says="recipe.yaml, line 3, tasks.NUL: 'NUL' is a device on Windows, where its files could not be copied; take "
        "another name",
    ),
    Case(
        what="a task name with an invisible character",
        given=recipe("  topic:\n", '  "to\\u200Bpic":\n'),
        command=CHECK,
        says="recipe.yaml, line 3, tasks.…: expected a name of letters, digits, '-' and '_' that starts with a letter "
        "or digit, not …: it has U+200B (zero width space)",
    ),
    Case(
        what="two task names that differ by case",
        given=recipe("  language:\n", "  Topic:\n"),
        command=CHECK,
        says="recipe.yaml, line 2, tasks: …",
    ),
    Case(
        what="a token in a URL",
        given=recipe("backbone: model", "backbone: https://hf_secret@huggingface.co/model"),
        command=CHECK,
        says="recipe.yaml, line 1, backbone: a URL with a password …",
    ),
    Case(
        what="a token among a URL's parameters",
        given=recipe("data: news.csv", "data: https://host/news.csv?token=secret"),
        command=CHECK,
        says="recipe.yaml, line 5, tasks.topic.data: a URL with a password …",
    ),
    Case(
        what="a task without a head",
        given=recipe("    head: classification\n", ""),
        command=CHECK,
        says="recipe.yaml, line 3, tasks.topic: 'head' is missing",
    ),
    Case(
        what="a task without data",
        given=recipe("    data: news.csv\n", ""),
        command=CHECK,
        says="recipe.yaml, line 3, tasks.topic: 'data' is missing: give files, or pass the rows when the run is "
        "started in Python",
    ),
]

PLUGINS = [
    Case(
        what="an unknown head",
        given=recipe("head: classification", "head: clasification"),
        command=CHECK,
        says="recipe.yaml, line 4, tasks.topic.head: unknown head 'clasification'. Did you mean 'classification'?…",
    ),
    Case(
        what="an unknown strategy",
        given=recipe("type: lora", "type: lorra"),
        command=CHECK,
        says="recipe.yaml, line 12, stages.0.strategy: unknown strategy 'lorra'. Did you mean 'lora'?…",
        process=True,
    ),
    Case(
        what="a strategy for a combiner",
        given=recipe("combiner: sum", "combiner: lora"),
        command=CHECK,
        says="recipe.yaml, line 13, stages.0.combiner: unknown combiner 'lora'. There is a strategy of that name.…",
    ),
    Case(
        what="an unknown backbone",
        given=recipe("backbone: model", "backbone: {type: hf-encodr, model: model}"),
        command=CHECK,
        says="recipe.yaml, line 1, backbone: unknown backbone 'hf-encodr'. Did you mean 'hf-encoder'?…",
    ),
    Case(
        what="an unknown option of a strategy",
        given=recipe("r: 2", "rank: 2"),
        command=CHECK,
        says="recipe.yaml, line 12, stages.0.strategy.rank: strategy 'lora' has no option 'rank'. Did you mean 'r'?",
    ),
    Case(
        what="an unknown option of a head",
        given=recipe("    data: news.csv", "    lable: topic\n    data: news.csv"),
        command=CHECK,
        says="recipe.yaml, line 5, tasks.topic.lable: head 'classification' has no option 'lable'. Did you mean "
        "'label'?",
    ),
    Case(
        what="an option out of range",
        given=recipe("r: 2", "r: 0"),
        command=CHECK,
        says="recipe.yaml, line 12, stages.0.strategy.r: strategy 'lora': expected a number >= 1, not 0",
    ),
    Case(
        what="an unknown task in a metric",
        given=stage("metric_for_best_model: topics.accuracy"),
        command=CHECK,
        says="recipe.yaml, line 15, stages.0.metric_for_best_model: no task is called 'topics'. Did you mean 'topic'?",
    ),
    Case(
        what="an unknown metric",
        given=stage("metric_for_best_model: topic.acuracy"),
        command=CHECK,
        says="stage 'train': metric_for_best_model: task 'topic' has no metric 'acuracy'. Did you mean 'accuracy'?",
    ),
    Case(
        what="a head that the backbone cannot have",
        given=recipe("head: mlm", "head: clm"),
        command=CHECK,
        says="task 'language': the backbone is bidirectional; causal language modelling needs an autoregressive one",
    ),
    Case(
        what="a strategy that the next stage cannot follow",
        given=every(
            recipe("{type: lora, r: 2}", "prompt"), recipe("max_steps: 2\n", "max_steps: 2\n  - {name: more}\n")
        ),
        command=CHECK,
        says="recipe.yaml, line 12, stages.0.strategy: strategy 'prompt' adds parts that cannot be merged into the "
        "trunk, so that stage 'more' cannot follow; make it the last stage",
    ),
    Case(
        what="a stage in which nothing trains",
        given=every(
            recipe("{type: lora, r: 2}", "frozen"),
            recipe("[topic, language]", "[language]"),
            recipe("max_steps: 2\n", "max_steps: 2\n  - {name: more, max_steps: 1}\n"),
        ),
        command=CHECK,
        says="stage 'train' trains nothing: the strategy freezes the trunk, and the heads of its tasks (language) "
        "came with the trunk and train only with it",
    ),
    Case(
        what="longer than the backbone takes",
        given=recipe("head: classification", "head: classification\n    max_length: 999"),
        command=CHECK,
        says="recipe.yaml, line 5, tasks.topic.max_length: 999 is too long: the backbone takes at most 64 tokens",
    ),
    Case(
        what="replay of a task with labels",
        given=recipe("head: classification", "head: classification\n    replay: 0.1"),
        command=CHECK,
        says="recipe.yaml, line 5, tasks.topic.replay: only a self-supervised task can be replayed, and head "
        "'classification' needs labels; give the task its share by 'sampling'",
    ),
    Case(
        what="target modules that the trunk has not",
        given=recipe("r: 2", "r: 2, target_modules: [q_prj]"),
        command=CHECK,
        says="strategy 'lora': PEFT refuses: Target modules {'q_prj'} not found in the base model.…",
    ),
]

STREAMS = [
    Case(
        what="a stream without max_steps",
        given=every(streamed("language", "articles.txt"), recipe("max_steps: 2", "num_train_epochs: 1")),
        command=CHECK,
        says="recipe.yaml, line 14, stages.0.num_train_epochs: the rows of the task 'language' are a stream, and "
        "are not counted: give 'max_steps', not epochs",
    ),
    Case(
        what="a stream among tasks with shares by their rows",
        given=streamed("language", "articles.txt"),
        command=CHECK,
        says="recipe.yaml, line 10, stages.0: the rows of the task 'language' are a stream, and are not counted, "
        "so that shares in proportion to rows are not known: expected 'uniform' (with 'weights'), 'round-robin' or "
        "'batch_size' here, or 'replay' in that task",
    ),
    Case(
        what="a stream of a head that reads all rows before training",
        given=every(streamed("topic", "news.csv"), stage("sampling: uniform")),
        command=CHECK,
        says="recipe.yaml, line 5, tasks.topic.data.stream: head 'classification' reads all of its rows before "
        "training; heads that learn from a stream: 'clm', 'mlm'",
    ),
    Case(
        what="a stream that is to be split",
        given=recipe("data: articles.txt", "data: {train: articles.txt, stream: true, split: {dev: 0.2}}"),
        command=CHECK,
        says="recipe.yaml, line 8, tasks.language.data: 'split' and 'stream' cannot be combined: a stream is not split",
    ),
    Case(
        what="a stream of a file without rows",
        given=every(streamed("language", "none.txt"), stage("sampling: uniform"), write("none.txt", "\n")),
        command=CHECK,
        says="none.txt: no data in it, expected at least one line",
    ),
]

CASES = [*YAML, *KEYS, *PLUGINS, *STREAMS]
