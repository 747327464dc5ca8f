"""Chat templates as models ship them."""

from datetime import UTC, datetime

import pytest

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.chat import ChatTemplate

USER = [{"role": "user", "content": "hi <b>"}]


def test_smollm2(smollm2):
    text = smollm2.chat_template.render(USER)
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert text == (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nhi <b><|im_end|>\n<|im_start|>assistant\n"
    )
    without = smollm2.chat_template.render(USER, add_generation_prompt=False)
    assert text == without + "<|im_start|>assistant\n"


def test_helpers():
    now = datetime(2026, 11, 22, tzinfo=UTC)
    source = (
        "{{ bos_token }}{{ strftime_now('%d %b %Y') }} {{ messages | tojson }}\n"
        "{% for m in messages %}\n"
        "    {% if m.role == 'tool' %}{% continue %}{% endif %}\n"
        "{% generation %}{{ m.content }}{% endgeneration %}{{ eos_token }}\n"
        "{% endfor %}{{ extra }}"
    )
    template = ChatTemplate(source, bos_token="<s>", eos_token="</s>", now=lambda: now)
    text = template.render([*USER, {"role": "tool", "content": "no"}], extra="é")
    expected = '[{"role": "user", "content": "hi <b>"}, {"role": "tool", "content": "no"}]'
    assert text == f"<s>22 Nov 2026 {expected}\nhi <b></s>\né"


def test_a_refusal_reaches_the_caller():
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InvalidArgument, match="roles must alternate"):
        template.render(USER)


def test_wrong_messages_are_the_callers_fault():
    template = ChatTemplate("{{ messages[0]['content'] + '!' }}")
    with pytest.raises(InvalidArgument, match="does not take these messages"):
        template.render([{"role": "user", "content": 3}])
    with pytest.raises(InvalidArgument, match="does not take these messages"):
        template.render([])


def test_templates_are_confined():
    for source in (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% set _ = messages.append(1) %}",
    ):
        with pytest.raises(InvalidArgument):
            ChatTemplate(source).render(list(USER))
    assert ChatTemplate("{{ raise_exception.__globals__ }}").render(USER) == ""


def test_a_syntax_error_names_the_line():
    with pytest.raises(InvalidArgument, match="line 2"):
        ChatTemplate("fine\n{% if %}")
