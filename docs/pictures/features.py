"""Features of the strip's photograph behind four blocks: of the model, over an untrained one's."""

from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from mirl_mm.apps.visualize import visualize_pictures
from mirl_mm.engine.launch import load_config
from mirl_mm.models.archs import arch_settings

SHORT = 256  # pixels: of the demo's images twice as many, so that there are more patches to look at
PLACE = 0.61, 0.36  # of the compared patch, in parts of the short edge: on the coffee's saucer
SHRUNK = 0.75  # of what the tool draws; the README shows about 860 pixels
WHAT = ('pca', 'similarity', 'attention')


def rows_of(config: str, checkpoint: str, picture: Path) -> Image.Image:
    """Six rows: each of :data:`WHAT`, with the checkpoint's weights and without."""
    cfg = load_config(config)
    backbone = cfg.model.backbone
    depth = arch_settings(backbone.arch)['num_layers']
    blocks = [depth // 6, depth // 3, 2 * depth // 3, depth]
    side = backbone.get('patch_size', 16)
    patch = [str(round(SHORT / side * part)) for part in PLACE]
    with TemporaryDirectory() as folder:
        page = Path(folder) / 'features.png'
        how = dict(what=WHAT, blocks=blocks, patch=patch, labels=['MIRL', 'untrained'], size=SHORT)
        for _ in visualize_pictures(cfg, [checkpoint, 'random'], str(picture), str(page), **how):
            pass
        with Image.open(page) as opened:
            size = [round(SHRUNK * side) for side in opened.size]
            return opened.convert('RGB').resize(size, Image.Resampling.LANCZOS)
