from .archs import ARCHS
from .channels import PerChannel
from .dense import MIRLDenseViT, MIRLPyramid
from .head import MIRLHead, MIRLResidualLoss, ReconstructionError
from .hub import name_models
from .mirl import MIRL, Reconstruction
from .neck import MIRLNeck
from .vit import MaskedFeatures, MIRLViT

name_models()

__all__ = [
    'ARCHS', 'MIRL', 'MIRLDenseViT', 'MIRLHead', 'MIRLNeck', 'MIRLPyramid', 'MIRLResidualLoss',
    'MIRLViT', 'MaskedFeatures', 'PerChannel', 'Reconstruction', 'ReconstructionError',
]  # fmt: skip
