"""Detection and segmentation with the shipped test configs, from training to drawings."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from torch.distributed.elastic.utils.distributed import get_free_port

from mirl_mm.apps.predict import predict_pictures
from mirl_mm.demo.scene_set import SceneSet, write_scenes
from mirl_mm.engine import launch
from mirl_mm.engine.launch import build_runner, training_config
from mirl_mm.models import MIRLViT
from tests.processes import run_forked

pytestmark = pytest.mark.xdist_group('dense')  # one worker: the runs are shared

ROOT = Path(__file__).parents[2]
CONFIGS = {
    task: str(ROOT / f'configs/{task}/vit-test_20it_scenes.py') for task in ('mask-rcnn', 'upernet')
}
LENGTH = 4


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> SceneSet:
    """Validation is on a wide scene and a tall one, neither a multiple of the patch."""
    scenes = write_scenes(tmp_path_factory.mktemp('scenes') / 'set', num_train=4, num_val=2)
    content = json.loads(scenes.annotations('val').read_text())
    for image, (width, height) in zip(content['images'], [(121, 75), (70, 113)], strict=True):
        for folder in (scenes.images('val'), scenes.masks('val')):
            (file,) = folder.glob(f'{image["id"]:06d}.*')
            cropped = Image.open(file).crop((0, 0, width, height))
            cropped.save(file)
        image.update(width=width, height=height)
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    for annotation in content['annotations']:
        x, y, w, h = annotation['bbox']
        width, height = sizes[annotation['image_id']]
        w, h = min(w, width - x), min(h, height - y)
        annotation['bbox'] = [x, y, w, h]
        annotation['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    content['annotations'] = [each for each in content['annotations'] if min(each['bbox']) > 0]
    scenes.annotations('val').write_text(json.dumps(content))
    return scenes


@pytest.fixture(scope='module')
def encoder(tmp_path_factory) -> Path:
    """What pre-training with the test config leaves, before its first step."""
    cfg = Config.fromfile(ROOT / 'configs/mirl/vit-test_2e.py')
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    path = tmp_path_factory.mktemp('encoder') / 'encoder.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


def options(task: str, scenes: SceneSet, encoder: Path) -> dict:
    found = {
        'model.backbone.init_cfg.checkpoint': str(encoder),
        'train_cfg.max_iters': LENGTH,
        'train_cfg.val_interval': LENGTH,
        'default_hooks.checkpoint.interval': LENGTH,
    }
    for split in ('train', 'val', 'test'):
        found[f'{split}_dataloader.dataset.data_root'] = f'{scenes.root}/'
    if task == 'mask-rcnn':
        file = str(scenes.annotations('val'))
        found |= {f'{split}_evaluator.ann_file': file for split in ('val', 'test')}
    return found


@pytest.fixture(scope='module', params=CONFIGS)
def trained(request, tmp_path_factory, scenes, encoder):
    """Task, work dir and options of a finished run."""
    task, work_dir = request.param, tmp_path_factory.mktemp(request.param)
    given = options(task, scenes, encoder)
    cfg, notes = training_config(
        CONFIGS[task], str(work_dir), cfg_options=given | {'experiment_name': work_dir.name}
    )
    runner = build_runner(cfg, notes)
    before = {n: p.detach().clone() for n, p in runner.model.named_parameters()}
    runner.train()
    moved = [n for n, p in runner.model.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) == len(before)
    return task, work_dir, given


def rows(work_dir: Path) -> list[dict]:
    log = next(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in log.read_text().splitlines()]


METRICS = {'mask-rcnn': ('coco/bbox_mAP', 'coco/segm_mAP'), 'upernet': ('mIoU', 'aAcc')}


def test_training_logs_losses_and_metrics(trained):
    task, work_dir, _ = trained
    losses = [row['loss'] for row in rows(work_dir) if 'loss' in row]
    assert len(losses) == LENGTH and np.isfinite(losses).all()
    (held,) = [row for row in rows(work_dir) if METRICS[task][0] in row]
    assert all(0 <= held[name] <= 100 for name in METRICS[task])
    assert held['step'] == LENGTH


def test_the_summary_counts_updates(trained):
    _, work_dir, _ = trained
    log = next(work_dir.glob('*/*.log')).read_text()
    assert 'effective batch       4 = batch 2 x processes 1 x accumulation 2' in log
    assert re.search(rf'iterations +{LENGTH} \(updates: {LENGTH // 2}; ', log)


@pytest.fixture
def tested(trained, tmp_path):
    """The metrics of a test of the trained checkpoint, with more options."""

    def test(**more) -> dict:
        task, work_dir, given = trained
        kept = {key: value for key, value in given.items() if not key.startswith('model')}
        changes = kept | {'experiment_name': tmp_path.name} | more
        cfg, notes = launch.testing_config(
            CONFIGS[task],
            str(work_dir / f'iter_{LENGTH}.pth'),
            str(tmp_path / 'test'),
            cfg_options=changes,
        )
        return build_runner(cfg, notes).test()

    return test


def test_a_checkpoint_is_tested_without_the_encoder_file(trained, tested):
    """And gives what the last validation gave; images are not square."""
    task, work_dir, _ = trained
    (held,) = [row for row in rows(work_dir) if METRICS[task][0] in row]
    found = tested(**{'model.backbone.init_cfg.checkpoint': 'nowhere.pth'})
    for name in METRICS[task]:
        assert found[name] == pytest.approx(held[name], abs=1e-4), name


def test_images_of_any_shape_are_segmented_whole(trained, scenes, tmp_path):
    """`whole` gives what one crop around the image gives, at the image's own size."""
    task, work_dir, given = trained
    if task != 'upernet':
        pytest.skip('detectors always take the whole image')
    maps = []
    around = dict(mode='slide', crop_size=(128, 128))
    for number, test_cfg in enumerate([dict(mode='whole'), around]):
        changes = {f'model.test_cfg.{key}': value for key, value in test_cfg.items()}
        cfg, _ = launch.testing_config(
            CONFIGS[task],
            str(work_dir / f'iter_{LENGTH}.pth'),
            str(tmp_path / f'{number}'),
            cfg_options=given | changes | {'experiment_name': f'{tmp_path.name}-{number}'},
        )
        runner = build_runner(cfg)
        assert 0 <= runner.test()['mIoU'] <= 100
        model = runner.model.eval()
        with torch.no_grad():
            samples = [model.test_step(batch)[0] for batch in runner.test_dataloader]
        maps.append([sample.pred_sem_seg.data for sample in samples])
    assert [tuple(m.shape) for m in maps[0]] == [(1, 75, 121), (1, 113, 70)]
    for whole, slid in zip(*maps, strict=True):
        assert torch.equal(whole, slid)


# --- from weights of others -----------------------------------------------------------------------


@pytest.mark.parametrize('task', CONFIGS)
def test_the_form_of_dinov2_trains(task, scenes, tmp_path):
    """Patches of 14 px, layer scale and registers, from a file of them; then boxes or classes."""
    torch.manual_seed(0)
    form = dict(patch_size=14, num_registers=4, layer_scale_init_value=0.5)
    start = MIRLViT('test', 70, **form)
    start.init_weights()
    state = {f'backbone.{name}': x for name, x in start.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'encoder.pth')
    given = options(task, scenes, tmp_path / 'encoder.pth')
    given |= {'experiment_name': tmp_path.name}
    config = CONFIGS[task].replace('vit-test_', 'vit-test_dinov2-')
    cfg, notes = training_config(config, str(tmp_path / 'run'), cfg_options=given)
    assert not any('stride' in note for note in notes)
    runner = build_runner(cfg, notes)
    before = {n: p.detach().clone() for n, p in runner.model.named_parameters()}
    runner.train()
    backbone, after = runner.model.backbone, dict(runner.model.named_parameters())
    assert (backbone.patch_size, backbone.register_tokens.shape) == (14, (1, 4, 48))
    assert all(not torch.equal(after[name], each) for name, each in before.items())
    gamma = backbone.layers[0].attn.gamma1.weight  # of the file, at layer decay's smallest rate
    torch.testing.assert_close(gamma, torch.full_like(gamma, 0.5), atol=0.05, rtol=0)
    for name in METRICS[task]:  # (its file is the first run's: a process has one visualizer)
        assert 0 <= runner.message_hub.get_scalar(f'val/{name}').current() <= 100


# --- bad input ------------------------------------------------------------------------------------


def test_a_part_of_the_model_is_not_tested(trained, tested, encoder, tmp_path):
    task, work_dir, given = trained
    state = torch.load(work_dir / f'iter_{LENGTH}.pth', weights_only=False)
    for name, value in state['state_dict'].items():
        if name.endswith(('fc_cls.weight', 'conv_seg.weight')):
            state['state_dict'][name] = torch.zeros(9, *value.shape[1:])
    torch.save(state, tmp_path / 'other.pth')
    head = dict(zip(CONFIGS, ('bbox_head.fc_cls', 'decode_head.conv_seg'), strict=True))[task]
    for number, (file, message) in enumerate(
        (
            (
                encoder,
                r"encoder\.pth does not fit this \w+: it lacks 'neck\.\S+' and \d+ more, which",
            ),
            (tmp_path / 'other.pth', rf"other\.pth does not fit .*{head}\.weight' is \(9, "),
        )
    ):
        cfg, _ = launch.testing_config(
            CONFIGS[task],
            str(file),
            str(tmp_path / f'{number}'),
            cfg_options=given | {'experiment_name': f'{tmp_path.name}-{number}'},
        )
        with pytest.raises(ValueError, match=message):
            build_runner(cfg).test()


def test_an_encoder_that_is_not_there(scenes, encoder, tmp_path):
    given = options('upernet', scenes, tmp_path / 'encodr.pth')
    (tmp_path / 'encoder.pth').write_bytes(b'')
    with pytest.raises(
        FileNotFoundError,
        match=r"no such pre-trained encoder file: .*encodr\.pth \(did you mean 'encoder\.pth'\?\)"
        r'\. Set model\.backbone\.init_cfg\.checkpoint=FILE, or model\.backbone\.init_cfg=None',
    ):
        training_config(CONFIGS['upernet'], str(tmp_path / 'run'), cfg_options=given)


def test_a_label_that_is_no_class_stops_the_run(encoder, tmp_path):
    """Before it, and where masks were not opened then, at their batch."""
    scenes = write_scenes(tmp_path / 'set', num_train=2, num_val=1)
    file = sorted(scenes.masks('train').iterdir())[1]
    mask = np.array(Image.open(file))
    mask[:4, :4] = 4
    Image.fromarray(mask).save(file)
    given = options('upernet', scenes, encoder) | {'experiment_name': tmp_path.name}
    message = r'000002\.png has the label 4; accepted are 0 to 3'
    with pytest.raises(ValueError, match=message):
        training_config(CONFIGS['upernet'], str(tmp_path / 'run'), cfg_options=given)
    given['check_files'] = False
    cfg, _ = training_config(CONFIGS['upernet'], str(tmp_path / 'run'), cfg_options=given)
    with pytest.raises(ValueError, match=message):
        build_runner(cfg).train()


# --- what users call ------------------------------------------------------------------------------


def run(*command: object, cwd: Path) -> str:
    own = dict(OMP_NUM_THREADS='1', PYTHON=sys.executable, PORT=str(get_free_port()))
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=dict(os.environ, **own),
        text=True,
        timeout=300,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def as_arguments(given: dict) -> list[str]:
    return ['--cfg-options', *(f'{key}={value}' for key, value in given.items())]


@pytest.mark.dense
@pytest.mark.parametrize('task', ['mask-rcnn', pytest.param('upernet', marks=pytest.mark.long)])
def test_two_processes_train_and_test(task, scenes, encoder, tmp_path):
    """UperNet by the user's command; Mask R-CNN by the same processes, forked."""
    given = options(task, scenes, encoder)
    named = given | dict.fromkeys(('experiment_name', 'visualizer.name'), tmp_path.name)
    arguments = (CONFIGS[task], '--work-dir', tmp_path / 'run', *as_arguments(named))
    if task == 'upernet':
        script, config, *more = ROOT / 'tools/dist_train.sh', *arguments
        output = run('bash', script, config, 2, *more, cwd=tmp_path)
    else:
        output = ''.join(run_forked('train.py', *arguments, cwd=tmp_path, processes=2))
    assert 'gloo backend, running on the CPU' in output
    assert 'effective batch       8 = batch 2 x processes 2 x accumulation 2' in output
    (held,) = [row for row in rows(tmp_path / 'run') if METRICS[task][0] in row]
    run_forked(
        'test.py',
        CONFIGS[task],
        tmp_path / f'run/iter_{LENGTH}.pth',
        '--work-dir',
        tmp_path / 'test',
        *as_arguments({key: value for key, value in given.items() if 'checkpoint' not in key}),
        cwd=tmp_path,
        processes=2 if task == 'mask-rcnn' else 1,
    )
    text = next((tmp_path / 'test').glob('*/2*_*.json')).read_text()
    found, _ = json.JSONDecoder().raw_decode(text)  # MMEngine writes it in every process at once
    for metric in METRICS[task]:  # each process validated UperNet with statistics of its own BN
        same = pytest.approx(held[metric], abs=1e-4) if task == 'mask-rcnn' else found[metric]
        assert found[metric] == same and 0 <= found[metric] <= 100, metric


@pytest.mark.parametrize(
    'trained', [pytest.param('mask-rcnn', marks=pytest.mark.long), 'upernet'], indirect=True
)
def test_the_libraries_own_inferencers_in_a_fresh_process(trained, scenes, tmp_path):
    """From the config, which imports the package, and from the checkpoint alone, which has it."""
    task, work_dir, _ = trained
    checkpoint = str(work_dir / f'iter_{LENGTH}.pth')
    image = str(scenes.images('val') / '000001.jpg')
    library, kind = dict(upernet=('mmseg', 'MMSegInferencer')).get(task, ('mmdet', 'DetInferencer'))
    script = f"""
import numpy as np
from {library}.apis import {kind}
for config in ({CONFIGS[task]!r}, None):
    inferencer = {kind}(config, {checkpoint!r}, device='cpu')
    result = inferencer({image!r}, return_vis=True)
    prediction, drawing = result['predictions'], result['visualization']
    if {task == 'upernet'}:
        print('map', np.asarray(prediction).shape, np.asarray(drawing).shape)
    else:
        print('boxes', len(prediction[0]['bboxes']) > 0, drawing[0].shape)
"""
    output = run(sys.executable, '-c', script, cwd=tmp_path)
    line = 'map (75, 121) (75, 121, 3)' if task == 'upernet' else 'boxes True (75, 121, 3)'
    assert output.count(line) == 2, output


def test_drawings_of_a_folder(trained, scenes, tmp_path):
    task, work_dir, _ = trained
    folder = tmp_path / 'pictures'
    (folder / 'deep').mkdir(parents=True)
    for source, target in (('000001', 'a'), ('000002', 'deep/a')):
        data = (scenes.images('val') / f'{source}.jpg').read_bytes()
        (folder / f'{target}.jpg').write_bytes(data)
    (folder / 'b.jpg').write_bytes(b'no picture')
    arguments = (CONFIGS[task], str(work_dir / f'iter_{LENGTH}.pth'))
    lines = list(predict_pictures(*arguments, str(folder), str(tmp_path / 'out'), score=0.0))
    files = sorted((tmp_path / 'out').rglob('*.*'))
    assert [str(file.relative_to(tmp_path / 'out')) for file in files] == ['a.png', 'deep/a.png']
    drawing = np.array(Image.open(files[0]))
    assert drawing.shape == (75, 121, 3)
    assert (drawing != np.array(Image.open(folder / 'a.jpg'))).mean() > 0.05
    assert len(lines) == 3 and lines[1].startswith(f'{folder}/b.jpg: skipped (')
    found = r'\d+ \w+' if task == 'mask-rcnn' else r'\w+ \d+ %'
    assert re.match(rf'{re.escape(str(folder))}/a\.jpg: {found}.* -> .*/out/a\.png$', lines[0])
