'use strict';
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const M = {left: 54, right: 14, top: 8}, HEIGHT = 230, FOOT = 200;
  let unit = 'iteration';

  // --- pieces ------------------------------------------------------------------------------------

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
    if (size >= 1e7 || (size && size < 1e-3)) return v.toExponential(2).replace('e+', 'e');
    if (size >= 1000 || Number.isInteger(v)) return Math.round(v).toLocaleString('en-US');
    return String(+v.toPrecision(4));
  };
  const short = (v) => {
    const size = Math.abs(v);
    if (size && size < 1e-3) return v.toExponential(0).replace('e-', 'e−');
    const [scale, sign] = size >= 1e6 ? [1e6, ' M'] : size >= 1e4 ? [1e3, ' k'] : [1, ''];
    return +(v / scale).toPrecision(4) + sign;
  };
  const ticks = (low, high, wanted) => {
    const raw = (high - low) / Math.max(wanted, 1) || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw * 0.999), found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step);
    return found;
  };
  const logTicks = (low, high) => {
    const factors = high - low > 3 ? [1] : high - low > 1 ? [1, 3] : [1, 2, 3, 5, 7], found = [];
    const every = Math.max(1, Math.ceil((high - low) / 6));
    for (let e = Math.floor(low); e <= high; e++) if (e % every === 0) found.push(...factors.map((f) => e + Math.log10(f)));
    return found.filter((at) => at >= low - 1e-9 && at <= high + 1e-9);
  };
  const span = (values) => [Math.min(...values), Math.max(...values)];
  const nearest = (values, to) =>
    values.reduce((best, v, i) => (Math.abs(v - to) < Math.abs(values[best] - to) ? i : best), 0);

  // --- charts ------------------------------------------------------------------------------------

  function chart(figure) {
    const spec = data.charts[+figure.dataset.chart], hidden = new Set();
    let log = spec.log, at = null, width = 0, lines = [], px, py, cursor = svg('g');
    const byImages = () => unit === 'images' && spec.x === 'iteration';
    const dot = (parent, [cx, cy], r, style) => parent.append(svg('circle', {class: 'dot', r, cx, cy, style}));
    const steps = () => [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);

    const toggle = (pressed, change, attributes, ...children) => {
      const button = html('button', {type: 'button', 'aria-pressed': pressed, ...attributes}, ...children);
      button.onclick = () => {
        pressed = !pressed;
        button.setAttribute('aria-pressed', pressed);
        change(pressed);
        draw();
      };
      return button;
    };
    const title = {title: 'logarithmic scale'};
    figure.querySelector('.head').append(toggle(log, (on) => { log = on; }, title, 'log'));
    figure.querySelector('.legend').append(...spec.series.map((series, i) => {
      const mark = html('i', {class: series.dash ? 'dash' : '', style: `--c: var(--${series.colour})`});
      return html('li', {}, toggle(true, (on) => (on ? hidden.delete(i) : hidden.add(i)), {}, mark, series.name));
    }));
    const label = spec.title + ': a chart; arrow keys move along it';
    const picture = svg('svg', {height: HEIGHT, role: 'img', tabindex: 0, 'aria-label': label});
    const tip = html('div', {class: 'tip', role: 'status', hidden: ''});
    figure.append(picture, tip);

    function draw() {
      const before = width;
      width = Math.max(figure.clientWidth - 28, 200);
      if (width !== before) leave();
      lines = spec.series.filter((_, i) => !hidden.has(i)).map((series) => {
        const k = byImages() ? data.runs[series.run].images_per_iteration || 1 : 1;
        const y = series.y.map((v) => (v === null || (log && v <= 0) ? null : log ? Math.log10(v) : v));
        return {name: series.name, values: series.y, x: series.x.map((x) => x * k), y,
          dash: series.dash ? ' dash' : '', style: `--c: var(--${series.colour})`};
      });
      picture.replaceChildren();
      picture.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
      const add = (...parts) => picture.appendChild(svg(...parts));
      if (!lines.length) return add('text', {x: M.left, y: HEIGHT / 2}, 'nothing to show');
      axes(add);
      for (const line of lines) {
        const points = line.x.map((x, i) => (line.y[i] === null ? null : [px(x), py(line.y[i])]));
        const d = points.map((p, i) => (p ? (points[i - 1] ? 'L' : 'M') + p.map((v) => v.toFixed(1)).join(' ') : ''));
        add('path', {class: 'curve' + line.dash, d: d.join(''), style: line.style});
        if (points.length <= 40) points.filter((p) => p).forEach((p) => dot(picture, p, 2.5, line.style));
        line.values.forEach((v, i) => {
          if (v !== null) return;
          const mark = svg('title', {}, line.name + ': not finite');
          add('path', {class: 'bad', d: `M${px(line.x[i]) - 4} ${FOOT - 8}l8 8m0-8l-8 8`}, mark);
        });
      }
      cursor = add('g');
      if (at !== null) show(at);
    }
    function axes(add) {
      let [x0, x1] = span(lines.flatMap((line) => line.x));
      let [y0, y1] = span(lines.flatMap((line) => line.y.filter((y) => y !== null)));
      if (!isFinite(y0)) [y0, y1] = [0, 1];
      if (x0 === x1) [x0, x1] = [x0 - 1, x1 + 1];
      const pad = (y1 - y0 || Math.abs(y1) || 1) * 0.05;
      [y0, y1] = [!log && y0 >= 0 && y0 < pad ? 0 : y0 - pad, y1 + pad];
      const right = width - M.right;
      px = (x) => M.left + ((x - x0) / (x1 - x0)) * (right - M.left);
      py = (y) => FOOT - ((y - y0) / (y1 - y0)) * (FOOT - M.top);
      for (const y of log ? logTicks(y0, y1) : ticks(y0, y1, 5)) {
        add('line', {class: 'gridline', x1: M.left, x2: right, y1: py(y), y2: py(y)});
        add('text', {x: M.left - 6, y: py(y) + 4, 'text-anchor': 'end'}, short(log ? 10 ** y : y));
      }
      for (const x of ticks(x0, x1, Math.floor(width / 90))) {
        add('text', {x: px(x), y: FOOT + 15, 'text-anchor': 'middle'}, short(x));
      }
      add('line', {class: 'axis', x1: M.left, x2: right, y1: FOOT, y2: FOOT});
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
      const place = `${byImages() ? 'images' : spec.x} ${number(at)}`;
      tip.replaceChildren(html('strong', {}, place), html('table', {}, html('tbody', {}, ...rows)));
      tip.hidden = false;
      const left = x + 14 + tip.offsetWidth > width ? x - tip.offsetWidth + 4 : x + 24;
      tip.style.left = `${Math.max(left, 4)}px`;
    }
    function leave() {
      at = null;
      tip.hidden = true;
      cursor.replaceChildren();
    }
    function point(event) {
      const box = picture.getBoundingClientRect(), all = steps();
      if (all.length) show(all[nearest(all.map(px), ((event.clientX - box.left) / box.width) * width)]);
    }
    picture.addEventListener('pointermove', point);
    picture.addEventListener('pointerdown', point);
    picture.addEventListener('pointerleave', (event) => { if (event.pointerType === 'mouse') leave(); });
    picture.addEventListener('blur', leave);
    picture.addEventListener('keydown', (event) => {
      const all = steps(), last = all.length - 1, now = at === null ? last : all.indexOf(at);
      const to = {ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last}[event.key];
      if (event.key === 'Escape') leave();
      if (to === undefined || !all.length) return;
      event.preventDefault();
      show(all[Math.min(Math.max(to, 0), last)]);
    });
    new ResizeObserver(draw).observe(figure);
    draw();
    return {draw, leave};
  }

  const charts = [...document.querySelectorAll('figure.chart')].map(chart);
  const selects = document.querySelectorAll('select.unit');
  selects.forEach((select) => select.addEventListener('change', () => {
    unit = select.value;
    selects.forEach((other) => { other.value = unit; });
    charts.forEach((each) => { each.leave(); each.draw(); });
  }));

  // --- panels ------------------------------------------------------------------------------------

  const sliders = [...document.querySelectorAll('figure.panels')].map((figure) => {
    const panels = data.panels[+figure.dataset.panels], steps = panels.map((panel) => panel.step);
    const [input, output, image] = ['input', 'output', 'img'].map((tag) => figure.querySelector(tag));
    const show = (i) => {
      input.value = i;
      image.src = panels[i].image;
      image.alt = `${image.dataset.alt} at iteration ${steps[i]}`;
      output.textContent = 'iteration ' + number(steps[i]);
    };
    input.addEventListener('input', () => {
      const i = +input.value, together = document.getElementById('together')?.checked;
      show(i);
      for (const other of together ? sliders : []) if (other.show !== show) other.show(nearest(other.steps, steps[i]));
    });
    show(+input.value);
    return {steps, show};
  });
  document.documentElement.dataset.ready = `${charts.length} charts, ${sliders.length} sliders`;
})();
