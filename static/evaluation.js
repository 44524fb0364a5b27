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
    format.count(evaluation.scores?.accuracy.patients),
    scoreCell(evaluation.scores?.accuracy ?? evaluation.accuracy),
    scoreCell(evaluation.scores?.balanced_accuracy),
    scoreCell(evaluation.scores?.macro.f1 ?? evaluation.macro_f1),
    scoreCell(evaluation.scores?.weighted.f1 ?? evaluation.weighted_f1),
    scoreCell(evaluation.scores?.macro.roc_auc),
    scoreCell(evaluation.scores?.log_loss ?? evaluation.loss),
  ]);
  return table('Scores by stage and split',
    ['Stage', 'Split', 'Images', 'Patients', 'Accuracy', 'Balanced accuracy', 'Macro F1', 'Weighted F1', 'Macro ROC AUC', 'Log loss'],
    rows, { numeric: [2, 3, 4, 5, 6, 7, 8, 9], class: 'scores' });
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

/** Scores by class. An undefined score shows the reason on hover. */
function perClass({ classes, per_class: metrics, scores }) {
  if (!scores) return perClassOfEarlierVersions(classes, metrics);
  const names = ['precision', 'recall', 'specificity', 'npv', 'f1', 'mcc', 'roc_auc', 'pr_auc', 'brier'];
  const rows = classes.map((name) => {
    const of = scores.per_class[name];
    return [name, ...names.map((score) => scoreCell(of[score])), format.count(of.recall.n), format.count(of.recall.patients)];
  });
  return table('Per class',
    ['Class', 'Precision', 'Recall', 'Specificity', 'NPV', 'F1', 'MCC', 'ROC AUC', 'PR AUC', 'Brier', 'Images', 'Patients'], rows,
    { numeric: rows[0].map((_, column) => column).slice(1), caption: true, class: 'per-class' });
}

function perClassOfEarlierVersions(classes, metrics) {
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
  if (given?.undefined) return h('span', { title: given.undefined }, 'undefined');
  const { value, low, high } = format.estimate(given, interval);
  if (!Number.isFinite(low) || !Number.isFinite(high)) return format.score(value);
  const range = `${format.score(low)}–${format.score(high)}`;
  return [format.score(value), h('small', { class: 'interval' }, range),
    whisker({ value, low, high }, `${format.score(value)}, 95 % confidence interval ${range}`)];
}
