"""k-nearest-neighbour accuracy of frozen features, by the protocol of DINO.

By cosine similarity; every neighbour votes for its class with exp(similarity / 0.07). Reference:
https://arxiv.org/abs/2104.14294 (eval_knn.py).
Shapes: N training images, Q queries, D width, C classes.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmpretrain.datasets import CustomDataset
from mmpretrain.models import VisionTransformer
from torch import Tensor, nn

from mirl_mm.errors import UserError

from .features import POOLS, Loading, batches, extract, final_features

KS = (10, 20, 100, 200)
TEMPERATURE = 0.07


def evaluate_knn(
    vit: VisionTransformer,
    preprocessor: nn.Module,
    train: CustomDataset,
    val: CustomDataset,
    ks: Sequence[int],
    temperature: float,
    loading: Loading,
) -> dict[str, float]:
    """Accuracies in percent as ``cls_k10`` ... ``avg_k200``, the same on every process.

    The encoder stays in its mode, and the preprocessor lies on its device.
    """
    if temperature <= 0:
        raise UserError(f'temperature must be above 0, got {temperature}')
    found = []
    for dataset, title in ((train, 'training features'), (val, 'validation features')):
        encoded = batches(dataset, partial(final_features, vit), preprocessor, loading)
        found.append(extract(dataset, encoded, title))
    (memory, labels), (queries, wanted) = found  # [N, P, D] and [N], [Q, P, D] and [Q]
    device = next(vit.parameters()).device
    accuracies = {}
    for p, pool in enumerate(POOLS):
        found = knn_accuracy(memory[:, p], labels, queries[:, p], wanted, ks, temperature, device)
        accuracies |= {f'{pool}_k{k}': accuracy for k, accuracy in found.items()}
    return accuracies


def check_ks(ks: Sequence[int], num_train: int, setting: str = 'ks') -> None:
    """UserError, which names the setting, where there is no k or one is not 1 .. num_train."""
    bad = [k for k in ks if not 1 <= k <= num_train]
    if bad or not ks:
        accepted = f'accepted are 1 to {num_train}, the number of training images'
        raise UserError(f'{setting} is {", ".join(map(str, bad)) or "empty"}; {accepted}')


def fitting_ks(ks: Sequence[int] | None, num_train: int, setting: str) -> tuple[Sequence[int], str]:
    """The ks, which must fit; of None, those of KS that do and a word on the others."""
    found = KS[:1] + tuple(k for k in KS[1:] if k <= num_train) if ks is None else ks
    check_ks(found, num_train, setting)
    left_out = ', '.join(map(str, KS[len(found) :])) if ks is None else ''
    word = f'k-NN without k = {left_out}: there are {num_train} training images'
    return found, word if left_out else ''


def knn_accuracy(
    train: Tensor, train_labels: Tensor, queries: Tensor, query_labels: Tensor, ks=KS, *how, **more
) -> dict[int, float]:
    """Top-1 accuracy in percent for every k, of what :func:`knn_correct` takes.

    Distributed, every process is given all features and answers its share of the queries.
    """
    own = slice(get_rank(), None, get_world_size())
    four = (train, train_labels, queries[own], query_labels[own])
    all_reduce(total := knn_correct(*four, ks, *how, **more).sum(dim=1))
    return {k: 100 * n / len(queries) for k, n in zip(ks, total.tolist(), strict=True)}


def knn_correct(
    train: Tensor,
    train_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
    device: torch.device | str = 'cpu',
) -> Tensor:
    """Which queries are classified right for every k, [k, Q] on the device.

    Features [N, D] and [Q, D] are of any float dtype.
    """
    check_ks(ks, len(train))
    similarity, labels = neighbours(train, train_labels, queries, max(ks), device)
    votes = (similarity / temperature).exp()
    correct, wanted = [], query_labels.to(device)
    for k in ks:
        scores = votes.new_zeros(len(votes), int(train_labels.max()) + 1)  # [Q, C]
        scores.scatter_add_(1, labels[:, :k], votes[:, :k])
        correct.append(scores.argmax(dim=1) == wanted)
    return torch.stack(correct)


def neighbours(
    train: Tensor,
    train_labels: Tensor,
    queries: Tensor,
    k: int,
    device: torch.device | str = 'cpu',
    train_chunk: int = 65536,
    query_chunk: int = 512,
) -> tuple[Tensor, Tensor]:
    """Cosine similarities [Q, k], the largest first, and the labels [Q, k] of the neighbours.

    On the device lie the queries and one chunk of training features at a time, so ImageNet's 1.28
    million may stay in host memory.
    """
    queries = F.normalize(queries.to(device, torch.float32), dim=1)
    best = queries.new_empty(len(queries), 0)
    labels = best.long()
    chunks = zip(train.split(train_chunk), train_labels.split(train_chunk), strict=True)
    for chunk, chunk_labels in chunks:
        chunk = F.normalize(chunk.to(device, torch.float32), dim=1)
        chunk_labels, found = chunk_labels.to(device), []
        split = (each.split(query_chunk) for each in (queries, best, labels))
        for part, close_before, near_before in zip(*split, strict=True):
            close, where = (part @ chunk.T).topk(min(k, len(chunk)), dim=1)
            close = torch.cat([close_before, close], dim=1)
            near = torch.cat([near_before, chunk_labels[where]], dim=1)
            close, order = close.topk(min(k, close.shape[1]), dim=1)
            found.append((close, near.gather(1, order)))
        best, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return best, labels
