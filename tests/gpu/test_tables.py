"""Tables and status rows, from made-up results."""

import json

import pytest

from benchmarks.gpu.tables import status, tables

HEAD = dict(
    hardware='NVIDIA H100',
    driver='580.1',
    rehearsal=False,
    versions=dict(torch='2.11', mmpretrain='1.3'),
    failed={},
    left_out={},
)
DATE = dict(date='2026-12-01')
STEP = DATE | dict(
    part='s54 256 eager',
    arch='s54',
    batch=256,
    images_per_s=dict(mirl=5120.4, mae=4600.0),
    with_update=dict(ratios=dict(mae=dict(all=[0.9, 0.8, 0.7]))),
    of_matrix_product=dict(mirl=0.5, mae=0.45),
    peak_gb=dict(mirl=18.91, mae=20.0),
    estimated_gb=dict(mirl=18.17),
    kernels=dict(mirl=4321, mae=5432),
    profile=dict(mirl=dict(operations=[dict(name='mm', share=0.4), dict(name='addmm', share=0.2)])),
)
ROWS = dict(
    correct=[
        DATE | dict(part='golden test float32', says='within', of_tolerance=1.5),
        DATE
        | dict(
            part='bf16',
            says='losses 1e-3 apart',
            gradients=dict(segment_0=dict(relative=0.012, cosine=0.9999)),
        ),
        DATE | dict(part='run', says='waits', iterations=10, waits_by_line={'a/b.py:3 look': 20}),
        DATE | dict(part='resume', says='nccl: equal to the bit'),
    ],
    pretrain=[
        STEP,
        DATE
        | dict(
            part='s54 256 ideas',
            arch='s54',
            batch=256,
            step=dict(ratios={'every token projected': dict(all=[0.8, 0.8, 0.8])}),
        ),
    ],
    dense=[
        DATE
        | dict(
            part='b12 1024 px',
            batch=4,
            images_per_s=dict(windows=50.0),
            peak_gb=dict(windows=3.21),
            step=dict(ratios={}),
        ),
        DATE
        | dict(
            part='upernet b12',
            pixels=512,
            batch=4,
            images_per_s=12.34,
            peak_gb=5.0,
            backbone_share=dict(all=[0.2]),
        ),
    ],
    end_to_end=[
        DATE
        | dict(
            part='s54 256, all workers',
            arch='s54',
            batch=256,
            workers=16,
            images_per_s=4000.0,
            waiting=0.012,
            start_up_s=21.5,
            says='4,000 images/s',
        )
    ],
    depth=[
        DATE | dict(part='plan', says='90 epochs'),
        *(
            DATE
            | dict(
                part=f'{method} 12, seed {seed}',
                study=1,
                run=f'gpu-{method}-12-90e-s{seed}',
                method=method,
                depth=12,
                epochs=90,
                seed=seed,
                held_out_error=0.5 + 0.1 * seed,
                knn20=[1.0, 2.0, 3.0, 4.0 + seed],
                ridge=[5.0, 6.0, 7.0, 8.0],
                says='',
            )
            for method in ('mirl', 'mae')
            for seed in (0, 1)
        ),
    ],
)


def write(folder, **changes) -> None:
    for stage, rows in ROWS.items():
        content = HEAD | dict(stage=stage, rows=rows) | changes
        (folder / 'gpu').mkdir(exist_ok=True)
        (folder / f'gpu/{stage}.json').write_text(json.dumps(content))


def test_tables_of_made_up_results(tmp_path):
    write(tmp_path, failed=dict(x=dict(error='Traceback\nKeyError: 3')), left_out=dict(y='no ops'))
    made = tables(tmp_path)
    stamp = '2026-12-01, NVIDIA H100, driver 580.1, torch 2.11, mmpretrain 1.3.'
    for name, text in made.items():
        stage = name.removeprefix('gpu_')
        assert f'From [gpu/{stage}.json](results/gpu/{stage}.json), {stamp}' in text
        assert 'Without a result: x (failed: KeyError: 3); y (no ops).' in text
    assert '| golden test float32 | within |' in made['gpu_correct']
    assert '| segment_0 | 1.2e-02 | 0.99990 |' in made['gpu_correct']
    assert '| `a/b.py:3 look` | 2.0 |' in made['gpu_correct']
    steps = made['gpu_pretrain']
    assert '| s54 256 eager | ours | 5,120 | 1 | 50% | 18.9 | 18.17 | 4,321 |' in steps
    assert '| MAE | 4,600 | 0.800 (0.700 to 0.900) | 45% | 20.0 | - | 5,432 |' in steps
    assert '| s54, batch 256 | every token projected | 1.250 (1.250 to 1.250) |' in steps
    assert '| s54 256 eager | ours | mm 40%, addmm 20% |' in steps
    assert '| b12 1024 px, batch 4 | windows | 50.0 | 1 | 3.2 |' in made['gpu_dense']
    assert (
        '| upernet b12, 512 px, batch 4 | 12.3 | 0.200 (0.200 to 0.200) | 5.0 |'
        in made['gpu_dense']
    )
    assert '| s54, batch 256 | 16 | 4,000 | 1.2% | 21.5 |' in made['gpu_end_to_end']
    row = (
        '| 12 | MIRL | 90 | 2 | 0.5500 (0.5000 to 0.6000) | 4.5 (4.0 to 5.0) | 4.5 (4.0 to 5.0) | '
        '8.0 (8.0 to 8.0) | 8.0 (8.0 to 8.0) |'
    )
    assert row in made['gpu_depth']
    said = '* MIRL against MAE: with 12 blocks (2 of 3 seeds) 20-NN +0.0, ridge +0.0.'
    assert said in made['gpu_depth']


def test_rows_of_another_version_of_the_study(tmp_path):
    write(tmp_path)
    file = tmp_path / 'gpu/depth.json'
    file.write_text(file.read_text().replace('"study": 1', '"study": 0'))
    with pytest.raises(ValueError, match='run gpu-mirl-12-90e-s0 of the depth stage: a row of ver'):
        tables(tmp_path)


def test_the_status_with_and_without_results(tmp_path):
    none = status(tmp_path)['gpu_status']
    assert '| GPUs, bf16, NCCL | **not run**: `python -m benchmarks.gpu --out' in none
    assert '| Batch per GPU in the configs | estimates for 80 GB, **not measured** |' in none
    for text in tables(tmp_path).values():
        assert text == '**not run**: `python -m benchmarks.gpu --out benchmarks/results/gpu`'
    write(tmp_path)
    lines = status(tmp_path)['gpu_status'].splitlines()[2:]
    assert lines == [
        '| GPU, bf16, NCCL with one rank (NVIDIA H100) | golden figures 1.5 times as far off as a '
        'CPU may be (10 are allowed); losses 1e-3 apart; nccl: equal to the bit; '
        '[all checks](benchmarks/README.md#correct) |',
        '| Pre-training step (NVIDIA H100, bf16, with the update) | s54, batch 256: ours 5,120, '
        'MAE 4,600 images/s |',
        '| Batch per GPU in the configs (NVIDIA H100) | s54 at 256: 18.9 GB (estimated 18.17) |',
        '| tools/train.py, JPEGs (NVIDIA H100) | 4,000 images/s |',
        '| Depth study (NVIDIA H100) | 4 runs ([table](benchmarks/README.md#depth-study)) |',
        '| Several GPUs and nodes | **not run** |',
    ]
