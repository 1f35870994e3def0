"""Command lines that cannot be read, or that contradict themselves."""

from __future__ import annotations

from .case import Case, nothing, write

RUN = "run recipe.yaml --out new"
FLAGS = "run --out new --backbone model"

LINES = [
    Case(
        what="an unknown command",
        given=nothing,
        command="rnu recipe.yaml",
        says="there is no command 'rnu'. Did you mean 'run'?",
        process=True,
    ),
    Case(
        what="an unknown option",
        given=nothing,
        command="run recipe.yaml --outt new",
        says="hft run: there is no option --outt. Did you mean '--out'?",
    ),
    Case(
        what="an option without its value",
        given=nothing,
        command="run recipe.yaml --out",
        says="hft run: option '--out' requires an argument; see 'hft run --help'",
    ),
    Case(
        what="an argument too many",
        given=nothing,
        command="validate recipe.yaml more.yaml",
        says="hft validate: got unexpected extra argument…(more.yaml); see 'hft validate --help'",
    ),
    Case(
        what="an argument missing",
        given=nothing,
        command="resume",
        says="hft resume: missing argument 'RUN'; see 'hft resume --help'",
    ),
    Case(
        what="no recipe at all",
        given=nothing,
        command="run",
        says="give a recipe file, or --backbone PATH and at least one --task NAME=HEAD:FILES",
    ),
    Case(
        what="a recipe and flags",
        given=nothing,
        command="run recipe.yaml --backbone model --strategy lora",
        says="give a recipe file or --backbone, --strategy, not both; --set changes values of a file",
    ),
    Case(
        what="no processes",
        given=nothing,
        command="run recipe.yaml --processes 0",
        says="hft run: invalid value for '--processes': …1…; see 'hft run --help'",
    ),
    Case(
        what="processes that are no number",
        given=nothing,
        command="run recipe.yaml --processes two",
        says="hft run: invalid value for '--processes': …; see 'hft run --help'",
    ),
    Case(
        what="resume without a folder",
        given=nothing,
        command="run recipe.yaml --resume",
        says="--resume needs --out RUN, the folder of the run that was stopped",
    ),
    Case(
        what="a recipe that is there already",
        given=nothing,
        command="init news.csv --model model",
        says="recipe.yaml exists, and hft init overwrites nothing; name another file with --out",
    ),
    Case(
        what="a folder for the recipe that is not there",
        given=nothing,
        command="init news.csv --model model --out my/recipe.yaml",
        says="--out my/recipe.yaml: there is no folder 'my'",
    ),
    Case(
        what="a table without anything to read",
        given=write("counts.csv", "a,b\n1,2\n2,3\n"),
        command="init counts.csv --model model --out new.yaml",
        says="counts.csv: no column of texts, or of something to learn from them, was recognized; found 'a' (number), "
        "'b' (number)",
    ),
    Case(
        what="texts to write and an encoder",
        given=write("faq.csv", "question,answer\nwho are you,a model\nhow are you,very well\n"),
        command="init faq.csv --model model --out new.yaml",
        says="--model model: it is an encoder, which writes no text, but 'answer' is the answer to 'question'; "
        "expected a decoder or an encoder-decoder",
    ),
]

RECIPES = [
    Case(
        what="a --set without a value",
        given=nothing,
        command=f"{RUN} --set stages.0.seed",
        says="--set stages.0.seed: expected KEY.PATH=VALUE, for instance stages.0.learning_rate=3e-4",
    ),
    Case(
        what="a --set of an unknown key",
        given=nothing,
        command=f"{RUN} --set stages.train.learning_rat=1e-4",
        says="--set stages.train.learning_rat=1e-4: 'stages.0' has no key 'learning_rat'. Did you mean "
        "'learning_rate'?",
    ),
    Case(
        what="a --set of an unknown stage",
        given=nothing,
        command=f"{RUN} --set stages.trian.max_steps=1",
        says="--set stages.trian.max_steps=1: no stage is called 'trian'. Did you mean 'train'?",
    ),
    Case(
        what="a --set of an unknown task",
        given=nothing,
        command=f"{RUN} --set tasks.topics.label=x",
        says="--set tasks.topics.label=x: no task is called 'topics'. Did you mean 'topic'?",
    ),
    Case(
        what="a --set out of range",
        given=nothing,
        command=f"{RUN} --set stages.0.max_steps=0",
        says="--set stages.0.max_steps=0: expected a number > 0, not 0",
    ),
    Case(
        what="a --set that is no YAML",
        given=nothing,
        command=f"{RUN} --set 'stages.0.tasks=[a'",
        says="--set stages.0.tasks=[a: not valid YAML: …",
    ),
    Case(
        what="a task without files",
        given=nothing,
        command=f"{FLAGS} --task topic=classification",
        says="--task topic=classification: expected NAME=HEAD:FILE, for instance topic=classification:news.csv",
    ),
    Case(
        what="a task twice",
        given=nothing,
        command=f"{FLAGS} --task topic=classification:news.csv --task topic=mlm:articles.txt",
        says="--task topic=mlm:articles.txt: the task 'topic' is given twice",
    ),
    Case(
        what="a task name that leads out of the folder",
        given=nothing,
        command=f"{FLAGS} --task ../a=mlm:articles.txt",
        says="--task ../a=mlm:articles.txt: '../a' is not a task name (expected a name of letters, digits, "
        "'-' and '_' …: it has '.'); …",
    ),
    Case(
        what="an option of a strategy without a value",
        given=nothing,
        command=f"{FLAGS} --task topic=classification:news.csv --strategy lora,r",
        says="--strategy lora,r: 'r' is not an option; expected NAME or NAME,OPTION=VALUE, for instance lora,r=16",
    ),
    Case(
        what="an unknown option of a strategy",
        given=nothing,
        command=f"{FLAGS} --task topic=classification:news.csv --strategy lora,lora_alhpa=3",
        says="command line, stages.0.strategy.options.lora_alhpa: strategy 'lora' has no option 'lora_alhpa'. Did "
        "you mean "
        "'lora_alpha'?",
    ),
]

OTHERS = [
    Case(
        what="an unknown seam",
        given=nothing,
        command="describe haed classification",
        says="unknown seam 'haed'. Did you mean 'head'?",
    ),
    Case(
        what="an unknown plugin to describe",
        given=nothing,
        command="describe combiner pcgard",
        says="unknown combiner 'pcgard'. Did you mean 'pcgrad'?…",
    ),
    Case(
        what="an unknown state",
        given=nothing,
        command="list-plugins --state borken",
        says="unknown state 'borken'. Did you mean 'broken'?",
    ),
    Case(
        what="a plugin name that leads out of the folder",
        given=nothing,
        command="new-plugin head ../mine",
        says="plugin name '../mine': expected up to 64 letters, digits, '-' and '_', a letter or digit first. Did you "
        "mean 'mine'?",
    ),
    Case(
        what="a new plugin where there is something",
        given=write("hft-mine/notes.txt", "mine"),
        command="new-plugin head mine",
        says="hft-mine exists already: name a new folder with --out",
    ),
    Case(
        what="an unknown distribution to check",
        given=nothing,
        command="check-plugin hft-nothing",
        says="'hft-nothing': no distribution of that name is installed, and there is no such folder.…",
    ),
    Case(
        what="an unknown ready-made recipe",
        given=nothing,
        command="demo dmeo",
        says="command line: unknown recipe 'dmeo'. Did you mean 'demo'?…",
    ),
    Case(
        what="a sweep over a key that is not there",
        given=nothing,
        packages=("optuna",),
        command="sweep recipe.yaml --out new --search stages.0.learnig_rate=log:1e-5:1e-2",
        says="--search stages.0.learnig_rate=log:1e-5:1e-2: 'stages.0' has no key 'learnig_rate'. Did you mean "
        "'learning_rate'?",
    ),
    Case(
        what="a sweep over values of another type",
        given=nothing,
        packages=("optuna",),
        command="sweep recipe.yaml --out new --search stages.0.max_steps=log:1e-5:1e-2",
        says="--search stages.0.max_steps=log:1e-5:1e-2: expected a whole number, not 1e-05",
    ),
    Case(
        what="a sweep to resume that is not there",
        given=nothing,
        packages=("optuna",),
        command="sweep --resume --out new",
        says="'new' holds no sweep to resume: it has no plan.json",
    ),
    Case(
        what="a merge of one run",
        given=nothing,
        command="merge done --out new",
        needs=("done",),
        says="only 1 run is given, expected two or more",
    ),
    Case(
        what="a merge of two runs with one task",
        given=nothing,
        command="merge done done --out new",
        needs=("done",),
        says="task 'topic' is in done and in done: each task keeps the head of one run, so its name may be in one "
        "alone",
    ),
    Case(
        what="slices of other rows than the run's",
        given=nothing,
        command="evaluate done --task topic --data news.csv --by text",
        needs=("done",),
        says="--by, --details and --against read the answers that the run kept: leave --data out",
    ),
    Case(
        what="slices by a column that is not there",
        given=nothing,
        command="evaluate done --by txet",
        needs=("done",),
        says="--by txet: no task has this column. Did you mean 'text'?",
    ),
    Case(
        what="a task that the kept answers are not of",
        given=nothing,
        command="evaluate done --details --task tpoic",
        needs=("done",),
        says="the run has no task 'tpoic'. Did you mean 'topic'?",
    ),
    Case(
        what="labelled rows without their task",
        given=nothing,
        command="evaluate done --data news.csv",
        needs=("done",),
        says="--data needs --task: which task are the rows for?",
    ),
    Case(
        what="texts and a file of rows",
        given=nothing,
        command="predict done --task topic text --input news.csv",
        needs=("done",),
        says="give the texts, or --input FILE with rows",
    ),
    Case(
        what="no task to predict",
        given=nothing,
        command="predict done text",
        needs=("done",),
        says="--task is missing: which of topic, language?…",
    ),
    Case(
        what="int8 layers in prediction",
        given=nothing,
        command="predict done --task topic text --int8",
        says="--int8 is no option any more: 'hft export done --to onnx --int8 --out DIR' writes a graph with int8 "
        "weights, and compares its answers with those of the run",
        needs=("done",),
    ),
    Case(
        what="int8 layers in evaluation",
        given=nothing,
        command="evaluate done --int8",
        says="--int8 is no option any more: 'hft export done --to onnx --int8 --out DIR' writes a graph with int8 "
        "weights, and compares its answers with those of the run",
        needs=("done",),
    ),
    Case(
        what="nothing to predict",
        given=nothing,
        command="predict done --task topic",
        needs=("done",),
        says="give the texts, or --input FILE with rows",
    ),
    Case(
        what="an unknown task to predict",
        given=nothing,
        command="predict done --task topics text",
        needs=("done",),
        says="the run has no task 'topics'. Did you mean 'topic'?",
    ),
    Case(
        what="a task without predictions",
        given=nothing,
        command="predict done --task language text",
        needs=("done",),
        says="task 'language' has no predictions for single texts: its head only learns; see 'hft evaluate'",
    ),
    Case(
        what="predictions written over a folder",
        given=nothing,
        command="predict done --task topic text --output model",
        needs=("done",),
        says="--output model: expected a file to write, not a folder",
    ),
    Case(
        what="predictions written below a file",
        given=nothing,
        command="predict done --task topic text --output news.csv/out.jsonl",
        needs=("done",),
        says="--output news.csv/out.jsonl: its folder cannot be made: File exists",
    ),
]

EXPORTS = [
    Case(
        what="an export in a format that there is not",
        given=nothing,
        command="export done --to onxx --out new",
        says="--to onxx: unknown format. Did you mean 'onnx'?",
        needs=("done",),
    ),
    Case(
        what="an export into a folder that is there",
        given=nothing,
        command="export done --to hf --out model",
        says="--out model is there already: expected the name of a new folder",
        needs=("done",),
    ),
    Case(
        what="an export of a task that the run does not have",
        given=nothing,
        command="export done --to hf --out new --tasks topics",
        says="the run has no task 'topics'. Did you mean 'topic'?",
        needs=("done",),
    ),
    Case(
        what="a language model for sentence-transformers",
        given=nothing,
        packages=("sentence_transformers",),
        command="export done --to sentence-transformers --out new --tasks language",
        says="task 'language': its head 'mlm' is a module of the model's family, not a pooled text that "
        "sentence-transformers computes",
        needs=("done",),
    ),
    Case(
        what="a graph of a head that has a loss alone",
        given=nothing,
        packages=("onnxscript", "onnxruntime"),
        command="export done --to onnx --out new",
        says="task 'language': its head 'mlm' has no outputs that a graph could compute (it generates text, or has a "
        "loss alone): leave it out (--tasks topic)",
        needs=("done",),
    ),
]

CASES = [*LINES, *RECIPES, *OTHERS, *EXPORTS]
