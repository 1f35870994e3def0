"""Models that cannot be opened, or not as what the recipe says."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

from .case import Case, Change, every, remove, replace, shorten, write

CHECK = "validate recipe.yaml"


class Code:
    """Pickled, it makes a folder when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


def model(value: str) -> Change:
    return replace("recipe.yaml", "backbone: model", f"backbone: {value}")


def config(**changes: object) -> Change:
    """Other values in the model's configuration; None takes one away."""

    def make(folder: Path) -> None:
        path = folder / "model" / "config.json"
        path.write_text(
            json.dumps({k: v for k, v in {**json.loads(path.read_text()), **changes}.items() if v is not None})
        )

    return make


def tokenizer_of_another(folder: Path) -> None:
    """With more words than the model has."""
    path = folder / "model" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"word{i}": len(vocabulary) + i for i in range(50)}
    path.write_text(json.dumps(content))


def shards(missing: str) -> Change:
    """The model's weights in two files and the list of them, without one of the two."""

    def make(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        whole = folder / "model" / "model.safetensors"
        state = load_file(whole)
        names = sorted(state)
        parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
        for file, part in parts.items():
            if file != missing:
                save_file({name: state[name] for name in part}, whole.with_name(file), metadata={"format": "pt"})
        index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
        whole.with_name("model.safetensors.index.json").write_text(json.dumps(index))
        whole.unlink()

    return make


def gguf(kind: int) -> Change:
    """A GGUF file of a Llama with one tensor, whose number format has the number `kind`."""

    def make(folder: Path) -> None:
        import struct

        def text(value: str) -> bytes:
            return struct.pack("<Q", len(value)) + value.encode()

        name = struct.pack("<I", 1) + struct.pack("<Q", 32) + struct.pack("<IQ", kind, 0)
        head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
        fields = text("general.architecture") + struct.pack("<I", 8) + text("llama")
        content = head + fields + text("blk.0.attn_q.weight") + name
        (folder / "tiny.gguf").write_bytes(content + b"\0" * (-len(content) % 32) + b"\0" * 256)

    return make


def weights(change: str) -> Change:
    """The model's weights without the trunk's last layer (`incomplete`), or not numbers (`nan`)."""

    def make(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "model" / "model.safetensors"
        state = load_file(path)
        if change == "nan":
            state = {name: tensor * float("nan") for name, tensor in state.items()}
        else:
            state = {name: tensor for name, tensor in state.items() if "layer.1." not in name}
        save_file(state, path, metadata={"format": "pt"})

    return make


NOTHING_OPENS = (
    "recipe.yaml, line 1, backbone: no backbone opens 'model' (known: …); expected a folder as transformers saves it "
    "(config.json, weights, tokenizer), a GGUF file or a hub id…"
)

CASES = [
    Case(
        what="no such folder",
        given=model("modle"),
        command=CHECK,
        says="recipe.yaml, line 1, backbone: no backbone opens 'modle' (known: …); it is neither a file or "
        "folder nor a model of the hub (not asked, since HF_HUB_OFFLINE is set). Did you mean 'model'?…",
        process=True,
    ),
    Case(
        what="an empty folder",
        given=every(remove("model"), write("model/.keep", "")),
        command=CHECK,
        says=NOTHING_OPENS,
    ),
    Case(what="no configuration", given=remove("model/config.json"), command=CHECK, says=NOTHING_OPENS),
    Case(
        what="a configuration that is not JSON",
        given=write("model/config.json", "{not json"),
        command=CHECK,
        says="recipe.yaml, line 1, backbone: no backbone opens 'model' (known: …); hf-decoder of hft-core …, "
        "hf-encoder of "
        "hft-core …, hf-seq2seq of hft-core … could not be asked: model/config.json is not valid JSON: …line 1 "
        "column 2…",
    ),
    Case(
        what="a configuration of an unknown kind of model",
        given=config(model_type="berd", architectures=None),
        command=CHECK,
        says="model 'model' cannot be opened: …model type `berd`…",
    ),
    Case(
        what="a configuration of other sizes",
        given=config(hidden_size=64),
        command=CHECK,
        says="model 'model': the weight bert.embeddings.LayerNorm.bias has the shape [32], expected [64] after its "
        "config.json (and 38 more)",
    ),
    Case(
        what="a configuration whose sizes are text",
        given=config(hidden_size="many"),
        command=CHECK,
        says="model 'model' cannot be opened: …",
    ),
    Case(
        what="a configuration that names code",
        given=config(
            model_type="own", architectures=None, auto_map={"AutoConfig": "own.Own", "AutoModel": "own.Model"}
        ),
        command=CHECK,
        says="model 'model' cannot be opened: it comes with code of its own, expected none; …--trust-remote-code",
    ),
    Case(
        what="no tokenizer",
        given=remove("model/tokenizer.json", "model/tokenizer_config.json"),
        command=CHECK,
        says="model 'model' has no tokenizer: expected its files (tokenizer.json, …) beside the weights",
    ),
    Case(
        what="a damaged tokenizer",
        given=shorten("model/tokenizer.json"),
        command=CHECK,
        says="model 'model' cannot be opened: model/tokenizer.json is not valid JSON: …line…",
    ),
    Case(
        what="a tokenizer with more words than the model",
        given=tokenizer_of_another,
        command=CHECK,
        says="model 'model': its tokenizer gives token ids up to 161, but the model has embeddings for 112 tokens: "
        "expected the tokenizer that belongs to it",
    ),
    Case(
        what="no weights",
        given=remove("model/model.safetensors"),
        command=CHECK,
        says="model 'model' cannot be opened: Error no file named model.safetensors, or pytorch_model.bin, found in "
        "directory model.",
    ),
    Case(
        what="weights cut short",
        given=shorten("model/model.safetensors"),
        command=CHECK,
        says="model 'model' cannot be opened: model/model.safetensors is not valid safetensors: …",
        process=True,
    ),
    Case(
        what="weights of a part of the layers",
        given=weights("incomplete"),
        command=CHECK,
        says="model 'model': 16 trunk weights are missing from its files (bert.encoder.layer.1.…): expected a complete "
        "checkpoint",
    ),
    Case(
        what="weights in a pickle that would run code",
        given=every(
            remove("model/model.safetensors"), write("model/pytorch_model.bin", pickle.dumps(Code(), protocol=2))
        ),
        command=CHECK,
        says="model 'model' cannot be opened: its weights are a pickle that holds more than tensors, expected "
        "safetensors",
    ),
    Case(
        what="weights that are no numbers",
        given=weights("nan"),
        command=CHECK,
        says="model 'model': its weight bert.embeddings.word_embeddings.weight holds values that are not finite "
        "numbers",
    ),
    Case(
        what="a decoder opened as an encoder",
        given=model("{type: hf-encoder, model: decoder}"),
        needs=("decoder",),
        command=CHECK,
        says="model 'decoder' is an autoregressive decoder: open it with 'hf-decoder'",
    ),
    Case(
        what="an encoder opened as a decoder",
        given=model("{type: hf-decoder, model: model}"),
        command=CHECK,
        says="model 'model' is a bidirectional encoder: open it with 'hf-encoder'",
    ),
    Case(
        what="a GGUF file that is none",
        given=every(write("tiny.gguf", b"GGUF" + b"\0" * 100), model("tiny.gguf")),
        command=CHECK,
        says="model 'tiny.gguf' cannot be opened: …",
    ),
    Case(
        what="a GGUF file in a number format that cannot be read",
        given=every(gguf(99), model("tiny.gguf")),
        command=CHECK,
        says="model 'tiny.gguf' cannot be opened: its numbers are in a format that the gguf library here does not read "
        "(GGML type 99); expected F16, BF16, Q8_0, Q4_K, …",
    ),
    Case(
        what="a shard of the weights that is missing",
        given=shards("model-00002-of-00002.safetensors"),
        command=CHECK,
        says="model/model.safetensors.index.json: 1 of its 2 weight files are missing "
        "(model-00002-of-00002.safetensors); expected all of them in the folder",
    ),
    Case(
        what="longer texts than the model has positions",
        given=replace("recipe.yaml", "head: classification", "head: classification\n    max_length: 4096"),
        command=CHECK,
        says="recipe.yaml, line 5, tasks.topic.max_length: 4096 is too long: the backbone takes at most 64 tokens",
    ),
    Case(
        what="conversations for a model without a chat template",
        given=every(
            replace(
                "recipe.yaml",
                "head: classification\n    data: news.csv",
                "head: instruction\n    chat: true\n    prompt: text\n    response: label\n    data: news.csv",
            ),
            model("decoder"),
        ),
        needs=("decoder",),
        command=CHECK,
        says="task 'topic': the backbone's tokenizer has no chat template, which messages need; take a model that was "
        "tuned for chat, or columns of prompts and responses",
    ),
    Case(
        what="a quantized trunk that would train",
        given=every(model("{model: model, quantization: int8}"), replace("recipe.yaml", "{type: lora, r: 2}", "full")),
        command=CHECK,
        says="…the backbone's weights are quantized (int8), and the strategy saves the trunk's own weights; expected "
        "one that saves an adapter (lora, dora, task-lora, …), or no quantization",
    ),
    Case(
        what="a quantized GGUF file",
        given=every(gguf(0), model("{model: tiny.gguf, quantization: int8}")),
        command=CHECK,
        says="recipe.yaml, line 1, backbone: backbone 'hf-decoder': quantization takes a model folder or hub id, by "
        "whose name an adapter finds its base weights; found a GGUF file",
    ),
    Case(
        what="a file that is no model",
        given=model("news.csv"),
        command=CHECK,
        says=NOTHING_OPENS.replace("'model'", "'news.csv'"),
    ),
    Case(
        what="no model named",
        given=model("{type: hf-encoder}"),
        command=CHECK,
        says="recipe.yaml, line 1, backbone: backbone 'hf-encoder' needs the option 'model'",
    ),
]
