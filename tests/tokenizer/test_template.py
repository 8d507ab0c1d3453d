import json

import pytest

from espalier.errors import ConfigError
from espalier.tokenizer.template import Template, TemplateFailed, literal_text


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{{ 'x' * 100000000 }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x' | indent(1000000000, true) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ missing.field }}",
        "{{ raise_exception('no') }}",
        "{{ 1 + 'a' }}",
    ],
)
def test_a_template_that_swells_spins_or_breaks_out_fails_its_request(source: str) -> None:
    with pytest.raises(TemplateFailed):
        Template(source).render({"messages": [{"role": "user"}]})


def test_a_template_that_does_not_parse_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="not valid"):
        Template("{% for x in %}")


def test_json_is_written_as_hugging_face_does() -> None:
    value = {"b": "한국 <&>", "a": [1, None, True]}
    assert Template("{{ v | tojson }}").render({"v": value}) == json.dumps(
        value, ensure_ascii=False
    )
    ascii_only = Template("{{ v | tojson(ensure_ascii=true, sort_keys=true) }}").render(
        {"v": value}
    )
    assert ascii_only == json.dumps(value, sort_keys=True)
    compact = Template("{{ v | tojson(separators=(',', ':')) }}").render({"v": value})
    assert compact == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def test_the_extensions_of_hugging_face_are_there() -> None:
    source = (
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}"
        "{% generation %}{{ i }}{% endgeneration %}{% endfor %}{{ strftime_now('%Y') | length }}"
        "{% macro say(x) %}[{{ x ~ 1 }}]{% endmacro %}{{ say('a') }}{{ dict(a=1).a }}"
    )
    assert Template(source).render({}) == "024[a1]1"


def test_what_a_template_writes_itself_is_known() -> None:
    found = literal_text("<a>{% if x == '<b>' %}{{ '<c>' + y }}{% endif %}")
    assert all(text in found for text in ("<a>", "<b>", "<c>"))
