"""Images: without labels, in class folders, packed."""

from . import packed  # whose file backend has to be known
from .decode import LoadAnyImage, LoadRandomResizedCrop
from .images import UnlabelledImages
from .skipping import SkipUnreadable

__all__ = ['LoadAnyImage', 'LoadRandomResizedCrop', 'SkipUnreadable', 'UnlabelledImages', 'packed']
