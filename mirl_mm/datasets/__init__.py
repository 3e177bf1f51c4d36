"""Image folders without labels, packed or not."""

from .decode import LoadAnyImage
from .fast_crop import LoadRandomResizedCrop
from .images import UnlabelledImages
from .packed.reading import PackedBackend

__all__ = ['LoadAnyImage', 'LoadRandomResizedCrop', 'PackedBackend', 'UnlabelledImages']
