"""--cfg-options: MMEngine's values, but spaces inside them stay."""

from argparse import ArgumentParser

import pytest

from mirl_mm.apps import add_cfg_options
from mirl_mm.errors import UserError


def parsed(*words: str) -> dict:
    parser = ArgumentParser()
    add_cfg_options(parser)
    return parser.parse_args(['--cfg-options', *words]).cfg_options


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('a b.jpg', 'a b.jpg'),
        ('/my pictures (2020)/of  me', '/my pictures (2020)/of  me'),
        ('(2020) me.jpg', '(2020) me.jpg'),
        ("'a b'", 'a b'),
        ('a=b c', 'a=b c'),
        ('[(1, 2), 3]', [(1, 2), 3]),
        ('[ (1, 2.5), [a b, c (1)] ]', [(1, 2.5), ['a b', 'c (1)']]),
        ("['a b', 'c']", ['a b', 'c']),
        ('(0.9, 0.95)', (0.9, 0.95)),
        ('a b, c', ['a b', 'c']),
        ('1,2', [1, 2]), (' 3 ', 3), ('1e-3', 1e-3), ('true', True), ('None', None),
        ('', ''), ('[]', []),
    ],
)  # fmt: skip
def test_values_keep_their_spaces(text, value):
    found = parsed(f'some.key={text}')['some.key']
    assert found == value and type(found) is type(value)


def test_several_options_and_a_value_without_its_quotes(capsys):
    assert parsed('a=1', 'b.c=x y') == {'a': 1, 'b.c': 'x y'}
    with pytest.raises(SystemExit):
        parsed('data_root=my', 'pictures')
    assert "'pictures' is no KEY=VALUE (quote values with spaces)" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"'\[1, 2': Imbalanced brackets exist in \[1,2"):
        parsed('a=[1, 2')
