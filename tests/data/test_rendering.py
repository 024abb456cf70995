"""An untrusted template is isolated and its resources are limited."""

import time

import pytest

from slava_jax.data.rendering import LONGEST, RenderingError, render, render_apart

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ lipsum.__globals__['os'] }}",
    "{{ ''['__class__'].__mro__ }}",
    "{{ '' | attr('__class__') | attr('__mro__') }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{% include '/etc/hostname' %}",
    "{% import '/etc/hostname' as x %}{{ x }}",
    "{% extends 'setup.cfg' %}",
    "{{ open('setup.cfg').read() }}",
    "{{ messages.append(1) }}",
    "{{ messages.__setitem__(0, 1) }}",
    "{{ messages.pop() }}",
    "{{ raise_exception('no system prompt') }}",
    "{% for m in messages %}",
    "{{ 1 / 0 }}",
]
BOTTOMLESS = [
    "{{ 'a' * 10 ** 9 }}",
    "{{ 'a' * 10 ** 13 }}",
    "{% set s = namespace(t='ab') %}{% for i in range(60) %}{% set s.t = s.t + s.t %}{% endfor %}",
    "{{ 'a' | center(10 ** 10) }}",
    "{% for i in range(100000) %}{{ '%0999d' % 1 }}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ range(10 ** 9) | list }}",
]


@pytest.mark.parametrize("template", ESCAPES)
@pytest.mark.parametrize("renders", [render, render_apart])
def test_a_template_is_isolated(template, renders):
    """Its expressions fail or are empty: no classes, no files, no changes to its variables."""
    messages = [{"role": "user", "content": "x"}]
    try:
        (text,) = renders(template, [{"messages": messages}])
    except RenderingError:
        text = ""
    assert text == ""
    assert messages == [{"role": "user", "content": "x"}]


@pytest.mark.parametrize("template", BOTTOMLESS)
def test_a_template_is_limited_in_time_and_memory(template):
    with pytest.raises(RenderingError):
        render_apart(template, [{}])


def test_an_endless_template_is_stopped():
    loop = "{% for i in range(100000) %}" * 3 + "{% endfor %}" * 3
    start = time.monotonic()
    with pytest.raises(RenderingError, match=r"was stopped .*more than 5 s"):
        render_apart(loop, [{}])
    assert time.monotonic() - start < 60


def test_the_length_limit_covers_all_renderings():
    template = "{{ 'a' * n }}"
    (text,) = render(template, [{"n": 1000}])
    assert text == "a" * 1000
    with pytest.raises(RenderingError, match="more than 10000000 characters"):
        render(template, [{"n": LONGEST // 2}] * 3)


def test_features_that_tokenizers_templates_use():
    """Trimmed blocks, loop controls, `generation` tags, JSON and raise_exception."""
    template = """{% for m in messages %}
  {% if loop.index > 2 %}{% break %}{% endif %}
{% generation %}{{ m.content | trim }}{% endgeneration %}
{% endfor %}
{{ {'ü': '<'} | tojson }}{% if tools %}tools{% endif %}"""
    variables = {"messages": [{"content": f" {i} "} for i in range(4)], "tools": None}
    for renders in (render, render_apart):
        # the newline after a block is dropped
        assert renders(template, [variables, variables]) == ['01{"ü": "<"}'] * 2
        with pytest.raises(RenderingError, match="no system prompt"):
            renders("{{ raise_exception('no system prompt') }}", [{}])
