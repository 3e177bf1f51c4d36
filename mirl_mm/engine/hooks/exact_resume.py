"""A resumed run against the run that it goes on from: what fits, what changed, what is exact."""

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from mirl_mm.models.archs import EncoderArch, check_same

from ..loops import ExactEpochLoop, ExactIterLoop
from ..resume import ResumeError, differences, misfit, move_to_length
from ..run_facts import accumulation_of, batch_size

_LAYOUT = dict(
    processes='processes',
    batch_size='images of a process in an iteration',
    accumulation='iterations for an update',
    epoch_length='iterations of an epoch',
)


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Store with every checkpoint what an exact continuation needs, and look at it on resume.

    Another model or optimizer is an error that names the settings that differ. Other differing
    settings are listed, each with what comes of it. On another number of processes or another
    batch the run goes on at the same place of its schedule, and says what cannot be exact.

    Raises:
        ResumeError: at the start; the checkpoint is of another model, optimizer or kind of loop, or
            holds weights alone.
    """

    priority = 'VERY_HIGH'  # before other hooks load their part of the checkpoint
    stored: dict | None = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['meta']['run'] = layout(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not runner._resume:
            return
        meta, path = checkpoint.get('meta') or {}, runner._load_from
        missing = {'optimizer', 'message_hub'} - checkpoint.keys() | {'iter', 'epoch'} - meta.keys()
        if missing:
            raise ResumeError(
                f'{path} holds no state to resume from ({", ".join(sorted(missing))} missing); to '
                'start from its weights, give it as load_from, without --resume'
            )
        self.stored = meta.get('run') or {}
        try:
            changed = differences(meta.get('cfg', ''), runner.cfg.pretty_text)
        except SyntaxError:
            changed = []
        if reason := self._why_not(runner, checkpoint):
            parts = ('model', 'optim_wrapper', 'train_cfg')
            named = [text for text, _ in changed if text.startswith(parts)]
            listed = f'. Settings that differ: {"; ".join(named)}' if named else ''
            raise ResumeError(f'cannot resume from {path}: {reason}{listed}')
        if changed:
            lines = [f'  {text} ({why or "takes effect"})' for text, why in changed]
            runner.logger.warning(f'{path} was written with other settings:\n' + '\n'.join(lines))

    def before_train(self, runner: Runner) -> None:
        loop, now = runner.train_loop, layout(runner)
        if not isinstance(loop, ExactEpochLoop | ExactIterLoop):
            runner.logger.warning(
                f'a run of {type(loop).__name__} cannot be resumed to the bit: give '
                'train_cfg.type=ExactEpochLoop or ExactIterLoop'
            )
        if not self.stored:
            return
        seed = self.stored.get('sampler_seed')
        if seed is not None:  # drawn at random where the config sets none
            sampler_of(runner).seed = seed
        changed = [key for key in _LAYOUT if self.stored.get(key) not in (None, now[key])]
        if changed:
            told = [f'{_LAYOUT[key]}: {self.stored[key]}, now {now[key]}' for key in changed]
            runner.logger.warning(
                'this run goes on, but not to the bit, since it is laid out otherwise than before '
                f'({"; ".join(told)}). Weights, optimizer, averages and seed are kept. What cannot '
                'be exact: which images share a batch, the masks, drop paths and mixes that each '
                'process draws, and the order of sums. The learning rate stays as it was.'
            )
        old, new = self.stored.get('epoch_length'), now['epoch_length']
        if isinstance(loop, EpochBasedTrainLoop) and old not in (None, new):
            move_to_length(runner, old, new)
            runner.logger.warning(
                f'an epoch had {old} iterations and has {new}: going on at iteration {loop.iter} '
                f'of {loop.max_iters}, at the same place of the schedule'
            )

    def _why_not(self, runner: Runner, checkpoint: dict) -> str:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if reason := misfit(checkpoint['state_dict'], model):
            return f'its weights do not fit this model, {reason}'
        given = EncoderArch.of_meta(checkpoint['meta'])
        try:
            check_same(given, EncoderArch.of_module(getattr(model, 'backbone', None)), 'this model')
        except ValueError as error:
            return str(error)
        state, wrapper = checkpoint['optimizer'], runner.optim_wrapper
        if 'param_groups' in state and hasattr(wrapper, 'optimizer'):
            kinds = self.stored.get('optimizer'), type(wrapper.optimizer).__name__
            if kinds[0] not in (None, kinds[1]):
                return f'its optimizer is {kinds[0]}, and this one {kinds[1]}'
            sizes = [
                [len(group['params']) for group in groups]
                for groups in (state['param_groups'], wrapper.optimizer.param_groups)
            ]
            if sizes[0] != sizes[1]:
                return (
                    f'its optimizer has {len(sizes[0])} groups of {sum(sizes[0])} parameters, and '
                    f'this one {len(sizes[1])} of {sum(sizes[1])}, or in another order'
                )
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if self.stored.get('by_epoch', by_epoch) != by_epoch:
            kinds = ('iterations', 'epochs')
            return f'it was trained by {kinds[not by_epoch]}, and this run counts {kinds[by_epoch]}'
        return ''


def layout(runner: Runner) -> dict[str, int | str | bool | None]:
    """What has to be equal for a continuation to be exact, beside the config."""
    wrapper, loader = runner.optim_wrapper, runner.train_dataloader
    return dict(
        processes=get_world_size(),
        batch_size=batch_size(loader),
        accumulation=accumulation_of(wrapper),
        epoch_length=len(loader),
        by_epoch=isinstance(runner.train_loop, EpochBasedTrainLoop),
        optimizer=type(getattr(wrapper, 'optimizer', wrapper)).__name__,
        sampler_seed=getattr(sampler_of(runner), 'seed', None),
    )


def sampler_of(runner: Runner) -> object:
    """What decides the order of the training images."""
    batches = runner.train_dataloader.batch_sampler
    return getattr(batches, 'sampler', batches)
