"""Cut the numbers the tests need out of the golden folder: see README.md beside this file.

Usage: python tests/data/make_golden.py GOLDEN_FOLDER [OUT_FOLDER]
"""

import pickle
import shutil
import sys
from pathlib import Path

import numpy as np


def main(golden: Path, out: Path) -> None:
    def save(name: str, arrays: dict[str, np.ndarray]) -> None:
        np.savez_compressed(out / f'{name}.npz', **arrays)

    def single(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array.astype(np.float32) for name, array in arrays.items()}

    # A checkpoint maps each name to (Paddle's variable name, array).
    model = pickle.loads((golden / 'tiny6/checkpoint-0.pd').read_bytes())['model']
    weights = {name: pair[1] for name, pair in model.items() if 'pos_embed' not in name}
    assert all(array.dtype == np.float32 for array in weights.values())
    save('tiny6_weights', weights)

    inputs = np.load(golden / 'tiny6/io.npz')
    doubles = np.load(golden / 'tiny6/io_f64.npz')
    save(
        'tiny6_io',
        {name: inputs[name] for name in ('imgs', 'noise', 'ids_keep', 'ids_restore', 'mask')}
        | {name: doubles[name] for name in doubles.files},
    )
    save('tiny6_grads', single(np.load(golden / 'tiny6/grads_f64.npz')))
    images = np.load(golden / 'tiny6/vis.npz')
    save('tiny6_vis', {name: images[name][:1] for name in images.files})  # of the first image

    figures = np.load(golden / 's54/io.npz')
    save(
        's54',
        {name: figures[name] for name in ('imgs', 'noise', 'mask', 'ids_restore', 'grad_names')}
        | {name: figures[name] for name in figures.files if name.endswith('_f64')},
    )
    shutil.copyfile(golden / 's54/param_shapes.json', out / 's54_shapes.json')

    shutil.copyfile(golden / 'vit_ft_tiny/checkpoint-59.pd', out / 'vit_ft_tiny.pd')
    shutil.copyfile(golden / 'vit_ft_tiny/io.npz', out / 'vit_ft_tiny_io.npz')
    shutil.copyfile(golden / 'vit_ft_tiny/lrd_groups.json', out / 'lrd_groups.json')

    save('posembed', single(np.load(golden / 'posembed/posembed.npz')))


if __name__ == '__main__':
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent)
