// One run: how far it is, its curves stage by stage, its scores and its models.

import { all, get, send } from './api.js';
import { chart } from './chart.js';
import { h } from './dom.js';
import { evaluationDetail, inOrder, summaryTable } from './evaluation.js';
import * as format from './format.js';
import { modelTable } from './models.js';
import { action, facts, isActive, link, note, pageHead, paceText, planBar, progressText, section, status, syntheticBadge, table } from './parts.js';

export default {
  section: 'runs',
  title: ({ run }) => format.runName(run),
  live: ({ run }) => isActive(run),
  announce: ({ run }) => (run.status === 'running' ? progressText(run).replace(/, batch.*/, '') : `Run status: ${run.status}.`),
  async load(id, memo) {
    const path = `/v1/training-runs/${id}`;
    const run = await get(path);
    const known = memo.epochs ?? [];
    const [epochs, evaluations, models, dataset] = await Promise.all([
      all(`${path}/epochs`, known.at(-1)?.sequence), get(`${path}/evaluations`), all('/v1/models'),
      memo.dataset ?? get(`/v1/datasets/${run.dataset_id}`).catch(unlessGone),
    ]);
    memo.dataset = dataset;
    const last = known.at(-1)?.sequence ?? 0;
    memo.epochs = [...known, ...epochs.filter((epoch) => epoch.sequence > last)];
    return { run, dataset, epochs: memo.epochs, evaluations: evaluations.items, models: models.filter((model) => model.run_id === id) };
  },
  view(data, ctx) {
    const { run, dataset } = data;
    return [
      pageHead(format.runName(run), { above: link('/runs', 'Runs'), badges: [status(run.status), syntheticBadge(dataset)] }),
      section('Progress', progress(run, ctx)),
      section('Curves', ...curves(data)),
      section('Evaluation', ...evaluation(data)),
      data.models.length > 0 && section('Models', modelTable(data.models, [run], ctx)),
      section('Record', record(run, dataset)),
    ];
  },
};

function unlessGone(error) {
  if (error.status === 404) return { name: 'deleted' };
  throw error;
}

function progress(run, ctx) {
  const path = `/v1/training-runs/${run.id}`;
  const cancel = async () => {
    if (!confirm('Stop this run for good? It ends within one batch.')) return;
    await send('POST', `${path}/cancel`);
    await ctx.refresh();
  };
  const stoppable = ['queued', 'running', 'paused'].includes(run.status);
  return [
    planBar(run),
    h('p', { class: 'state' }, stateText(run)),
    run.error && h('div', { class: 'problem' }, h('p', {}, run.error)),
    stoppable && action('Cancel the run', cancel, { class: 'quiet' }),
  ];
}

function stateText(run) {
  const took = format.duration(format.elapsed(run.started_at, run.finished_at));
  switch (run.status) {
    case 'succeeded': return `All ${format.plural(run.plan.stages.length, 'stage')} done in ${took}.`.replace('All 1 stage', 'Its one stage');
    case 'failed': return run.started_at ? `Failed after ${took}.` : 'Failed before it began.';
    case 'cancelled': return run.started_at ? `Cancelled after ${took}.` : 'Cancelled before it began.';
    case 'cancelling': return 'Stops at the end of this batch.';
    default: return [progressText(run), paceText(run)].filter(Boolean).join(' · ');
  }
}

function curves({ run, epochs }) {
  if (epochs.length === 0) {
    return [note(isActive(run) ? 'The first points appear when the first epoch is done.' : 'The run ended before its first epoch did.')];
  }
  const stages = [...new Set(epochs.map((epoch) => epoch.stage))];
  return [
    note(`Training figures are running means over an epoch’s batches; selection figures are on the ${run.plan.selection.split} split after it.`),
    ...stages.map((number) => stageCurves(run, number, epochs.filter((epoch) => epoch.stage === number))),
    h('details', { class: 'data' }, h('summary', {}, 'All epochs as a table'), epochTable(epochs)),
  ];
}

function stageCurves(run, number, epochs) {
  const stage = run.plan.stages[number - 1];
  // A step that ended early has the epochs that it had, once the next one has begun.
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

/** The epoch a stage keeps by the plan's metric; the first of equals. */
function bestEpoch(metric, epochs) {
  const worth = (epoch) => (metric === 'loss' ? -epoch.selection.loss : epoch.selection[metric] ?? -Infinity);
  return epochs.reduce((best, epoch, i) => (worth(epoch) > worth(epochs[best]) ? i : best), 0);
}

function epochTable(epochs) {
  const heads = ['Stage', 'Step', 'Epoch', 'Training loss', 'Training accuracy', 'Selection loss', 'Selection accuracy',
    'Selection macro F1', 'Learning rate', 'Seconds', 'Images/s', 'Waited for data'];
  const rows = epochs.map((epoch) => [
    epoch.stage, epoch.step, epoch.epoch,
    format.score(epoch.train.loss, 4), format.score(epoch.train.accuracy),
    format.score(epoch.selection.loss, 4), format.score(epoch.selection.accuracy), format.score(epoch.selection.macro_f1),
    format.rate(epoch.learning_rate), format.score(epoch.seconds, 1), format.score(epoch.images_per_second, 1),
    format.percent(epoch.data_wait_share, 1),
  ].map(String));
  return table('Epochs', heads, rows, { class: 'epochs', numeric: heads.map((_, i) => i) });
}

function evaluation({ run, evaluations }) {
  if (evaluations.length === 0) {
    return [note(isActive(run) ? 'Scores follow at the end of each stage.' : 'The run ended before its first stage did.')];
  }
  const ordered = inOrder(evaluations);
  return [
    summaryTable(evaluations),
    note('Ranges are 95 % intervals. With one label an image, micro F1 equals accuracy; macro F1 weighs every class alike. ',
      'Scores marked * are optimistic: the tables below say why.'),
    h('div', {}, ...ordered.map((one, i) => h('details', { class: 'data', open: i === 0, 'data-key': one.id },
      h('summary', {}, `Stage ${one.stage}, ${one.split} split`), evaluationDetail(one)))),
  ];
}

/** How batches are trained, where a plan says more than the plain loop. */
function batches(plan) {
  const ranges = Object.entries(plan.augmentation ?? {}).filter(([, value]) => value);
  const said = [
    ranges.length && `augmentation (${ranges.map(([name, value]) => `${name.replace('_', ' ')}${value === true ? '' : ` ${value}`}`).join(', ')})`,
    plan.mixup && `mixup ${plan.mixup}`,
    plan.label_smoothing && `label smoothing ${plan.label_smoothing}`,
    plan.class_weights === 'balanced' && 'balanced class weights',
    plan.sampling === 'balanced' && 'balanced sampling',
    plan.weight_averaging && `averaged weights (${plan.weight_averaging.decay})`,
  ].filter(Boolean);
  return said.length ? said.join(', ') : null;
}

function record(run, dataset) {
  const { plan } = run;
  return facts([
    ['Data set', dataset.id ? link(`/datasets/${dataset.id}`, dataset.name) : dataset.name],
    ['Data fingerprint', h('code', { title: run.dataset_fingerprint }, run.dataset_fingerprint?.slice(0, 16))],
    ['Recipe', run.recipe ?? 'none'],
    ['Network', `${plan.architecture}, ${plan.initial_weights} weights`],
    ['Optimizer', `${plan.optimizer}, batch ${plan.batch_size}, dropout ${plan.dropout}`],
    ['Batches', batches(plan)],
    ['Best epoch by', `${plan.selection.metric} on ${plan.selection.split}`],
    ['Seed', String(run.seed)],
    ['Device', run.device ?? 'not chosen yet'],
    ['Submitted', format.when(run.created_at)],
    ['Started', format.when(run.started_at)],
    ['Ended', format.when(run.finished_at)],
    ['Identifier', h('code', {}, run.id)],
  ]);
}
