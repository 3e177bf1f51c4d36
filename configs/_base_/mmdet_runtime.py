# What every detection run shares: MMDetection's scope and pictures, lengths in iterations.
_base_ = './default_runtime.py'

default_scope = 'mmdet'
visualizer = dict(type='DetLocalVisualizer', name='visualizer')
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=5000),
    float32_boxes=dict(type='Float32BoxesHook'),
)
log_processor = dict(by_epoch=False)
# A run that is killed before its first checkpoint starts again as the same run.
randomness = dict(seed=0, diff_rank_seed=True)
