"""The config that MMEngine puts into a checkpoint, read as text: nothing in it is run."""

import ast
from collections.abc import Collection, Iterator
from contextlib import suppress

from mmpretrain.models import VisionTransformer

from mirl_mm.models.archs import ARCHS


def heads_in(text: str) -> int | None:
    """The encoder's number of heads in a dumped config; None where it does not say."""
    model: dict[str, object] = {}
    with suppress(SyntaxError):
        model = read_config(text, {'model'})
    arch = (VisionTransformer.arch_zoo | ARCHS).get(str(model.get('model.backbone.arch')).lower())
    heads = arch['num_heads'] if arch else model.get('model.backbone.arch.num_heads')
    return heads if isinstance(heads, int) and heads > 0 else None


def read_config(text: str, keys: Collection[str]) -> dict[str, object]:
    """The settings under some top-level keys of a dumped config, as {dotted path: value}.

    What is no literal stays text. A SyntaxError where it is not Python.
    """
    flat: dict[str, object] = {}
    try:
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', None) in keys:
                flat |= _flatten(node.targets[0].id, _value(node.value))
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        raise SyntaxError(f'no dumped config: {error}') from error
    return flat


def _value(node: ast.expr) -> object:
    if isinstance(node, ast.Call) and getattr(node.func, 'id', None) == 'dict' and not node.args:
        return {word.arg: _value(word.value) for word in node.keywords}
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        return {k.value: _value(v) for k, v in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _flatten(path: str, value: object) -> Iterator[tuple[str, object]]:
    inner = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        inner = enumerate(value)
    if not inner:
        yield path, value
    for key, part in inner:
        yield from _flatten(f'{path}.{key}', part)
