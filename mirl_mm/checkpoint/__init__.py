"""Every checkpoint form in and out, without ever running code from a file.

Read: official Paddle files, MAE's and timm's, MMEngine's (with EMA and wrappers), safetensors.
Written: the whole model, the encoder alone, timm's names; each as a torch file or safetensors.

Importing this package makes all of MMEngine's checkpoint loading safe (``weights_only``), whatever
MMEngine is installed, and lets it read local safetensors: see :func:`make_loading_safe`.
"""

from mirl_mm.files import complete_file, remove_parts, write_complete
from mirl_mm.models.archs import EncoderArch
from mirl_mm.models.fit import Fit, compare

from .convert import convert_file
from .loading import check_stored_arch, load_weights
from .names import backbone_state, to_ours, to_timm
from .official import convert_official
from .reading import CheckpointFile, open_checkpoint, read_checkpoint
from .safety import SAFE_GLOBALS, make_loading_safe, safely
from .writing import write_checkpoint

make_loading_safe()

__all__ = [
    'SAFE_GLOBALS',
    'CheckpointFile',
    'EncoderArch',
    'Fit',
    'backbone_state',
    'check_stored_arch',
    'compare',
    'complete_file',
    'convert_file',
    'convert_official',
    'load_weights',
    'make_loading_safe',
    'open_checkpoint',
    'read_checkpoint',
    'remove_parts',
    'safely',
    'to_ours',
    'to_timm',
    'write_checkpoint',
    'write_complete',
]
