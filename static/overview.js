// Overview: what is happening now, and what to do next.

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
      data.datasets.length > 0 && section('Kept here', kept(data)),
    ];
  },
};

/** What is happening, in one sentence. */
function headline({ active, champion, runs, datasets }) {
  const [run] = active;
  if (run?.status === 'running') return `${format.runName(run)} is training, ${format.percent(run.progress.fraction)} done.`;
  if (run) return `${format.runName(run)} is ${run.status}.`;
  if (champion) return 'A model is serving and no run is active.';
  if (runs.length) return 'No run is active and no model serves yet.';
  return datasets.length ? 'There is data, and no model yet.' : 'The server runs and is empty.';
}

function now({ active, champion, runs, models }) {
  const of = champion && runs.find(({ id }) => id === champion.run_id);
  const serving = champion
    ? [of ? link(`/runs/${of.id}`, format.modelName(champion, of)) : format.modelName(champion), ' ', syntheticBadge(champion)]
    : models.length ? ['None. ', link('/models', 'Choose a champion')] : 'None yet: predictions are answered with 503 until a run succeeds.';
  return [
    facts([
      ['Serving', serving],
      champion && ['Network', `${champion.spec.architecture} at ${champion.spec.image_size} px`],
      champion && ['Answers', champion.spec.classes.join(', ')],
    ].filter(Boolean)),
    ...active.map((run) => h('div', { class: 'active-run', 'data-key': run.id },
      h('p', {}, link(`/runs/${run.id}`, format.runName(run)), ' ', status(run.status)),
      planBar(run),
      h('p', { class: 'state' }, [progressText(run), paceText(run)].filter(Boolean).join(' · ')))),
    active.length === 0 && note('No run is active.'),
  ];
}

/** The first thing that is missing, with the form or command that supplies it. */
function nextStep(data, ctx) {
  const filled = data.datasets.find((dataset) => imagesOf(dataset) > 0);
  if (data.datasets.length === 0) {
    return section('Next step', note('Create a data set, then import a folder of labelled radiographs into it:'), createForm(ctx),
      note('For a tour without data of your own, stop the server and start it with drawn phantoms instead. It trains on them in about a minute:'),
      command('thorax demo'));
  }
  if (!filled) {
    const [dataset] = data.datasets;
    return section('Next step', note('The data set ', link(`/datasets/${dataset.id}`, dataset.name), ' is empty. Import a folder or upload files there, or:'),
      command(`curl --json '{"path": "FOLDER BELOW THORAX_IMPORT_ROOT"}' \\\n  ${location.origin}/v1/datasets/${dataset.id}/imports`));
  }
  if (data.models.length === 0 && data.active.length === 0) {
    return section('Next step', note('Start a training run. The best stage of the first one that succeeds serves by itself.'), startForm(data, ctx));
  }
  if (data.models.length === 0) {
    return section('Next step', note('Watch ', link(`/runs/${data.active[0].id}`, format.runName(data.active[0])), '. Its first model is ready when its first stage is done.'));
  }
  if (!data.champion) return section('Next step', note(link('/models', 'Choose which model serves'), '.'));
  return section('Next step', note(link('/predict', 'Show the model a radiograph'), ', or post one from a terminal:'),
    command(`curl --data-binary @radiograph.png -H 'content-type: image/png' \\\n  ${location.origin}/v1/predictions`));
}

function imagesOf(dataset) {
  return Object.values(dataset.distribution?.images ?? {}).flatMap(Object.values).reduce((sum, n) => sum + n, 0);
}

function kept({ datasets, runs, models }) {
  const images = datasets.reduce((sum, dataset) => sum + imagesOf(dataset), 0);
  const succeeded = runs.filter((run) => run.status === 'succeeded').length;
  return facts([
    ['Radiographs', [format.count(images), ' in ', link('/datasets', format.plural(datasets.length, 'data set'))]],
    ['Runs', [link('/runs', format.count(runs.length)), `, ${format.count(succeeded)} succeeded`]],
    ['Models', link('/models', format.count(models.length))],
  ]);
}
