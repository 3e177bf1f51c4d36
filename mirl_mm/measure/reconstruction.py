"""How well held-out images are painted."""

from collections.abc import Sequence

from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS


@METRICS.register_module()
class ReconstructionError(BaseMetric):
    """Masked MSE on per-patch normalised pixels, averaged over a validation set.

    Reads what ``MIRL.predict`` writes. Reports ``recon/error`` (mean over the pairs) and
    ``recon/pair_g_h``. Painting every patch in its mean colour gives about 1; lower is better.
    """

    default_prefix = 'recon'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            row = {name: float(value) for name, value in sample.items() if name.startswith('pair_')}
            self.results.append(dict(error=float(sample['recon_error']), **row))

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        return {name: sum(row[name] for row in results) / len(results) for name in results[0]}
