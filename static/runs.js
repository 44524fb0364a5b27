// Runs page: list with progress, and the form that starts a run.

import { all, bytes, get, send } from './api.js';
import { address } from './compare.js';
import { h } from './dom.js';
import * as format from './format.js';
import { action, command, field, form, isActive, link, note, pageHead, paceText, planBar, progressText, section, select, status, table } from './parts.js';

/** Name prefix of the checkboxes that acknowledge a finding. */
const ACKNOWLEDGE = 'acknowledge-';

export default {
  section: 'runs',
  title: () => 'Runs',
  live: ({ runs }) => runs.some(isActive),
  async load() {
    const [runs, datasets, recipes] = await Promise.all([all('/v1/training-runs'), all('/v1/datasets'), get('/v1/recipes')]);
    return { runs: runs.reverse(), datasets, recipes: recipes.items };
  },
  view(data, ctx) {
    return [
      pageHead('Training runs'),
      data.runs.length ? section('Runs', runTable(data, ctx), comparison(data, ctx)) : section('Runs', note('No runs yet. Start one below.')),
      section('Start a run', startForm(data, ctx)),
    ];
  },
};

/** Runs selected for comparison, oldest first: the first is the reference. */
function chosen({ runs }, { memo }) {
  return runs.filter(({ id }) => memo.chosen?.has(id)).map(({ id }) => id).reverse();
}

function choice(run, ctx) {
  const onchange = ({ target }) => {
    ctx.memo.chosen ??= new Set();
    if (target.checked) ctx.memo.chosen.add(run.id);
    else ctx.memo.chosen.delete(run.id);
    ctx.redraw();
  };
  return h('input', { type: 'checkbox', 'data-key': `choose-${run.id}`, 'aria-label': `Compare ${format.runName(run)}`,
    checked: ctx.memo.chosen?.has(run.id), onchange });
}

function comparison(data, ctx) {
  if (data.runs.length < 2) return null;
  const ids = chosen(data, ctx);
  const enough = ids.length >= 2 && ids.length <= 20;
  return h('div', { class: 'actions' },
    h('button', { type: 'button', class: 'quiet', disabled: !enough, onclick: () => ctx.go(address(chosen(data, ctx))) }, 'Compare'),
    h('small', {}, enough ? `${ids.length} runs selected` : 'Select 2 to 20 runs to compare'));
}

function runTable({ runs, datasets }, ctx) {
  const names = new Map(datasets.map((dataset) => [dataset.id, dataset.name]));
  const rows = runs.map((run) => [
    link(`/runs/${run.id}`, format.runName(run)),
    status(run.status),
    progressCell(run),
    names.get(run.dataset_id) ?? format.short(run.dataset_id),
    format.when(run.created_at),
    format.duration(format.elapsed(run.started_at, run.finished_at)),
    choice(run, ctx),
  ]);
  return table('Training runs, newest first', ['Run', 'Status', 'Progress', 'Data set', 'Submitted', 'Duration', 'Compare'], rows, { class: 'runs' });
}

export function progressCell(run) {
  if (run.status === 'failed') return h('span', { class: 'failure' }, run.error ?? 'failed');
  if (run.status === 'succeeded') return format.plural(run.plan.stages.length, 'stage');
  return h('div', { class: 'progress-cell' }, planBar(run), h('small', {}, [progressText(run), paceText(run)].filter(Boolean).join(' · ')));
}

/** Form that starts a run. */
export function startForm({ datasets, recipes }, ctx) {
  if (datasets.length === 0) {
    return [note('A run needs a data set. ', link('/datasets', 'Create one'), ', or generate a synthetic one:'),
      command('thorax demo')];
  }
  const describe = (event) => {
    const recipe = recipes.find(({ name }) => name === event.target.value);
    event.target.form.querySelector('.recipe').textContent = recipe.description;
  };
  return form({ class: 'columns', 'data-key': 'start', 'aria-label': 'Start a run' }, (values) => start(values, recipes, ctx),
    field('Data set', select('dataset_id', datasets.map(({ id, name, synthetic }) => [id, synthetic ? `${name} (synthetic)` : name]))),
    field('Recipe', select('recipe', recipes.map(({ name }) => [name, name]), { onchange: describe })),
    h('p', { class: 'recipe wide', 'data-keep': '' }, recipes[0]?.description),
    h('div', { class: 'wide' }, action('Preview augmentation', showAugmentation, { class: 'quiet' }),
      h('figure', { class: 'preview', 'data-keep': '' })),
    field('Name', h('input', { name: 'name', maxlength: 200, autocomplete: 'off' }), 'Optional'),
    field('Seed', h('input', { name: 'seed', type: 'number', min: 0, max: 4294967295, step: 1 }), 'Default: 0'),
    field('Select the best epoch on', select('split', [['', 'recipe default'], ['validation', 'validation, split off train by patient'],
      ['test', 'test (as in the published report; optimistic)']])),
    h('details', { class: 'wide' }, h('summary', {}, 'Plan overrides'),
      field('Plan fields that override the recipe, as JSON', h('textarea', { name: 'plan', rows: 5, spellcheck: 'false',
        placeholder: '{"batch_size": 16, "stages": [{"image_size": 128, "steps": [{"scope": "head", "learning_rate": 0.001, "epochs": 3}]}]}' }))),
    h('div', { class: 'actions wide' }, h('button', { type: 'submit' }, 'Start run')));
}

/** Shows random augmentations of the first radiograph of the selected data set. */
async function showAugmentation() {
  const element = document.querySelector('form[data-key="start"]');
  const { dataset_id, recipe } = Object.fromEntries(new FormData(element));
  const figure = element.querySelector('.preview');
  figure.replaceChildren();
  const { items: [first] } = await get(`/v1/datasets/${dataset_id}/radiographs?limit=1`);
  if (!first) throw new Error('The data set has no radiographs yet.');
  const address = URL.createObjectURL(await bytes(`/v1/recipes/${recipe}/preview?radiograph=${first.id}`));
  figure.replaceChildren(
    h('img', { src: address, alt: `A radiograph and random augmentations by ${recipe}`, onload: () => URL.revokeObjectURL(address) }),
    h('figcaption', {}, `${first.file_name}: original, then random augmentations by ${recipe}`));
}

async function start(values, recipes, ctx) {
  const { dataset_id, recipe, name, seed, split, plan } = values;
  const request = { dataset_id, recipe, name, seed: seed === undefined ? undefined : Number(seed) };
  const overrides = plan ? parse(plan) : {};
  if (split) {
    const defaults = recipes.find((known) => known.name === recipe).plan.selection;
    overrides.selection = { ...defaults, ...overrides.selection, split };
  }
  if (Object.keys(overrides).length) request.plan = overrides;
  const acknowledge = Object.keys(values).filter((name) => name.startsWith(ACKNOWLEDGE)).map((name) => name.slice(ACKNOWLEDGE.length));
  if (acknowledge.length) request.acknowledge = acknowledge;
  try {
    const run = await send('POST', '/v1/training-runs', request);
    return ctx.go(`/runs/${run.id}`);
  } catch (error) {
    if (!error.findings?.length) throw error;
    return leakage(error, dataset_id, acknowledge);
  }
}

/** Leakage findings with a checkbox each; tick all and submit again to acknowledge them. */
function leakage({ findings }, dataset, acknowledged) {
  const box = (name, detail, checked) => h('label', { class: 'acknowledge' },
    h('input', { type: 'checkbox', name: ACKNOWLEDGE + name, value: 'known', checked }), h('span', {}, h('code', {}, name), detail));
  return h('fieldset', { class: 'problem' }, h('legend', {}, 'The splits leak'),
    h('p', {}, 'Patients or images occur in more than one split: test scores would be inflated. ', link(`/datasets/${dataset}`, 'Review the findings'),
      ', or acknowledge them and start the run again:'),
    acknowledged.map((name) => box(name, ' acknowledged', true)),
    findings.map(({ name, detail }) => box(name, ` ${detail}`, false)));
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`The plan overrides are not valid JSON: ${error.message}`);
  }
}
