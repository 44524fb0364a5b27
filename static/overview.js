// Overview page: current activity and the next step.

import { all, get } from './api.js';
import { h } from './dom.js';
import * as format from './format.js';
import { createForm } from './datasets.js';
import { command, facts, isActive, link, note, pageHead, paceText, planBar, progressText, section, status, syntheticBadge } from './parts.js';
import { startForm } from './runs.js';

export default {
  section: 'overview',
  title: () => 'Overview',
  live: ({ active }) => active.length > 0,
  announce: ({ active }) => (active[0] ? `${format.runName(active[0])}: ${progressText(active[0]).replace(/, batch.*/, '')}` : ''),
  async load() {
    const [datasets, runs, models, recipes] = await Promise.all([
      all('/v1/datasets'), all('/v1/training-runs'), all('/v1/models'), get('/v1/recipes'),
    ]);
    const details = await Promise.all(datasets.map(({ id }) => get(`/v1/datasets/${id}`)));
    const active = runs.filter(isActive).sort((a, b) => (b.status !== 'queued') - (a.status !== 'queued'));
    const champion = models.find((model) => model.aliases.includes('champion'));
    return { datasets: details, runs, models, recipes: recipes.items, active, champion };
  },
  view(data, ctx) {
    return [
      pageHead('Overview', { lede: headline(data) }),
      section('Now', ...now(data)),
      nextStep(data, ctx),
      data.datasets.length > 0 && section('Stored', stored(data)),
    ];
  },
};

/** Current activity in one sentence. */
function headline({ active, champion, runs, datasets }) {
  const [run] = active;
  if (run?.status === 'running') return `${format.runName(run)} is training, ${format.percent(run.progress.fraction)} done.`;
  if (run) return `${format.runName(run)} is ${run.status}.`;
  if (champion) return 'A model is serving. No run is active.';
  if (runs.length) return 'No run is active and no model is serving yet.';
  return datasets.length ? 'There is data but no model yet.' : 'The server is running and has no data.';
}

function now({ active, champion, runs, models }) {
  const of = champion && runs.find(({ id }) => id === champion.run_id);
  const serving = champion
    ? [of ? link(`/runs/${of.id}`, format.modelName(champion, of)) : format.modelName(champion), ' ', syntheticBadge(champion)]
    : models.length ? ['None. ', link('/models', 'Choose a champion')] : 'None yet: prediction requests return 503 until a run succeeds.';
  return [
    facts([
      ['Serving', serving],
      champion && ['Network', `${champion.spec.architecture} at ${champion.spec.image_size} px`],
      champion && ['Classes', champion.spec.classes.join(', ')],
    ].filter(Boolean)),
    ...active.map((run) => h('div', { class: 'active-run', 'data-key': run.id },
      h('p', {}, link(`/runs/${run.id}`, format.runName(run)), ' ', status(run.status)),
      planBar(run),
      h('p', { class: 'state' }, [progressText(run), paceText(run)].filter(Boolean).join(' · ')))),
    active.length === 0 && note('No run is active.'),
  ];
}

/** The first missing item, with the form or command that provides it. */
function nextStep(data, ctx) {
  const filled = data.datasets.find((dataset) => imagesOf(dataset) > 0);
  if (data.datasets.length === 0) {
    return section('Next step', note('Create a data set, then import a folder of labelled radiographs into it:'), createForm(ctx),
      note('To try Thorax without your own data, stop the server and start the demo. It generates synthetic phantoms and trains on them in about a minute:'),
      command('thorax demo'));
  }
  if (!filled) {
    const [dataset] = data.datasets;
    return section('Next step', note('The data set ', link(`/datasets/${dataset.id}`, dataset.name), ' is empty. Import a folder or upload files there, or:'),
      command(`curl --json '{"path": "FOLDER BELOW THORAX_IMPORT_ROOT"}' \\\n  ${location.origin}/v1/datasets/${dataset.id}/imports`));
  }
  if (data.models.length === 0 && data.active.length === 0) {
    return section('Next step', note('Start a training run. A stage of the first successful run becomes champion automatically.'), startForm(data, ctx));
  }
  if (data.models.length === 0) {
    return section('Next step', note('Watch ', link(`/runs/${data.active[0].id}`, format.runName(data.active[0])), '. Its first model is saved at the end of the first stage.'));
  }
  if (!data.champion) return section('Next step', note(link('/models', 'Choose a champion'), '.'));
  return section('Next step', note(link('/predict', 'Classify a radiograph'), ', or post one from a terminal:'),
    command(`curl --data-binary @radiograph.png -H 'content-type: image/png' \\\n  ${location.origin}/v1/predictions`));
}

function imagesOf(dataset) {
  return Object.values(dataset.distribution?.images ?? {}).flatMap(Object.values).reduce((sum, n) => sum + n, 0);
}

function stored({ datasets, runs, models }) {
  const images = datasets.reduce((sum, dataset) => sum + imagesOf(dataset), 0);
  const succeeded = runs.filter((run) => run.status === 'succeeded').length;
  return facts([
    ['Radiographs', [format.count(images), ' in ', link('/datasets', format.plural(datasets.length, 'data set'))]],
    ['Runs', [link('/runs', format.count(runs.length)), `, ${format.count(succeeded)} succeeded`]],
    ['Models', link('/models', format.count(models.length))],
  ]);
}
