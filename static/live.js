// A model while it serves: how much, how sure, how fast, whether its images are those of training, and who disagrees with it.

import { get } from './api.js';
import * as format from './format.js';
import { facts, link, note, pageHead, section, syntheticBadge, table } from './parts.js';

const HOURS = 24;

const STATISTICS = {
  mean_grey: 'Mean grey', contrast: 'Contrast', dark_share: 'Dark pixels', bright_share: 'Bright pixels', detail: 'Detail', aspect_ratio: 'Shape',
};

const VERDICTS = { 'too-few': 'too few images to say', stable: 'stable', moderate: 'moderate change', strong: 'strong change' };

export default {
  section: 'models',
  title: ({ model }) => `${model.name} while it serves`,
  live: () => true,
  async load(id) {
    const [model, live] = await Promise.all([get(`/v1/models/${id}`), get(`/v1/models/${id}/live?hours=${HOURS}`)]);
    return { model, live };
  },
  view({ model, live }) {
    return [
      pageHead(`${model.name} while it serves`, {
        above: link('/models', 'Models'), badges: [syntheticBadge(model)], lede: `The last ${HOURS} hours. ${live.notice}`,
      }),
      section('Predictions', ...traffic(live)),
      section('Images beside those of training', ...drift(live.drift)),
      section('Feedback', ...disagreement(live.feedback, 'Clinicians say', 'No feedback yet.')),
      section('As the challenger', ...disagreement(live.shadow, 'Clients were told', 'It has not looked at what another model answered.')),
      section('By the hour', ...hours(live.hours)),
    ];
  },
};

function traffic({ predictions, classes, confidence, latency }) {
  if (predictions === 0) return [note('None.')];
  const shares = Object.entries(classes).map(([name, count]) => [name, `${format.count(count)} (${format.percent(count / predictions)})`]);
  return [
    facts([
      ['Predictions', format.count(predictions)], ...shares,
      ['Confidence', `${format.score(confidence.mean)} on average, below ${format.score(confidence.p10)} for a tenth`],
      ['Time', `${format.milliseconds(latency.p50_ms)} for half, ${format.milliseconds(latency.p99_ms)} for 99 of 100`],
    ]),
    note('Confidence is not accuracy: how often it is right, only feedback tells.'),
  ];
}

function drift({ trained_images: trained, statistics }) {
  if (trained === 0) return [note('The images it was trained on are not known here, so that nothing can be compared.')];
  const rows = statistics.map(({ statistic, psi, by_chance: chance, verdict }) => [
    STATISTICS[statistic], psi === null ? '–' : format.score(psi), chance === null ? '–' : format.score(chance), VERDICTS[verdict],
  ]);
  return [
    table('Stability of the images', ['What', 'Index', 'By chance', 'Meaning'], rows, { numeric: [1, 2] }),
    note(`Population stability index against ${format.count(trained)} training images: below 0.1 counts as stable, above 0.25 as a strong change. `,
      'It says whether the images are alike, not whether the answers are right.'),
  ];
}

function disagreement({ compared, disagreement: share, interval, pairs }, other, none) {
  if (compared === 0) return [note(none)];
  const rows = pairs.map(({ said, other: answer, count }) => [said, answer, format.count(count)]);
  return [
    note(`They differ on ${format.percent(share, 1)} of ${format.count(compared)} images `,
      `(95 % interval ${format.percent(interval.low, 1)} to ${format.percent(interval.high, 1)}).`),
    table('Who said what', ['The model says', other, 'Images'], rows, { numeric: [2] }),
  ];
}

function hours(all) {
  if (all.length === 0) return [note('None with predictions.')];
  const rows = all.map(({ from, predictions, confidence, latency, drift: statistics }) => [
    format.when(from), format.count(predictions), format.score(confidence.mean), format.milliseconds(latency.p50_ms), format.milliseconds(latency.p99_ms),
    largest(statistics),
  ]);
  return [table('Hours', ['From', 'Predictions', 'Mean confidence', 'Median time', '99 of 100', 'Largest index'], rows, { numeric: [1, 2, 3, 4, 5] })];
}

function largest(statistics) {
  const known = statistics.filter(({ psi }) => psi !== null).map(({ psi }) => psi);
  return known.length ? format.score(Math.max(...known)) : '–';
}
