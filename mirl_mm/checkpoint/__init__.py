"""Every checkpoint form in and out, without ever running code from a file.

Read: official Paddle files, MAE's, timm's and transformers', MMEngine's (with EMA and wrappers).
Written: the whole model, the encoder, MAE's model, timm's names; as torch files or safetensors.

**Importing this package changes MMEngine's own loading, for the whole process:** its loaders become
safe (``weights_only``) and read local safetensors; and an encoder's ``Pretrained`` is held to the
arch that a file stores. ``torch.serialization.add_safe_globals`` lets a class of yours in;
:func:`restore_loading` gives MMEngine its loaders back, and :func:`make_loading_safe` ours.
"""

from mirl_mm.models.archs import EncoderArch
from mirl_mm.models.fit import compare

from .convert import convert_file, write_checkpoint
from .loading import check_stored_arch, hold_pretrained_to_its_arch, load_weights
from .names import backbone_state, convert_official, to_ours, to_timm
from .reading import open_checkpoint, read_checkpoint
from .safety import make_loading_safe, restore_loading

make_loading_safe()
hold_pretrained_to_its_arch()

__all__ = [
    'EncoderArch', 'backbone_state', 'check_stored_arch', 'compare', 'convert_file',
    'convert_official', 'load_weights', 'make_loading_safe', 'open_checkpoint', 'read_checkpoint',
    'restore_loading', 'to_ours', 'to_timm', 'write_checkpoint',
]  # fmt: skip
