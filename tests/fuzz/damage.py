"""Damage to files, drawn from a seed: to bytes, lines, JSON, and what lies inside of a container.

Each function takes a whole file's bytes and a source of chance, and gives the damaged bytes.
"""

import copy
import io
import json
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from random import Random

Damage = Callable[[bytes, Random], bytes]
NUMBERS = (0, 1, -1, 127, 128, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 10**12, 2**63 - 1, 2**63)
DEEP = 100_000  # brackets: deeper than Python follows


def place_in(content: bytes, rng: Random) -> int:
    """Anywhere, or near one of the ends, where headers and tables are."""
    end = len(content)
    near = (rng.randrange(min(end, 100) + 1), end - rng.randrange(min(end, 100) + 1))
    return rng.choice((rng.randrange(end + 1), rng.randrange(end + 1), *near))


def slice_of(content: bytes, rng: Random) -> tuple[int, int]:
    start = place_in(content, rng)
    return start, min(start + rng.choice((1, 2, 4, 8, 30, 200)), len(content))


def flipped(content: bytes, rng: Random) -> bytes:
    start = min(place_in(content, rng), len(content) - 1)
    bit = content[start] ^ (1 << rng.randrange(8))
    return content[:start] + bytes([bit]) + content[start + 1 :]


def replaced(content: bytes, rng: Random) -> bytes:
    start, end = slice_of(content, rng)
    fill = rng.choice((b'\0', b'\xff', rng.randbytes(1)))
    new = rng.choice((fill * (end - start), rng.randbytes(end - start)))
    return content[:start] + new + content[end:]


def numbered(content: bytes, rng: Random) -> bytes:
    """A number that is no usual one, of 1 to 8 bytes in either order, in place of others."""
    size, start = rng.choice((1, 2, 4, 8)), place_in(content, rng)
    number = rng.choice(NUMBERS) % (1 << 8 * size)
    new = number.to_bytes(size, rng.choice(('little', 'big')))
    return content[:start] + new + content[start + size :]


def cut(content: bytes, rng: Random) -> bytes:
    start, end = slice_of(content, rng)
    return content[:start] + rng.choice((b'', content[end:]))


def inserted(content: bytes, rng: Random) -> bytes:
    start = place_in(content, rng)
    return content[:start] + rng.randbytes(rng.choice((1, 2, 4, 30))) + content[start:]


def repeated(content: bytes, rng: Random) -> bytes:
    start, end = slice_of(content, rng)
    return content[:end] + content[start:end] * rng.choice((1, 2, 300)) + content[end:]


def swapped(content: bytes, rng: Random) -> bytes:
    (start, end), (first, last) = sorted((slice_of(content, rng), slice_of(content, rng)))
    if end > first:
        return content[:start] + content[end:] + content[start:end]
    between = content[last:]
    return content[:start] + content[first:last] + content[end:first] + content[start:end] + between


CHANGES = (flipped, flipped, replaced, numbered, numbered, cut, inserted, repeated, swapped)


def of_bytes(content: bytes, rng: Random) -> bytes:
    """One change, or a few on top of each other."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        content = rng.choice(CHANGES)(content or b'\0', rng)
    return content


# --- text ----------------------------------------------------------------------------------------

WORDS = (
    *('', '-1', '0', '1e999', str(2**63), '9' * 5000, 'nan', '-inf', 'None', '[]', '{}', '()', '"'),
    *("'", '\0', '\t', '\\', '\r', '../../..', '/', '#', '=', ':', ',', 'é', '\u202e', '\ud800'),
    *('[' * DEEP, '(' * 150, '-' * DEEP, '{0:' * 150, 'dict(', '**x', '{[]: 1}', 'a' * 20_000),
)
ENCODINGS = ('utf-8-sig', 'utf-16', 'utf-32', 'latin-1')


def encoded(text: str, rng: Random) -> bytes:
    """Mostly UTF-8; what an encoding lacks, and halves of pairs, are written anyhow."""
    encoding = rng.choice((*['utf-8'] * 16, *ENCODINGS))
    return text.encode(encoding, 'surrogatepass' if 'utf' in encoding else 'replace')


def of_text(content: bytes, rng: Random) -> bytes:
    """Words in place of others, lines and slices that move, another encoding; or of_bytes."""
    if rng.random() < 0.3:
        return of_bytes(content, rng)
    text = content.decode()
    for _ in range(rng.choice((1, 1, 2, 4))):
        words = [found.span() for found in re.finditer(r'[\w.+-]+|[^\w\s]', text)] or [(0, 0)]
        lines, (start, end) = text.splitlines(keepends=True) or [''], rng.choice(words)
        match rng.randrange(5):
            case 0:
                del lines[rng.randrange(len(lines))]
                text = ''.join(lines)
            case 1:
                lines.insert(rng.randrange(len(lines)), rng.choice(lines))
                text = ''.join(lines)
            case 2:
                other = rng.choice(words)
                text = text[:start] + text[slice(*other)] + text[end:]
            case _:
                text = text[:start] + rng.choice(WORDS) + text[end:]
    return encoded(text, rng)


# --- JSON ----------------------------------------------------------------------------------------

HOLE = 'a hole, for what json.dumps does not write'
VALUES = (
    *(None, True, False, 0, 1, -1, 0.5, 2**31, 2**63, 10**400, float('nan'), float('inf'), -1e300),
    *('', 'x', '0', 'nan', '../../x', '/', '\0', 'é\u202e\ud800', 'a' * 5000, HOLE, HOLE),
    *([], [None], [[]], [-1, 2], [0] * 5, {}, {'': None}, {'type': 3}, {'x': {'y': [1]}}),
)
HOLES = (
    '[' * 500 + ']' * 500,
    '[' * DEEP + ']' * DEEP,
    '{"a":' * DEEP,
    '9' * 5000,
    '-',
    '1e400',
    '"\\ud800"',
    "'x'",
)


def places_of(tree: object) -> Iterator[tuple[dict | list, object]]:
    """Every place in a tree: what holds it, and its key or index."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from places_of(tree[key])


def of_json(content: bytes, rng: Random) -> bytes:
    """Keys that go, values of other types, entries twice, deep nesting; or :func:`of_text`."""
    if rng.random() < 0.2:
        return of_text(content, rng)
    top = [json.loads(content)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        holder, key = rng.choice([*places_of(top)])
        match rng.randrange(5):
            case 0 if holder is not top:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[rng.choice((*holder, '', 'x', '0'))] = holder.pop(key)
            case 1:
                holder.insert(key, holder[key])
            case 2:
                other, its = rng.choice([*places_of(top)])
                holder[key] = json.loads(json.dumps(other[its]))
            case _:
                holder[key] = copy.deepcopy(rng.choice(VALUES))
    text = json.dumps(top[0], ensure_ascii=rng.random() < 0.5)
    return encoded(text.replace(json.dumps(HOLE), rng.choice(HOLES)), rng)


def of_json_lines(content: bytes, rng: Random) -> bytes:
    """One line damaged as JSON."""
    lines = content.splitlines()
    place = rng.randrange(len(lines))
    return b'\n'.join([*lines[:place], of_json(lines[place], rng), *lines[place + 1 :]])


# --- inside of containers, whose sums and lengths fit ---------------------------------------------


def in_zip(member: str, inner: Damage = of_bytes) -> Damage:
    """The member whose name ends so is damaged; the archive is sound."""

    def of_zip(content: bytes, rng: Random) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as whole, zipfile.ZipFile(out, 'w') as new:
            for name in whole.namelist():
                data = whole.read(name)
                new.writestr(name, inner(data, rng) if name.endswith(member) else data)
        return out.getvalue()

    return of_zip


def in_pickle(content: bytes, rng: Random) -> bytes:
    """Whole opcodes that go, come twice, change places, or have another argument's bytes."""
    try:
        starts = [place for _, _, place in pickletools.genops(content)]
    except ValueError:
        starts = []
    if len(starts) < 4 or rng.random() < 0.3:
        return of_bytes(content, rng)
    end = content.index(b'.', starts[-1]) + 1
    ops = [content[a:b] for a, b in zip(starts, [*starts[1:], end], strict=True)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        one, other = rng.randrange(len(ops)), rng.randrange(len(ops))
        match rng.randrange(5):
            case 0:
                del ops[one]
            case 1:
                ops.insert(one, ops[other])
            case 2:
                ops[one], ops[other] = ops[other], ops[one]
            case 3:
                ops[one] = ops[one][:1] + of_bytes(ops[one][1:], rng)
            case _:
                ops.insert(one, rng.choice(OPCODES))
        ops = ops or [b'.']
    return b''.join(ops) + content[end:]


OPCODES = (
    *(opcode.code.encode('latin-1') for opcode in pickletools.opcodes if opcode.arg is None),
    *(b'cos\nsystem\n', b'cbuiltins\neval\n', b'cbuiltins\ngetattr\n', b'cbuiltins\nrange\n'),
    *(b'ctorch\nzeros\n', b'cbuiltins\nbytearray\n', b'ccollections\ndefaultdict\n'),
    *(
        b'K\x00',
        b'J\xff\xff\xff\xff',
        b'\x8a\x08' + b'\xff' * 7 + b'\x7f',
        b'G\x7f\xf0' + b'\0' * 6,
    ),
    *(b'X\xff\xff\xff\x7fa', b'\x8e' + b'\xff' * 7 + b'\x7f', b'j\xff\xff\xff\x7f', b'h\xfe'),
)


def in_old_torch(content: bytes, rng: Random) -> bytes:
    """Torch before 1.6: one of its pickles (number, version, sizes, content, keys) is damaged."""
    ends, place = [0], 0
    for _ in range(5):
        *_, (_, _, last) = pickletools.genops(content[place:])
        place += last + 1
        ends.append(place)
    part = rng.choice((0, 1, 2, 3, 3, 3, 3, 4, 5))
    if part == 5:
        return content[:place] + of_bytes(content[place:], rng)
    a, b = ends[part : part + 2]
    return content[:a] + in_pickle(content[a:b], rng) + content[b:]


def in_safetensors(content: bytes, rng: Random) -> bytes:
    """The header is damaged, its length fits."""
    end = 8 + int.from_bytes(content[:8], 'little')
    header = of_json(content[8:end], rng)
    return len(header).to_bytes(8, 'little') + header + content[end:]


def in_meta(content: bytes, rng: Random) -> bytes:
    """What our own header says beside the weights is damaged."""
    end = 8 + int.from_bytes(content[:8], 'little')
    header = json.loads(content[8:end])
    meta = of_json(header['__metadata__']['mirl_mm'].encode(), rng)
    header['__metadata__']['mirl_mm'] = meta.decode(errors='replace')
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, 'little') + text + content[end:]


def in_png(content: bytes, rng: Random) -> bytes:
    """A chunk is damaged, the sums fit; at times inside of what was packed."""
    chunks, place = [], 8
    while place < len(content):
        size = int.from_bytes(content[place : place + 4], 'big')
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    at = rng.randrange(len(chunks))
    kind, data = chunks[at]
    if kind == b'IDAT' and rng.random() < 0.5:
        data = zlib.compress(of_bytes(zlib.decompress(data), rng))
    else:
        data = of_bytes(data, rng)
    chunks[at] = rng.choice((kind, kind, kind, rng.choice(chunks)[0])), data
    sums = (zlib.crc32(kind + data).to_bytes(4, 'big') for kind, data in chunks)
    parts = (len(d).to_bytes(4, 'big') + k + d + s for (k, d), s in zip(chunks, sums, strict=True))
    return content[:8] + b''.join(parts)


def in_numpy(content: bytes, rng: Random) -> bytes:
    """The header of a .npy is damaged, its length fits."""
    end = 10 + int.from_bytes(content[8:10], 'little')
    header = of_text(content[10:end], rng)[:65535]
    return content[:8] + len(header).to_bytes(2, 'little') + header + content[end:]


def either(*ways: Damage) -> Damage:
    return lambda content, rng: rng.choice(ways)(content, rng)
