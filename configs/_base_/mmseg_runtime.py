# What every segmentation run shares: MMSegmentation's scope and pictures, lengths in iterations.
_base_ = './default_runtime.py'

default_scope = 'mmseg'
visualizer = dict(type='SegLocalVisualizer', name='visualizer')
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=16000),
    check_labels=dict(type='CheckLabelsHook'),
)
log_processor = dict(by_epoch=False)
# A run that is killed before its first checkpoint starts again as the same run.
randomness = dict(seed=0, diff_rank_seed=True)
