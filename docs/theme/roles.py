"""How docstrings become pages, beyond what griffe knows. It reads the package without importing it.

Sphinx's roles, such as :func:`name`, become links where the name is on a page. The fields of a
dataclass or NamedTuple become a list, with the comments behind them. A product is not emphasis.
"""

import re

from griffe import Extension, NameResolutionError, Object

ROLE = re.compile(r':(?:attr|class|data|func|meth|mod):`~?([\w.]+)`')
COMMENT = re.compile(r'  # (.+)')
PRODUCT = re.compile(r'`.+?`|(?<=\w)\*(?=\w)', re.DOTALL)  # p*p, unless it is code already


class Roles(Extension):
    """Of griffe."""

    def on_object(self, *, obj: Object, **_) -> None:
        """Rewrite an object's docstring; mkdocs-autorefs makes the links."""
        if obj.docstring:
            text = obj.docstring.value + (fields(obj) if obj.is_class else '')
            text = PRODUCT.sub(lambda found: r'\*' if found[0] == '*' else found[0], text)
            obj.docstring.value = ROLE.sub(lambda role: link(obj, role[1]), text)


def link(obj: Object, name: str) -> str:
    try:
        path = obj.resolve(name)
    except NameResolutionError:
        path = name
    return f'<autoref optional identifier="{path}">`{name}`</autoref>'


def fields(record: Object) -> str:
    """A list of a dataclass's or NamedTuple's fields; of any other class, nothing."""
    if 'dataclass' not in record.labels and 'NamedTuple' not in map(str, record.bases):
        return ''
    found = [x for x in record.members.values() if x.is_attribute and 'property' not in x.labels]
    lines = [' '.join([f'- `{x.name}: {x.annotation}`', *COMMENT.findall(x.source)]) for x in found]
    return '\n\n' + '\n'.join(lines)
