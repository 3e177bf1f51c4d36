"""The encoder file that a run leaves beside its checkpoints."""

import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.models import VisionTransformer
from PIL import Image

from mirl_mm.engine.hooks import ExportEncoderHook
from mirl_mm.models import MIRLViT

ARCH = dict(embed_dims=24, num_layers=4, num_heads=2, feedforward_channels=96)
MODEL = dict(
    type='MIRL',
    data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=[128] * 3, std=[64] * 3),
    backbone=dict(type='MIRLViT', arch=ARCH, img_size=32, patch_size=8, num_segments=2),
    neck=dict(
        type='MIRLNeck',
        embed_dim=24,
        num_segments=2,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
        patch_size=8,
    ),
    head=dict(type='MIRLHead', patch_size=8),
)
EMA = dict(type='EMAHook', ema_type='MomentumAnnealingEMA', momentum=0.5, gamma=1)


def runner(folder: Path, name: str, hooks: list | None = None, **settings) -> Runner:
    images = folder / 'images'
    images.mkdir(exist_ok=True)
    for i in range(4):
        Image.effect_noise((40, 40), 40 + i).save(images / f'{i}.png')
    config = dict(
        default_scope='mmpretrain',
        model=MODEL,
        work_dir=str(folder / name),
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
            dataset=dict(
                type='UnlabelledImages',
                data_root=str(images),
                pipeline=[
                    dict(type='LoadAnyImage'),
                    dict(type='Resize', scale=(32, 32)),
                    dict(type='PackInputs'),
                ],
            ),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-2)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        custom_hooks=hooks or [dict(type='ExportEncoderHook')],
        experiment_name=f'{folder.name}-{name}',
    )
    return Runner.from_cfg(Config({**config, **settings}))


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    """Work dir and model of a run of two epochs with averaged weights."""
    folder = tmp_path_factory.mktemp('export')
    model = runner(folder, 'run', [dict(type='ExportEncoderHook'), EMA]).train()
    return folder / 'run', model


def load(path: Path) -> dict:
    return torch.load(path, map_location='cpu', weights_only=True)


def test_file_is_clean_and_tells_where_it_comes_from(run):
    work_dir, _ = run
    encoder = load(work_dir / 'encoder.pth')
    assert encoder.keys() == {'state_dict', 'meta'}
    meta = encoder['meta']
    numbers = dict(patch_size=8, in_channels=3, img_size=[32, 32], name=None, num_heads=2)
    assert meta['arch'] == dict(ARCH, **numbers, num_registers=0, layer_scale=False, norm_eps=1e-6)
    assert (meta['epoch'], meta['iter'], meta['form']) == (2, 4, 'encoder')
    assert Config.fromstring(meta['cfg'], '.py').model.backbone.num_segments == 2
    assert meta['mirl_mm_version']
    assert not list(work_dir.glob('.*'))  # nothing half written
    assert (
        (work_dir / 'encoder.pth').stat().st_size
        < 200_000
        < os.path.getsize(work_dir / 'epoch_2.pth')
    )


def test_weights_are_the_averaged_ones_of_the_checkpoint(run):
    work_dir, model = run
    state = load(work_dir / 'encoder.pth')['state_dict']
    last = torch.load(work_dir / 'epoch_2.pth', weights_only=False)
    assert last['meta']['arch'] == load(work_dir / 'encoder.pth')['meta']['arch']
    expected = {n: t for n, t in last['state_dict'].items() if n.startswith('backbone.')}
    assert state.keys() == expected.keys() and len(state) == 4 + 4 * 12 + 2
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    raw = model.state_dict()
    moved = [name for name in state if not torch.equal(state[name], raw[name])]
    assert 'backbone.layers.0.attn.qkv.weight' in moved


@pytest.mark.parametrize('kind', ['MIRLViT', 'VisionTransformer'])
def test_the_prefix_that_checkpoints_have_serves_it(run, kind):
    work_dir, _ = run
    state = load(work_dir / 'encoder.pth')['state_dict']
    settings = dict(arch=ARCH, img_size=32, patch_size=8)
    path = str(work_dir / 'encoder.pth')
    settings['init_cfg'] = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    if kind == 'MIRLViT':
        encoder = MIRLViT(num_segments=2, **settings)
    else:
        encoder = VisionTransformer(**settings)
    encoder.init_weights()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, state[f'backbone.{name}']), name


def test_without_the_prefix_nothing_is_loaded_in_silence(run):
    work_dir, _ = run
    settings = dict(type='Pretrained', checkpoint=str(work_dir / 'encoder.pth'))
    encoder = MIRLViT(arch=ARCH, img_size=32, patch_size=8, num_segments=2, init_cfg=settings)
    with pytest.raises(ValueError, match='holds no weight of this encoder'):
        encoder.init_weights()


def test_run_goes_on_from_the_state_and_not_from_the_encoder(run, tmp_path):
    work_dir, _ = run
    again = dict(resume=True, train_cfg=dict(by_epoch=True, max_epochs=3))
    with pytest.raises(ValueError, match=r'encoder.pth is an encoder file, without optimizer'):
        runner(tmp_path, 'wrong', load_from=str(work_dir / 'encoder.pth'), **again).train()
    hooks = [dict(type='ExportEncoderHook'), dict(type='ExactResumeHook')]
    lacks = (
        r'encoder.pth holds no state to resume from \(message_hub, optimizer missing\); to start'
    )
    with pytest.raises(ValueError, match=lacks):
        runner(tmp_path, 'exact', hooks, load_from=str(work_dir / 'encoder.pth'), **again).train()
    runner(tmp_path, 'right', load_from=str(work_dir / 'epoch_2.pth'), **again).train()
    assert load(tmp_path / 'right/encoder.pth')['meta']['epoch'] == 3


def test_the_advice_to_start_from_weights_works(run, tmp_path):
    """Of weights alone, of the encoder, and of another run, also a compiled one."""
    work_dir, _ = run
    state = torch.load(work_dir / 'epoch_2.pth', weights_only=False)['state_dict']
    encoder = {name: x for name, x in state.items() if name.startswith('backbone.')}
    files = dict(
        weights=dict(state_dict=state),
        bare=dict(state),
        compiled=dict(state_dict={f'_orig_mod.{name}': x for name, x in state.items()}),
        part=dict(state_dict=encoder | {'neck.other': torch.ones(1)}),
    )
    hooks, still = [dict(type='ExactResumeHook')], dict(optimizer=dict(type='SGD', lr=0.0))
    for name, content in files.items():
        torch.save(content, tmp_path / f'{name}.pth')
        path = str(tmp_path / f'{name}.pth')
        started = runner(tmp_path, name, hooks, load_from=path, optim_wrapper=still)
        model = started.train()
        taken = encoder if name == 'part' else state
        assert all(torch.equal(model.state_dict()[n], x) for n, x in taken.items()), name
        log = Path(started.logger.log_file).read_text()
        told = f'{len(encoder)} of the {len(state)} tensors of this MIRL start from {path}; as bef'
        assert (told in log) == (name == 'part'), name
    torch.save(dict(state_dict={'other.weight': torch.ones(1)}), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'other\.pth holds no weight of this MIRL, name an'):
        runner(tmp_path, 'o', hooks, load_from=str(tmp_path / 'other.pth')).train()
    state['backbone.cls_token'].fill_(float('nan'))
    torch.save(dict(state_dict=state), tmp_path / 'nan.pth')
    with pytest.raises(ValueError, match=r'nan\.pth cannot be used: 1 of .*: backbone\.cls_token'):
        runner(tmp_path, 'n', hooks, load_from=str(tmp_path / 'nan.pth')).train()


def test_other_heads_are_refused_where_shapes_agree(run, tmp_path):
    work_dir, _ = run
    model = dict(MODEL, backbone=dict(MODEL['backbone'], arch=dict(ARCH, num_heads=4)))
    for name in ('encoder.pth', 'epoch_2.pth'):
        with pytest.raises(ValueError, match='its num_heads is 2, and 4 in this model'):
            runner(tmp_path, name, model=model, load_from=str(work_dir / name)).train()


def test_end_of_training_is_written_without_an_interval(tmp_path):
    hooks = [dict(type='ExportEncoderHook', filename='vit.safetensors')]
    checkpoint = dict(checkpoint=dict(type='CheckpointHook', interval=-1))
    model = runner(tmp_path, 'run', hooks, default_hooks=checkpoint).train()
    encoder = VisionTransformer(arch=ARCH, img_size=32, patch_size=8)
    path = str(tmp_path / 'run/vit.safetensors')
    encoder.init_cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    encoder.init_weights()
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], tensor), name


def test_no_checkpoint_hook_is_said(tmp_path, caplog):
    no_checkpoints = runner(tmp_path, 'run', default_hooks=dict(checkpoint=None))
    no_checkpoints.logger.addHandler(caplog.handler)
    no_checkpoints.train()
    assert 'no CheckpointHook: this run will not leave encoder.pth' in caplog.text
    assert not list((tmp_path / 'run').glob('*.pth'))


@pytest.mark.parametrize('name', ['../encoder.pth', 'folder/encoder.pth', ''])
def test_filename_is_plain(name):
    with pytest.raises(ValueError, match='plain file name'):
        ExportEncoderHook(name)


def test_model_without_a_vit(tmp_path):
    class Plain(torch.nn.Module):
        backbone = torch.nn.Linear(2, 2)

    class FakeRunner:
        model = Plain()

    with pytest.raises(ValueError, match='needs a model with a ViT as backbone; Plain has none'):
        ExportEncoderHook().before_run(FakeRunner())
