'use strict';
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const SVG = 'http://www.w3.org/2000/svg';
  const M = {left: 54, right: 14, top: 8, bottom: 30}, HEIGHT = 230;
  const runs = data.runs, charts = [];
  let unit = 'iteration';

  const svg = (tag, attributes, parent, text) => {
    const node = document.createElementNS(SVG, tag);
    for (const name in attributes) node.setAttribute(name, attributes[name]);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  };
  const html = (tag, properties, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const number = (v) => {
    if (v === null || !isFinite(v)) return 'not finite';
    const size = Math.abs(v);
    if (v === 0) return '0';
    if (size >= 1e7 || size < 1e-3) return v.toExponential(2).replace('e+', 'e');
    if (Number.isInteger(v)) return v.toLocaleString('en-US');
    return size >= 1000 ? Math.round(v).toLocaleString('en-US') : String(+v.toPrecision(4));
  };
  const short = (v) => {
    const size = Math.abs(v);
    if (size >= 1e6) return +(v / 1e6).toPrecision(3) + ' M';
    if (size >= 1e4) return +(v / 1e3).toPrecision(3) + ' k';
    if (size !== 0 && size < 1e-3) return v.toExponential(0).replace('e-', 'e−');
    return String(+v.toPrecision(4));
  };
  const ticks = (low, high, wanted) => {
    const raw = (high - low) / Math.max(wanted, 1) || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw * 0.999);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step);
    return found;
  };
  const logTicks = (low, high) => {
    const found = [];
    const factors = high - low > 3 ? [1] : high - low > 1 ? [1, 3] : [1, 2, 3, 5, 7];
    const every = Math.max(1, Math.ceil((high - low) / 6));
    for (let e = Math.floor(low); e <= Math.ceil(high); e++) {
      if (e % every) continue;
      for (const f of factors) {
        const at = e + Math.log10(f);
        if (at >= low - 1e-9 && at <= high + 1e-9) found.push(at);
      }
    }
    return found;
  };
  const span = (values) => {
    let low = Infinity, high = -Infinity;
    for (const v of values) if (v < low) { low = v; if (v > high) high = v; } else if (v > high) high = v;
    return [low, high];
  };

  class Chart {
    constructor(figure) {
      this.figure = figure;
      this.spec = data.charts[+figure.dataset.chart];
      this.log = this.spec.log;
      this.hidden = new Set();
      this.at = null;
      const button = html('button', {type: 'button', textContent: 'log'});
      button.title = 'logarithmic scale';
      button.setAttribute('aria-pressed', this.log);
      button.onclick = () => {
        this.log = !this.log;
        button.setAttribute('aria-pressed', this.log);
        this.draw();
      };
      figure.querySelector('.head').append(button);
      this.legend = figure.querySelector('.legend');
      this.spec.series.forEach((series, i) => {
        const mark = html('i', {className: series.dash ? 'dash' : ''});
        mark.style.setProperty('--c', `var(--${series.colour})`);
        const item = html('button', {type: 'button'}, mark, series.name);
        item.setAttribute('aria-pressed', true);
        item.onclick = () => {
          this.hidden.has(i) ? this.hidden.delete(i) : this.hidden.add(i);
          item.setAttribute('aria-pressed', !this.hidden.has(i));
          this.draw();
        };
        this.legend.append(html('li', {}, item));
      });
      this.svg = svg('svg', {height: HEIGHT, role: 'img', tabindex: 0}, figure);
      this.svg.setAttribute('aria-label', this.spec.title + ': a chart; arrow keys move along it');
      this.tip = html('div', {className: 'tip', hidden: true});
      this.tip.setAttribute('role', 'status');
      figure.append(this.tip);
      this.svg.addEventListener('pointermove', (e) => this.point(e));
      this.svg.addEventListener('pointerdown', (e) => this.point(e));
      this.svg.addEventListener('pointerleave', (e) => { if (e.pointerType === 'mouse') this.leave(); });
      this.svg.addEventListener('blur', () => this.leave());
      this.svg.addEventListener('keydown', (e) => this.key(e));
      new ResizeObserver(() => this.draw()).observe(figure);
      this.draw();
    }
    scaleOf(series) {
      return unit === 'images' && this.spec.x === 'iteration' ? runs[series.run].images_per_iteration || 1 : 1;
    }
    draw() {
      const width = Math.max(this.figure.clientWidth - 28, 200);
      if (width !== this.width) this.leave();
      this.width = width;
      this.svg.replaceChildren();
      this.svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
      const shown = this.spec.series.filter((_, i) => !this.hidden.has(i));
      const usable = (v) => v !== null && (!this.log || v > 0);
      const f = this.log ? Math.log10 : (v) => v;
      this.lines = shown.map((series) => {
        const k = this.scaleOf(series);
        return {series, x: series.x.map((x) => x * k), y: series.y.map((y) => (usable(y) ? f(y) : null))};
      });
      let [x0, x1] = span(this.lines.flatMap((l) => l.x));
      let [y0, y1] = span(this.lines.flatMap((l) => l.y.filter((y) => y !== null)));
      if (!isFinite(x0)) { svg('text', {x: M.left, y: HEIGHT / 2}, this.svg, 'nothing to show'); return; }
      if (!isFinite(y0)) [y0, y1] = [0, 1];
      if (x0 === x1) { x0 -= 1; x1 += 1; }
      const pad = (y1 - y0 || Math.abs(y1) || 1) * 0.05;
      y0 -= pad; y1 += pad;
      if (!this.log && y0 < 0 && y0 + pad >= 0) y0 = 0;
      this.px = (x) => M.left + ((x - x0) / (x1 - x0)) * (width - M.left - M.right);
      this.py = (y) => HEIGHT - M.bottom - ((y - y0) / (y1 - y0)) * (HEIGHT - M.top - M.bottom);
      for (const y of this.log ? logTicks(y0, y1) : ticks(y0, y1, 5)) {
        const at = this.py(y);
        svg('line', {class: 'gridline', x1: M.left, x2: width - M.right, y1: at, y2: at}, this.svg);
        svg('text', {x: M.left - 6, y: at + 4, 'text-anchor': 'end'}, this.svg, short(this.log ? 10 ** y : y));
      }
      for (const x of ticks(x0, x1, Math.floor(width / 90))) {
        svg('text', {x: this.px(x), y: HEIGHT - M.bottom + 15, 'text-anchor': 'middle'}, this.svg, short(x));
      }
      svg('line', {class: 'axis', x1: M.left, x2: width - M.right, y1: HEIGHT - M.bottom, y2: HEIGHT - M.bottom}, this.svg);
      const label = this.spec.x === 'iteration' && unit === 'images' ? 'images seen' : this.spec.x;
      svg('text', {x: width - M.right, y: HEIGHT - 2, 'text-anchor': 'end'}, this.svg, label);
      for (const line of this.lines) {
        let path = '', open = false;
        line.x.forEach((x, i) => {
          const y = line.y[i];
          if (y === null) { open = false; return; }
          path += `${open ? 'L' : 'M'}${this.px(x).toFixed(1)} ${this.py(y).toFixed(1)}`;
          open = true;
        });
        const style = `--c: var(--${line.series.colour})`;
        svg('path', {class: 'curve' + (line.series.dash ? ' dash' : ''), d: path, style}, this.svg);
        if (line.x.length <= 40) {
          line.x.forEach((x, i) => {
            if (line.y[i] !== null) svg('circle', {class: 'dot', r: 2.5, cx: this.px(x), cy: this.py(line.y[i]), style}, this.svg);
          });
        }
        line.series.y.forEach((y, i) => {
          if (y !== null) return;
          const x = this.px(line.x[i]), b = HEIGHT - M.bottom;
          const mark = svg('path', {class: 'bad', d: `M${x - 4} ${b - 8}l8 8m0-8l-8 8`}, this.svg);
          svg('title', {}, mark, `${line.series.name}: not finite`);
        });
      }
      this.cursor = svg('g', {}, this.svg);
      if (this.at !== null) this.show(this.at);
    }
    steps() {
      return [...new Set(this.lines.flatMap((l) => l.x))].sort((a, b) => a - b);
    }
    point(event) {
      if (!this.px) return;
      const box = this.svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * this.width;
      let nearest = null;
      for (const at of this.steps()) {
        if (nearest === null || Math.abs(this.px(at) - x) < Math.abs(this.px(nearest) - x)) nearest = at;
      }
      if (nearest !== null) this.show(nearest);
    }
    key(event) {
      const steps = this.px ? this.steps() : [];
      if (!steps.length) return;
      const now = this.at === null ? steps.length - 1 : steps.indexOf(this.at);
      const to = {ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: steps.length - 1}[event.key];
      if (event.key === 'Escape') this.leave();
      if (to === undefined) return;
      event.preventDefault();
      this.show(steps[Math.min(Math.max(to, 0), steps.length - 1)]);
    }
    show(at) {
      this.at = at;
      this.cursor.replaceChildren();
      const x = this.px(at), body = html('tbody', {}), rows = [];
      svg('line', {class: 'cursor', x1: x, x2: x, y1: M.top, y2: HEIGHT - M.bottom}, this.cursor);
      for (const line of this.lines) {
        let i = 0;
        line.x.forEach((value, k) => { if (Math.abs(value - at) < Math.abs(line.x[i] - at)) i = k; });
        if (!line.x.length || Math.abs(this.px(line.x[i]) - x) > 12) continue;
        rows.push([line, i]);
        if (line.y[i] !== null) {
          svg('circle', {class: 'dot', r: 4, cx: this.px(line.x[i]), cy: this.py(line.y[i]), style: `--c: var(--${line.series.colour})`}, this.cursor);
        }
      }
      rows.sort(([a, i], [b, j]) => (b.y[j] ?? Infinity) - (a.y[i] ?? Infinity));
      for (const [line, i] of rows) {
        const mark = html('span', {className: 'swatch'});
        mark.style.setProperty('--c', `var(--${line.series.colour})`);
        body.append(html('tr', {}, html('td', {}, mark, line.series.name), html('td', {}, number(line.series.y[i]))));
      }
      const label = this.spec.x === 'iteration' && unit === 'images' ? 'images' : this.spec.x;
      this.tip.replaceChildren(html('strong', {}, `${label} ${number(at)}`), html('table', {}, body));
      this.tip.hidden = false;
      const left = x + 14 + this.tip.offsetWidth > this.width ? x - this.tip.offsetWidth + 4 : x + 24;
      this.tip.style.left = `${Math.max(left, 4)}px`;
      this.tip.style.top = `${this.svg.offsetTop + M.top}px`;
    }
    leave() {
      this.at = null;
      this.tip.hidden = true;
      if (this.cursor) this.cursor.replaceChildren();
    }
  }

  document.querySelectorAll('figure.chart').forEach((figure) => charts.push(new Chart(figure)));
  document.querySelectorAll('select.unit').forEach((select) => {
    select.onchange = () => {
      unit = select.value;
      document.querySelectorAll('select.unit').forEach((other) => { other.value = unit; });
      charts.forEach((chart) => { chart.leave(); chart.draw(); });
    };
  });

  const sliders = [...document.querySelectorAll('figure.panels')].map((figure) => {
    const panels = data.panels[+figure.dataset.panels];
    const input = figure.querySelector('input'), output = figure.querySelector('output');
    const image = figure.querySelector('img');
    const show = (i) => {
      input.value = i;
      image.src = panels[i].image;
      image.alt = image.dataset.alt + ' at iteration ' + panels[i].step;
      output.textContent = 'iteration ' + number(panels[i].step);
    };
    const slider = {panels, show};
    input.addEventListener('input', () => {
      const at = panels[+input.value].step;
      show(+input.value);
      if (!document.getElementById('together')?.checked) return;
      for (const other of sliders) {
        if (other === slider) continue;
        const gaps = other.panels.map((p) => Math.abs(p.step - at));
        other.show(gaps.indexOf(Math.min(...gaps)));
      }
    });
    show(+input.value);
    return slider;
  });
  document.documentElement.dataset.ready = `${charts.length} charts, ${sliders.length} sliders`;
})();
