"""Labels follow the names of the classes, not their places: in tests, and on resume."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmpretrain.evaluation import Accuracy
from mmpretrain.structures import DataSample

from mirl_mm.checkpoint import write_checkpoint
from mirl_mm.checkpoint.reading import class_names
from mirl_mm.engine import launch
from mirl_mm.engine.class_names import compare_names, follow_names
from mirl_mm.engine.launch import build_runner, load_config
from mirl_mm.engine.resume import why_not
from tests.class_folders import write_classes
from tests.models.downstream import classifier, mask_rcnn, upernet

ROOT = Path(__file__).parents[2]
FINETUNE = str(ROOT / 'configs/finetune/vit-test_2e_classes.py')
CLASSES = ('blue', 'green', 'grey', 'red')


# --- what is compared -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('meta', 'names'),
    [
        (dict(classes=('a', 'b')), ['a', 'b']),
        (dict(dataset_meta=dict(classes=['a', 'b'], palette=[])), ['a', 'b']),
        (dict(CLASSES=('a', 'b'), epoch=3), ['a', 'b']),  # before MMEngine
        (dict(classes='disc'), ['disc']),
        (dict(classes=(1, 2)), ['1', '2']),
        (dict(classes=None), []),
        (dict(dataset_meta=None), []),
        ({}, []),
        (None, []),
    ],
)
def test_names_of_a_dataset_and_of_a_checkpoint(meta, names):
    assert class_names(meta) == names


@pytest.mark.parametrize(
    ('there', 'here', 'words'),
    [
        ('abc', 'cab', "another order: 'a', 'b', 'c' in the checkpoint, 'c', 'a', 'b' in "),
        ('abc', 'abc', ''),
        ('', 'abc', ''),
        ('abcd', 'bcdz', "(4 in the checkpoint, 4 in the data): 'a' only in the checkpoint and 'z' "
         'only in the data'),
        ('abc', 'ab', "(3 in the checkpoint, 2 in the data): 'c' only in the checkpoint"),
        ('ab', 'abc', "(2 in the checkpoint, 3 in the data): 'c' only in the data"),
        (['Cat', 'dog '], ['cat', 'dog'], "'Cat', 'dog ' only in the checkpoint and 'cat', 'dog' "),
        ('aab', 'ab', 'some names are there twice'),
    ],
)  # fmt: skip
def test_other_names_are_listed(there, here, words):
    reason, in_order_alone = compare_names(list(there), list(here))
    assert words in reason and bool(words) == bool(reason)
    assert in_order_alone == ('another order' in words)


# --- predictions of the three kinds give equal metrics --------------------------------------------

HERE = (2, 0, 1)  # places of a, b, c in the data


@torch.no_grad()
def test_a_classifier():
    torch.manual_seed(0)
    model = classifier().eval()
    model.head.fc = torch.nn.Linear(48, 3)
    inputs = torch.randn(12, 3, 64, 64)

    def metrics(order):
        samples = [DataSample().set_gt_label(order[i % 3]) for i in range(12)]
        found = model.test_step(dict(inputs=inputs, data_samples=samples))
        metric = Accuracy(topk=(1, 2))
        metric.process({}, [sample.to_dict() for sample in found])
        labels = torch.stack([sample.pred_label for sample in found])
        assert torch.equal(labels[:, 0], torch.stack([s.pred_score.argmax() for s in found]))
        return metric.evaluate(12)

    plain = metrics((0, 1, 2))
    shifted = metrics(HERE)
    follow_names(model, ['a', 'b', 'c'], ['b', 'c', 'a'])
    assert metrics(HERE) == plain != shifted
    assert 0 < plain['accuracy/top1'] < 100


@pytest.mark.dense
@torch.no_grad()
def test_a_detector():
    from mmdet.evaluation import VOCMetric
    from mmdet.structures import DetDataSample

    torch.manual_seed(0)
    model = mask_rcnn().eval()
    torch.nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight, std=1.0)
    meta = dict(img_shape=(128, 128), ori_shape=(128, 128), scale_factor=(1, 1), img_id=0)
    image = torch.randint(256, (3, 128, 128), dtype=torch.uint8)

    def predict():
        batch = dict(inputs=[image], data_samples=[DetDataSample(metainfo=dict(meta))])
        return model.test_step(batch)[0]

    before = predict().pred_instances
    assert len(before.labels.unique()) > 1

    def mean_ap(order):
        sample = predict()
        labels = torch.tensor(order)[before.labels]
        sample.gt_instances = InstanceData(bboxes=before.bboxes, labels=labels)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=labels[:0])
        metric = VOCMetric(iou_thrs=0.5)
        metric.dataset_meta = dict(classes=('a', 'b', 'c'))
        metric.process({}, [sample.to_dict()])
        return metric.evaluate(1)['pascal_voc/mAP']

    plain, shifted = mean_ap((0, 1, 2)), mean_ap(HERE)
    follow_names(model, ['a', 'b', 'c'], ['b', 'c', 'a'])
    assert mean_ap(HERE) == plain > 0.1 > shifted


@pytest.mark.dense
@torch.no_grad()
def test_a_segmentor():
    from mmseg.evaluation import IoUMetric
    from mmseg.structures import SegDataSample

    torch.manual_seed(0)
    model = upernet(final_norm=False).eval()
    image = torch.randint(256, (3, 60, 90), dtype=torch.uint8)

    def predict():
        sample = SegDataSample(metainfo=dict(img_shape=(60, 90), ori_shape=(60, 90)))
        return model.test_step(dict(inputs=[image], data_samples=[sample]))[0]

    before = predict()
    truth = before.pred_sem_seg.data.clone()
    truth[:, :20] = 0
    assert len(truth.unique()) > 1

    def scores(order):
        sample = predict()
        assert torch.equal(sample.seg_logits.data.argmax(0), sample.pred_sem_seg.data[0])
        sample.gt_sem_seg = PixelData(data=torch.tensor(order)[truth])
        metric = IoUMetric()
        metric.dataset_meta = dict(classes=('a', 'b', 'c'))
        metric.process({}, [sample.to_dict()])
        return metric.evaluate(1)

    plain, shifted = scores((0, 1, 2)), scores(HERE)
    follow_names(model, ['a', 'b', 'c'], ['b', 'c', 'a'])
    assert scores(HERE) == plain
    assert plain['mIoU'] > shifted['mIoU']


# --- as tools/test.py does it ---------------------------------------------------------------------


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> Path:
    """A classifier whose bias says `green`, and the classes that it was trained on."""
    folder = tmp_path_factory.mktemp('classes')
    write_classes(folder / 'val', CLASSES, count=1)
    lines = [f'val/{name}/0.png {label}' for label, name in enumerate(CLASSES[::-1])]
    (folder / 'turned.txt').write_text('\n'.join([*lines, *3 * [lines[2]]]))  # 4 of 7 are green
    cfg = load_config(FINETUNE)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    torch.nn.init.zeros_(model.head.fc.weight)
    model.head.fc.bias.data = torch.tensor([0.0, 3.0, 2.0, 1.0])
    meta = dict(dataset_meta=dict(classes=list(CLASSES)))
    write_checkpoint(folder / 'epoch_2.pth', model.state_dict(), meta)
    write_checkpoint(folder / 'nameless.pth', model.state_dict(), {})
    return folder


def accuracy(trained: Path, tmp_path: Path, file: str = 'epoch_2.pth', **dataset):
    options = {f'test_dataloader.dataset.{k}': v for k, v in dataset.items()}
    options['experiment_name'] = f'{tmp_path.name}{file}{len(dataset)}'
    options['test_evaluator.topk'] = (1, 2)
    checkpoint = str(trained / file)
    cfg, notes = launch.testing_config(FINETUNE, checkpoint, str(tmp_path), cfg_options=options)
    runner = build_runner(cfg, notes)
    return runner.test(), Path(runner.logger.log_file).read_text()


def test_the_same_names_in_another_order_are_mapped(trained, tmp_path):
    turned = dict(data_root=str(trained), data_prefix='', ann_file='turned.txt',
                  classes=CLASSES[::-1])  # fmt: skip
    metrics, log = accuracy(trained, tmp_path, **turned)
    assert (
        "the classes are in another order: 'blue', 'green', 'grey', 'red' in the checkpoint, "
        "'red', 'grey', 'green', 'blue' in the data; mapped by their names"
    ) in log
    assert metrics['accuracy/top1'] == pytest.approx(400 / 7)  # by place it would be 100 / 7


def test_other_names_are_refused(trained, tmp_path):
    write_classes(tmp_path / 'val', CLASSES[:3], count=1)
    (tmp_path / 'val/blue').rename(tmp_path / 'val/zebra')
    write_classes(tmp_path / 'more', ('red',), count=1)
    (tmp_path / 'more/red').rename(tmp_path / 'val/red')
    with pytest.raises(ValueError) as error:
        accuracy(trained, tmp_path, data_root=str(tmp_path))
    assert str(error.value) == (
        f'{trained}/epoch_2.pth cannot be tested on these data: the classes differ (4 in the '
        "checkpoint, 4 in the data): 'blue' only in the checkpoint and 'zebra' only in the data"
    )
    metrics, _ = accuracy(trained, tmp_path, 'nameless.pth', data_root=str(tmp_path))
    assert metrics.keys() == {'accuracy/top1', 'accuracy/top2'}  # nothing to compare


@pytest.mark.parametrize(
    ('here', 'words'),
    [
        (CLASSES, ''),
        (None, ''),
        (
            CLASSES[::-1],
            "another order: 'blue', 'green', 'grey', 'red' in the checkpoint, 'red',",
        ),
        ((*CLASSES[:3], 'rouge'), "'red' only in the checkpoint and 'rouge' only in the data"),
    ],
)
def test_a_resumed_run_has_the_same_classes(here, words):
    model = torch.nn.Linear(1, 1)
    dataset = SimpleNamespace(metainfo=dict(classes=here))
    runner = SimpleNamespace(
        model=model, train_dataloader=SimpleNamespace(dataset=dataset), train_loop=None,
        optim_wrapper=None,
    )  # fmt: skip
    checkpoint = dict(state_dict=model.state_dict(), optimizer={},
                      meta=dict(dataset_meta=dict(classes=CLASSES)))  # fmt: skip
    reason = why_not(runner, checkpoint, {})
    assert words in reason and bool(words) == bool(reason)
