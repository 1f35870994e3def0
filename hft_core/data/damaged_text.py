"""Find what programs leave behind in texts: characters of another encoding, HTML, control characters, escapes."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder

CONTROL = "a control character (NUL or another that no keyboard writes)"
REPLACED = "the replacement character U+FFFD, which stands where a program could not decode a character"
WRONG_ENCODING = "characters such as 'Ã©' for 'é': UTF-8 that was read as Windows-1252, or as another encoding"
HTML = "HTML (an entity such as '&amp;' or a tag such as '<br>')"
ESCAPES = r"escapes that were not decoded, such as '\n' for a line break, '\u00e9' for 'é' or '%20' for a blank"
BYTES = "bytes as Python prints them (b'…')"

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1b\x7f]")
"""Control characters but tab, line feed, carriage return and separators, which text programs write."""
_NOT_ASCII = re.compile(r"[^\x00-\x7f]{2,}")
_HTML = re.compile(
    r"&(?:[A-Za-z]{2,8}|#\d{2,6}|#[xX][0-9A-Fa-f]{2,5});"
    r"|</?(?:p|br|div|span|b|i|em|strong|a|li|ul|td|tr|h[1-6])(?:\s[^<>]{0,200})?/?>",
    re.IGNORECASE,
)
FEW = 6
"""So few Chinese characters may be bytes of UTF-8 by chance."""
_LINE_BREAK = re.compile(r"\\n(?:\\n|[\s\dA-Z*#•-]|$)|\\r\\n")
"""A line break as two characters; not the beginning of `\\nabla`, and not within quotes of code."""
_BREAK_IN_WORDS = re.compile(
    r"(?<=[^\W\d_])\\n(?!(?:abla|ew\w*|eq?|eg|u|ot|i|onumber|oindent|leq|geq|mid)\b)[^\W\d_]+[ ,.!?]"
)
"""A backslash and an n for a line break between letters, where it does not begin a LaTeX command."""
_CHARACTER = re.compile(r"\\u(?:0[0-9a-fA-F]{3}|[1-9a-cA-C][0-9a-fA-F]{3})")
_BYTES = re.compile(r"b(['\"]).+\1", re.DOTALL)


def damage(text: str) -> str:
    """Return which of the above a text holds, the first one; empty for none."""
    if _CONTROL.search(text) is not None:
        return CONTROL
    if not text.isascii():
        if "\ufffd" in text:
            return REPLACED
        if "锟斤拷" in text or any(_is_utf8(found[0]) for found in _NOT_ASCII.finditer(text)):
            return WRONG_ENCODING  # the three: U+FFFD that was read as GBK
    if ("<" in text or "&" in text) and _HTML.search(text) is not None:
        return HTML
    if text.startswith("b") and _BYTES.fullmatch(text.strip()):
        return BYTES
    return ESCAPES if _is_escaped(text) else ""


def _is_escaped(text: str) -> bool:
    """Return whether a text has escapes and none of the characters that they stand for: code has both."""
    if "\\" in text:
        breaks = (_LINE_BREAK, _BREAK_IN_WORDS) if "$" not in text else (_LINE_BREAK,)
        broken = "\n" not in text and any(form.search(text) is not None for form in breaks)
        return broken or (text.isascii() and _CHARACTER.search(text) is not None)
    return "%20" in text and "://" not in text and not any(map(str.isspace, text))


def _is_utf8(characters: str) -> bool:
    """Return whether the characters are, in the encoding that they were read in, the bytes of others in UTF-8: correct
    text hardly ever is, in GBK if it is long enough."""
    encodings = ("cp1252", "latin-1") if max(characters) < "\u2123" else ("gbk",) if len(characters) >= FEW else ()
    return any(_decodes(characters, encoding) for encoding in encodings)


def _decodes(characters: str, encoding: str) -> bool:
    try:
        # Of GBK, the last byte may be lost: it takes two for a character.
        getincrementaldecoder("utf-8")().decode(characters.encode(encoding), final=encoding != "gbk")
    except UnicodeError:
        return False
    return True
