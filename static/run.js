// Run page: progress, curves by stage, evaluations and models.

import { all, get, send } from './api.js';
import { chart, sweep, trace } from './chart.js';
import { h } from './dom.js';
import { follow } from './events.js';
import { evaluationDetail, inOrder, summaryTable } from './evaluation.js';
import * as format from './format.js';
import { modelTable } from './models.js';
import { action, facts, isActive, link, note, pageHead, paceText, planBar, progressText, section, status, syntheticBadge, table } from './parts.js';

/** Minimum interval between requests for stored losses; streamed batches are appended in between. */
const LOSSES_MS = 5000;

export default {
  section: 'runs',
  title: ({ run }) => format.runName(run),
  live: ({ run }) => isActive(run),
  announce: ({ run }) => (run.status === 'running' ? progressText(run).replace(/, batch.*/, '') : `Run status: ${run.status}.`),
  async load(id, memo) {
    const path = `/v1/training-runs/${id}`;
    const run = await get(path);
    const known = memo.epochs ?? [];
    const tested = run.plan.stages.some(({ steps }) => steps.some((step) => step.range_test));
    const [epochs, losses, evaluations, models, dataset, tests] = await Promise.all([
      all(`${path}/epochs`, known.at(-1)?.sequence), loadLosses(run, memo), get(`${path}/evaluations`), all('/v1/models'),
      memo.dataset ?? get(`/v1/datasets/${run.dataset_id}`).catch(unlessGone), tested ? get(`${path}/range-tests`) : { items: [] },
    ]);
    memo.dataset = dataset;
    const last = known.at(-1)?.sequence ?? 0;
    memo.epochs = [...known, ...epochs.filter((epoch) => epoch.sequence > last)];
    return { run, dataset, losses, epochs: memo.epochs, rateTests: tests.items, evaluations: evaluations.items, models: models.filter((model) => model.run_id === id) };
  },
  watch: (id, ctx, state) => follow(`/v1/training-runs/${id}/events`, onEvent(ctx), state),
  view(loaded, ctx) {
    const data = { ...loaded, run: withBatch(loaded.run, ctx.memo.batch), points: allPoints(loaded.losses, ctx.memo) };
    const { run, dataset } = data;
    return [
      pageHead(format.runName(run), { above: link('/runs', 'Runs'), badges: [status(run.status), syntheticBadge(dataset)] }),
      section('Progress', progress(run, ctx)),
      section('Curves', ...curves(data)),
      section('Evaluation', ...evaluation(data)),
      data.models.length > 0 && section('Models', modelTable(data.models, [run], ctx)),
      section('Details', details(run, dataset)),
    ];
  },
};

/** Draws batches at once; other events reload the page, debounced. */
function onEvent({ memo, redraw, refresh }) {
  let due;
  return (kind, data) => {
    if (kind !== 'batch') {
      clearTimeout(due);
      due = setTimeout(refresh, 100);
      return;
    }
    memo.batch = data;
    (memo.streamed ??= []).push({ step: data.steps, stage: data.stage, loss: data.loss });
    redraw();
  };
}

async function loadLosses(run, memo) {
  const fresh = memo.losses && (memo.settled || Date.now() - memo.lossesAt < LOSSES_MS);
  if (!fresh) {
    const losses = await get(`/v1/training-runs/${run.id}/losses`);
    Object.assign(memo, { losses, lossesAt: Date.now(), settled: !isActive(run) });
    memo.streamed = (memo.streamed ?? []).filter(({ step }) => step > losses.steps);
  }
  return memo.losses;
}

/** Stored losses followed by those streamed since. */
function allPoints({ items, steps }, { streamed = [] }) {
  return [...items, ...streamed.filter(({ step }) => step > steps)];
}

/** The run with the progress of the last streamed batch, if that is ahead of the loaded state. */
function withBatch(run, last) {
  const { progress, plan } = run;
  if (run.status !== 'running' || !last || !progress.batches) return run;
  const steps = plan.stages.flatMap((stage, s) => stage.steps.map(({ epochs }, t) => ({ epochs, position: [s + 1, t + 1] })));
  const at = steps.findIndex(({ position: [stage, step] }) => stage === last.stage && step === last.step);
  const sum = (some) => some.reduce((epochs, step) => epochs + step.epochs, 0);
  const fraction = (sum(steps.slice(0, at)) + last.epoch - 1 + last.batch / progress.batches) / sum(steps);
  if (fraction < progress.fraction) return run;
  const { stage, step, epoch, batch, images_per_second } = last;
  return { ...run, progress: { ...progress, stage, step, epoch, batch, images_per_second, fraction } };
}

function unlessGone(error) {
  if (error.status === 404) return { name: 'deleted' };
  throw error;
}

function progress(run, ctx) {
  const path = `/v1/training-runs/${run.id}`;
  const cancel = async () => {
    if (!confirm('Cancel this run? It stops within one batch and cannot be resumed.')) return;
    await send('POST', `${path}/cancel`);
    await ctx.refresh();
  };
  const post = (verb) => async () => {
    await send('POST', `${path}/${verb}`);
    await ctx.refresh();
  };
  const repeat = async () => {
    const again = await send('POST', `${path}/repeat`);
    ctx.go(`/runs/${again.id}`);
  };
  const stoppable = ['queued', 'running', 'paused'].includes(run.status);
  return [
    planBar(run),
    h('p', { class: 'state' }, stateText(run)),
    run.error && h('div', { class: 'problem' }, h('p', {}, run.error)),
    ['queued', 'running'].includes(run.status) && action('Pause the run', post('pause'), { class: 'quiet', title: 'Writes a checkpoint and frees the device' }),
    ['paused', 'failed'].includes(run.status) && action('Resume the run', post('resume'), { class: 'quiet', title: 'Continue from the last checkpoint' }),
    stoppable && action('Cancel the run', cancel, { class: 'quiet' }),
    !isActive(run) && action('Repeat the run', repeat, { class: 'quiet', title: 'Start again with the same plan, seed, data and initial weights' }),
  ];
}

function stateText(run) {
  const took = format.duration(format.elapsed(run.started_at, run.finished_at));
  switch (run.status) {
    case 'succeeded': return `All ${format.plural(run.plan.stages.length, 'stage')} done in ${took}.`.replace('All 1 stage', '1 stage');
    case 'failed': return run.started_at ? `Failed after ${took}.` : 'Failed before training started.';
    case 'cancelled': return run.started_at ? `Cancelled after ${took}.` : 'Cancelled before training started.';
    case 'cancelling': return 'Stopping after the current batch.';
    case 'paused': return [progressText(run), 'paused: resuming continues from the last checkpoint'].filter(Boolean).join(' · ');
    case 'queued': return queueText(run);
    default: return [progressText(run), paceText(run)].filter(Boolean).join(' · ');
  }
}

/** "Waiting for the device · next in the queue · starts in about 12 min". */
function queueText(run) {
  const { queue_position: number, estimated_start: start } = run;
  const position = number && (number === 1 ? 'next in the queue' : `number ${number} in the queue`);
  const wait = start && `starts in about ${format.duration(Math.max(0, (new Date(start) - Date.now()) / 1000))}`;
  return [progressText(run), position, wait].filter(Boolean).join(' · ');
}

function curves({ run, epochs, points, rateTests }) {
  const live = [
    points.length > 0 && trace({ title: 'Loss of each batch', points, format: (value) => format.score(value, 4) }),
    rateTests.length > 0 && h('div', { class: 'curves' }, ...rateTests.map(rateTest)),
  ];
  if (epochs.length === 0) {
    const why = isActive(run) ? 'Epoch curves appear after the first epoch.' : 'The run ended before the first epoch finished.';
    return [...live, note(why)];
  }
  const stages = [...new Set(epochs.map((epoch) => epoch.stage))];
  return [
    ...live,
    note(`Training metrics are running means over the batches of an epoch; selection metrics are computed on the ${run.plan.selection.split} split after it.`),
    ...stages.map((number) => stageCurves(run, number, epochs.filter((epoch) => epoch.stage === number))),
    h('details', { class: 'data' }, h('summary', {}, 'All epochs as a table'), epochTable(epochs)),
  ];
}

function rateTest({ stage, step, curve, chosen }) {
  const title = `Range test of stage ${stage}, step ${step}`;
  if (curve.length < 2) return note(`${title}: the loss was not finite at the first learning rate.`);
  return sweep({ title, curve, chosen, format: (value) => format.score(value, 4), rate: format.rate });
}

function stageCurves(run, number, epochs) {
  const stage = run.plan.stages[number - 1];
  // A step that stopped early shows the epochs it ran, once the next step has started.
  const last = epochs.at(-1).step;
  const lasted = (step) => epochs.filter((epoch) => epoch.step === step).length;
  const steps = (stage?.steps ?? []).map(({ scope, learning_rate, epochs: length }, i) => ({
    epochs: i + 1 < last ? lasted(i + 1) : length, label: `${scope === 'head' ? 'head' : 'all'} ${format.rate(learning_rate)}`,
  }));
  const series = (figure) => [
    { name: 'train', label: 'training', values: epochs.map((epoch) => epoch.train[figure]) },
    { name: 'selection', label: run.plan.selection.split, values: epochs.map((epoch) => epoch.selection[figure]) },
  ];
  const best = bestEpoch(run.plan.selection.metric, epochs);
  return h('div', { class: 'stage-curves', 'data-key': `stage-${number}` },
    h('h3', {}, `Stage ${number}`, stage && h('small', {}, ` ${stage.image_size} px`)),
    h('div', { class: 'curves' },
      chart({ title: 'Loss', series: series('loss'), steps, best, format: (value, axis) => (axis ? String(value) : format.score(value, 4)) }),
      chart({ title: 'Accuracy', series: series('accuracy'), steps, best, domain: [0, 1], format: (value, axis) => (axis ? String(value) : format.score(value)) })));
}

/** Best epoch of a stage by the plan's metric; the first on ties. */
function bestEpoch(metric, epochs) {
  const worth = (epoch) => (metric === 'loss' ? -epoch.selection.loss : epoch.selection[metric] ?? -Infinity);
  return epochs.reduce((best, epoch, i) => (worth(epoch) > worth(epochs[best]) ? i : best), 0);
}

function epochTable(epochs) {
  const heads = ['Stage', 'Step', 'Epoch', 'Training loss', 'Training accuracy', 'Selection loss', 'Selection accuracy',
    'Selection macro F1', 'Learning rate', 'Seconds', 'Images/s', 'Data wait', 'Serving wait'];
  const rows = epochs.map((epoch) => [
    epoch.stage, epoch.step, epoch.epoch,
    format.score(epoch.train.loss, 4), format.score(epoch.train.accuracy),
    format.score(epoch.selection.loss, 4), format.score(epoch.selection.accuracy), format.score(epoch.selection.macro_f1),
    format.rate(epoch.learning_rate), format.score(epoch.seconds, 1), format.score(epoch.images_per_second, 1),
    format.percent(epoch.data_wait_share, 1), format.percent(epoch.serving_wait_share, 1),
  ].map(String));
  return table('Epochs', heads, rows, { class: 'epochs', numeric: heads.map((_, i) => i) });
}

function evaluation({ run, evaluations }) {
  if (evaluations.length === 0) {
    return [note(isActive(run) ? 'Scores appear at the end of each stage.' : 'The run ended before the first stage finished.')];
  }
  const ordered = inOrder(evaluations);
  return [
    summaryTable(evaluations),
    note('Ranges are 95 % confidence intervals over patients. Macro averages weight all classes equally. ',
      'Scores marked * are optimistic; the tables below give the reason.'),
    h('div', {}, ...ordered.map((one, i) => h('details', { class: 'data', open: i === 0, 'data-key': one.id },
      h('summary', {}, `Stage ${one.stage}, ${one.split} split`), evaluationDetail(one)))),
  ];
}

/** Training options of the plan that differ from the defaults. */
function trainingOptions(plan) {
  const ranges = Object.entries(plan.augmentation ?? {}).filter(([, value]) => value);
  const options = [
    ranges.length && `augmentation (${ranges.map(([name, value]) => `${name.replace('_', ' ')}${value === true ? '' : ` ${value}`}`).join(', ')})`,
    plan.mixup && `mixup ${plan.mixup}`,
    plan.label_smoothing && `label smoothing ${plan.label_smoothing}`,
    plan.class_weights === 'balanced' && 'balanced class weights',
    plan.sampling === 'balanced' && 'balanced sampling',
    plan.weight_averaging && `weight averaging (${plan.weight_averaging.decay})`,
  ].filter(Boolean);
  return options.length ? options.join(', ') : null;
}

function details(run, dataset) {
  const { plan, provenance: origin } = run;
  const images = Object.entries(origin?.images ?? {}).map(([split, n]) => `${format.count(n)} ${split}`);
  return facts([
    ['Repeats', run.repeats && link(`/runs/${run.repeats}`, `run ${format.short(run.repeats)}`)],
    ['Data set', dataset.id ? link(`/datasets/${dataset.id}`, dataset.name) : dataset.name],
    ['Data fingerprint', h('code', { title: run.dataset_fingerprint }, run.dataset_fingerprint?.slice(0, 16))],
    ['Recipe', run.recipe ?? 'none'],
    ['Network', `${plan.architecture}, ${plan.initial_weights} weights`],
    ['Optimizer', `${plan.optimizer}, batch ${plan.batch_size}, dropout ${plan.dropout}`],
    ['Training options', trainingOptions(plan)],
    ['Selection', `${plan.selection.metric} on ${plan.selection.split}`],
    ['Seed', String(run.seed)],
    ['Initial weights', run.initial_weights_sha256 && h('code', { title: run.initial_weights_sha256 }, run.initial_weights_sha256.slice(0, 16))],
    ['Images', origin && images.join(', ')],
    ['Device', run.device ? [run.device, origin && h('small', {}, ` ${[origin.device_description, origin.device_driver].filter(Boolean).join(', driver ')}`)] : 'not assigned yet'],
    ['Program', origin && [`thorax ${origin.version}`, origin.git_commit && h('small', { title: origin.git_commit }, ` commit ${origin.git_commit.slice(0, 12)}`)]],
    ['Submitted', format.when(run.created_at)],
    ['Started', format.when(run.started_at)],
    ['Ended', format.when(run.finished_at)],
    ['Identifier', h('code', {}, run.id)],
  ]);
}
