"""Search in English and Chinese: English words by their stems, Chinese text by pairs of characters.

Chinese has no blanks between words. Sphinx's own Chinese search splits pages into words, but not what a reader types;
pairs can be formed in the same way on both sides.
"""

from __future__ import annotations

import re
from itertools import pairwise

from sphinx.search.en import SearchEnglish

RUN = re.compile(r"[\u4e00-\u9fff]+|[^\W\u4e00-\u9fff]+")


class BilingualSearch(SearchEnglish):
    """Splits text for the index, and has the browser split queries in the same way."""

    lang = "en"
    language_name = "English"  # names the stemmer in the page's script
    js_splitter_code = r"""
function splitQuery(query) {
  const runs = query.match(/[\u4e00-\u9fff]+|(?:(?![\u4e00-\u9fff])[\p{L}\p{N}_])+/gu) || [];
  return runs.flatMap((run) => {
    if (!/^[\u4e00-\u9fff]{2,}$/.test(run)) return [run];
    return Array.from(run).slice(1).map((character, place) => run[place] + character);
  });
}
"""

    def split(self, input: str) -> list[str]:
        """Return the words of English text, and each two neighboring characters of Chinese text."""
        return [word for run in RUN.findall(input) for word in _words(run)]


def _words(run: str) -> list[str]:
    if len(run) > 1 and "\u4e00" <= run[0] <= "\u9fff":
        return ["".join(pair) for pair in pairwise(run)]
    return [run]
