"""The report in a real browser, without a window: its script runs, hover and slider work."""

import json
import re
import shutil
import subprocess
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import jinja2
import pytest
from PIL import Image

from mirl_mm.apps.report import write_report
from tests.apps.runs import add_start, train_rows

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
FLAGS = (
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--virtual-time-budget=3000',
    '--window-size=1200,900',
    '--dump-dom',
)
# Uses the page as a person would, and writes down what it then shows.
VISITOR = """
<pre id="seen"></pre>
<script>
addEventListener('load', () => {
  const seen = {};
  seen.ready = document.documentElement.dataset.ready;
  const chart = document.querySelector('figure.chart'), svg = chart.querySelector('svg');
  const tip = chart.querySelector('.tip');
  seen.bad = chart.querySelectorAll('path.bad').length;
  seen.hiddenAtFirst = tip.hidden;
  const box = svg.getBoundingClientRect();
  const place = {clientX: box.right - 1, clientY: box.top + 50};
  svg.dispatchEvent(new PointerEvent('pointermove', place));
  seen.hover = [tip.hidden, tip.innerText];
  svg.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}));
  seen.key = tip.innerText;
  svg.dispatchEvent(new PointerEvent('pointerleave', {pointerType: 'mouse'}));
  seen.left = tip.hidden;
  const curves = () => chart.querySelectorAll('path.curve').length;
  const before = curves();
  chart.querySelector('.legend button').click();
  seen.curves = [before, curves()];
  const text = () => [...chart.querySelectorAll('svg text')].map((t) => t.textContent);
  const select = document.querySelector('select.unit');
  select.value = 'images';
  select.dispatchEvent(new Event('change'));
  seen.unit = text().at(-1);
  chart.querySelector('.head button').click();
  seen.log = chart.querySelector('.head button').getAttribute('aria-pressed');
  const panels = [...document.querySelectorAll('figure.panels')];
  const state = () => panels.map((p) => p.querySelector('output').textContent);
  seen.panelsAtFirst = state();
  const input = panels[0].querySelector('input'), image = panels[0].querySelector('img');
  const source = image.src;
  input.value = 1;
  input.dispatchEvent(new Event('input'));
  seen.slid = state();
  seen.imageChanged = image.src !== source && image.src.startsWith('data:image/webp');
  seen.other = [panels[1].querySelector('input').value, image.alt];
  seen.wide = document.documentElement.scrollWidth <= document.documentElement.clientWidth;
  seen.errors = window.errors;
  document.getElementById('seen').textContent = JSON.stringify(seen);
});
</script>
"""
WATCH = '<script>errors = []; onerror = (message) => errors.push(message);</script>'
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
# What a stranger writes into names and texts; PORT is of a server that nobody should ask.
EVIL = (
    """a"'>--></title></style></pre></script><script>pwned = 1</script>"""
    '<img src=x onerror="pwned = 1"><svg onload="pwned = 1"><details open ontoggle="pwned = 1">'
    '<a href="javascript:pwned = 1">x</a><img src="http://127.0.0.1:PORT/image">'
    '<iframe src="http://127.0.0.1:PORT/frame"></iframe><link rel="stylesheet" href='
    '"http://127.0.0.1:PORT/style"><script src="http://127.0.0.1:PORT/code"></script>'
    '{{ 7 * 7 }}${alert(1)}\u202egnp.\u2066\x1b[31m\x1b]0;title\x07\x00\r\u2028end'
)
LEAVING = '<meta http-equiv="refresh" content="0;url=http://127.0.0.1:PORT/page"><base href=//x>'
LONG = 'long' * 25_000
# Moves over every chart, clicks what strangers named, and writes down what has happened.
GUARD = """
<pre id="seen"></pre>
<script>
addEventListener('load', () => setTimeout(() => {
  for (const svg of document.querySelectorAll('figure.chart svg')) {
    const box = svg.getBoundingClientRect();
    const place = {clientX: box.right - 1, clientY: box.top + 50};
    svg.dispatchEvent(new PointerEvent('pointermove', place));
  }
  document.querySelectorAll('main a').forEach((link) => link.click());
  const all = [...document.querySelectorAll('*')], root = document.documentElement;
  const seen = {pwned: window.pwned ?? null, ready: root.dataset.ready, errors, said};
  seen.wide = root.scrollWidth <= root.clientWidth;
  seen.handlers = all.flatMap((node) => node.getAttributeNames()).filter((n) => /^on/.test(n));
  seen.tags = [...new Set(all.map((node) => node.localName))];
  seen.loads = performance.getEntriesByType('resource').map((each) => each.name);
  seen.loads = seen.loads.filter((name) => !name.startsWith('data:'));
  seen.text = root.innerText;
  document.getElementById('seen').textContent = JSON.stringify(seen);
}, 300));
</script>
"""
HEARD = """<script>
said = []; alert = confirm = prompt = open = (...what) => said.push(what);
</script>"""


def browser() -> str | None:
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def visit(page: Path, profile: Path, *flags: str) -> str:
    command = [browser(), *FLAGS, *flags, f'--user-data-dir={profile}', page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def with_scripts(page: str, first: str, last: str) -> str:
    """The page with scripts that count as its own."""
    nonce = re.search(r'<script nonce="(\w+)">', page)
    first, last = (x.replace('<script>', nonce[0]) if nonce else x for x in (first, last))
    head, tail = page.split('<body>', 1)
    body, end = tail.rsplit('</body>', 1)
    return f'{head}<body>{first}{body}{last}</body>{end}'


def seen_on(shown: str) -> dict:
    return json.loads(unescape(re.findall(r'<pre id="seen">(.*?)</pre>', shown, re.S)[-1]))


@pytest.fixture
def asked():
    """A server: its port, and the paths it was asked for."""
    paths = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, paths
        server.shutdown()
        thread.join()


def strangers_run(folder: Path, port: int) -> tuple[Path, str]:
    """A work dir in which every text is hostile, or very long; what they say."""
    evil = EVIL.replace('PORT', str(port))
    rows = train_rows(0, 100)
    for row in rows:
        row |= {f'{evil}loss': 1.0, f'grad/segment_{evil}': 2.0, f'grad/segment_{"7" * 5000}': 1.0}
        row |= {evil: 1.0, f'recon/{LONG}': 2.0, LONG: 3.0} if 'recon/error' in row else {}
    rows[3]['loss'] = float('nan')  # a warning with the name
    name = """<img src=x onerror="pwned = 1">'"\u202e\x1b[31m\n\udcff"""
    log = add_start(folder / name, '20260101_100000', rows, model=evil)
    record = json.loads((log / 'run.json').read_text())
    for key in ('config', 'command', 'encoder', 'hardware', 'cpu', 'precision', 'python'):
        record[key] = f'{evil} {LONG}'
    record |= dict(git=dict(commit=evil, branch=evil, changed=[]), versions={evil: LONG})
    (log / 'run.json').write_text(json.dumps(record))
    leaving = LEAVING.replace('PORT', str(port))
    (log / 'vis_data/config.py').write_text(f'x = "{evil}{leaving}"\n{LONG}\n')
    tested = log.parent / '20260103_100000'
    tested.mkdir()
    (tested / 'run.json').write_text(json.dumps(dict(kind='test', checkpoint=evil)))
    (tested / '20260103_100000.json').write_text(json.dumps({f'{evil}/top1': 1.0}))
    probed = [dict(label=each, block=1, knn=5.0, pool=evil) for each in (evil, LONG)]
    summary = [dict(sentence=each) for each in (evil, LONG, leaving)]
    (log.parent / 'depth.json').write_text(json.dumps(dict(rows=probed, summary=summary)))
    Image.new('RGB', (8, 8)).save(log.parent / '"><svg onload=pwned=1>\u202e.png')
    return log.parent, evil


NEEDS_BROWSER = pytest.mark.skipif(
    browser() is None, reason=f'no browser: none of {", ".join(BROWSERS)}'
)


@NEEDS_BROWSER
@pytest.mark.parametrize('policy', [True, False], ids=['policy', 'escapes alone'])
def test_hostile_text_is_text(tmp_path, asked, policy):
    """No script runs, nothing is asked for, nothing is wider than the page."""
    run, evil = strangers_run(tmp_path, asked[0])
    page = write_report(run, tmp_path / 'r.html')
    text = page.read_text()
    assert len(POLICY.findall(text)) == 1
    text = text if policy else POLICY.sub('', text)
    page.write_text(with_scripts(text, WATCH + HEARD, GUARD))
    seen = seen_on(visit(page, tmp_path / 'profile'))
    assert (seen['pwned'], seen['errors'], seen['said'], seen['handlers']) == (None, [], [], [])
    assert seen['loads'] == [] and asked[1] == []
    assert re.fullmatch(r'\d\d charts, 1 sliders', seen['ready'])
    assert not {'iframe', 'base', 'object', 'embed', 'form'} & set(seen['tags'])
    assert seen['wide']
    plain, *_ = evil.partition('\u202e')
    escaped = r'\u202egnp.\u2066\x1b[31m\x1b]0;title\x07\x00'
    assert seen['text'].count(plain + escaped) > 15
    assert not re.search('[\x00-\x08\x0e-\x1f\u2028-\u202e\u2066-\u2069]', seen['text'])
    assert LONG in seen['text']


@NEEDS_BROWSER
@pytest.mark.parametrize('policy', [True, False], ids=['policy', 'nothing'])
def test_without_escapes_only_the_policy_is_left(tmp_path, monkeypatch, asked, policy):
    """The same text as HTML: it asks the server, but where the page's policy forbids it."""
    environment = jinja2.Environment
    unescaped = lambda **given: environment(**given | dict(autoescape=False))  # noqa: E731
    run, _ = strangers_run(tmp_path, asked[0])
    monkeypatch.setattr(jinja2, 'Environment', unescaped)
    page = write_report(run, tmp_path / 'r.html')
    text = page.read_text().replace('http-equiv="refresh"', '')  # no policy hinders leaving
    page.write_text(text if policy else POLICY.sub('', text))
    shown = visit(page, tmp_path / 'profile')
    assert '<img src="x" onerror="pwned = 1"' in shown
    assert ({'/image', '/code', '/frame'} & set(asked[1]) == set()) is policy


@NEEDS_BROWSER
def test_hover_slider_and_switches(tmp_path):
    rows = train_rows(0, 100)
    rows[4]['loss'] = float('nan')
    add_start(tmp_path / 'one', '20260101_100000', rows)
    add_start(tmp_path / 'two', '20260102_100000', train_rows(0, 100, loss=2.0))
    page = write_report([tmp_path / 'one', tmp_path / 'two'], tmp_path / 'r.html')
    text = page.read_text()
    page.write_text(with_scripts(text, WATCH, VISITOR))
    seen = seen_on(visit(page, tmp_path / 'profile'))
    assert seen['errors'] == []
    assert seen['ready'] == f'{text.count("data-chart=")} charts, 2 sliders'
    assert seen['hiddenAtFirst'] and seen['left']
    hidden, told = seen['hover']
    assert not hidden
    assert told.split('\n')[0] == 'iteration 100'
    assert re.search(r'one\s+1$', told, re.M) and re.search(r'two, held out\s+2.2', told)
    assert seen['key'].startswith('iteration 90')
    assert seen['curves'] == [4, 3]
    assert seen['unit'] == 'images seen'
    assert seen['log'] == 'true'
    assert seen['panelsAtFirst'] == ['iteration 100', 'iteration 100']
    assert seen['slid'] == ['iteration 40', 'iteration 40']
    assert seen['imageChanged']
    assert seen['other'] == ['1', 'Panel of one at iteration 40']
    assert seen['wide']
    assert seen['bad'] == 1
