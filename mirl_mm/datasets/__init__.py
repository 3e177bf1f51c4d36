"""Images: without labels, in class folders, packed (imported when a path asks for it)."""

from mmengine.fileio import BaseStorageBackend, register_backend

from .decode import LoadAnyImage, LoadRandomResizedCrop
from .images import UnlabelledImages
from .skipping import SkipUnreadable

__all__ = ['LoadAnyImage', 'LoadRandomResizedCrop', 'SkipUnreadable', 'UnlabelledImages']


@register_backend('packed', prefixes='packed', force=True)
class _Packed(BaseStorageBackend):
    """Stands for packed.PackedBackend until a path starts with ``packed://``."""

    def __new__(cls) -> BaseStorageBackend:
        from .packed import PackedBackend

        return PackedBackend()
