"""Chat templates: what they render, and how one that means harm is stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import datetime

import pytest
from host_pace import AGAIN, judging_time
from refusals import refusal

from testbed.errors import ConfigError
from testbed.words import chat
from testbed.words.chat import ChatTemplate, Message

CHAT = [Message("system", "Be brief."), Message("user", "Why is the sky <blue>?")]
CHATML = (
    "{% for message in messages %}\n"
    "    {% if message['role'] == 'tool' %}{% continue %}{% endif %}\n"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# In the manner of Llama 2 and 3, with most of what templates of chats use.
RICH = """{%- if messages[0].role == 'system' -%}
    {%- set system = messages[0].content.strip() -%}{%- set rest = messages[1:] -%}
{%- else -%}
    {%- set system = '' -%}{%- set rest = messages -%}
{%- endif -%}
{%- set seen = namespace(count=0) -%}
{{- bos_token }}{%- if tools is not none %}{{ tools | tojson }}{% endif -%}
{%- macro said(text) -%}[INST] {{ text | trim }} [/INST]{%- endmacro -%}
{%- for message in rest -%}
    {%- if message.role not in ('user', 'assistant') -%}{{ raise_exception('no role ' + message.role) }}{%- endif -%}
    {%- generation -%}{{ said(system + ' ' + message.content) }}{%- endgeneration -%}
    {%- set seen.count = seen.count + 1 -%}
    {%- if seen.count >= 5 -%}{%- break -%}{%- endif -%}
{%- endfor -%}
{{- {'text': 'a<b', 'n': seen.count} | tojson }}{{ unknown }}{{- eos_token }}"""


def rendered(template: str, messages: list[Message] = CHAT, **marks: str) -> str:
    return ChatTemplate(template, "own/tokenizer_config.json", marks).render(messages)


def test_a_conversation_becomes_the_text_that_its_model_knows() -> None:
    assert rendered(CHATML) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy is the sky <blue>?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert rendered(CHATML, [Message("tool", "x")]) == "<|im_start|>assistant\n"


def test_templates_find_what_those_of_transformers_use() -> None:
    assert rendered(RICH, bos_token="<s>", eos_token="</s>") == (
        '<s>[INST] Be brief. Why is the sky <blue>? [/INST]{"text": "a<b", "n": 1}</s>'
    )
    assert rendered("{{ strftime_now('%Y') }}") == str(datetime.now().year)


@pytest.mark.parametrize("template", [CHATML, RICH])
@pytest.mark.parametrize("messages", [CHAT, CHAT[1:], [*CHAT, Message("assistant", "λ 😀\u2028\x07"), *CHAT[1:]] * 3])
def test_templates_render_as_in_transformers(template: str, messages: list[Message]) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    if template == RICH:
        messages = [message for index, message in enumerate(messages) if not index or message.role != "system"]
    marks = {"bos_token": "<s>", "eos_token": "</s>"}
    conversation = [vars(message) for message in messages]
    theirs, _ = utils.render_jinja_template([conversation], chat_template=template, add_generation_prompt=True, **marks)
    assert [rendered(template, messages, **marks)] == theirs


@AGAIN
@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ 'a' * 10**10 }}", "needs more than 256 MiB of memory"),
        ("{% set x = ['a' * 1000] * 10**9 %}{{ x }}", "needs more than 256 MiB of memory"),
        ("{% set n = namespace(x='a') %}{% for i in range(99999) %}{% set n.x = n.x + n.x %}{% endfor %}",
         "needs more than 256 MiB of memory"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "takes longer than "),
        ("{% for i in range(10**9) %}{% endfor %}", "fails: OverflowError: Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "fails: RecursionError"),
        ("{% import 'os' as os %}{{ os }}", "fails: TypeError: no loader"),
        ("{% include '/etc/passwd' %}", "fails: TypeError: no loader"),
        ("{{ ''.__class__.__mro__ }}", "fails: '__class__' of a str is out of bounds"),
        ("{{ cycler.__init__.__globals__.os.environ }}", "fails: '__init__' of a type is out of bounds"),
        ("{{ lipsum.__globals__ }}", "fails: '__globals__' of a function is out of bounds"),
        ("{{ messages.append(1) }}", "fails: 'append' of a list is out of bounds"),
        ("{{ raise_exception('roles must\\nalternate') }}", "refuses this conversation: roles must alternate"),
        ("{{ messages[9].content }}", "has no element 9"),
        ("{% if %}", "is no Jinja: Expected an expression, got 'end of statement block' (line 1)"),
        ("{{ open('/etc/passwd') }}", "fails: 'open' is undefined"),
        ("{{ 'a' * (5 * 10**6) }}", "renders more than 4194304 characters"),
        ("{{ 1 / 0 }}", "fails: ZeroDivisionError"),
        ("{{" + "(" * 5000 + ")" * 5000 + "}}", "fails: RecursionError"),
    ],
)  # fmt: skip
def test_a_template_that_means_harm_is_one_sentence_within_ten_seconds(template: str, told: str) -> None:
    begun = time.monotonic()
    sentence = refusal(lambda: rendered(template), told, begin="own/tokenizer_config.json: the chat template ")
    assert len(sentence) < 400
    with judging_time():
        assert time.monotonic() - begun < 10


def test_a_template_that_multiplies_takes_no_500_MB() -> None:
    code = (
        "import resource\nfrom testbed.errors import ConfigError\nfrom testbed.words.chat import ChatTemplate\n"
        "try:\n    ChatTemplate(\"{{ 'a' * 10**10 }}\", 'own', {}).render([])\nexcept ConfigError:\n"
        "    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    # From a small process, because the peak of a child begins with what its parent had.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 500 * 1024


def test_one_long_step_of_a_template_is_stopped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "CPU_S", 1)
    with pytest.raises(ConfigError, match="takes longer than [19] s"):
        rendered("{{ 10 ** (10 ** 8) }}")


def test_a_template_sees_no_environment_and_no_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere")
    assert rendered("{{ messages | length }}") == "2"
    assert os.environ["SECRET"] == "x"
