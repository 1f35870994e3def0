from __future__ import annotations

import time

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from hft_plugins.heads.parts import template_trial
from hft_plugins.heads.parts.template_trial import refuse_endless

FINE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
ENDLESS = {
    "a huge number": "{{ strftime_now('%Y') * 100000000 }}",
    "a huge text": "{{ 'a' * 4000000000 }}",
    "a long text": "{{ 'a' * 20000000 }}",
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a text that doubles": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x * 2 %}{% endfor %}",
    "a wide field": "{{ '%2000000000d' % 5 }}",
    "a filter": "{{ 'a' | center(3000000000) }}",
}


def render(template: str) -> str:
    messages = [{"role": "user", "content": "a few words"}]
    texts, _ = render_jinja_template(conversations=[messages], chat_template=template)
    return str(texts[0])


@pytest.mark.parametrize("what", ENDLESS)
def test_a_template_without_end_is_refused_in_time(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_trial, "SECONDS", 3.0)
    started = time.monotonic()
    with pytest.raises(ValueError, match="the backbone's chat template writes"):
        refuse_endless(lambda: render(ENDLESS[what]))
    assert time.monotonic() - started < 30


def test_a_template_that_writes_a_conversation_is_fine() -> None:
    refuse_endless(lambda: render(FINE))
    refuse_endless(lambda: render("{{ raise_exception('only for others') }}"))
