// Comparison of runs: scores with confidence intervals, paired tests against the first run, plan differences, cost and curves.

import { get } from './api.js';
import { chart } from './chart.js';
import { h } from './dom.js';
import { scoreCell } from './evaluation.js';
import * as format from './format.js';
import { field, link, note, pageHead, section, select, status, syntheticBadge, table } from './parts.js';

const SPLITS = ['test', 'validation', 'train'];
/** Conventional significance level. */
const SIGNIFICANT = 0.05;
/** Number of distinct line styles in the style sheet; further runs reuse them. */
const LINES = 8;

export default {
  section: 'runs',
  title: () => 'Comparison',
  live: ({ comparison }) => comparison.items.some(({ status }) => ['queued', 'running', 'cancelling'].includes(status)),
  async load(address) {
    const query = read(address);
    const comparison = await get(`/v1/training-runs/compare?${new URLSearchParams(query)}`);
    return { query, comparison };
  },
  view({ query, comparison }, ctx) {
    const { items } = comparison;
    return [
      pageHead('Comparison of runs', { above: link('/runs', 'Runs'), badges: [items.some(({ model }) => model?.synthetic) && syntheticBadge({ synthetic: true })] }),
      section('Compare', choice(query, items, ctx)),
      section('Scores', ...scores(comparison)),
      section('Tests', ...tests(items)),
      section('Cost', costs(comparison)),
      section('Plans', ...plans(comparison)),
      section('Curves', ...curves(items)),
    ];
  },
};

/** Hash of a comparison page: `/compare/ID,ID?split=test&stage=1`. */
export function address(ids, choices = {}) {
  const query = new URLSearchParams(Object.entries(choices).filter(([, value]) => value));
  return `/compare/${ids.join(',')}${query.size ? `?${query}` : ''}`;
}

function read(text) {
  const [ids, query] = text.split('?');
  return { ids, ...Object.fromEntries(new URLSearchParams(query)) };
}

function choice({ ids, split = 'test', stage = '' }, items, ctx) {
  const last = Math.max(1, ...items.flatMap(({ epochs }) => epochs.map((epoch) => epoch.stage)));
  const stages = Array.from({ length: last }, (_, i) => String(i + 1));
  const go = (change) => ctx.go(address(ids.split(','), { split, stage, ...change }));
  const pick = (name) => ({ onchange: (event) => go({ [name]: event.target.value }) });
  return h('div', { class: 'columns', 'data-key': `choice-${split}-${stage}` },
    field('Split', select('split', SPLITS.map((name) => [name, name, name === split]), pick('split'))),
    field('Stage', select('stage', [['', 'last stage of each run', !stage], ...stages.map((n) => [n, `stage ${n}`, n === stage])], pick('stage'))));
}

function scores({ items, split }) {
  const classes = [...new Set(items.flatMap(({ model }) => model?.classes ?? []))];
  const f1 = ({ scores: given }, name) => {
    const one = given?.per_class[name];
    return scoreCell(one?.f1, one?.f1_interval);
  };
  const heads = ['Run', 'n', ...classes.map((name) => `F1 ${name}`), 'Macro F1', 'Accuracy'];
  const rows = items.map((run, i) => [
    [sample(i), link(`/runs/${run.id}`, format.runName(run))],
    format.count(run.scores?.n),
    ...classes.map((name) => f1(run, name)),
    scoreCell(run.scores?.macro_f1 ?? NaN), scoreCell(run.scores?.accuracy ?? NaN),
  ]);
  const caveats = [...new Set(items.map((run) => run.scores?.caveat).filter(Boolean))];
  const numeric = heads.map((_, i) => i).slice(1);
  return [
    table(`Scores on the ${split} split`, heads, rows, { numeric, class: 'scores' }),
    ...caveats.map((text) => h('p', { class: 'caveat' }, text)),
    note(`Scores on the ${split} split with 95 % confidence intervals. Overlapping intervals do not mean that two models perform equally: use the paired tests below.`),
  ];
}

function costs({ items }) {
  const rows = items.map((run, i) => [
    [sample(i), format.runName(run)],
    status(run.status),
    run.model ? `${run.architecture}, stage ${run.model.stage}, ${run.model.image_size} px` : `${run.architecture}, not evaluated yet`,
    format.count(run.epochs.length), format.duration(run.training_seconds ?? NaN), format.count(run.model?.parameters), format.size(run.model?.byte_length),
  ]);
  return table('Cost of the runs', ['Run', 'Status', 'Model', 'Epochs', 'Duration', 'Parameters', 'File size'], rows, { numeric: [3, 4, 5, 6] });
}

function tests(items) {
  const [first, ...others] = items;
  return [
    note('Each model is compared with that of ', link(`/runs/${first.id}`, format.runName(first)),
      ', on the images that both were evaluated on: two-sided exact McNemar test for accuracy, paired bootstrap for macro F1. ',
      'The p-values are not corrected for multiple comparisons.'),
    h('ul', { class: 'verdicts' }, ...others.map((run, i) => h('li', {}, sample(i + 1), h('strong', {}, format.runName(run)), ': ', verdict(run)))),
  ];
}

/** "no significant difference in accuracy: p = 0.420, n = 180. …" */
function verdict({ paired, paired_reason: reason }) {
  if (!paired) return `not tested: ${reason}.`;
  const { n, mcnemar_exact_p: p, accuracy_difference: accuracy, macro_f1_difference: macro } = paired;
  const probability = p < 0.001 ? 'p < 0.001' : `p = ${format.pValue(p)}`;
  const word = p >= SIGNIFICANT ? 'no significant difference in accuracy' : accuracy.value > 0 ? 'more accurate' : 'less accurate';
  const direction = macro.low > 0 ? 'macro F1 higher' : macro.high < 0 ? 'macro F1 lower' : 'no significant difference in macro F1';
  const discordant = `${format.plural(paired.only_this_correct, 'image')} correct only here, ${format.count(paired.only_first_correct)} correct only in the first run.`;
  return [h('span', { class: 'word' }, `${word}: ${probability}, n = ${format.count(n)}`), `. ${discordant} `,
    `Accuracy ${signed(accuracy)}; ${direction}: ${signed(macro)}.`];
}

/** +0.031 (−0.010 to +0.072) */
function signed({ value, low, high }) {
  const [middle, from, to] = [value, low, high].map((number) => `${number < 0 ? '−' : '+'}${Math.abs(number).toFixed(3)}`);
  return `${middle} (${from} to ${to})`;
}

function plans({ items, plan_differences: differences }) {
  const seeds = new Set(items.map(({ seed }) => seed));
  const data = new Set(items.map((run) => run.dataset_fingerprint));
  const rows = differences.map(({ pointer, values }) => [h('code', {}, pointer), ...values.map(shown)]);
  if (seeds.size > 1) rows.push(['seed', ...items.map(({ seed }) => String(seed))]);
  if (data.size > 1) rows.push(['data', ...items.map((run) => h('code', { title: run.dataset_fingerprint }, run.dataset_fingerprint.slice(0, 8)))]);
  if (rows.length === 0) return [note('Plan, seed and data are the same.')];
  return [table('What the plans differ in', ['Field', ...items.map(format.runName)], rows, { class: 'differences' }),
    note('Only what is not the same in all runs is shown.')];
}

function shown(value) {
  if (value === null) return '–';
  return typeof value === 'number' && value > 0 && value < 0.01 ? format.rate(value) : String(value);
}

function curves(items) {
  const trained = items.map((run, i) => ({ run, i })).filter(({ run }) => run.epochs.length > 0);
  if (trained.length === 0) return [note('Curves appear after the first epoch.')];
  const series = (figure) => trained.map(({ run, i }) => ({
    name: `run-${i % LINES}`, label: format.runName(run), values: run.epochs.map((epoch) => epoch[figure]),
  }));
  const draw = (title, figure, options) => chart({ title, series: series(figure), steps: [], best: -1, hint: '',
    format: (value, axis) => (axis ? String(value) : format.score(value, figure === 'loss' ? 4 : 3)), ...options });
  return [
    note('Each run on its own selection split, by epoch across all stages.'),
    h('div', { class: 'curves' }, draw('Loss', 'loss'), draw('Accuracy', 'accuracy', { domain: [0, 1] }), draw('Macro F1', 'macro_f1', { domain: [0, 1] })),
  ];
}

/** The line of a run in the curves. */
function sample(i) {
  return h('span', { class: `run-mark run-${i % LINES}`, 'aria-hidden': 'true' });
}
