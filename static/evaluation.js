// Evaluations: summary table, confusion matrix and per-class scores.

import { h } from './dom.js';
import { whisker } from './chart.js';
import * as format from './format.js';
import { table } from './parts.js';

const ORDER = { test: 0, validation: 1, train: 2 };

/** Sorts by stage, latest first, then test, validation, train. */
export function inOrder(evaluations) {
  return [...evaluations].sort((a, b) => (b.stage ?? 0) - (a.stage ?? 0) || ORDER[a.split] - ORDER[b.split]);
}

/** Table with one row per evaluation. */
export function summaryTable(evaluations) {
  const rows = inOrder(evaluations).map((evaluation) => [
    evaluation.stage ? `Stage ${evaluation.stage}` : 'Model',
    [evaluation.split, caveat(evaluation) && h('span', { class: 'mark', title: caveat(evaluation) }, ' *')],
    format.count(total(evaluation)),
    scoreCell(evaluation.accuracy),
    scoreCell(evaluation.macro_f1), scoreCell(evaluation.weighted_f1), scoreCell(evaluation.micro_f1),
    format.score(evaluation.loss),
  ]);
  return table('Scores by stage and split', ['Stage', 'Split', 'n', 'Accuracy', 'Macro F1', 'Weighted F1', 'Micro F1', 'Loss'],
    rows, { numeric: [2, 3, 4, 5, 6, 7], class: 'scores' });
}

/** Confusion matrix and per-class scores of one evaluation. */
export function evaluationDetail(evaluation) {
  const why = caveat(evaluation);
  return h('div', { class: 'evaluation', 'data-split': evaluation.split, 'data-stage': evaluation.stage },
    why && h('p', { class: 'caveat' }, why),
    undefinedNote(evaluation),
    h('div', { class: 'evaluation-tables' }, confusionMatrix(evaluation), perClass(evaluation)));
}

/** Names the classes without images, whose recall and F1 are undefined. */
function undefinedNote({ split, undefined_classes: classes }) {
  if (!classes?.length) return null;
  return h('p', { class: 'caveat' }, `The ${split} split has no images of ${classes.join(', ')}: recall and F1 are undefined (support 0) `
    + 'and left out of the averages.');
}

/** Reason why the scores are optimistic, if they are. */
function caveat({ caveat: given, split, selection_split: chosenOn }) {
  if (given) return given;
  return chosenOn === split ? `The best epoch was selected on the ${split} split, so these scores are optimistic.` : null;
}

function total(evaluation) {
  return evaluation.n ?? evaluation.confusion_matrix.flat().reduce((sum, n) => sum + n, 0);
}

function confusionMatrix({ classes, confusion_matrix: matrix }) {
  const heads = classes.map((name) => h('th', { scope: 'col' }, name));
  const rows = matrix.map((row, i) => {
    const sum = row.reduce((a, b) => a + b, 0);
    const cells = row.map((n, j) => h('td', { class: i === j ? 'right' : n > 0 ? 'wrong' : null, vars: { share: sum ? n / sum : 0 } },
      h('span', { class: 'n' }, format.count(n)), h('small', {}, sum ? format.percent(n / sum) : '')));
    return h('tr', {}, h('th', { scope: 'row' }, classes[i]), ...cells);
  });
  return h('div', { class: 'scroll', role: 'region', tabindex: '0', 'aria-label': 'Confusion matrix' },
    h('table', { class: 'confusion' },
      h('caption', {}, 'Confusion matrix'),
      h('thead', {},
        h('tr', {}, h('td', {}), h('th', { scope: 'colgroup', colspan: classes.length, class: 'axis' }, 'predicted')),
        h('tr', {}, h('th', { scope: 'col', class: 'axis' }, 'true'), ...heads)),
      h('tbody', {}, ...rows)));
}

function perClass({ classes, per_class: metrics }) {
  const rows = classes.map((name) => {
    const one = metrics?.[name] ?? {};
    const orUndefined = (given, interval) => one.support === 0 ? 'undefined' : scoreCell(given, interval);
    return [name, scoreCell(one.precision, one.precision_interval), orUndefined(one.recall, one.recall_interval),
      orUndefined(one.f1, one.f1_interval), scoreCell(one.specificity, one.specificity_interval), format.count(one.support)];
  });
  return table('Per class', ['Class', 'Precision', 'Recall', 'F1', 'Specificity', 'Support'], rows,
    { numeric: [1, 2, 3, 4, 5], caption: true, class: 'per-class' });
}

/** A score with its confidence interval, if there is one. */
export function scoreCell(given, interval) {
  const { value, low, high } = format.estimate(given, interval);
  if (!Number.isFinite(low) || !Number.isFinite(high)) return format.score(value);
  const range = `${format.score(low)}–${format.score(high)}`;
  return [format.score(value), h('small', { class: 'interval' }, range),
    whisker({ value, low, high }, `${format.score(value)}, 95 % confidence interval ${range}`)];
}
