# What every run shares. Registers our components, so that stock tools find them in a fresh process.
custom_imports = dict(imports=['mirl_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'

default_hooks = dict(
    runtime_info=dict(type='LateLossesHook'),
    timer=dict(type='IterTimerHook', priority='LOWEST'),  # what hooks do is no waiting for data
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='SafeCheckpointHook', interval=20, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # Ours; each can be switched off, as in default_hooks=dict(panel=None).
    summary=dict(type='RunSummaryHook'),
    progress=dict(type='ProgressHook'),
    health=dict(type='HealthHook'),
    panel=dict(type='PanelHook'),
    resume=dict(type='ExactResumeHook'),
    finite=dict(type='FiniteHook', policy='stop'),
    preempt=dict(type='PreemptHook'),
    bad_images=dict(type='BadImagesHook'),
    watch=dict(type='WatchHook', timeout=300),
)
# The terminal gets a summary, warnings, progress and results; the log file everything.
runner_type = 'MIRLRunner'

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # gloo where there is no GPU: tools/train.py switches. A process that hangs ends the job after
    # `timeout` seconds, one that is frozen after those of `watch`, one that dies within 40 s.
    dist_cfg=dict(backend='nccl', timeout=1800),
)

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)
# Before a run, annotations are read through, and pictures and masks opened (beyond 5,000, 2,000 of
# them): docs/your-data.md. False looks at names, lists and folders alone.
check_files = True

log_level = 'INFO'
# What MMEngine logs as a mean over the last 10 iterations, and the pairs beside the loss.
log_processor = dict(mean_pattern=r'.*(loss|time|data_time|grad_norm).*|^(train/)?pair_')
load_from = None
resume = False
