"""The README's pictures, links and citation, and what draws the pictures."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import mirl_mm
from docs.pictures import __main__ as pictures
from docs.pictures import curve, depth, features, method, page, probes, strip, svg
from mirl_mm.errors import UserError

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
IMAGES = ROOT / 'docs/images'
PNGS = {'strip.png', 'features.png', 'report.png'}
CONFIG = str(ROOT / 'configs/mirl/vit-test_2e.py')
# ![...](target), [...](target), src="target" and srcset="target"
LINK = re.compile(r'\]\(([^)\s]+)\)|(?:src|srcset)="([^"]+)"')


def links(text: str) -> list[str]:
    return [''.join(found) for found in LINK.findall(text)]


def test_every_picture_is_there_is_linked_and_is_small():
    names = {file.name for file in IMAGES.iterdir()}
    assert names == PNGS | set(pictures.drawings())
    gallery = (ROOT / 'docs/gallery.md').read_text()
    linked = [*links(README), *(f'docs/{link}' for link in links(gallery))]
    linked = {Path(link).name for link in linked if link.startswith('docs/images/')}
    assert linked == names
    assert sum(file.stat().st_size for file in IMAGES.iterdir()) <= 1e6
    for name in PNGS:
        with Image.open(IMAGES / name) as opened:
            assert min(opened.size) > 200 and opened.getextrema() != ((0, 0),)


def test_drawings_are_what_the_scripts_draw():
    for name, text in pictures.drawings().items():
        assert (IMAGES / name).read_text() == text, 'run make pictures'


@pytest.mark.parametrize('draw', pictures.DRAWN.values(), ids=pictures.DRAWN)
def test_drawings_stay_in_their_frame_in_both_themes(draw):
    both = [draw(theme) for theme in svg.THEMES.values()]
    assert both[0] != both[1]
    for theme, text in zip(svg.THEMES.values(), both, strict=True):
        assert theme.text in text and theme.main in text and theme.residual in text
        root = ET.fromstring(text)
        _, _, width, height = map(float, root.attrib['viewBox'].split())
        said = root.findall('.//{*}text')
        assert len(said) > 15
        for each in said:
            assert 0 <= float(each.attrib['x']) <= width
            assert 12 <= float(each.attrib['y']) <= height - 4
            assert int(each.attrib['font-size']) >= 13  # the README shows them at their own size


def test_the_method_pairs_shallow_with_deep():
    root = ET.fromstring(method.draw(svg.THEMES['light']))
    said = [each.text for each in root.findall('.//{*}text')]
    assert said.count('decoder') == method.SEGMENTS
    decoders = said[said.index('decoder') : said.index('decoder') + 2 * method.SEGMENTS]
    assert decoders[1::2] == ['main', 'main', 'residual', 'residual']


def test_a_curve_is_the_mean_within_its_seeds():
    shade, line = map(ET.fromstring, curve.band(0, [[4, 16], [8, 16], [9, 16]], (4, 16), 'red'))
    bottom, top = curve.TOP + curve.HIGH, curve.TOP
    mean = curve.TOP + curve.HIGH * (16 - 7) / 12
    first, last = curve.across(0, 1), curve.across(0, 2)
    assert line.attrib['d'] == f'M{first:.1f} {mean:.1f} L{last:.1f} {top:.1f}'
    assert shade.attrib['d'].endswith(f'L{last:.1f} {top:.1f} L{first:.1f} {bottom:.1f} Z')


def test_a_curve_of_too_few_seeds_is_refused(monkeypatch):
    monkeypatch.setattr(curve.rows, 'read', dict)
    with pytest.raises(UserError, match='has 0 rows; the curve takes 3 seeds of MIRL'):
        curve.draw(svg.THEMES['light'])


LIGHT = svg.THEMES['light']
SPAN = (4, 16)


def test_depth_has_every_seed_around_the_mean_of_its_range():
    drawn = depth.line(LIGHT, 0, {12: [4, 10, 16]}, SPAN, 'red')
    bar, *dots, mean = map(ET.fromstring, drawn)
    x, top, bottom = depth.across(0, 12), probes.TOP, probes.TOP + probes.HIGH
    assert bar.attrib['d'].startswith(f'M{x:.1f} {top:.1f} V{bottom:.1f}')
    middle = (top + bottom) / 2
    assert [float(each.attrib['cy']) for each in dots] == [bottom, middle, top]
    assert (float(mean.attrib['cx']), float(mean.attrib['cy'])) == (x, middle)
    assert mean.attrib['fill'] == 'red'


def test_depth_is_hollow_and_dashed_where_seeds_are_missing():
    some = {12: [5, 6, 7], 24: [7, 8]}
    whole, few = (''.join(depth.line(LIGHT, 0, seeds, SPAN, 'red'))
                  for seeds in (some | {24: [7, 8, 9]}, some))  # fmt: skip
    assert 'dasharray' not in whole and f'fill="{LIGHT.fill}"' not in whole
    assert few.count('dasharray') == 1 and few.count(f'fill="{LIGHT.fill}"') == 1


def test_depth_follows_its_rows(monkeypatch):
    found, name = depth.rows.read(), 'tiny-mirl-24-10e-s1'
    before = depth.draw(LIGHT)
    better = found[name] | dict(ridge=[each + 1 for each in found[name]['ridge']])
    monkeypatch.setattr(depth.rows, 'read', lambda: found | {name: better})
    assert depth.draw(LIGHT) != before
    monkeypatch.setattr(depth.rows, 'read', dict)
    with pytest.raises(UserError, match='has no row of the grid by depth'):
        depth.draw(LIGHT)


def test_depth_says_which_seeds_are_missing(monkeypatch):
    _, groups = depth.by_kind(list(depth.rows.read().values()))
    first = {kind: group[0] for kind, group in groups.items()}
    first[48, 'untrained'] = first[24, 'untrained'] | dict(depth=48)
    rows = {f'{n}-{seed}': row | dict(seed=seed)
            for n, row in enumerate(first.values()) for seed in (0, 1, 2)}  # fmt: skip
    monkeypatch.setattr(depth.rows, 'read', lambda: rows)
    assert 'dash' not in depth.draw(LIGHT)
    del rows['0-2']
    said = 'Hollow and dashed: too few seeds to say. Of 3 seeds there are with 12 blocks 2 of MIRL.'
    assert said in depth.draw(LIGHT)


def test_the_axes_cover_what_is_drawn():
    assert depth.covering([6.3, 13.6], 2) == (6, 14)
    assert depth.covering([8.0, 8.0], 4) == (8, 12)


def test_links_lead_somewhere():
    found = [link for link in links(README) if not link.startswith('http')]
    assert len(found) > 20
    for link in found:
        file, _, anchor = link.partition('#')
        target = ROOT / file if file else ROOT / 'README.md'
        assert target.exists(), link
        if anchor:
            heads = re.findall(r'^#+ (.+)$', target.read_text(), re.M)
            assert anchor in {re.sub(r'[^\w -]', '', h).lower().replace(' ', '-') for h in heads}


def test_citation_agrees_with_package_and_readme():
    cited = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert cited['cff-version'] == '1.2.0'
    assert cited.keys() >= {'title', 'message', 'type', 'authors', 'license', 'preferred-citation'}
    assert (cited['title'], cited['version']) == ('mirl_mm', mirl_mm.__version__)
    paper = cited['preferred-citation']
    bibtex = dict(re.findall(r'^  (\w+) += \{(.+)\}', README, re.M))
    names = [f'{each["family-names"]}, {each["given-names"]}' for each in paper['authors']]
    assert bibtex == dict(
        title=paper['title'],
        author=' and '.join(names),
        booktitle=paper['collection-title'],
        volume=str(paper['volume']),
        year=str(paper['year']),
    )
    assert paper['url'] in README


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A model that paints noise, as its config draws it."""
    import torch
    from mmengine.registry import MODELS, DefaultScope

    from mirl_mm.engine.launch import load_config

    file, cfg = tmp_path_factory.mktemp('run') / 'drawn.pth', load_config(CONFIG)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):  # whatever a module before left
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), file)
    return file


def test_the_strip_has_the_photograph_under_a_mask_and_three_paintings(checkpoint):
    columns = strip.columns_of(CONFIG, str(checkpoint), strip.photograph())
    assert list(columns) == ['original', 'masked', 'main', 'residual', 'sum']
    original, masked, *_, both = columns.values()
    kept = (original == masked).all(-1)  # [S, S]
    assert 0.2 < kept.mean() < 0.35  # one patch in four, and pixels that are grey anyway
    assert (both[kept] == original[kept]).mean() > 0.95
    assert (both[~kept] != original[~kept]).any(-1).mean() > 0.9
    drawn = np.asarray(strip.strip(columns))
    assert drawn.shape == (strip.TILE + strip.FOOTER, 5 * strip.TILE + 4 * strip.GAP, 4)
    assert not drawn[: strip.TILE, strip.TILE : strip.TILE + strip.GAP, 3].any()  # no background
    for n in range(5):  # a label below every tile
        x = n * (strip.TILE + strip.GAP)
        assert drawn[strip.TILE :, x : x + strip.TILE, 3].any()


def test_the_features_are_six_rows_behind_four_blocks(checkpoint):
    drawn = np.asarray(features.rows_of(CONFIG, str(checkpoint), strip.photograph()))
    high, wide = drawn.shape[:2]
    assert wide < 1200 and high < 900
    tiles = [row for row in np.array_split(drawn[25:], 6) if row[:, -100:].std() > 10]
    assert len(tiles) == 6  # all have something in the last column


def test_pictures_without_a_browser_say_so(tmp_path, monkeypatch, capsys, checkpoint):
    monkeypatch.setenv('PATH', str(tmp_path))
    options = ['--checkpoint', str(checkpoint), '--config', CONFIG, '--out', str(tmp_path / 'out')]
    monkeypatch.setattr('sys.argv', ['pictures', *options])
    pictures.main()
    made = {file.name for file in (tmp_path / 'out').iterdir()}
    assert made == {'strip.png', 'features.png', *pictures.drawings()}
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith('report.png is left as it is: no chromium or')


def test_pictures_without_a_checkpoint_say_what_makes_one(tmp_path):
    with pytest.raises(UserError, match='CKPT=FILE names one, and `make demo` trains one'):
        pictures.last_checkpoint(tmp_path)
    (tmp_path / 'last_checkpoint').write_text('/somewhere/iter_2000.pth')
    assert pictures.last_checkpoint(tmp_path) == Path('/somewhere/iter_2000.pth')


def test_a_missing_picture_and_a_browser_that_fails_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r'no picture at .*none\.jpg'):
        strip.columns_of(CONFIG, 'unused.pth', tmp_path / 'none.jpg')
    browser = tmp_path / 'chromium'
    browser.write_text('#!/bin/sh\necho first >&2\necho no display >&2\nexit 3\n')
    browser.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/bin:/usr/bin')
    assert page.browser() == str(browser)
    monkeypatch.setattr(page, 'write_report', lambda run, out: [out.write_text('x'), out][1])
    with pytest.raises(UserError, match='made no picture of the report page; it said: no display'):
        page.shot(page.browser(), tmp_path)
