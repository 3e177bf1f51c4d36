"""The report in a real browser, without a window: its script runs, hover and slider work."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

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


def browser() -> str | None:
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def visit(page: Path, profile: Path, *flags: str) -> str:
    command = [browser(), *FLAGS, *flags, f'--user-data-dir={profile}', page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.skipif(browser() is None, reason=f'no browser: none of {", ".join(BROWSERS)}')
def test_hover_slider_and_switches(tmp_path):
    rows = train_rows(0, 100)
    rows[4]['loss'] = float('nan')
    add_start(tmp_path / 'one', '20260101_100000', rows)
    add_start(tmp_path / 'two', '20260102_100000', train_rows(0, 100, loss=2.0))
    page = write_report([tmp_path / 'one', tmp_path / 'two'], tmp_path / 'r.html')
    text = page.read_text()
    head, tail = text.split('<body>')
    body, end = tail.rsplit('</body>', 1)
    page.write_text(f'{head}<body>{WATCH}{body}{VISITOR}</body>{end}')
    shown = visit(page, tmp_path / 'profile')
    seen = json.loads(unescape(re.search(r'<pre id="seen">(.*?)</pre>', shown, re.S)[1]))
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
