"""The site's navigation, API pages and link check, without the site's packages."""

import importlib
import re
import sys
from collections import Counter
from inspect import ismodule
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from docs.theme import hooks

ROOT = Path(__file__).parents[1]
CONFIG = yaml.safe_load((ROOT / 'mkdocs.yml').read_text())
API = {path.stem: path.read_text() for path in (ROOT / 'docs/api').glob('*.md')}


def test_every_page_is_in_the_navigation_once():
    pages = Counter(hooks.named(CONFIG['nav']))
    assert set(pages.values()) == {1}
    assert [page for page in pages if not (ROOT / page).is_file()] == []
    docs = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'docs').rglob('*.md')}
    assert len(docs) > 15
    assert docs - pages.keys() == set()


def test_links_lead_to_files():
    """A folder has a page on GitHub, and none on the site."""
    links = [
        (page, link)
        for page in hooks.named(CONFIG['nav'])
        for link in re.findall(r'\]\(([^)#\s]+)', (ROOT / page).read_text())
        if '://' not in link
    ]
    assert len(links) > 100
    assert [(p, to) for p, to in links if not (ROOT / p).parent.joinpath(to).is_file()] == []


def names_on(page: str) -> set[str]:
    """All that an API page shows, by full name."""
    found = set()
    for part in page.split('\n::: ')[1:]:
        members = re.search(r' members: \[(.+)\]', part)
        name = part.split()[0]
        found |= {f'{name}.{x}' for x in members[1].split(', ')} if members else {name}
    return found


@pytest.mark.parametrize('room', sorted(API))
def test_api_pages_name_what_there_is(room):
    names = names_on(API[room])
    assert names
    for name in names:
        assert name.startswith(f'mirl_mm.{room}.')
        module, _, member = name.rpartition('.')
        assert hasattr(importlib.import_module(module), member), name


@pytest.mark.parametrize('room', ['models', 'checkpoint', 'datasets'])
def test_api_pages_show_all_that_a_room_offers(room):
    shown = {name.rpartition('.')[2] for page in API.values() for name in names_on(page)}
    offered = importlib.import_module(f'mirl_mm.{room}')
    names = {name for name in offered.__all__ if not ismodule(getattr(offered, name))}
    assert len(names) > 3
    assert names - shown == set()


def test_files_that_pages_link_to_are_on_the_site():
    linked = hooks.linked({'docs/architecture.md', 'docs/dense.md', 'docs/gallery.md'})
    assert 'mirl_mm/models/mirl.py' in linked
    assert 'benchmarks/results/dense_transfer/demo.json' in linked
    assert {'docs/images/method-dark.svg', 'docs/images/method-light.svg'} <= linked


def test_built_pages_are_checked(tmp_path, caplog):
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub/b.html').write_text('<h1 id="there">B</h1><a href="../a.html#top">a</a>')
    links = ['sub/b.html#there', 'sub/b.html#gone', 'c.html', '#top', 'https://x.org/', 'sub/']
    loads = '<script src="https://x.org/x.js"></script><img src="no.png"><img src="data:,">'
    anchors = ''.join(f'<a href="{link}">x</a>' for link in links)
    (tmp_path / 'a.html').write_text(f'<p id="top">{anchors}{loads}</p>')
    (tmp_path / '404.html').write_text('<a href="/d.html">x</a>')
    hooks.on_post_build(SimpleNamespace(site_dir=str(tmp_path)))
    assert sorted(record.message for record in caplog.records) == [
        'a.html links to c.html, which is not there',
        'a.html links to no.png, which is not there',
        'a.html links to sub/b.html#gone, which has no such place',
        'a.html loads https://x.org/x.js, which needs a network',
    ]


@pytest.fixture
def rewrite(monkeypatch):
    """A docstring as the pages have it: function of its text and what belongs to its object."""
    griffe = ModuleType('griffe')
    griffe.Extension, griffe.Object, griffe.NameResolutionError = object, object, KeyError
    monkeypatch.setitem(sys.modules, 'griffe', griffe)
    monkeypatch.delitem(sys.modules, 'docs.theme.roles', raising=False)
    roles = importlib.import_module('docs.theme.roles')

    def rewritten(text: str, **settings) -> str:
        docstring = SimpleNamespace(value=text)
        settings = dict(is_class=False, resolve={'near': 'room.near'}.__getitem__) | settings
        roles.Roles().on_object(obj=SimpleNamespace(docstring=docstring, **settings))
        return docstring.value

    yield rewritten
    monkeypatch.delitem(sys.modules, 'docs.theme.roles')


def test_roles_become_links(rewrite):
    assert rewrite('As :func:`near` and :mod:`a.far` say, ``x``.') == (
        'As <autoref optional identifier="room.near">`near`</autoref> and '
        '<autoref optional identifier="a.far">`a.far`</autoref> say, ``x``.'
    )


def test_products_are_no_emphasis(rewrite):
    assert (
        rewrite('[B, L, p*p*3], ``h*w`` and **bold**') == r'[B, L, p\*p\*3], ``h*w`` and **bold**'
    )


def test_fields_become_a_list(rewrite):
    settings = dict(is_attribute=True, annotation='int', labels=set())
    members = dict(
        h=SimpleNamespace(name='h', source='    h: int  # rows', **settings),
        w=SimpleNamespace(name='w', source='    w: int', **settings),
        area=SimpleNamespace(name='area', **settings | dict(labels={'property'})),
        flat=SimpleNamespace(is_attribute=False),
    )
    record = dict(is_class=True, labels=set(), bases=['NamedTuple'], members=members)
    assert rewrite('A size.', **record) == 'A size.\n\n- `h: int` rows\n- `w: int`'
    assert rewrite('A size.', **record | dict(bases=['Module'])) == 'A size.'
