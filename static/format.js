// Formatting of numbers, times and names.

import { h } from './dom.js';

const DASH = '–';

/** 0.9457 */
export function score(value, digits = 3) {
  return Number.isFinite(value) ? value.toFixed(digits) : DASH;
}

/** A score may be a number or `{value, low, high}`. */
export function estimate(given, interval) {
  if (given !== null && typeof given === 'object') return { value: given.value, low: given.low, high: given.high };
  return { value: given, low: interval?.low, high: interval?.high };
}

/** "0.042", "< 0.001"; the server formats p-values the same way. */
export function pValue(p) {
  return p < 0.001 ? '< 0.001' : p.toFixed(3);
}

export function count(value) {
  return Number.isFinite(value) ? value.toLocaleString('en') : DASH;
}

export function percent(share, digits = 0) {
  return Number.isFinite(share) ? `${(share * 100).toFixed(digits)} %` : DASH;
}

/** 1e-3 */
export function rate(value) {
  return Number.isFinite(value) ? value.toExponential().replace('e-0', 'e-') : DASH;
}

/** 3 h 20 min, 4 min 10 s, 9.5 s */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return DASH;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function milliseconds(value) {
  if (!Number.isFinite(value)) return DASH;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}

export function size(bytes) {
  if (!Number.isFinite(bytes)) return DASH;
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(0)} kB`;
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** `plural(3, 'image')` is "3 images". */
export function plural(number, noun, many = `${noun}s`) {
  return `${count(number)} ${number === 1 ? noun : many}`;
}

/** A `<time>` element in the reader's time zone. */
export function when(timestamp) {
  if (!timestamp) return DASH;
  const date = new Date(timestamp);
  const text = date.toLocaleString('en-GB', { dateStyle: 'medium', timeStyle: 'short' });
  return h('time', { datetime: timestamp, title: timestamp }, text);
}

/** Seconds from `from` to `to`, or to now. */
export function elapsed(from, to) {
  if (!from) return NaN;
  return ((to ? new Date(to) : new Date()) - new Date(from)) / 1000;
}

/** Last characters of a UUIDv7: the random part, which differs between ids created together. */
export function short(id) {
  return id ? id.slice(-6) : DASH;
}

export function runName(run) {
  return run.name || `${run.recipe || 'run'} ${short(run.id)}`;
}

export function modelName(model, run) {
  return run ? `${model.name} of ${runName(run)}` : `${model.name} ${short(model.id)}`;
}
