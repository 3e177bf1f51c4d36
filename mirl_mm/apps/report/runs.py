"""What the work dir of a run tells, however often the run was stopped and resumed."""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mirl_mm.checkpoint.config_text import read_config
from mirl_mm.engine.run_facts import FILE
from mirl_mm.errors import UserError
from mirl_mm.files import is_like, parsed, read_json
from mirl_mm.pictures.charts import MEASURES

SCALARS = '*/vis_data/scalars.json'
NOT_RESULTS = ('step', 'iter', 'epoch', 'time', 'data_time', 'checkpoint')
SAID = ('images', 'command', 'effective_batch', 'learning_rate', 'precision', 'hardware', 'date')
NUMBER, TEXT, COUNT = int | float, str | None, int | None
# What a record has to be like, one of training, and a row of tools/probe_depth.py.
RECORD = dict(
    started=str, model=str, hardware=str, command=str, python=str, versions=dict, processes=int,
    trainable_parameters=int, encoder=TEXT, cpu=TEXT, config=TEXT, gpu_memory=COUNT,
    iterations=COUNT,
)  # fmt: skip
TRAINING = RECORD | dict(
    precision=str, learning_rate=NUMBER, first_iteration=int, images=int, batch=int,
    accumulation=int, effective_batch=int, epochs=COUNT, seconds=NUMBER | None,
)  # fmt: skip
PROBE = dict(label=str, block=int, pool=TEXT, shots=COUNT)
PROBE |= {f'{name}{end}': NUMBER | None for name in MEASURES for end in ('', '_error')}
DEPTH = dict(rows=[PROBE], summary=[dict(sentence=str)])
DRAWN_ANYWAY = ('loss.png', 'panel.png', 'depth.png')  # the report has them as curves and panels


@dataclass
class Run:
    """One work dir. Rows are in the order of their ``iter``, which is the iteration they follow."""

    folder: Path
    name: str = ''
    records: list[dict] = field(default_factory=list)  # a FILE of every start
    training: list[dict] = field(default_factory=list)
    evaluations: list[dict] = field(default_factory=list)  # on validation data, and k-NN
    tests: list[dict] = field(default_factory=list)  # of tools/test.py, with the `checkpoint`
    panels: dict[int, Path] = field(default_factory=dict)  # by iteration
    probes: list[dict] = field(default_factory=list)  # rows of tools/probe_depth.py
    findings: list[str] = field(default_factory=list)  # its sentences
    pictures: list[Path] = field(default_factory=list)
    config: str | None = None
    unreadable: int = 0  # lines of logs

    @property
    def starts(self) -> list[dict]:
        """The records of training, the first start and what resumed it."""
        return [record for record in self.records if record.get('kind') == 'train']

    @property
    def record(self) -> dict:
        """The newest record of training, else of testing; empty for runs older than records."""
        return (self.starts or [each for each in self.records if is_like(each, RECORD)] or [{}])[-1]

    def metrics(self) -> list[str]:
        """Names of evaluation results."""
        names = dict.fromkeys(name for row in self.evaluations for name in row)
        return [name for name in names if name not in NOT_RESULTS]


def read_runs(work_dirs: Sequence[str | Path]) -> list[Run]:
    """Read work dirs and give them names that differ: the shortest ends of their paths."""
    if not work_dirs:
        raise UserError('no work dir is given; needed is the folder of at least one run')
    runs = [read_run(Path(folder)) for folder in dict.fromkeys(map(str, work_dirs))]
    for run, name in zip(runs, distinct_names([run.folder for run in runs]), strict=True):
        run.name = name
    return runs


def read_run(folder: Path) -> Run:
    """Read a work dir; FileNotFoundError, or UserError where it holds no run."""
    if not folder.is_dir():
        raise FileNotFoundError(f'no such work dir: {folder}')
    run = Run(folder)
    logs = [*folder.glob('*/vis_data'), *folder.glob(f'*/{FILE}')]
    for log in sorted({path.parent for path in logs}):
        add_start(run, log)
    for path in sorted([*folder.glob('depth.json'), *folder.glob('*/depth.json')]):
        content = dict(rows=[], summary=[]) | read_json(path)
        if not is_like(content, DEPTH):
            raise UserError(f'{path} is damaged: tools/probe_depth.py writes a sound one')
        run.probes += content['rows']
        run.findings += [each['sentence'] for each in content['summary']]
    if not (run.records or run.training or run.evaluations or run.tests or run.probes):
        below = sorted({path.parents[2].name for path in folder.glob('*/' + SCALARS)})
        hint = f'; there are runs in its folders {", ".join(below[:8])}' if below else ''
        needed = f'neither {SCALARS}, nor a test result or depth.json'
        raise UserError(f'{folder} holds no run: {needed}{hint}')
    images = sorted(p for p in folder.iterdir() if p.suffix in ('.png', '.jpg', '.jpeg', '.webp'))
    run.pictures = [path for path in images if path.name not in DRAWN_ANYWAY]
    return run


def record_of(source: str | Path, meta: Mapping) -> dict[str, str]:
    """Rows of a card on a checkpoint with this meta: data, epochs, results, ..., where recorded."""
    run, config = Run(Path(source).parent), {}
    with suppress(OSError, UserError):  # no work dir
        run = read_run(run.folder)
    with suppress(SyntaxError):
        config = read_config(str(meta.get('cfg', '')), {'train_dataloader'})
    roots = [root for name, root in config.items() if name.endswith('.data_root') and root]
    done, record = meta.get('iter', math.inf), run.record
    tested = [row for row in run.evaluations if row['iter'] <= done]
    last = [row for row in tested if row['iter'] == tested[-1]['iter']]
    losses = [row for row in run.training if row['iter'] <= done and 'loss' in row]
    last += [dict(loss=row['loss']) for row in losses[-1:]]
    results = {n: x for row in last for n, x in row.items() if n not in NOT_RESULTS}
    versions = record.get('versions') or {}
    rows = dict(
        data=', '.join(map(str, roots)), epochs=meta.get('epoch'), iterations=meta.get('iter')
    )
    rows['results'] = ', '.join(f'{name} {value:.4g}' for name, value in results.items())
    rows |= {key.replace('_', ' '): record.get(key) for key in SAID}
    rows['versions'] = ', '.join(f'{name} {version}' for name, version in versions.items())
    return {key: str(value) for key, value in rows.items() if value}


def add_start(run: Run, log: Path) -> None:
    """Add one start: what it logged replaces what earlier ones had logged for the same steps."""
    record, lines = read_json(log / FILE), read_lines(log / 'vis_data/scalars.json')
    if record.get('kind') == 'train' and not is_like(record, TRAINING):
        run.unreadable, record = run.unreadable + 1, {}
    if record.get('kind') == 'train' and not record.get('first_iteration'):  # started anew
        run.records = [other for other in run.records if other.get('kind') != 'train']
    run.records += [record] if record else []
    run.unreadable += lines.count({})
    training, evaluations = [], []
    last, total = record.get('first_iteration', 0), record.get('iterations')
    epochs = total and record.get('epochs')
    for row in filter(None, lines):
        if 'iter' in row:
            last = row['iter']
            if row.get('time') and 'data_time' in row:
                row['waiting'] = 100 * row['data_time'] / row['time']  # percent
            # MMEngine's lr is the first group's, its base_lr what groups take a share of.
            rates = [row[name] for name in ('max_lr', 'base_lr', 'lr') if name in row]
            row |= dict(lr=rates[0]) if rates else {}
            training.append(row)
        else:  # its step is the epoch, where the run goes by epochs
            at = round(row.get('step', 0) * total / epochs) if epochs else last
            evaluations.append(dict(row, iter=at))
    start = record.get('first_iteration', training[0]['iter'] - 1 if training else math.inf)
    run.training = [row for row in run.training if row['iter'] <= start] + training
    run.evaluations = [row for row in run.evaluations if row['iter'] <= start] + evaluations
    run.panels = {step: path for step, path in run.panels.items() if step <= start}
    panels = {int(path.stem[6:]): path for path in log.glob('*/*/panel_[0-9]*.png')}
    run.panels |= dict(sorted(panels.items()))
    for path in sorted(log.glob('2*.json')):  # what LoggerHook leaves of a test
        run.tests += [dict(row, checkpoint=record.get('checkpoint')) for row in read_lines(path)]
    config = log / 'vis_data/config.py'
    run.config = config.read_text(errors='replace') if config.is_file() else run.config


def read_scalars(work_dir: str | Path) -> list[dict]:
    """The rows of a run's newest scalar log alone; FileNotFoundError where it has none."""
    logs = sorted(Path(work_dir).glob(SCALARS))
    if not logs:
        why = 'not a work dir of a run that has logged'
        raise FileNotFoundError(f'no {SCALARS} below {work_dir}: {why}')
    return [row for row in read_lines(logs[-1]) if row]


def read_lines(path: Path) -> list[dict[str, float]]:
    """The numbers, finite or not, of a JSON object a line; empty for a line that is none."""
    text = path.read_text(errors='replace') if path.is_file() else ''
    rows = [parsed(line) for line in text.splitlines() if line.strip()]
    return [{key: v for key, v in row.items() if is_like(v, NUMBER)} for row in rows]


def best(rows: Sequence[dict], metric: str) -> dict | None:
    """The row with the best finite value of a metric, the earliest among equals."""
    found = [row for row in rows if math.isfinite(row.get(metric, math.nan))]
    choose = min if re.search('loss|error|recon', metric) else max  # else an accuracy
    return choose(found, key=lambda row: row[metric], default=None)


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            break
    return names
