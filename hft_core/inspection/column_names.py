"""What columns of published data sets are called, by what they hold."""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TEXT = _words(
    "text texts sentence sent content body article document doc review comment message tweet post utterance passage "
    "description question query input source abstract headline title subject 文本 内容 正文 句子 评论 标题 问题"
)
LABEL = _words(
    "label labels class classes category categories target intent sentiment topic topics tag tags emotion emotions y "
    "gold gold_label is_duplicate duplicate polarity stance language_label relation entailment judgment "
    "标签 类别 分类 情感 意图 主题"
)
NUMBER = _words(
    "score scores rating ratings stars star grade similarity relevance value points regression mark marks price "
    "intensity valence readability gold_score 评分 分数 得分 星级"
)
OTHER = _words(
    "id ids idx index uid uuid guid key url link date time datetime timestamp created updated source_id author user "
    "user_id username annotator worker lang language locale split fold file filename path row line year month version "
    "编号 日期 作者 来源"
)
"""Columns about a row, rarely of what is to be learned from it."""

RIGHT = ("answer", "answer_idx", "answer_index", "correct", "correct_answer", "key", "right")
"""Which choice is right."""
CHOICE = re.compile(r"(ending|choice|option|answer|sol|candidate|mc|answer_choice)_?([0-9]|[A-Ha-h])")
"""One of several columns of choices."""
ASKED = ("question", "context", "ctx", "sentence", "prompt", "premise", "问题")
SEARCHED = ("query", "question", "request", "search_term", "user_query", "查询")
QUESTION = ("question", "query", "问题")
CONTEXT = ("context", "passage", "paragraph", "article", "document", "background", "text", "文章")
WORDS = ("words", "tokens", "token", "word", "sentence", "text")
CHOICES = ("choices", "options", "candidates", "endings", "answers")
NEGATIVES = ("negative", "negatives", "neg", "hard_negative", "hard_negatives")
POSITIVES = ("positive", "pos", "positives", "relevant")
ANCHORS = ("anchor", "query", "question", "sentence", "text")
DOCUMENTS = (
    "document", "doc", "passage", "candidate", "item", "product", "answer", "reply", "response", "title",
    "product_title", "text", "paragraph",
)  # fmt: skip

PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("sentence_a", "sentence_b"),
    ("text1", "text2"), ("text_1", "text_2"), ("text_a", "text_b"), ("question1", "question2"), ("sent1", "sent2"),
    ("s1", "s2"), ("a", "b"), ("query", "passage"), ("query", "document"), ("question", "sentence"), ("query", "title"),
    ("question", "answer"), ("question", "passage"), ("claim", "evidence"), ("句子1", "句子2"),
)  # fmt: skip
"""Columns of two texts that are judged together."""

WRITTEN = (
    (("document", "article", "dialogue", "text", "source", "src", "content", "body", "report", "原文", "正文"),
     ("summary", "highlights", "abstract", "target", "tgt", "translation", "headline", "title", "tldr",
      "摘要", "译文")),
)  # fmt: skip
ANSWERED = (
    (("prompt", "instruction", "input", "question", "query", "user", "request", "context", "指令", "问题"),
     ("response", "completion", "output", "answer", "reply", "assistant", "chosen", "回答", "回复")),
)  # fmt: skip
ALIKE = (
    (("anchor", "query", "question", "sentence1", "text1", "sentence_a", "question1"),
     ("positive", "pos", "passage", "document", "sentence2", "text2", "sentence_b", "question2")),
)  # fmt: skip

LANGUAGES = _words("ar cs da de el en es fa fi fr he hi hu id it ja ko nl no pl pt ro ru sv th tr uk vi zh")
"""Columns of translations, by language."""

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def plain_name(name: str) -> str:
    """Return a column's name as it is listed here: `sentenceA` and `Sentence A` are `sentence_a`."""
    return re.sub(r"[\s\-.]+", "_", _CAMEL.sub("_", name.strip())).lower()


def is_named(name: str, known: frozenset[str] | tuple[str, ...]) -> bool:
    """Return whether a column has a known name, or ends in one (`review_text`, `answers.text`)."""
    plain = plain_name(name)
    return plain in known or plain.rpartition("_")[2] in known


def first_named(names: list[str], known: tuple[str, ...]) -> str | None:
    """Return the column whose whole name is the earliest of the known ones."""
    return next((name for wanted in known for name in names if plain_name(name) == wanted), None)
