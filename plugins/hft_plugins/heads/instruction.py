"""`instruction`: instruction tuning, with loss on responses or on the assistant's turns only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, model_validator
from transformers import PreTrainedTokenizerBase

from hft_core.backbone import Backbone
from hft_core.data import SpecialTokens, as_list, shown
from hft_core.errors import DataError
from hft_core.head import Column, Encoded, Writing
from hft_plugins.heads.parts import assistant_turns, chat_template, message_weights
from hft_plugins.heads.parts.added_tokens import AddedTokens, ended
from hft_plugins.heads.parts.chat_template import Talk
from hft_plugins.heads.parts.end_tokens import NO_END, end_tokens, stop_tokens
from hft_plugins.heads.parts.generation_head import GenerationHead, GenerationOptions
from hft_plugins.heads.parts.written import Written

PROMPT_DIFFERS = (
    "the chat template's prompt for the last response is not what stands before it in the conversation, token by "
    "token: predictions continue from other tokens than the response was learned after"
)
SHORTENED = (
    "the chat template leaves out a part of what the assistant says (its thinking, say), which is then not learned; "
    "templates that leave it out of earlier turns alone are fine"
)


class Options(GenerationOptions):
    """Options of `instruction`: columns, their format, and generation."""

    prompt: str = Field(default="prompt", description="column of the prompt")
    response: str = Field(default="response", description="column of the response")
    messages: str | None = Field(
        default=None, description="column of conversations, [{role, content}, …], instead of prompt and response"
    )
    tools: str | None = Field(
        default=None, description="column of the functions that a conversation may call, a list of JSON schemas"
    )
    chat: bool = Field(
        default=False,
        description="give prompt and response to the tokenizer's chat template, as a user's and an assistant's message",
    )
    separator: str = Field(
        default="\n", description="text between prompt and response for a decoder, unless a chat template is used"
    )
    train_on_inputs: bool = Field(
        default=False, description="learn what stands before the responses too: prompts, systems, users and tools"
    )
    special_tokens: Literal["keep", "refuse"] = Field(
        default="keep",
        description="special tokens written out in texts, such as '<|im_end|>' in a message: keep them as tokens, with "
        "a warning, or refuse the row",
    )

    @model_validator(mode="after")
    def _one_form(self) -> Options:
        if self.messages is not None and self.chat:
            raise ValueError("chat makes messages of prompt and response: with a column of messages, leave it out")
        if self.tools is not None and self.messages is None:
            raise ValueError("tools are for conversations: they need a column of messages")
        return self


class Instruction(GenerationHead):
    """Supervised fine-tuning on instructions.

    A decoder reads prompt and response as one text. Where that is too long, the response loses its end, and a
    conversation what follows the last turn of the assistant that begins in time; a prompt is never cut. An
    encoder-decoder reads the prompt and writes the response (a conversation's last turn), as `seq2seq` does.

    Source: Wei et al. 2021, arXiv:2109.01652 (instructions); Ouyang et al. 2022, arXiv:2203.02155 (loss on the
    demonstration).
    """

    def __init__(self, task: str, options: Options) -> None:
        super().__init__(task, options)
        self.read = options
        self._conversation = Column(options.messages or "", "messages")
        self._tools = Column(options.tools or "", "tools")

    def columns(self) -> Sequence[Column]:
        if self.read.messages is None:
            return [Column(self.read.prompt, "text"), Column(self.read.response, "text", target=True)]
        return [self._conversation, *([self._tools] if self.read.tools else [])]

    def check(self, row: Mapping[str, Any]) -> str:
        if self.read.messages is None:
            return ""
        roles = [message["role"] for message in as_list(row[self.read.messages], self._conversation)]
        if roles[-1] != "assistant":
            return f"column {self.read.messages!r}: the last message is of the {roles[-1]}, expected the assistant's"
        if "user" not in roles[: roles.index("assistant")]:
            return f"column {self.read.messages!r}: the assistant speaks first, expected a message of the user"
        wrong = message_weights.problem(as_list(row[self.read.messages], self._conversation))
        return wrong and f"column {self.read.messages!r}: {wrong}"

    def attach(self, backbone: Backbone) -> None:
        super().attach(backbone)
        if self.read.chat or self.read.messages is not None:
            chat_template.need_template(backbone.tokenizer)
        if self.read.train_on_inputs and backbone.encoder_decoder:
            raise ValueError("train_on_inputs is for decoders: an encoder-decoder reads its prompts and writes none")

    def writing(self) -> Writing:
        chat = self.read.chat or self.read.messages is not None
        apart = self.backbone is not None and self.backbone.encoder_decoder
        return replace(super().writing(), chat=chat, after="" if chat or apart else self.read.separator)

    # --- from rows to tokens

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        assert self.backbone is not None, "attach comes first"
        if self.read.special_tokens == "refuse":
            self._refuse_special_tokens(rows, SpecialTokens(tokenizer))
        prompts, responses = rows.get(self.read.prompt, []), rows.get(self.read.response)
        talks = self._conversations(rows)
        if self.backbone.encoder_decoder:
            if talks is not None:
                prompts, responses = self._last_turns(talks, tokenizer)
            return self.encode_apart(prompts, responses, tokenizer, max_length)
        if talks is not None:
            return self._joined([self._talk(talk, tokenizer) for talk in talks], max_length, tokenizer)
        pairs, added = zip(prompts, responses or [None] * len(prompts), strict=True), AddedTokens.of(tokenizer)
        return self._joined([[self._pair(*pair, tokenizer, added)] for pair in pairs], max_length, tokenizer)

    def _refuse_special_tokens(self, rows: Mapping[str, Sequence[Any]], special: SpecialTokens) -> None:
        """Raise `DataError` for a text that the tokenizer would read special tokens in."""
        for column in self.columns():
            for cell in rows.get(column.name, []):
                texts = [m.get("content") for m in as_list(cell, column)] if column.kind == "messages" else [cell]
                for text in texts:
                    if isinstance(text, str) and (token := special.written_in(text)):
                        raise self._fault(
                            text, f"holds the special token {token!r}, expected none (special_tokens: refuse)"
                        )

    def _conversations(self, rows: Mapping[str, Sequence[Any]]) -> list[Talk] | None:
        """Return the rows as conversations; None if prompt and response are concatenated."""
        if self.read.messages is not None:
            cells = rows[self.read.messages]
            tools = rows[self.read.tools] if self.read.tools else [None] * len(cells)
            return [
                Talk(
                    chat_template.prepared(as_list(cell, self._conversation)),
                    () if tool is None else tuple(as_list(tool, self._tools)),
                )
                for cell, tool in zip(cells, tools, strict=True)
            ]
        if not self.read.chat:
            return None
        talks = [Talk([{"role": "user", "content": prompt}]) for prompt in rows[self.read.prompt]]
        for talk, response in zip(talks, rows.get(self.read.response, []), strict=False):
            if response is not None:
                talk.messages.append({"role": "assistant", "content": response})
        return talks

    def _pair(
        self, prompt: str, response: str | None, tokenizer: PreTrainedTokenizerBase, added: AddedTokens
    ) -> Written:
        ids = added.begun(tokenizer(prompt + self.read.separator, add_special_tokens=False)["input_ids"])
        if response is None:
            return Written(ids, [], [])
        end = next((token for token in (tokenizer.eos_token_id, tokenizer.sep_token_id) if token is not None), None)
        both = [*ids, *ended(tokenizer(response, add_special_tokens=False)["input_ids"], end)]
        inputs = [(0, len(ids))] if self.read.train_on_inputs else []
        return Written(both, [(len(ids), len(both))], [response], inputs, self._without_end(both[-1], tokenizer))

    def _talk(self, talk: Talk, tokenizer: PreTrainedTokenizerBase) -> list[Written]:
        """Return the examples of a conversation, the whole of it last."""
        try:
            if talk.messages[-1]["role"] != "assistant":
                return [Written(assistant_turns.prompt_ids(talk, tokenizer), [], [])]
            parts = assistant_turns.conversations(talk, tokenizer)
        except Exception as error:  # a template is a program and raises what it likes
            raise self._fault(talk.messages[0]["content"], " ".join(str(error).split())[:300]) from error
        written = [self._part(talk, part, tokenizer, whole=part is parts[-1]) for part in parts]
        return [part for part in written if part.turns]

    def _part(
        self, talk: Talk, part: assistant_turns.Conversation, tokenizer: PreTrainedTokenizerBase, *, whole: bool
    ) -> Written:
        said = [talk.messages[place] for place in part.places]
        learned = [i for i, message in enumerate(said) if message_weights.is_learned(message)]
        notes = [note for i in learned for note in self._without_end(part.last_tokens[i], tokenizer)]
        if part.blank:
            notes.append(_loose_blank(part.blank))
        if not part.prompt_agrees:
            notes.append(PROMPT_DIFFERS)
        if part.shortened:
            notes.append(SHORTENED)
        turns = [part.turns[i] for i in learned]
        texts = [_text(said[i], part.ids[slice(*part.turns[i])], tokenizer) for i in learned]
        befores = zip((0, *(end for _, end in part.turns)), part.turns, strict=False)
        inputs = [(end, start) for end, (start, _) in befores] if self.read.train_on_inputs and whole else []
        return Written(part.ids, turns, texts, inputs, list(dict.fromkeys(notes)))

    def _without_end(self, last: int, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Return a note where the last token that is learned of a response does not end it, or does not stop
        generation."""
        assert self.backbone is not None, "attach comes first"
        if last not in end_tokens(tokenizer):
            return [NO_END]
        stops = stop_tokens(self.backbone)
        if last in stops:
            return []
        names = ", ".join(repr(tokenizer.convert_ids_to_tokens(stop)) for stop in sorted(stops)) or "no token"
        found = tokenizer.convert_ids_to_tokens(last)
        where = f"it stops at {names} (eos_token_id in the model's generation_config.json)"
        return [f"responses end in {found!r}, at which generation does not stop: {where}"]

    def _last_turns(
        self, talks: Sequence[Talk], tokenizer: PreTrainedTokenizerBase
    ) -> tuple[list[str], list[str] | None]:
        """Return the prompts before the last turn of the assistant that is learned, and that turn; None if a
        conversation has none yet."""
        written = [talk.messages[-1]["role"] == "assistant" for talk in talks]
        talks = [_to_last_learned(talk) if done else talk for talk, done in zip(talks, written, strict=True)]
        befores = [talk.upto(len(talk.messages) - done) for talk, done in zip(talks, written, strict=True)]
        prompts = []
        for before in befores:
            try:
                prompts.append(chat_template.prompt_text(before, tokenizer))
                chat_template.refuse_left_out(before, prompts[-1], tokenizer)
            except Exception as error:  # a template is a program and raises what it likes
                raise self._fault(before.messages[0]["content"], " ".join(str(error).split())[:300]) from error
        if not all(written):
            return prompts, None
        if any(talk.messages[-1].get("tool_calls") for talk in talks):
            raise DataError(f"task '{self.task}': an encoder-decoder writes texts, expected no tool calls to learn")
        return prompts, [talk.messages[-1]["content"] for talk in talks]

    def _joined(self, texts: Sequence[list[Written]], max_length: int, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """Return the examples of rows, each of which has one or several."""
        targets: dict[str, list[Any]] = {"labels": [], "prompt": [], "reference": []}
        encoded = Encoded([], [], targets=targets)
        for row, text in ((row, text) for row, parts in enumerate(texts) for text in parts):
            prompt = text.turns[0][0] if text.turns else len(text.ids)
            if prompt >= max_length:
                reason = f"its prompt has {prompt} tokens, expected fewer than max_length ({max_length})"
                raise self._fault(str(tokenizer.decode(text.ids, skip_special_tokens=True)), reason)
            text = text.within(max_length)
            encoded.sequences.append(text.ids)
            encoded.rows.append(row)
            targets["labels"].append(text.labels())
            targets["prompt"].append(text.turns[-1][0] if text.turns else len(text.ids))
            targets["reference"].append(text.responses[-1] if text.turns else "")
            for note in text.notes:
                encoded.add_note(row, note)
        return encoded

    def answer(self, predictions: Sequence[Any], row: Mapping[str, Any]) -> dict[str, Any]:
        return {"text": predictions[-1]}  # of a conversation in several examples: the last turn's

    def _fault(self, text: str, reason: str) -> DataError:
        return DataError(f"task '{self.task}': the row that begins {shown(text)}: {reason}")


def _loose_blank(blank: str) -> str:
    return (
        f"the chat template's prompt ends in {blank!r}, which the tokenizer merges with the response: it is learned as "
        "part of the response, and predictions start before it; for other programs, take it out of the template's "
        "prompt"
    )


def _text(message: Mapping[str, Any], ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what is to be written for a message: its content, or tool calls as the template has them."""
    if not message.get("tool_calls"):
        return str(message["content"])
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


def _to_last_learned(talk: Talk) -> Talk:
    """Return the conversation up to the last message of the assistant that is learned."""
    learned = [place for place in talk.assistants if message_weights.is_learned(talk.messages[place])]
    return talk.upto(learned[-1] + 1) if learned else talk


def build(options: Options, *, task: str) -> Instruction:
    return Instruction(task, options)
