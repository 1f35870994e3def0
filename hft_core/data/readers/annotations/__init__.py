"""Read the exports of annotation tools (Label Studio, doccano, Prodigy, Argilla) into rows.

A tool's module turns its file into `Item`s: a text with what each annotator answered to each question. `table` chooses
one answer a question where several annotators answered, and turns spans of characters into words with tags.
"""

from hft_core.data.readers.annotations import argilla, doccano, label_studio, prodigy

__all__ = ["argilla", "doccano", "label_studio", "prodigy"]
