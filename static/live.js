// Live statistics of a model: traffic, confidence, latency, input drift, feedback and shadow comparisons.

import { get } from './api.js';
import * as format from './format.js';
import { facts, link, note, pageHead, section, syntheticBadge, table } from './parts.js';

const HOURS = 24;

const STATISTICS = {
  mean_grey: 'Mean grey', contrast: 'Contrast', dark_share: 'Dark pixels', bright_share: 'Bright pixels', detail: 'Detail', aspect_ratio: 'Shape',
};

const VERDICTS = { 'too-few': 'too few images', stable: 'stable', moderate: 'moderate change', strong: 'strong change' };

export default {
  section: 'models',
  title: ({ model }) => `${model.name}: live statistics`,
  live: () => true,
  async load(id) {
    const [model, live] = await Promise.all([get(`/v1/models/${id}`), get(`/v1/models/${id}/live?hours=${HOURS}`)]);
    return { model, live };
  },
  view({ model, live }) {
    return [
      pageHead(`${model.name}: live statistics`, {
        above: link('/models', 'Models'), badges: [syntheticBadge(model)], lede: `Last ${HOURS} hours. ${live.notice}`,
      }),
      section('Predictions', ...traffic(live)),
      section('Input drift', ...drift(live.drift)),
      section('Feedback', ...disagreement(live.feedback, 'Feedback label', 'No feedback yet.')),
      section('Shadow comparison', ...disagreement(live.shadow, 'Champion', 'No shadow comparisons yet.')),
      section('Hourly', ...hours(live.hours)),
    ];
  },
};

function traffic({ predictions, classes, confidence, latency }) {
  if (predictions === 0) return [note('No predictions.')];
  const shares = Object.entries(classes).map(([name, count]) => [name, `${format.count(count)} (${format.percent(count / predictions)})`]);
  return [
    facts([
      ['Predictions', format.count(predictions)], ...shares,
      ['Confidence', `mean ${format.score(confidence.mean)}, 10th percentile ${format.score(confidence.p10)}`],
      ['Latency', `p50 ${format.milliseconds(latency.p50_ms)}, p99 ${format.milliseconds(latency.p99_ms)}`],
    ]),
    note('Confidence is not accuracy. Only feedback measures how often predictions are correct.'),
  ];
}

function drift({ trained_images: trained, statistics }) {
  if (trained === 0) return [note('No statistics of the training images: drift cannot be computed.')];
  const rows = statistics.map(({ statistic, psi, by_chance: chance, verdict }) => [
    STATISTICS[statistic], psi === null ? '–' : format.score(psi), chance === null ? '–' : format.score(chance), VERDICTS[verdict],
  ]);
  return [
    table('Population stability of the inputs', ['Statistic', 'PSI', 'PSI by chance', 'Verdict'], rows, { numeric: [1, 2] }),
    note(`Population stability index (PSI) against ${format.count(trained)} training images: below 0.1 is stable, above 0.25 is a strong change. `,
      'PSI compares inputs; it does not measure whether predictions are correct.'),
  ];
}

function disagreement({ compared, disagreement: share, interval, pairs }, other, none) {
  if (compared === 0) return [note(none)];
  const rows = pairs.map(({ said, other: answer, count }) => [said, answer, format.count(count)]);
  return [
    note(`Disagreement on ${format.percent(share, 1)} of ${format.count(compared)} images `,
      `(95 % confidence interval ${format.percent(interval.low, 1)} to ${format.percent(interval.high, 1)}).`),
    table('Disagreements', ['This model', other, 'Images'], rows, { numeric: [2] }),
  ];
}

function hours(all) {
  if (all.length === 0) return [note('No predictions.')];
  const rows = all.map(({ from, predictions, confidence, latency, drift: statistics }) => [
    format.when(from), format.count(predictions), format.score(confidence.mean), format.milliseconds(latency.p50_ms), format.milliseconds(latency.p99_ms),
    largest(statistics),
  ]);
  return [table('Hourly statistics', ['From', 'Predictions', 'Mean confidence', 'p50', 'p99', 'Largest PSI'], rows, { numeric: [1, 2, 3, 4, 5] })];
}

function largest(statistics) {
  const known = statistics.filter(({ psi }) => psi !== null).map(({ psi }) => psi);
  return known.length ? format.score(Math.max(...known)) : '–';
}
