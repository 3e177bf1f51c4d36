'use strict';
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const M = {left: 54, right: 14, top: 8}, HEIGHT = 230, FOOT = 200;
  let unit = 'iteration';

  const maker = (namespace) => (tag, attributes = {}, ...children) => {
    const node = document.createElementNS(namespace, tag);
    for (const name in attributes) node.setAttribute(name, attributes[name]);
    node.append(...children);
    return node;
  };
  const html = maker(document.documentElement.namespaceURI), svg = maker('http://www.w3.org/2000/svg');
  const number = (v) => {
    if (v === null) return 'not finite';
    const size = Math.abs(v);
    if (size && (size >= 1e7 || size < 1e-3)) return v.toExponential(2).replace('e+', 'e');
    return size >= 1000 ? Math.round(v).toLocaleString('en-US') : String(+v.toPrecision(4));
  };
  const compact = new Intl.NumberFormat('en-US', {notation: 'compact', maximumSignificantDigits: 4});
  const short = (v) => (v && Math.abs(v) < 1e-3 ? v.toExponential(1).replace('.0', '') : compact.format(v || 0));
  const ticks = (low, high, wanted) => {
    const raw = (high - low) / Math.max(wanted, 1) || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw * 0.999), found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step);
    return found;
  };
  const logTicks = (low, high) => {
    if (high - low > 3) return ticks(low, high, 5);
    const factors = high - low > 1 ? [1, 3] : [1, 2, 3, 5, 7], found = [];
    for (let e = Math.floor(low); e <= high; e++) found.push(...factors.map((f) => e + Math.log10(f)));
    return found.filter((at) => at >= low && at <= high);
  };
  const span = (values) => [Math.min(...values), Math.max(...values)];
  const nearest = (values, to) =>
    values.reduce((best, v, i) => (Math.abs(v - to) < Math.abs(values[best] - to) ? i : best), 0);

  function chart(figure) {
    const spec = data.charts[+figure.dataset.chart], hidden = new Set();
    let log = spec.log, at = null, width, lines, px, py, cursor;
    const byImages = () => unit === 'images' && spec.x === 'iteration';
    const dot = (parent, [cx, cy], r, style) => parent.append(svg('circle', {class: 'dot', r, cx, cy, style}));
    const steps = () => [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    const style = (series) => `--c: var(--${series.colour})`;
    const toggle = (pressed, change, ...children) => {
      const button = html('button', {type: 'button', 'aria-pressed': pressed}, ...children);
      button.onclick = () => {
        pressed = !pressed;
        button.setAttribute('aria-pressed', pressed);
        change(pressed);
        draw();
      };
      return button;
    };
    figure.querySelector('.head').append(toggle(log, (on) => { log = on; }, 'log'));
    figure.querySelector('.legend').append(...spec.series.map((series) => {
      const mark = html('i', {class: series.dash ? 'dash' : '', style: style(series)});
      return html('li', {}, toggle(true, (on) => hidden[on ? 'delete' : 'add'](series), mark, series.name));
    }));
    const label = spec.title + ': a chart; arrow keys move along it';
    const picture = svg('svg', {height: HEIGHT, role: 'img', tabindex: 0, 'aria-label': label});
    const tip = html('div', {class: 'tip', role: 'status', hidden: ''});
    figure.append(picture, tip);
    const add = (...parts) => picture.appendChild(svg(...parts));

    function draw() {
      width = Math.max(figure.clientWidth - 28, 200);
      lines = spec.series.filter((series) => !hidden.has(series)).map((series) => {
        const k = byImages() ? data.runs[series.run].images_per_iteration || 1 : 1;
        const y = series.y.map((v) => (v === null || (log && v <= 0) ? null : log ? Math.log10(v) : v));
        return {...series, values: series.y, x: series.x.map((x) => x * k), y, style: style(series)};
      });
      picture.replaceChildren();
      picture.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
      if (!lines.length) return add('text', {x: M.left, y: HEIGHT / 2}, 'nothing to show');
      axes();
      for (const line of lines) {
        const points = line.x.map((x, i) => (line.y[i] === null ? null : [px(x), py(line.y[i])]));
        const d = points.map((p, i) => (p ? (points[i - 1] ? 'L' : 'M') + p.map((v) => v.toFixed(1)).join(' ') : ''));
        add('path', {class: line.dash ? 'curve dash' : 'curve', d: d.join(''), style: line.style});
        points.forEach((p, i) => {
          const ends = p && line.spread?.[i] ? [-1, 1].map((s) => line.values[i] + s * line.spread[i]) : [];
          if (ends.length && !(log && ends[0] <= 0)) add('path', {class: 'curve', d: `M${p[0]} ${ends.map((v) => py(log ? Math.log10(v) : v)).join('V')}`, style: line.style});
        });
        if (points.length <= 40) points.filter((p) => p).forEach((p) => dot(picture, p, 2.5, line.style));
        const bad = line.x.filter((_, i) => line.values[i] === null);
        bad.forEach((x) => add('path', {class: 'bad', d: `M${px(x) - 4} ${FOOT - 8}l8 8m0-8l-8 8`}));
      }
      cursor = add('g');
      if (at !== null) show(at);
    }
    function axes() {
      let [x0, x1] = span(lines.flatMap((line) => line.x));
      const bars = (line, i) => (log ? 0 : line.spread?.[i] || 0);
      const ends = (line) => line.y.flatMap((y, i) => (y === null ? [] : [y - bars(line, i), y + bars(line, i)]));
      let [y0, y1] = span(lines.flatMap(ends));
      if (!isFinite(y0)) [y0, y1] = [0, 1];
      if (x0 === x1) [x0, x1] = [x0 - 1, x1 + 1];
      const pad = (y1 - y0 || Math.abs(y1) || 1) * 0.05, right = width - M.right;
      [y0, y1] = [!log && y0 >= 0 && y0 < pad ? 0 : y0 - pad, y1 + pad];
      px = (x) => M.left + ((x - x0) / (x1 - x0)) * (right - M.left);
      py = (y) => FOOT - ((y - y0) / (y1 - y0)) * (FOOT - M.top);
      for (const y of log ? logTicks(y0, y1) : ticks(y0, y1, 5)) {
        add('line', {x1: M.left, x2: right, y1: py(y), y2: py(y)});
        add('text', {x: M.left - 6, y: py(y) + 4, 'text-anchor': 'end'}, short(log ? 10 ** y : y));
      }
      const middle = {y: FOOT + 15, 'text-anchor': 'middle'};
      const most = Math.floor(width / 90), probed = steps().reverse(), every = Math.ceil(probed.length / most);
      const marks = spec.x === 'block' ? probed.filter((_, i) => i % every === 0) : ticks(x0, x1, most);
      for (const x of marks) add('text', {x: px(x), ...middle}, short(x));
      add('text', {x: right, y: HEIGHT - 2, 'text-anchor': 'end'}, byImages() ? 'images seen' : spec.x);
    }
    function show(step) {
      at = step;
      const x = px(at);
      cursor.replaceChildren(svg('line', {class: 'cursor', x1: x, x2: x, y1: M.top, y2: FOOT}));
      const near = lines.map((line) => [line, nearest(line.x, at)]).filter(([line, i]) => Math.abs(px(line.x[i]) - x) <= 12);
      near.sort(([a, i], [b, j]) => (b.y[j] ?? Infinity) - (a.y[i] ?? Infinity));
      const rows = near.map(([line, i]) => {
        if (line.y[i] !== null) dot(cursor, [px(line.x[i]), py(line.y[i])], 4, line.style);
        const name = html('td', {}, html('span', {class: 'swatch', style: line.style}), line.name);
        return html('tr', {}, name, html('td', {}, number(line.values[i])));
      });
      const place = html('strong', {}, `${byImages() ? 'images' : spec.x} ${number(at)}`);
      tip.replaceChildren(place, html('table', {}, html('tbody', {}, ...rows)));
      tip.hidden = false;
      const left = x + 14 + tip.offsetWidth > width ? x - tip.offsetWidth + 4 : x + 24;
      tip.style.left = `${Math.max(left, 4)}px`;
    }
    const leave = () => { at = null; tip.hidden = true; cursor?.replaceChildren(); };
    picture.onpointermove = picture.onpointerdown = (event) => {
      const box = picture.getBoundingClientRect(), all = steps();
      if (all.length) show(all[nearest(all.map(px), ((event.clientX - box.left) / box.width) * width)]);
    };
    picture.onpointerleave = (event) => { if (event.pointerType === 'mouse') leave(); };
    picture.onblur = leave;
    picture.onkeydown = (event) => {
      const all = steps(), last = all.length - 1, now = at === null ? last : all.indexOf(at);
      const to = {ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last}[event.key];
      if (event.key === 'Escape') leave();
      if (to === undefined || !all.length) return;
      event.preventDefault();
      show(all[Math.min(Math.max(to, 0), last)]);
    };
    const redraw = () => { leave(); draw(); };
    new ResizeObserver(redraw).observe(figure);
    redraw();
    return redraw;
  }

  const charts = [...document.querySelectorAll('figure.chart')].map(chart);
  const selects = document.querySelectorAll('select.unit');
  selects.forEach((select) => select.addEventListener('change', () => {
    unit = select.value;
    selects.forEach((other) => { other.value = unit; });
    charts.forEach((redraw) => redraw());
  }));

  const sliders = [...document.querySelectorAll('figure.panels')].map((figure) => {
    const panels = data.panels[+figure.dataset.panels], steps = panels.map((panel) => panel.step);
    const [input, output, image] = ['input', 'output', 'img'].map((tag) => figure.querySelector(tag));
    const show = (step) => {
      const i = input.value = nearest(steps, step);
      image.src = panels[i].image;
      image.alt = `${image.dataset.alt} at iteration ${steps[i]}`;
      output.textContent = 'iteration ' + number(steps[i]);
    };
    input.addEventListener('input', () => sliders.forEach((each) => each(steps[+input.value])));
    show(steps.at(-1));
    return show;
  });
  document.documentElement.dataset.ready = `${charts.length} charts, ${sliders.length} sliders`;
})();
