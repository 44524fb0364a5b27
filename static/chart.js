// Line charts as SVG: metrics per epoch, loss per batch, and learning-rate range tests.

import { h, svg } from './dom.js';

const WIDTH = 420;
const WIDE = 880;
const HEIGHT = 232;
const LEFT = 40;
const RIGHT = 12;
const TOP = 18;
const BOTTOM = 36;

/**
 * `series`: [{name, label, values}]; `steps`: [{epochs, label}]; `best`: index of the best epoch;
 * `domain`: [low, high], or absent to scale from 0 to the maximum; `hint`: sentence that says where to read the values.
 */
export function chart({ title, series, steps, best, domain, format, hint = ' The table below lists every epoch.' }) {
  const length = Math.max(...series.map((line) => line.values.length));
  const planned = steps.reduce((sum, step) => sum + step.epochs, 0);
  const x = scale([1, Math.max(planned, length, 2)], [LEFT + 8, WIDTH - RIGHT - 8]);
  const ticks = axisTicks(domain ?? reach(series));
  const y = scale([ticks[0], ticks.at(-1)], [HEIGHT - BOTTOM, TOP]);
  const drawing = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': summary(title, series, format) + hint, class: 'chart' },
    ...ticks.map((value) => horizontal(value, y, format)),
    ...stepMarks(steps, x),
    ...epochTicks(Math.max(planned, length), x),
    svg('text', { class: 'axis-name', x: WIDTH - RIGHT, y: HEIGHT - 4, 'text-anchor': 'end' }, 'epoch'),
    ...series.map((line) => curve(line, x, y)),
    ...series.flatMap((line) => points(line, x, y, format)),
    best >= 0 && bestMark(series.at(-1), best, x, y));
  return h('figure', { class: 'curve', 'data-chart': title },
    h('figcaption', {}, h('span', { class: 'curve-title' }, title), legend(series, best >= 0)), drawing);
}

/** Loss per batch, `points`: [{step, stage, loss}], with a vertical rule at the start of each stage. */
export function trace({ title, points, format }) {
  const last = points.at(-1);
  const x = scale([1, Math.max(last.step, 2)], [LEFT + 8, WIDE - RIGHT - 8]);
  const ticks = axisTicks([0, Math.max(...points.map(({ loss }) => loss), 1e-6)]);
  const y = scale([ticks[0], ticks.at(-1)], [HEIGHT - BOTTOM, TOP]);
  const label = `${title} over ${last.step} batches: ${format(points[0].loss)} to ${format(last.loss)}.`;
  const drawing = svg('svg', { viewBox: `0 0 ${WIDE} ${HEIGHT}`, role: 'img', 'aria-label': label, class: 'chart' },
    ...ticks.map((value) => horizontal(value, y, String, WIDE)),
    ...stageMarks(points, x),
    ...axisTicks([0, Math.max(last.step, 2)]).filter((step) => step >= 1 && step <= last.step && Number.isInteger(step))
      .map((step) => below(step, x)),
    svg('text', { class: 'axis-name', x: WIDE - RIGHT, y: HEIGHT - 4, 'text-anchor': 'end' }, 'batch'),
    svg('path', { class: 'line batches', d: through(points.map(({ step, loss }) => [x(step), y(loss)])) }),
    svg('g', { class: 'point batches' },
      svg('title', {}, `Batch ${last.step}: ${format(last.loss)}`),
      svg('circle', { class: 'reach', cx: round(x(last.step)), cy: round(y(last.loss)), r: 9 }),
      svg('circle', { class: 'dot', cx: round(x(last.step)), cy: round(y(last.loss)), r: 2.4 })));
  return h('figure', { class: 'curve', 'data-chart': title },
    h('figcaption', {}, h('span', { class: 'curve-title' }, title), h('span', { class: 'latest' }, `batch ${last.step}: ${format(last.loss)}`)), drawing);
}

/** Learning-rate range test, `curve`: [{learning_rate, loss}]: loss over a logarithmic axis of learning rates, with a marker at `chosen`. */
export function sweep({ title, curve, chosen, format, rate }) {
  const decade = ({ learning_rate: one }) => Math.log10(one);
  const x = scale([decade(curve[0]), decade(curve.at(-1))], [LEFT + 8, WIDTH - RIGHT - 8]);
  const losses = curve.map(({ loss }) => loss);
  const ticks = axisTicks([0, Math.max(...losses, 1e-6)]);
  const y = scale([ticks[0], ticks.at(-1)], [HEIGHT - BOTTOM, TOP]);
  const selected = curve.find(({ learning_rate: one }) => one === chosen);
  const label = `${title}: loss ${format(losses[0])} at ${rate(curve[0].learning_rate)}, lowest ${format(Math.min(...losses))}, `
    + `${format(losses.at(-1))} at ${rate(curve.at(-1).learning_rate)}${selected ? `; ${rate(chosen)} selected` : ''}.`;
  const drawing = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': label, class: 'chart' },
    ...ticks.map((value) => horizontal(value, y, String)),
    ...powersOfTen(curve).map((power) => below(power, x, rate(10 ** power))),
    svg('text', { class: 'axis-name', x: WIDTH - RIGHT, y: HEIGHT - 4, 'text-anchor': 'end' }, 'learning rate'),
    svg('path', { class: 'line batches', d: through(curve.map((at) => [x(decade(at)), y(at.loss)])) }),
    selected && svg('circle', { class: 'best', cx: round(x(decade(selected))), cy: round(y(selected.loss)), r: 5.5 }));
  return h('figure', { class: 'curve', 'data-chart': title },
    h('figcaption', {}, h('span', { class: 'curve-title' }, title), h('span', { class: 'latest' }, selected ? `selected: ${rate(chosen)}` : 'none selected')), drawing);
}

/** Exponents of the powers of ten within the range of a test, at most eight. */
function powersOfTen(curve) {
  const [first, last] = [curve[0], curve.at(-1)].map(({ learning_rate: one }) => Math.log10(one));
  const powers = Array.from({ length: Math.max(0, Math.floor(last) - Math.ceil(first) + 1) }, (_, i) => Math.ceil(first) + i);
  return powers.filter((_, i) => i % Math.ceil(powers.length / 8) === 0);
}

function stageMarks(points, x) {
  return points.filter(({ stage }, i) => stage !== points[i - 1]?.stage).map(({ stage, step }, i) => {
    const at = i === 0 ? LEFT : round(x(step));
    return svg('g', { class: 'step-mark' },
      i > 0 && svg('path', { d: `M${at} ${TOP}V${HEIGHT - BOTTOM}` }),
      svg('text', { x: at + 4, y: TOP - 6 }, `stage ${stage}`));
  });
}

function below(value, x, text = String(value)) {
  return svg('g', { class: 'tick' },
    svg('text', { x: round(x(value)), y: HEIGHT - BOTTOM + 15, 'text-anchor': 'middle' }, text));
}

function legend(series, marked) {
  const sample = (name) => svg('svg', { class: `sample ${name}`, viewBox: '0 0 22 8', 'aria-hidden': 'true' },
    name === 'best' ? svg('circle', { cx: 11, cy: 4, r: 3.2 }) : svg('path', { d: 'M0 4H22' }));
  const entries = series.map(({ name, label }) => h('li', {}, sample(name), label));
  if (marked) entries.push(h('li', {}, sample('best'), 'best epoch'));
  return h('ul', { class: 'legend' }, ...entries);
}

function curve({ name, values }, x, y) {
  return svg('path', { class: `line ${name}`, d: through(values.map((value, i) => [x(i + 1), y(value)])) });
}

/** SVG path through a list of [x, y] points. */
function through(positions) {
  return positions.map(([x, y], i) => `${i ? 'L' : 'M'}${round(x)} ${round(y)}`).join('');
}

function points({ name, label, values }, x, y, format) {
  return values.map((value, i) => svg('g', { class: `point ${name}` },
    svg('title', {}, `Epoch ${i + 1}, ${label}: ${format(value)}`),
    svg('circle', { class: 'reach', cx: round(x(i + 1)), cy: round(y(value)), r: 9 }),
    svg('circle', { class: 'dot', cx: round(x(i + 1)), cy: round(y(value)), r: 2.4 })));
}

function bestMark({ values }, best, x, y) {
  return svg('circle', { class: 'best', cx: round(x(best + 1)), cy: round(y(values[best])), r: 5.5 });
}

function horizontal(value, y, format, width = WIDTH) {
  return svg('g', { class: 'tick' },
    svg('path', { d: `M${LEFT} ${round(y(value))}H${width - RIGHT}` }),
    svg('text', { x: LEFT - 6, y: round(y(value)) + 3.5, 'text-anchor': 'end' }, format(value, true)));
}

/** A vertical rule at the start of each step, labelled with what the step trains. */
function stepMarks(steps, x) {
  let first = 1;
  return steps.map(({ epochs, label }) => {
    const at = first === 1 ? LEFT : round(x(first - 0.5));
    first += epochs;
    return svg('g', { class: 'step-mark' },
      at > LEFT && svg('path', { d: `M${at} ${TOP}V${HEIGHT - BOTTOM}` }),
      svg('text', { x: at + 4, y: TOP - 6 }, label));
  });
}

function epochTicks(length, x) {
  const every = Math.max(1, Math.ceil(length / 12));
  return Array.from({ length }, (_, i) => i + 1)
    .filter((epoch) => (epoch - 1) % every === 0)
    .map((epoch) => below(epoch, x));
}

function scale([low, high], [from, to]) {
  return (value) => from + ((value - low) / (high - low || 1)) * (to - from);
}

function reach(series) {
  const finite = series.flatMap((line) => line.values).filter(Number.isFinite);
  return [0, Math.max(...finite, 1e-6)];
}

/** Four to six round tick values that enclose the domain. */
function axisTicks([low, high]) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const ticks = [];
  for (let i = Math.floor(low / step + 1e-9); ticks.length < 12; i += 1) {
    ticks.push(Number((i * step).toPrecision(6)));
    if (i * step >= high - step * 1e-9) break;
  }
  return ticks;
}

function summary(title, series, format) {
  const ends = series.map(({ label, values }) => `${label} ${format(values[0])} to ${format(values.at(-1))}`);
  const longest = Math.max(...series.map(({ values }) => values.length));
  return `${title} over ${longest} epochs: ${ends.join('; ')}.`;
}

const round = (value) => Math.round(value * 100) / 100;

/** A score with its interval on a line from 0 to 1, as in a forest plot. */
export function whisker({ value, low, high }, text) {
  if (!Number.isFinite(low) || !Number.isFinite(high)) return null;
  const at = (share) => round(2 + share * 96);
  return svg('svg', { class: 'whisker', viewBox: '0 0 100 10', role: 'img', 'aria-label': text, preserveAspectRatio: 'none' },
    svg('title', {}, text),
    svg('path', { class: 'ground', d: 'M2 5H98' }),
    svg('path', { class: 'span', d: `M${at(low)} 5H${at(high)}` }),
    svg('path', { class: 'middle', d: `M${at(value)} 1V9` }));
}
