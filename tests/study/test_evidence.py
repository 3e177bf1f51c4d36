"""Sentences follow the rows: what is beyond the spread, what is not, and what is missing."""

import pytest

from benchmarks.study import evidence, rows
from benchmarks.study.compare import sentences
from benchmarks.study.grid import DEPTHS, RUNS
from benchmarks.study.tables import by_kind

from .made_up import CHANGED, SOME, row, rows_of, trained

SEEDS = (0, 1, 2)


def said(found: dict) -> str:
    return '\n\n'.join(sentences(by_kind(list(found.values()))[1]))


def flat(text: str) -> str:
    return ' '.join(text.split())


def full(**last) -> dict:
    """All rows by depth; ``mirl_24=9.0``: the first seed's last block in 20-NN, else 5."""
    names = [name for name, r in RUNS.items() if r.grid == 'tiny' and r.epochs in (0, 10)]
    runs = [RUNS[name] for name in names]
    values = [last.get(f'{run.method}_{run.depth}', 5.0) + run.seed / 10 for run in runs]
    return rows_of(*(row(name, last=each) for name, each in zip(names, values, strict=True)))


def test_three_kinds_of_verdict():
    beyond, within, few, caution = said(SOME).replace(':\n\n', ':\n').split('\n\n')
    assert beyond == (
        '**Beyond the spread** of 3 seeds, 3 of 7 comparisons (of equal things about a tenth would '
        'be):\n* MIRL by depth: 12 to 24 blocks 20-NN +3.0, ridge +3.0, segment +3.0.'
    )
    assert within == (
        '**Within the spread** of 3 seeds, 4 of 7:\n'
        '* MIRL against MAE: with 12 blocks 20-NN +1.0, ridge +1.0, segment +1.0.\n'
        '* MIRL by depth: 12 to 24 blocks held-out error +0.0000.'
    )
    assert few.splitlines()[0] == (
        '**Fewer than 3 seeds**, which says nothing yet, 16 comparisons:'
    )
    assert (
        '* MAE by depth: 12 to 24 blocks (1 of 3 seeds) 20-NN -1.0, ridge -1.0, segment -1.0, '
        'held-out error +0.0000.'
    ) in few
    assert "* MIRL's gain against MAE's: 12 to 24 blocks (1 of 3 seeds) 20-NN +4.0" in few
    assert caution.startswith('Differences are means over the seeds that both sides have.')


def test_a_row_more_moves_a_sentence():
    more = SOME | rows_of(*(trained('mae', 24, seed, 3.5 + 0.5 * seed) for seed in SEEDS))
    gain = "* MIRL's gain against MAE's: 12 to 24 blocks 20-NN +4.0, ridge +4.0, segment +4.0."
    assert gain not in said(SOME) and gain in said(more).partition('**Within')[0]
    first = more['tiny-mirl-24-10e-s0']
    curve = [*first['knn20'][:-1], first['knn20'][-1] - 4]
    mutated = said(more | rows_of(first | dict(knn20=curve)))
    assert '12 to 24 blocks ridge +4.0, segment +4.0.' in mutated.partition('**Within')[0]
    assert '12 to 24 blocks 20-NN +2.7' in mutated.partition('**Within')[2]


def test_the_answer_of_partial_rows():
    answer = flat(evidence.all_evidence(SOME)['evidence_answer'])
    assert answer == (
        'That depth pays under MIRL, and more than under MAE, shows in part here so far: of '
        'comparisons with 3 seeds, more blocks leave MIRL better beyond the spread in all 3; MAE '
        "not yet told by 3 seeds; MIRL's gain against MAE's not yet told by 3 seeds. MIRL against "
        'MAE is level in all 3. Against the untrained encoder, both are not yet told by 3 seeds. '
        'Of 3 seeds there are with 12 blocks 1 of untrained; with 24 blocks 1 of MAE, 0 of '
        'untrained; with 48 blocks 0 of MIRL, 0 of MAE, 0 of untrained.'
    )


@pytest.mark.parametrize(
    'last, claim',
    [
        ({}, 'does **not** show here: of'),
        (dict(mirl_24=7.0, mirl_48=9.0), 'shows here: of'),
        (dict(mirl_24=5.4), 'shows in part here: of'),  # 12 to 24 pays, 24 to 48 costs
        (dict(mirl_24=7.0, mirl_48=9.0, mae_24=7.0, mae_48=9.0), 'shows in part here: of'),
    ],
)
def test_the_claim_follows_the_rows(last, claim):
    made = flat(evidence.all_evidence(full(**last))['evidence_answer'])
    assert f'That depth pays under MIRL, and more than under MAE, {claim}' in made
    assert 'seeds there are' not in made
    readme = flat(evidence.short_evidence(full(**last))['evidence'])
    assert claim in readme and '(docs/evidence.md)' in readme


def test_both_ways_are_named():
    found = full(mirl_24=7.0, mirl_48=3.0)
    assert (
        'more blocks leave MIRL better beyond the spread in 3 of 9 (20-NN 12 to 24 blocks +2.0, '
        'ridge 12 to 24 blocks +2.0, segment 12 to 24 blocks +2.0), worse beyond the spread in 6 '
        'of 9 (20-NN 12 to 48 blocks -2.0, 20-NN 24 to 48 blocks -4.0, '
    ) in flat(evidence.all_evidence(found)['evidence_answer'])


def test_the_readme_counts_where_the_page_names():
    found = full(mirl_24=7.0)
    page, readme = evidence.all_evidence(found), evidence.short_evidence(found)
    counted = 'more blocks leave MIRL better beyond the spread in 3 of 9'
    assert f'{counted} (20-NN 12 to 24 blocks +2.0, ' in flat(page['evidence_answer'])
    assert f'{counted}, worse beyond the spread in 3 of 9, level in 3;' in flat(readme['evidence'])


def test_where_the_best_block_is_and_what_is_lost():
    """The made-up curves are best in the block before the last, with 9."""
    made = flat(evidence.all_evidence(full(mae_12=2.0))['evidence_blocks'])
    assert made.startswith(
        'The best block, mean of the seeds (20-NN, ridge, segment): MIRL with 12 blocks 11, 11, '
        '11; MAE with 12 blocks 11, 11, 11; MIRL with 24 blocks 23, 23, 23; '
    )
    assert (
        'Of 9 comparisons with 3 seeds, MAE loses more than MIRL beyond the spread in 3 '
        '(20-NN with 12 blocks +3.0, ridge with 12 blocks +3.0, segment with 12 blocks +3.0), and '
        'less in 0. The points that MAE loses more: with 12 blocks 20-NN +3.0, ridge +3.0, segment '
        '+3.0; with 24 blocks 20-NN +0.0,'
    ) in made


def test_the_page_lists_what_has_three_seeds_and_counts_the_rest():
    made = flat(evidence.all_evidence(SOME)['evidence_seeds'])
    assert '* MIRL by depth: 12 to 24 blocks 20-NN +3.0, ridge +3.0, segment +3.0. ' in made
    assert made.endswith(
        '**Fewer than 3 seeds**, which says nothing yet, 16 comparisons: with 24 blocks, with 12 '
        'blocks, 12 to 24 blocks.'
    )


def test_what_goes_against_the_paper():
    made = evidence.all_evidence(full(mirl_24=4.0, mirl_48=5.05) | CHANGED)['evidence_contrary']
    table, _, last = made.partition('\n\n')
    lines = dict(line.strip('| ').split(' | ', 1) for line in table.splitlines()[2:])
    assert lines['MIRL gains with more blocks'] == (
        '6 (3) | 3 (3) | 20-NN 12 to 24 blocks -1.0, ridge 12 to 24 blocks -1.0, segment 12 to 24 '
        'blocks -1.0'
    )
    assert lines['MIRL is ahead of MAE'].startswith('3 (0) | 6 (3) | 20-NN with 12 blocks +0.0, ')
    assert lines['without mirrored pairs MIRL is worse'] == (
        '0 (0) | 3 (3) | no pairs 20-NN +4.0, no pairs ridge +4.0, no pairs segment +4.0'
    )
    assert lines['without context MIRL is worse'] == '- | - | no comparison has 3 seeds yet'
    assert lines['MIRL paints better with more blocks'].startswith('- | - |')  # has no errors
    assert flat(last).startswith(
        'The other way and beyond the spread: * against "MIRL gains with more blocks": 20-NN 12 to '
        '24 blocks -1.0, '
    )
    assert '* against "without mirrored pairs MIRL is worse": no pairs 20-NN +4.0, ' in flat(last)
    assert '* against "MIRL gains more than MAE": 20-NN 12 to 24 blocks -1.0, ' in flat(last)
    assert 'MAE gets worse' not in last


def test_what_is_left():
    made = flat(evidence.all_evidence(SOME)['evidence_left'])
    assert made.startswith('16 of 27 runs of 10 epochs have no row: `tiny-mirl-48-10e-s0`, ')
    # two of MAE with 24 blocks as the one that is there; of 48 blocks and untrained none was timed
    hours = 2 * (3494.4 + 120) / 3600
    assert f'2 of them take {hours:.1f} hours of one thread' in made
    assert made.endswith('; of the like of 14 none was timed.')
    assert evidence.all_evidence(full())['evidence_left'] == ('All 27 runs of 10 epochs are there.')


def test_nothing_yet():
    made = evidence.all_evidence({})
    assert 'does **not** show here so far' in flat(made['evidence_answer'])
    assert made['evidence_last'] == made['evidence_seeds'] == made['evidence_blocks']
    assert made['evidence_last'] == 'No run yet.'


def test_the_rows_that_are_there_make_lines_of_a_page_s_length():
    made = evidence.all_evidence(rows.read()) | evidence.short_evidence(rows.read())
    for name, text in made.items():
        prose = [line for line in text.splitlines() if not line.startswith('|')]
        assert all(len(line) <= evidence.WIDTH for line in prose), name
    assert all(f'\n| {depth} | MIRL |' in made['evidence_last'] for depth in DEPTHS)
