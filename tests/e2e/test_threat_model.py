"""What a recipe, a model folder, a run folder and an index of a stranger cannot do: each claim of the page, tried."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import dynamic_module_utils

import hft_core
from hft_core import Catalogue, HftError, ModelError, RecipeError, UsageError
from hft_core.cli import main
from hft_core.data import loading
from hft_core.plugins.catalogue import PluginError
from hft_core.predict import saved_run
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import resolve
from hft_core.runtime import run_manifest
from hft_core.search import build_index, open_index
from hft_plugins.backbones import encoder
from hft_plugins.backbones.options import EncoderOptions

HOSTILE = ['=HYPERLINK("http://evil")', "<script>alert(1)</script>", "a|b`c", "@SUM(1)2J", "-1+1[2J"]
"""Labels that a spreadsheet, a browser and a Markdown table would obey."""
CONTROLS = "\u202e\u009b2J\x1b[2J"
"""In texts; labels with such characters are refused."""
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control and direction characters, but for the line feed."""
SECRETS = {
    "HF_TOKEN": "hf_s3cretOfTheHub",
    "WANDB_API_KEY": "s3cretOfWandb",
    "AWS_SECRET_ACCESS_KEY": "s3cretOfAws",
    "MY_DATABASE_PASSWORD": "s3cretOfMine",
    "HTTPS_PROXY": "http://joe:s3cretOfTheProxy@127.0.0.1:9",
    "HF_ENDPOINT": "http://joe:s3cretOfTheMirror@127.0.0.1:9",
}


def small(model: Path, data: Path, **more: Any) -> dict[str, Any]:
    return {
        "backbone": {"model": str(model)},
        "tasks": {"topic": {"head": "classification", "data": str(data)}},
        "stages": [{"max_steps": 2, "strategy": "lora"}],
        "precision": "fp32",
        **more,
    }


def open_encoder(folder: Path, *, trust_remote_code: bool = False, **options: Any) -> Any:
    return encoder.build(EncoderOptions(model=str(folder), **options), trust_remote_code=trust_remote_code)


def changed(folder: Path, file: str = "config.json", **values: Any) -> Path:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


@pytest.fixture
def model(models: Any, tmp_path: Path) -> Path:
    """A model folder that a test may spoil."""
    return Path(shutil.copytree(models["bert"], tmp_path / "model"))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that hostile code would write."""
    return tmp_path / "HARMED"


@pytest.fixture(scope="module")
def run(models: Any, toys: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose trunk was trained too, and its rows beside it."""
    folder = tmp_path_factory.mktemp("finished")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in toys.rows(40)))
    hft_core.run(small(models["bert"], rows, stages=[{"max_steps": 2, "strategy": "full"}]), output=folder / "run")
    return folder / "run"


@pytest.fixture
def spoilt(run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may spoil."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def opened(folder: Path) -> Any:
    return saved_run.open_run(folder, Catalogue.discover())


# --- links and special files


LINKED = ("chat_template.jinja", "vocab.txt", "tokenizer.json", "config.json", "added_tokens.json", "model.safetensors")


@pytest.mark.parametrize("name", [*LINKED, "additional_chat_templates/own.jinja", "unused.txt"])
def test_no_file_outside_of_a_model_folder_is_read_or_copied(
    name: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("TOPSECRET-KEY-12345")
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(secret)
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "x"}\n' * 20)
    (tmp_path / "recipe.yaml").write_text(json.dumps(small(model, tmp_path / "rows.jsonl")))
    assert main(["run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr().err
    assert f"{model / name} is a link out of the folder, to {secret}" in shown
    assert "TOPSECRET" not in shown
    assert not (tmp_path / "run").exists()


def test_a_model_of_the_hubs_cache_is_opened_through_its_own_links(model: Path, tmp_path: Path, toys: Any) -> None:
    revision, blobs = tmp_path / "hub" / "snapshots" / "01", tmp_path / "hub" / "blobs"
    revision.mkdir(parents=True)
    blobs.mkdir()
    for i, file in enumerate(sorted(model.iterdir())):
        file.rename(blobs / str(i))
        (revision / file.name).symlink_to(f"../../blobs/{i}")
    result = hft_core.run(small(revision, "none"), data={"topic": toys.rows(20)}, output=tmp_path / "run")
    assert result.stages[0].steps == 2
    assert not any(path.is_symlink() for path in (tmp_path / "run").rglob("*"))


@pytest.mark.parametrize(
    "name", ["recipe.yaml", "results.json", "model/topic/task.json", "model/topic/model.safetensors.index.json"]
)
def test_nothing_outside_of_a_run_folder_is_read_and_no_pipe_waited_for(
    name: str, spoilt: Path, tmp_path: Path
) -> None:
    path = spoilt / name
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    with pytest.raises(ModelError, match="is a link out of the folder"):
        opened(spoilt)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ModelError, match="is a named pipe, expected a regular file"):
        opened(spoilt)
    assert main(["resume", str(spoilt)]) == 2


def test_a_data_folder_leads_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str], models: Any) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("TOPSECRET")
    folder = tmp_path / "data"
    for name in ("good", "bad"):
        (folder / name).mkdir(parents=True)
        (folder / name / "one.txt").write_text("text")
    (folder / "bad" / "two.txt").symlink_to(secret)
    for files in (folder, folder / "*" / "*.txt"):
        with pytest.raises(HftError, match=r"two\.txt is a link out of the folder"):
            loading.read([str(files)], None, "line", task="topic")
    assert len(loading.read([str(folder / "bad" / "two.txt")], None, "line", task="topic")) == 1  # named by the user


READ = """
import sys
from hft_core.data import files
from hft_core.errors import DataError
try:
    rows = files.read(["hf://me/news:train"], None, "line", task="topic")
    print(rows["text"], rows.sources[0].commit)
except DataError as error:
    print(error)
"""


def test_a_data_set_of_the_hub_runs_no_code_and_is_read_at_one_commit(tmp_path: Path, mark: Path) -> None:
    root = tmp_path / "news"
    root.mkdir()
    (root / "README.md").write_text("News")
    (root / "news.py").write_text(f"open({str(mark)!r}, 'w')")
    (root / "train.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    script = [sys.executable, str(Path(__file__).with_name("loopback_hub.py")), str(root)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as hub:
        assert hub.stdout is not None
        own = {"HF_ENDPOINT": hub.stdout.readline().strip(), "HF_HUB_OFFLINE": "0"}

        def read(cache: str) -> str:
            env = {**os.environ, **own, "HF_HOME": str(tmp_path / cache)}
            told = subprocess.run([sys.executable, "-c", READ], env=env, capture_output=True, text=True)
            return told.stdout.strip() or told.stderr

        try:
            assert read("first") == "hf://me/news:train: Dataset scripts are no longer supported, but found news.py"
            (root / "news.py").unlink()
            assert read("second") == f"['a', 'b'] {'fedcba9876' * 4}"
        finally:
            hub.kill()
    assert not mark.exists()


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json", "txt", "conll", "parquet", "jsonl.gz"])
def test_a_pipe_or_device_is_no_data_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{suffix}"
    os.mkfifo(path)
    with pytest.raises(HftError, match="it is a named pipe, expected a regular file"):
        loading.read([str(path)], None, "line", task="topic")
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(HftError, match="it is a device, expected a regular file"):
        loading.read([str(path)], None, "line", task="topic")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 1_000_000),
        ("vocab_size", 10**12),
        ("hidden_size", 10**9),
        ("intermediate_size", 10**10),
        ("max_position_embeddings", 10**9),
    ],
)
def test_a_configuration_beyond_its_weights_is_refused_before_it_is_built(key: str, value: int, model: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ModelError, match=rf"config\.json: {key} is {value}, but none of the model's weights"):
        open_encoder(changed(model, **{key: value}))
    assert time.monotonic() - started < 5


# --- code


@pytest.mark.parametrize(
    ("where", "key"),
    [
        (("backbone",), "trust_remote_code"),
        ((), "trust_remote_code"),
        ((), "plugins"),
        (("tasks", "topic", "data"), "trust_remote_code"),
        (("stages", 0), "plugin"),
    ],
)
def test_no_key_of_a_recipe_lets_code_run(where: tuple[Any, ...], key: str, models: Any, tmp_path: Path) -> None:
    recipe = small(models["bert"], tmp_path / "rows.jsonl")
    recipe["tasks"]["topic"]["data"] = {"files": "rows.jsonl"}
    place: Any = recipe
    for part in where:
        place = place[part]
    place[key] = True
    with pytest.raises((RecipeError, PluginError), match=key):
        resolve(recipe_file.from_dict(recipe), Catalogue.discover())


def spoil_with_code(folder: Path, mark: Path, model_type: str) -> Path:
    """Give a model code of its own, which leaves `mark` when it is imported."""
    code = f"open({str(mark)!r}, 'w').close()\nfrom transformers import BertConfig as C, BertForMaskedLM as M\n"
    (folder / "own.py").write_text(
        code + "class OwnConfig(C):\n    model_type = 'own'\nclass Own(M):\n    config_class = OwnConfig\n"
    )
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForMaskedLM": "own.Own", "AutoModel": "own.Own"}
    changed(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]})
    return changed(folder, auto_map=own, model_type=model_type)


def test_a_model_of_an_unknown_kind_with_code_is_refused_and_its_code_does_not_run(model: Path, mark: Path) -> None:
    with pytest.raises(ModelError, match="it comes with code of its own"):
        open_encoder(spoil_with_code(model, mark, "own"))
    assert not mark.exists()


def test_a_model_of_a_known_kind_is_opened_without_the_code_beside_it(model: Path, mark: Path) -> None:
    assert type(open_encoder(spoil_with_code(model, mark, "bert")).trunk).__module__.startswith("transformers.models.")
    assert not mark.exists()


def test_the_flag_is_what_lets_a_models_code_run(
    model: Path, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    spoil_with_code(model, mark, "own")
    (model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with contextlib.suppress(HftError):  # whatever becomes of the model, its code has run
        open_encoder(model, trust_remote_code=True)
    assert mark.exists()


def test_code_in_a_run_folder_does_not_run(spoilt: Path, mark: Path) -> None:
    spoil_with_code(spoilt / "model" / "trunk", mark, "bert")
    (spoilt / "own.py").write_text(f"open({str(mark)!r}, 'w')")
    (spoilt / "conftest.py").write_text(f"open({str(mark)!r}, 'w')")
    opened(spoilt)
    assert not mark.exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_configuration_cannot_have_a_kernel_fetched(key: str, model: Path) -> None:
    """Which keys are read depends on the version of transformers; one that is not read asks for nothing."""
    try:
        used = open_encoder(changed(model, **{key: "evil/kernel"})).trunk.config._attn_implementation
    except ModelError as error:
        assert "'evil/kernel' is not installed here, and would be code from the hub" in str(error)
    else:
        assert used in ("sdpa", "eager")


def test_internal_keys_of_a_configuration_are_passed_over(model: Path) -> None:
    changed(model, _attn_implementation_internal="evil/kernel", _experts_implementation_internal="evil/kernel")
    assert open_encoder(model).trunk.config._attn_implementation in ("sdpa", "eager")


def test_flash_attention_that_is_not_installed_is_not_fetched_for_a_recipe(model: Path) -> None:
    with pytest.raises(ModelError, match="'flash_attention_2' is not installed here, and would be code from the hub"):
        open_encoder(model, attn_implementation="flash_attention_2")


class Pickled:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_pickled_weights_run_nothing(save: Callable[..., None], model: Path, mark: Path) -> None:
    (model / "model.safetensors").unlink()
    save({"weight": Pickled(mark)}, model / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be opened"):
        open_encoder(model)
    assert not mark.exists()


def test_pickled_weights_that_are_nothing_but_tensors_are_read(model: Path) -> None:
    whole = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save(whole, model / "pytorch_model.bin")
    trunk = open_encoder(model).trunk.state_dict()
    assert all(torch.equal(tensor, whole[f"bert.{name}"]) for name, tensor in trunk.items() if f"bert.{name}" in whole)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.mkdir(MARK) }}",
        "{{ messages.append(1) }}",
        "{% for i in range(999999999) %}{% endfor %}",
    ],
)
def test_a_chat_template_stays_in_its_sandbox(
    template: str, models: Any, mark: Path, tmp_path: Path, toys: Any
) -> None:
    folder = Path(shutil.copytree(models["llama"], tmp_path / "llama"))
    changed(folder, "tokenizer_config.json", chat_template=template.replace("MARK", repr(str(mark))))
    rows = [{"prompt": row["text"], "response": row["label"]} for row in toys.rows(20)]
    recipe = small(folder, tmp_path / "none", tasks={"talk": {"head": {"type": "instruction", "chat": True}}})
    with pytest.raises(HftError, match=r"is unsafe|MAX_RANGE"):
        hft_core.run(recipe, data={"talk": rows})
    assert not mark.exists()


# --- paths


def test_a_model_folder_that_points_to_another_model_is_refused(model: Path) -> None:
    (model / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "evil/base"})
    )
    with pytest.raises(ModelError, match="holds an adapter"):
        open_encoder(model)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd"])
def test_a_model_folder_reads_no_weights_outside_of_it(name: str, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").rename(model / "part.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=re.escape(repr(name))):
        open_encoder(model)


def spoil_header(path: Path, header: bytes, length: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + b"\0" * 64)


LIES = {
    "a header of exabytes": (b"{}", 1 << 60),
    "a header longer than the file": (b"{}", 10_000),
    "a tensor behind the end": (b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36000000000]}}', None),
    "a shape that is not its size": (b'{"a":{"dtype":"F32","shape":[999999999,99],"data_offsets":[0,64]}}', None),
    "offsets that overflow": (b'{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,64]}}', None),
    "no JSON": (b"{" * 64, None),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_tensor_file_that_lies_about_its_size_is_refused(lie: str, model: Path, spoilt: Path) -> None:
    spoil_header(model / "model.safetensors", *LIES[lie])
    with pytest.raises(ModelError):
        open_encoder(model)
    spoil_header(spoilt / "model" / "topic" / "head.safetensors", *LIES[lie])
    with pytest.raises(ModelError, match="cannot be read"):
        opened(spoilt)


def test_a_head_of_another_shape_is_refused(spoilt: Path) -> None:
    path = spoilt / "model" / "topic" / "head.safetensors"
    state = load_file(path)
    save_file({name: torch.zeros(7, 7) for name in state}, path)
    with pytest.raises(ModelError, match="cannot be read"):
        opened(spoilt)


JSON = {"NaN": '{"plugins": NaN, "facts": NaN}', "depth": "[" * 100_000, "digits": "9" * 9999, "a list": "[1]"}


@pytest.mark.parametrize("file", ["results.json", "model/topic/task.json"])
@pytest.mark.parametrize("content", JSON)
def test_the_json_of_a_run_folder_is_plain_data(content: str, file: str, spoilt: Path) -> None:
    (spoilt / file).write_text(JSON[content])
    with pytest.raises(ModelError):
        opened(spoilt)


def test_a_file_of_a_run_folder_that_never_ends_is_not_read(spoilt: Path) -> None:
    (spoilt / "results.json").unlink()
    (spoilt / "results.json").symlink_to("/dev/zero")
    with pytest.raises(ModelError, match=r"results\.json"):
        opened(spoilt)


@pytest.mark.parametrize("name", ["../../evil", "os", "/tmp/evil.py"])
def test_the_record_of_a_runs_plugins_loads_none(name: str, spoilt: Path, mark: Path) -> None:
    results = json.loads((spoilt / "results.json").read_text())
    results["plugins"][0] |= {"name": name, "distribution": name, "sha256": "0" * 64}
    (spoilt / "results.json").write_text(json.dumps(results))
    with pytest.raises(PluginError, match="the run was made with"):
        opened(spoilt)


def test_opening_a_run_writes_nothing(spoilt: Path) -> None:
    def seen() -> dict[Path, tuple[int, int]]:
        return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in spoilt.rglob("*")}

    before = seen()
    from hft_core.predict import prediction

    found = opened(spoilt)
    prediction.predict(found, "topic", [{"text": "the bank called"}])
    assert seen() == before


@pytest.fixture(scope="module")
def index(run: Path) -> Path:
    """An index of the finished run's rows."""
    build_index(opened(run), run.parent / "rows.jsonl", run.parent / "index", "topic", text="text")
    return run.parent / "index"


@pytest.fixture
def spoilt_index(index: Path, tmp_path: Path) -> Path:
    """A copy of the index that a test may spoil."""
    return Path(shutil.copytree(index, tmp_path / "index"))


def listed(index: Path) -> Path:
    """Say in an index's list of files that those of it are as they are, as whoever made it can."""
    facts = json.loads((index / "index.json").read_text())
    facts["files"] = {name: run_manifest.facts_of(index / name) for name in facts["files"]}
    (index / "index.json").write_text(json.dumps(facts))
    return index


@pytest.mark.parametrize("name", ["index.json", "rows.jsonl", "vectors.npy", "unused.txt"])
def test_an_index_folder_leads_nowhere_and_no_pipe_is_waited_for(
    name: str, run: Path, spoilt_index: Path, tmp_path: Path
) -> None:
    path = spoilt_index / name
    if path.exists():
        path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    (tmp_path / "moved").touch()
    saved = opened(run)
    with pytest.raises(UsageError, match="is a link out of the folder"):
        open_index(spoilt_index, saved)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UsageError, match="is a named pipe, expected a regular file"):
        open_index(spoilt_index, saved)


@pytest.mark.parametrize("name", ["vectors.npy", "offsets.npy"])
def test_pickled_arrays_of_an_index_run_nothing(name: str, run: Path, spoilt_index: Path, mark: Path) -> None:
    np.save(spoilt_index / name, np.array([Pickled(mark)], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="is damaged"):
        open_index(listed(spoilt_index), opened(run))
    assert not mark.exists()


@pytest.mark.parametrize("content", JSON)
def test_the_json_of_an_index_is_plain_data(content: str, run: Path, spoilt_index: Path) -> None:
    (spoilt_index / "index.json").write_text(JSON[content])
    with pytest.raises(UsageError, match="cannot be read"):
        open_index(spoilt_index, opened(run))


def test_a_changed_file_of_an_index_or_another_run_is_refused(run: Path, spoilt_index: Path) -> None:
    saved = opened(run)
    vectors = np.load(spoilt_index / "vectors.npy")
    np.save(spoilt_index / "vectors.npy", -vectors)
    with pytest.raises(UsageError, match=r"is damaged: vectors.npy"):
        open_index(spoilt_index, saved)
    np.save(spoilt_index / "vectors.npy", vectors[:3])
    with pytest.raises(UsageError, match="vectors and rows of other numbers than it says"):
        open_index(listed(spoilt_index), saved)
    np.save(spoilt_index / "vectors.npy", vectors)
    open_index(listed(spoilt_index), saved)
    facts = json.loads((spoilt_index / "index.json").read_text())
    (spoilt_index / "index.json").write_text(json.dumps({**facts, "model": "0" * 64}))
    with pytest.raises(UsageError, match="was made with another run"):
        open_index(spoilt_index, saved)


@pytest.mark.parametrize("number", [-9, 2**40])
def test_rows_of_an_index_are_read_from_its_own_file_alone(number: int, run: Path, spoilt_index: Path) -> None:
    offsets = np.load(spoilt_index / "offsets.npy")
    offsets[2] = number
    np.save(spoilt_index / "offsets.npy", offsets)
    with pytest.raises(UsageError, match=r"offsets.npy is not where the rows of rows.jsonl are"):
        open_index(listed(spoilt_index), opened(run))


@pytest.mark.parametrize("row", [b"[" * 100_000, b"\xff", b'"text"'])
def test_a_row_of_an_index_is_plain_data(row: bytes, run: Path, spoilt_index: Path) -> None:
    count = len(np.load(spoilt_index / "vectors.npy"))
    (spoilt_index / "rows.jsonl").write_bytes((row + b"\n") * count)
    np.save(spoilt_index / "offsets.npy", np.arange(count + 1, dtype=np.int64) * (len(row) + 1))
    with pytest.raises(UsageError, match=r"rows.jsonl, line \d+ is no row"):
        open_index(listed(spoilt_index), opened(run)).search(["the bank"], k=3)


@pytest.mark.parametrize("name", ["log.jsonl", "checkpoints", ".lock", "model"])
def test_a_run_that_goes_on_writes_through_no_link(name: str, run: Path, tmp_path: Path) -> None:
    folder, outside = tmp_path / "stranger", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    precious = outside / "precious"
    precious.write_text("precious")
    shutil.copy(run / "recipe.yaml", folder)
    (folder / name).symlink_to(precious if "." in name else outside)
    with pytest.raises(UsageError, match=rf"{re.escape(name)}' is a symbolic link"):
        hft_core.run(folder / "recipe.yaml", output=folder, resume=True)
    assert precious.read_text() == "precious"
    assert list(outside.iterdir()) == [precious]


@pytest.mark.parametrize("name", ["log.jsonl", "checkpoints", ".lock"])
def test_a_new_run_writes_through_no_link_that_leads_nowhere(name: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(tmp_path / "made")
    with pytest.raises(UsageError, match=rf"holds {re.escape(name)} already|cannot be written to"):
        hft_core.run(run / "recipe.yaml", output=tmp_path)
    assert not (tmp_path / "made").exists()


# --- what is shown and kept


def hft(*arguments: object, code: int = 0) -> str:
    """All that a command says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        assert main([str(argument) for argument in arguments]) == code, said.getvalue()
    return said.getvalue()


@pytest.fixture(scope="module")
def hostile(models: Any, toys: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The folder of a run of rows with hostile labels and texts, with secrets in its environment, and all it said."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = [{"text": f"{label}{CONTROLS} the {label}", "label": label} for label in HOSTILE * 8]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(json.dumps(small(models["bert"], folder / "rows.jsonl")))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HFT_CACHE", str(folder / "cache"))
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        yield folder, hft("run", "recipe.yaml", "--out", "run")


def test_no_secret_of_the_environment_is_kept_or_shown(hostile: tuple[Path, str]) -> None:
    folder, said = hostile
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"results.json", "log.jsonl", "README.md", "recipe.yaml"} <= {path.name for path in files}
    for path in files:
        assert b"s3cret" not in path.read_bytes(), path
    assert "s3cret" not in said


@pytest.mark.slow
def test_a_mirrors_password_is_not_in_the_error_that_names_it(tmp_path: Path, toys: Any) -> None:
    recipe = small(Path("someone/model"), tmp_path / "rows.jsonl")
    recipe["backbone"]["type"] = "hf-encoder"
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toys.rows(30)))
    done = subprocess.run(
        [sys.executable, "-m", "hft_core", "run", "recipe.yaml", "--out", "run", "--debug"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **SECRETS, "HFT_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 2
    assert "http://***@127.0.0.1:9" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backbone", "https://joe:s3cret@hub.example/model"),
        ("data", "s3://key:s3cret@bucket/rows.csv"),
    ],
)
def test_a_recipe_with_a_password_is_refused_and_the_password_not_repeated(
    key: str, value: str, tmp_path: Path, models: Any
) -> None:
    recipe = small(models["bert"], tmp_path / "rows.jsonl")
    if key == "backbone":
        recipe["backbone"]["model"] = value
    else:
        recipe["tasks"]["topic"]["data"] = value
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    said = hft("run", tmp_path / "recipe.yaml", "--out", tmp_path / "run", code=2)
    assert "a URL with a password" in said
    assert "s3cret" not in said
    assert not (tmp_path / "run").exists()


def test_hostile_labels_reach_no_terminal_and_no_table(hostile: tuple[Path, str]) -> None:
    folder, said = hostile
    outputs = [
        said,
        hft("predict", "run", "the bank called", "\x1b]0;evil\x07"),
        hft("predict", "run", "the bank called", "--json"),
        hft("predict", "run", "--input", "rows.jsonl", "--output", "answers.jsonl"),
        hft("evaluate", "run"),
        hft("evaluate", "run", "--json"),
        hft("validate", "recipe.yaml"),
    ]
    for output in outputs:
        assert not OBEYED.search(output), output
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert {label for answer in answers for label in answer["probabilities"]} == set(HOSTILE)
    assert all(isinstance(value, float) for answer in answers for value in answer["probabilities"].values())


def test_files_of_a_run_hold_no_character_that_a_terminal_obeys(hostile: tuple[Path, str]) -> None:
    folder, _ = hostile
    for name in ("run/results.json", "run/log.jsonl", "run/recipe.yaml", "run/README.md", "run/model/topic/task.json"):
        assert not OBEYED.search((folder / name).read_text()), name


@pytest.mark.parametrize("arguments", [("run", "\x1b[2Jx.yaml"), ("describe", "head", "\x9b2J\u202e"), ("\x1b[2J",)])
def test_an_error_repeats_no_character_that_a_terminal_obeys(arguments: tuple[str, ...]) -> None:
    for more in ((), ("--debug",)):
        said = hft(*arguments, *more, code=2)
        assert not OBEYED.search(said)
        assert "2J" in said
