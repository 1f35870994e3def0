"""Export each task whose head is a decoder's LM head as a GGUF file, which llama.cpp and what is built on it open."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from hft_core.backbone import LanguageModel
from hft_core.errors import UsageError
from hft_core.export import gguf_metadata, gguf_readme, gguf_tensors, gguf_tokenizer
from hft_core.export.export_format import Exported, is_language_model, leaving_out, require_packages
from hft_core.export.gguf_metadata import ARCHITECTURES
from hft_core.export.gguf_tensors import FILE_TYPES, NoPlace
from hft_core.export.gguf_tokenizer import NotInGguf
from hft_core.export.plain_folders import PlainFolders
from hft_core.export.plain_models import language
from hft_core.predict.saved_run import SavedRun
from hft_core.runs.model_folders import save_model
from hft_core.runtime.transformers_logs import quiet_transformers

if TYPE_CHECKING:
    from gguf import GGUFWriter

README = "README.md"
OLDEST = "5.23"
"""The first transformers that reads all these tokenizers: 5.22 splits texts of sentencepiece otherwise, and 5.3 takes
the first token of a text for its last."""
WEIGHTS = "weights"
"""A folder of transformers, which is there while its weights are written into a file."""
SAMPLES = (
    "The 12 boxing wizards quickly jumped; they'd paid 3,450.67 in 2024!",
    "A space before,  two within\tand a tab.\n\nTwo lines on: x_y = f(a) + [1, 22, 333];\r\n",
    "Größe, naïve, 東京都の人口は約1400万人。 Привет, мир! 🙂👍🏽",
)
"""Texts by which a tokenizer that cannot be described is found before anything is computed."""


class GgufFolder(PlainFolders):
    """A GGUF file for each task."""

    def __init__(self, outtype: str) -> None:
        """`outtype`: one of `OUTTYPES`."""
        self.outtype = outtype

    def check(self, saved: SavedRun, tasks: Sequence[str]) -> None:
        """Raise `UsageError` for what cannot be merged, for a head that is no LM head of a decoder, and for a model or
        a tokenizer that cannot be written, or would be read as another one."""
        require_packages("gguf", ("gguf",))
        if Version(transformers.__version__) < Version(OLDEST):
            raise UsageError(
                f"--to gguf needs transformers {OLDEST}, which reads the file again for the verdict, and here is "
                f"{transformers.__version__}: pip install 'transformers>={OLDEST}'"
            )
        model = saved.model
        for task in tasks:
            if not is_language_model(model.head(task)) or not model.backbone.causal or model.backbone.encoder_decoder:
                name = saved.resolved.heads[task].entry.name
                raise UsageError(
                    f"task '{task}': --to gguf is for heads that learn with the LM head of a decoder (clm, "
                    f"instruction), and its head is '{name}'{leaving_out(task, tasks)}"
                )
        super().check(saved, tasks)
        config, tokenizer = _config(saved), model.backbone.tokenizer
        try:
            check_readable(config, tokenizer, self.outtype)
        except NotInGguf as error:
            raise UsageError(_refusal(saved, str(error))) from error

    def write(self, saved: SavedRun, tasks: Sequence[str], folder: Path) -> None:
        """Write the files, and a README with commands and lines that open them."""
        config, tokenizer = _config(saved), saved.model.backbone.tokenizer
        weights = folder / WEIGHTS
        save_model(weights, saved.model, trunk_changed=True, tasks=tasks)
        for task in tasks:
            writer = writer_of(folder / _file(task), task, config, tokenizer, self.outtype)
            try:
                gguf_tensors.write_tensors(
                    writer, weights / task, config, ARCHITECTURES[config.model_type], self.outtype
                )
            except NoPlace as error:
                raise UsageError(_refusal(saved, str(error))) from error
            finally:
                writer.close()
        shutil.rmtree(weights)
        writing = {task: saved.model.head(task).writing() for task in tasks}
        text = gguf_readme.text({task: _file(task) for task in tasks}, self.outtype, writing)
        (folder / README).write_text(text, encoding="utf-8")

    def open(self, saved: SavedRun, tasks: Sequence[str], folder: Path) -> Exported:
        """Open the files with transformers."""
        return GgufModels(saved, tasks, folder)


class GgufModels:
    """GGUF files, one of which is open at a time, in float32."""

    def __init__(self, saved: SavedRun, tasks: Sequence[str], folder: Path) -> None:
        self._saved, self._folder = saved, folder
        self._tokenizers = {task: tokenizer_in(folder / _file(task)) for task in tasks}
        self._open: tuple[str, Any] = ("", None)

    def tokenizer(self, task: str) -> PreTrainedTokenizerBase:
        return self._tokenizers[task]

    def outputs(self, task: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError("a GGUF file holds a language model")

    def language(self, task: str, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return language(self._model(task), inputs)

    def _model(self, task: str) -> Any:
        if self._open[0] != task:
            with quiet_transformers(), redirect_stderr(StringIO()):  # a bar that has no other switch
                model: Any = AutoModelForCausalLM.from_pretrained(
                    self._folder, gguf_file=_file(task), dtype=torch.float32, local_files_only=True
                ).eval()
            model.config.use_cache = False
            # The head scores hidden states: with the file's LM head, which may be quantized, not with the run's.
            head = self._saved.model.head(task).family
            assert isinstance(head, LanguageModel)
            state = model.state_dict()
            head.load_plain_state({name: state[name] for name in head.plain_state(tied=True)})
            self._open = (task, model)
        return self._open[1]


def writer_of(
    file: Path, name: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, outtype: str
) -> GGUFWriter:
    """Return a writer of `file` that has all keys. Raises `NotInGguf`."""
    from gguf import GGML_QUANT_VERSION, GGUFWriter

    if config.model_type not in ARCHITECTURES:
        raise NotInGguf(f"it is of the type '{config.model_type}'")
    found = gguf_tokenizer.vocabulary(tokenizer, config.vocab_size)
    writer = GGUFWriter(file, ARCHITECTURES[config.model_type])
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[outtype])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    gguf_metadata.add_config(writer, config)
    gguf_tokenizer.add_vocabulary(writer, found, tokenizer)
    return writer


def check_readable(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, outtype: str) -> None:
    """Raise `NotInGguf` where a file cannot say what model and tokenizer these are, or is read as others."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "keys.gguf")
        writer = writer_of(file, "keys", config, tokenizer, outtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        with quiet_transformers():
            read = AutoConfig.from_pretrained(folder, gguf_file=file.name, local_files_only=True)
        changed = gguf_metadata.first_difference(config, read)
        if changed is not None:
            name, mine, other = changed
            raise NotInGguf(f"its {name} is {mine}, which transformers would read from the file as {other}")
        again = tokenizer_in(file)
    with quiet_transformers():
        if any(tokenizer(text)["input_ids"] != again(text)["input_ids"] for text in SAMPLES):
            raise NotInGguf("its tokenizer, read from the file, makes other tokens of a text")


def tokenizer_in(file: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer that a file describes."""
    with quiet_transformers():
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, local_files_only=True
        )
    gguf_tokenizer.split_as(found, file)
    return found


def _file(task: str) -> str:
    return f"{task}.gguf"


def _config(saved: SavedRun) -> PretrainedConfig:
    config: PretrainedConfig = saved.model.trunk.config  # type: ignore[assignment]
    return config


def _refusal(saved: SavedRun, reason: str) -> str:
    model, known = type(saved.model.trunk).__name__, ", ".join(ARCHITECTURES)
    return (
        f"{model} cannot be written as GGUF here (which is for {known}): {reason}. llama.cpp's converter knows "
        "more: hft export RUN --to hf --out DIR, then convert_hf_to_gguf.py DIR/TASK --outfile TASK.gguf"
    )
