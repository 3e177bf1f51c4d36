"""Image folders without labels."""

from .decode import LoadAnyImage
from .images import UnlabelledImages

__all__ = ['LoadAnyImage', 'UnlabelledImages']
