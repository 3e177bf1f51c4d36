"""The models of ``model-index.yml`` by name: ``mmpretrain.list_models('mirl*')``, ``get_model``."""

from mmpretrain.apis.model import Model, ModelHub

from mirl_mm.errors import UserError
from mirl_mm.files import shipped

TASKS = ('mirl', 'mae', 'finetune', 'linear')  # mmpretrain builds no detectors or segmentors


class UnpublishedModel(Model):
    """Weights that are asked for are an error; mmpretrain would go on with random ones."""

    @property
    def weights(self) -> str:
        raise UserError(f"no weights of {self.name} are published; give pretrained='FILE' of yours")


def name_models() -> None:
    """Let mmpretrain's hub read our files behind its own, when a name is first asked for."""
    theirs = ModelHub._register_mmpretrain_models

    def both() -> None:
        ModelHub._register_mmpretrain_models = theirs  # ours is done with
        theirs()
        for task in TASKS:
            ModelHub.register_model_index(shipped(f'configs/{task}/metafile.yml'), shipped(''))
        for name in [name for name in ModelHub._models_dict if name.startswith('mirl_')]:
            ModelHub._models_dict[name].__class__ = UnpublishedModel

    ModelHub._register_mmpretrain_models = staticmethod(both)
