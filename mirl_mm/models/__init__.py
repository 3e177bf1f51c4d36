from .archs import ARCHS
from .dense import MIRLDenseViT
from .head import MIRLHead, MIRLResidualLoss, ReconstructionError
from .mirl import MIRL, Reconstruction
from .neck import MIRLNeck
from .pyramid import MIRLPyramid
from .vit import MaskedFeatures, MIRLViT

__all__ = [
    'ARCHS',
    'MIRL',
    'MIRLDenseViT',
    'MIRLHead',
    'MIRLNeck',
    'MIRLPyramid',
    'MIRLResidualLoss',
    'MIRLViT',
    'MaskedFeatures',
    'Reconstruction',
    'ReconstructionError',
]
