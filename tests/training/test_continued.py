"""Going on from weights that exist: what is kept, what is new, and the warm-up of one part."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from benchmarks.continued import WAYS, table
from benchmarks.faults.jobs import TRAINED, different
from mirl_mm.checkpoint import EncoderArch, write_checkpoint
from mirl_mm.checkpoint.loading import names_initialised
from mirl_mm.demo.scene_set import write_scenes
from mirl_mm.errors import UserError
from mirl_mm.models import MIRLViT
from mirl_mm.models.segments import unwrapped
from tests.faults.small import load, log_of, run
from tests.models.build import mirl

pytestmark = pytest.mark.xdist_group('continued')  # one worker: the files are shared

ROOT = Path(__file__).parents[2]


class Rates(Hook):
    """The weights before the first step, and the rates of every one: of the encoder, of the rest.

    The last hook: behind the schedules, it sees the rates of the next step.
    """

    priority = 'LOWEST'

    def before_train(self, runner):
        self.state = {n: x.clone() for n, x in unwrapped(runner.model).state_dict().items()}
        self.rates = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        by_part = {group.get('part'): group['lr'] for group in runner.optim_wrapper.param_groups}
        self.rates.append((by_part.get('backbone'), by_part[None]))


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> Path:
    """Pictures, a whole checkpoint with positions that were learned, and its encoder alone."""
    root = tmp_path_factory.mktemp('continued')
    write_scenes(root / 'scenes', 32, 12, size=64)
    torch.manual_seed(3)
    model = mirl(backbone=dict(arch='test'))
    model.init_weights()
    torch.nn.init.normal_(model.backbone.pos_embed, std=0.02)
    meta = dict(arch=EncoderArch.of_module(model.backbone).to_meta())
    write_checkpoint(root / 'whole.pth', model.state_dict(), meta)
    encoder = {n: x for n, x in model.state_dict().items() if n.startswith('backbone.')}
    write_checkpoint(root / 'encoder.pth', encoder, meta)
    return root


def config(files: Path, name: str, **options) -> Config:
    """The config's run on pictures of the fixture, four steps an epoch."""
    cfg = Config.fromfile(ROOT / f'configs/mirl/vit-test_2e_{name}.py')
    if name == 'continued':
        cfg.load_from = str(files / 'whole.pth')
    else:
        cfg.model.backbone.init_cfg.checkpoint = str(files / 'encoder.pth')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.batch_size, loader.dataset.data_root = 8, str(files / 'scenes')
    cfg.default_hooks.checkpoint.interval = 1
    cfg.default_hooks.panel = None
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return cfg


def trained(work_dir: Path, cfg: Config) -> tuple[object, Rates]:
    runner, rates = run(work_dir, cfg, start=False), Rates()
    runner.register_hook(rates)
    runner.train()
    return runner, rates


def row(runner, name: str) -> str:
    """A row of the summary in the log, as single-spaced words; empty where there is none."""
    lines = [' '.join(line.split()) for line in log_of(runner).splitlines()]
    return next((line for line in lines if line.startswith(f'{name} ')), '')


def test_a_whole_checkpoint_goes_on(files, tmp_path):
    runner, rates = trained(tmp_path / 'run', config(files, 'continued', train_cfg__max_epochs=1))
    given = load(files / 'whole.pth')['state_dict']
    assert given.keys() == rates.state.keys()
    assert all(torch.equal(rates.state[name], given[name]) for name in given)
    model = unwrapped(runner.model)
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.backbone, model.neck)]
    of = 'encoder (backbone) {:,}, decoders (neck) {:,} from {}'.format(*counts, runner._load_from)
    assert row(runner, 'kept') == f'kept {of}'
    assert row(runner, 'new') == ''
    assert torch.equal(model.backbone.pos_embed, given['backbone.pos_embed'])
    assert not torch.equal(model.backbone.cls_token, given['backbone.cls_token'])
    assert all(encoder is None and rest > 0 for encoder, rest in rates.rates)


def test_an_encoder_goes_on_under_new_decoders(files, tmp_path):
    """Learned positions stay; the encoder's rate comes up in an epoch, that of the rest is full."""
    runner, rates = trained(tmp_path / 'run', config(files, 'encoder'))
    given, model = load(files / 'whole.pth')['state_dict'], unwrapped(runner.model)
    for name, start in rates.state.items():
        kept = name.startswith('backbone.')
        assert torch.equal(start, given[name]) or not kept, name
    fresh = [n for n, x in rates.state.items() if 'neck' in n and not torch.equal(x, given[n])]
    assert len(fresh) > 30
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.backbone, model.neck)]
    kept = f'kept encoder (backbone) {counts[0]:,} from {files / "encoder.pth"}'
    assert row(runner, 'kept') == kept
    assert row(runner, 'new') == f'new decoders (neck) {counts[1]:,}'
    assert not model.backbone.pos_embed.requires_grad
    assert torch.equal(model.backbone.pos_embed, given['backbone.pos_embed'])

    encoder, rest = zip(*rates.rates, strict=True)
    assert len(rest) == 8 and rest[0] == runner.cfg.optim_wrapper.optimizer.lr
    assert encoder[0] == pytest.approx(1e-9 * rest[0])
    shares = [one / all_ for one, all_ in rates.rates]
    assert shares[:4] == pytest.approx([1e-9, 1 / 3, 2 / 3, 1])
    assert shares[4:] == pytest.approx([1] * 4)
    assert list(rest) == sorted(rest, reverse=True) and rest[-1] < rest[0] / 10


def test_the_first_step_moves_the_decoders_alone(files, tmp_path):
    cfg = config(files, 'encoder', train_cfg__max_epochs=1)
    cfg.train_dataloader.batch_size = 32
    cfg.param_scheduler[0].end = cfg.param_scheduler[1].end = 2
    runner, rates = trained(tmp_path / 'run', cfg)
    assert len(rates.rates) == 1
    moved = {'backbone': 0.0, 'neck': 0.0}
    for name, now in unwrapped(runner.model).state_dict().items():
        part = name.split('.')[0]
        moved[part] = max(moved[part], (now - rates.state[name]).abs().max().item())
    assert moved['backbone'] < 1e-8 and moved['neck'] > 1e-4


def test_the_warm_up_resumes_to_the_bit(files, tmp_path):
    """Cut in the middle of the warm-up, which has another place in every group."""
    half = dict(train_cfg__max_epochs=2)
    cfgs = [config(files, 'encoder', **half) for _ in range(3)]
    for cfg in cfgs:
        cfg.param_scheduler[0].end = 2
    cfgs[1].train_cfg.max_epochs = 1
    trained(tmp_path / 'whole', cfgs[0])
    trained(tmp_path / 'cut', cfgs[1])
    again = run(tmp_path / 'cut', cfgs[2], resume='last', start=False)
    rates = Rates()
    again.register_hook(rates)
    again.train()
    one, two = (load(tmp_path / name / 'epoch_2.pth') for name in ('whole', 'cut'))
    for key in set(TRAINED) & one.keys():
        assert not different(one[key], two[key], key)
    assert {'state_dict', 'optimizer', 'param_schedulers'} <= set(TRAINED) & one.keys()
    shares = [one / rest for one, rest in rates.rates]
    assert shares == pytest.approx([4 / 7, 5 / 7, 6 / 7, 1])
    assert row(again, 'kept') == row(again, 'new') == ''


def test_a_start_from_an_encoder_by_load_from_says_what_is_new(files, tmp_path):
    cfg = config(files, 'continued', train_cfg__max_epochs=1)
    cfg.load_from = str(files / 'encoder.pth')
    runner, _ = trained(tmp_path / 'run', cfg)
    assert 'kept encoder (backbone)' in row(runner, 'kept') and 'neck' not in row(runner, 'kept')
    assert row(runner, 'new').startswith('new decoders (neck)')


def test_an_encoder_like_dinov2_starts_whole(tmp_path):
    """Registers and layer scale are kept; learned positions are resized once, and stay."""
    kind = dict(num_registers=2, layer_scale_init_value=1e-5)
    torch.manual_seed(0)
    encoder = mirl(backbone=kind, img_size=(80, 80)).backbone
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    state = {f'backbone.{name}': x for name, x in encoder.state_dict().items()}
    meta = dict(arch=EncoderArch.of_module(encoder).to_meta())
    write_checkpoint(tmp_path / 'encoder.pth', state, meta)
    start = dict(type='Pretrained', checkpoint=str(tmp_path / 'encoder.pth'), prefix='backbone.')
    model = mirl(backbone=dict(kind, init_cfg=start))
    model.init_weights()
    assert len(set(names_initialised(model).values())) == 1
    own = {f'backbone.{name}' for name, _ in model.backbone.named_parameters()}
    assert set(names_initialised(model)) == own
    for name, value in model.backbone.state_dict().items():
        if name != 'pos_embed':
            assert torch.equal(value, state[f'backbone.{name}']), name
    learned = MIRLViT.resize_pos_embed(encoder.pos_embed, (5, 5), (4, 4), 'bicubic', 1)
    assert torch.equal(model.backbone.pos_embed, learned)
    assert not model.backbone.pos_embed.requires_grad
    assert model.backbone.register_tokens.requires_grad


def test_the_page_says_what_the_result_does():
    result = json.loads((ROOT / 'benchmarks/results/continued_cpu.json').read_text())
    page = (ROOT / 'docs/pretraining.md').read_text()
    assert table(result) in page
    runs, summary = result['runs'], result['summary']
    assert runs.keys() == summary.keys() == WAYS.keys()
    for name, rows in runs.items():
        assert len(rows) == result['config']['seeds'] > 1
        assert summary[name]['error']['mean'] == pytest.approx(
            sum(row['error'] for row in rows) / len(rows), abs=1e-4
        )


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(part='encoder'), "paramwise_cfg.part is 'encoder'; MIRL has data_preprocessor, ba"),
        (dict(part=None), 'PartLinearLR has no part to act on; optim_wrapper needs constructor='),
    ],
)
def test_a_warm_up_of_nothing_is_refused(files, tmp_path, options, words):
    cfg = config(files, 'encoder')
    cfg.optim_wrapper.paramwise_cfg.update(options)
    with pytest.raises(UserError) as error:
        run(tmp_path / 'run', cfg)
    assert words in str(error.value) and '\n' not in str(error.value)
