// Data sets page: list and creation form.

import { all, send } from './api.js';
import { h } from './dom.js';
import * as format from './format.js';
import { command, field, form, link, note, pageHead, section, syntheticBadge, table } from './parts.js';

export default {
  section: 'datasets',
  title: () => 'Data sets',
  live: () => false,
  load: async () => ({ datasets: await all('/v1/datasets') }),
  view({ datasets }, ctx) {
    return [
      pageHead('Data sets'),
      section('Data sets', datasets.length ? datasetTable(datasets)
        : [note('No data sets yet. Create one below, or generate a synthetic one and train on it:'), command('thorax demo')]),
      section('Create a data set', createForm(ctx)),
    ];
  },
};

function datasetTable(datasets) {
  const rows = datasets.map((dataset) => [
    [link(`/datasets/${dataset.id}`, dataset.name), ' ', syntheticBadge(dataset)],
    dataset.classes.join(', '),
    dataset.description ?? '',
    format.when(dataset.created_at),
  ]);
  return table('Data sets', ['Name', 'Classes', 'Description', 'Created'], rows);
}

/** Form that creates a data set and opens its page. */
export function createForm(ctx) {
  const submit = async ({ name, description, classes }) => {
    const list = classes?.split(',').map((text) => text.trim()).filter(Boolean);
    const dataset = await send('POST', '/v1/datasets', { name, description, classes: list });
    ctx.go(`/datasets/${dataset.id}`);
  };
  return form({ class: 'columns', 'data-key': 'create', 'aria-label': 'Create a data set' }, submit,
    field('Name', h('input', { name: 'name', required: true, maxlength: 200, autocomplete: 'off' })),
    field('Classes', h('input', { name: 'classes', placeholder: 'normal, pneumonia, COVID-19', autocomplete: 'off' }),
      'Comma-separated, in the order of the network outputs. Default: normal, pneumonia, COVID-19'),
    field('Description', h('input', { name: 'description', maxlength: 1000, autocomplete: 'off' }), 'Optional'),
    h('div', { class: 'actions wide' }, h('button', { type: 'submit' }, 'Create data set')));
}
