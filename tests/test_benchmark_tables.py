"""benchmarks/README.md says what the results say."""

import json

import pytest

from benchmarks.tables import (
    EVIDENCE,
    PROJECT,
    README,
    RESULTS,
    SMALL,
    STUDY,
    TABLES,
    filled,
    pages,
    pretrain,
    table,
)

RESULT = dict(
    date='2026-01-02',
    hardware='x86_64 CPU',
    threads=2,
    versions=dict(torch='2.0', mmpretrain='1.0'),
    config=dict(arch='s54', batch=8, dtype='float32', clock='wall'),
    medians=dict(mirl=2.0, mae=4.0),
    ratios=dict(mae=dict(all=[0.6, 0.5, 0.4])),
    gflop=dict(mirl=100, mae=120),
    gflops=dict(mirl=50, mae=30),
    matrix_gflops=100,
    peak_mb=dict(mirl=1234, mae=2000),
)


PAGES = dict(benchmarks=README, study=STUDY, evidence=EVIDENCE, project=PROJECT, small=SMALL)


@pytest.mark.parametrize('page', PAGES.values(), ids=PAGES)
def test_the_page_is_what_the_results_make(page):
    text = page.read_text()
    assert text == filled(text, pages()[page]), 'run python -m benchmarks.tables'


def test_every_result_that_a_table_names_is_shown_or_not_run():
    text = README.read_text()
    files = {name for _, files in TABLES.values() for name in files}
    assert len(files) > 8
    for name in files:
        made = (RESULTS / f'{name}.json').is_file()
        assert (f'({"results/" + name}.json)' in text) == made
        assert (f'`{name}`: **not run**' in text) != made


def test_a_table_by_hand(tmp_path):
    (tmp_path / 'here.json').write_text(json.dumps(RESULT))
    text = table(pretrain, dict(here='pretrain_step', there='pretrain_step --arch b48'), tmp_path)
    assert '| mirl | 2.000 | 1 | 100 | 50 | 50% | 1,234 |' in text
    assert '| mae | 4.000 | 0.500 (0.400 to 0.600) | 120 | 30 | 30% | 2,000 |' in text
    assert '2026-01-02, x86_64 CPU, 2 threads, float32, wall time, torch 2.0' in text
    assert '`there`: **not run**. `python -m benchmarks.pretrain_step --arch b48 --out' in text


def test_a_page_with_other_tables_is_refused():
    page = '<!-- table a -->\nold\n<!-- end -->\n'
    assert filled(page, dict(a='new')) == '<!-- table a -->\n\nnew\n\n<!-- end -->\n'
    with pytest.raises(ValueError, match=r"the page has tables \['a'\]; made were \['b'\]"):
        filled(page, dict(b='new'))
