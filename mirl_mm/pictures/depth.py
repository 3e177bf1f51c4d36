"""Probes at every depth as a table and as a plot."""

import csv
from collections.abc import Sequence
from pathlib import Path


def write_csv(rows: Sequence[dict], path: str | Path) -> None:
    """Write the rows under their keys."""
    with Path(path).open('w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def plot_depth(rows: Sequence[dict], path: str | Path, k: int) -> None:
    """Draw accuracy against the block: a panel a probe, a colour a checkpoint, dashes for cls.

    Args:
        rows: with ``label``, ``block``, ``pool``, ``knn`` and ``linear``.
        path: the PNG to write.
        k: of the k-NN probe, for the title.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4.2), layout='constrained')
    titles = dict(knn=f'{k}-NN', linear='linear probe (ridge)')
    labels = list(dict.fromkeys(row['label'] for row in rows))
    pools = list(dict.fromkeys(row['pool'] for row in rows))
    for (probe, title), axes in zip(titles.items(), figure.subplots(1, 2), strict=True):
        for colour, label in enumerate(labels):
            for pool in pools:
                found = [row for row in rows if (row['label'], row['pool']) == (label, pool)]
                axes.plot(
                    [row['block'] for row in found],
                    [row[probe] for row in found],
                    'o--' if pool == 'cls' else 'o-',
                    color=f'C{colour}',
                    markersize=3,
                    label=label if len(pools) == 1 else f'{label}, {pool}',
                )
        axes.set(xlabel='block', ylabel='top-1 accuracy (%)', title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)
