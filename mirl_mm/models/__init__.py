from .head import MIRLHead, MIRLResidualLoss
from .mirl import MIRL, Reconstruction
from .neck import MIRLNeck
from .vit import ARCHS, MaskedFeatures, MIRLViT

__all__ = [
    'ARCHS',
    'MIRL',
    'MIRLHead',
    'MIRLNeck',
    'MIRLResidualLoss',
    'MIRLViT',
    'MaskedFeatures',
    'Reconstruction',
]
