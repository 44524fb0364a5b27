// Data set page: distribution, data audit, folder import, upload.

import { get, send, upload } from './api.js';
import { h } from './dom.js';
import * as format from './format.js';
import { facts, field, form, link, note, pageHead, section, select, status, syntheticBadge, table } from './parts.js';
import { reportSections } from './report.js';

const SPLITS = ['train', 'validation', 'test', 'unassigned'];

export default {
  section: 'datasets',
  title: ({ dataset }) => dataset.name,
  live: ({ job }) => job?.status === 'running',
  announce: ({ job }) => (job ? importState(job) : ''),
  async load(id) {
    const job = sessionStorage.getItem(importKey(id));
    const [dataset, running] = await Promise.all([
      get(`/v1/datasets/${id}`), job && get(`/v1/imports/${job}`).catch((error) => forget(id, error)),
    ]);
    return { dataset, job: running };
  },
  view({ dataset, job }, ctx) {
    return [
      pageHead(dataset.name, { above: link('/datasets', 'Data sets'), badges: [syntheticBadge(dataset)], lede: dataset.description }),
      section('Distribution', ...distribution(dataset), splitForm(dataset, ctx)),
      // One element with or without a report, so that form input below survives when the report arrives.
      h('div', { 'data-key': 'report' }, ...reportSections(dataset, job?.status === 'running', ctx)),
      section('Import a folder', job && importProgress(job), importForm(dataset, ctx)),
      section('Upload files', uploadForm(dataset, ctx)),
      section('Details', details(dataset)),
    ];
  },
};

function forget(id, error) {
  if (error.status !== 404) throw error;
  sessionStorage.removeItem(importKey(id));
  return null;
}

const importKey = (id) => `thorax-import-${id}`;

function distribution(dataset) {
  const { images = {}, patients = {} } = dataset.distribution ?? {};
  const splits = [...SPLITS, ...Object.keys(images).filter((name) => !SPLITS.includes(name))].filter((name) => images[name]);
  if (splits.length === 0) return [note('No radiographs yet. Import a folder or upload files below.')];
  const classes = [...dataset.classes];
  if (splits.some((split) => images[split].unlabelled)) classes.push('unlabelled');
  const cell = (split, name) => [format.count(images[split]?.[name] ?? 0),
    h('small', { class: 'patients' }, format.plural(patients[split]?.[name] ?? 0, 'patient'))];
  const sum = (counts) => Object.values(counts ?? {}).reduce((a, b) => a + b, 0);
  const rows = splits.map((split) => [split, ...classes.map((name) => cell(split, name)), format.count(sum(images[split]))]);
  rows.push(['all', ...classes.map((name) => format.count(splits.reduce((n, split) => n + (images[split][name] ?? 0), 0))),
    format.count(splits.reduce((n, split) => n + sum(images[split]), 0))]);
  return [
    table('Images and unique patients by split and class', ['Split', ...classes, 'Images'], rows,
      { numeric: rows[0].map((_, i) => i).slice(1), caption: true, class: 'distribution' }),
    leakage(dataset.leakage),
  ];
}

/** Note about patients that occur in more than one split. */
function leakage(given) {
  const shared = given?.patients_in_several_splits ?? [];
  return given?.note && h('p', { class: shared.length ? 'caveat' : 'note' }, given.note);
}

function splitForm(dataset, ctx) {
  const submit = async ({ test_fraction, validation_fraction, seed }) => {
    const shares = { test_fraction: Number(test_fraction), validation_fraction: Number(validation_fraction), seed: Number(seed) };
    await send('POST', `/v1/datasets/${dataset.id}/split`, shares);
    await ctx.refresh();
    return note('Splits assigned.');
  };
  const share = (name, value) => h('input', { name, type: 'number', min: 0, max: 0.99, step: 'any', value, required: true });
  return h('details', { class: 'data' }, h('summary', {}, 'Reassign splits'),
    note('Every radiograph gets a new split: grouped by patient, stratified by class, reproducible for a given seed.'),
    form({ class: 'columns', 'data-key': 'split', 'aria-label': 'Reassign splits' }, submit,
      field('Test fraction', share('test_fraction', 0.1)), field('Validation fraction', share('validation_fraction', 0.1)),
      field('Seed', h('input', { name: 'seed', type: 'number', min: 0, max: 4294967295, value: 0, required: true })),
      h('div', { class: 'actions wide' }, h('button', { type: 'submit', class: 'quiet' }, 'Assign splits'))));
}

function importProgress(job) {
  const done = job.created + job.duplicates + job.rejected;
  const rejections = job.rejections?.items ?? job.rejections ?? [];
  return h('div', { class: 'import' },
    h('p', {}, status(job.status), ' ', h('code', {}, job.path)),
    h('progress', { max: job.total || 1, value: job.status === 'succeeded' ? job.total || 1 : done, 'aria-label': 'Import' }),
    h('p', { class: 'state' }, importState(job)),
    job.error && h('div', { class: 'problem' }, h('p', {}, job.error)),
    rejections.length > 0 && h('details', { class: 'data' }, h('summary', {}, format.plural(rejections.length, 'rejected row')),
      table('Rejected rows', ['File', 'Line', 'Reason'], rejections.map(({ file, line, reason }) => [file, line ? String(line) : '', reason]))));
}

function importState(job) {
  const done = job.created + job.duplicates + job.rejected;
  const counts = `${format.count(job.created)} new, ${format.count(job.duplicates)} duplicates, ${format.count(job.rejected)} rejected`;
  return job.total ? `${format.count(done)} of ${format.count(job.total)}: ${counts}` : `Scanning for images: ${counts}`;
}

function importForm(dataset, ctx) {
  const submit = async ({ path, train_split, test_split }) => {
    const job = await send('POST', `/v1/datasets/${dataset.id}/imports`, { path, train_split, test_split });
    sessionStorage.setItem(importKey(dataset.id), job.id);
    await ctx.refresh();
  };
  return form({ class: 'columns', 'data-key': 'import', 'aria-label': 'Import a folder' }, submit,
    field('Folder', h('input', { name: 'path', required: true, autocomplete: 'off', spellcheck: 'false' }),
      'Path relative to THORAX_IMPORT_ROOT: train/ and test/ with their split files, or one folder per class'),
    field('Training split file', h('input', { name: 'train_split', placeholder: 'train_split.txt', autocomplete: 'off' }), 'Optional'),
    field('Test split file', h('input', { name: 'test_split', placeholder: 'test_split.txt', autocomplete: 'off' }), 'Optional'),
    h('div', { class: 'actions wide' }, h('button', { type: 'submit' }, 'Start import')));
}

function uploadForm(dataset, ctx) {
  const submit = async (values, element) => {
    const body = new FormData();
    for (const name of ['label', 'patient_id', 'source', 'split']) if (values[name]) body.append(name, values[name]);
    for (const file of element.querySelector('[type=file]').files) body.append('file', file);
    if (!body.has('file')) throw new Error('Choose one or more files first.');
    const { items } = await upload(`/v1/datasets/${dataset.id}/radiographs`, body);
    await ctx.refresh();
    return table('Uploaded files', ['File', 'Result'], items.map((item) => [item.file_name,
      [status(item.status), ' ', item.problem?.detail ?? item.problem?.title ?? (typeof item.problem === 'string' ? item.problem : '')]]));
  };
  const classes = dataset.classes.map((name) => [name, name]);
  const splits = SPLITS.slice(0, 3).map((name) => [name, name]);
  return form({ class: 'columns', 'data-key': 'upload', 'aria-label': 'Upload files' }, submit,
    field('Files', h('input', { type: 'file', name: 'file', multiple: true, accept: 'image/png,image/jpeg,application/dicom,.dcm' }), 'One or more PNG, JPEG or DICOM files'),
    field('Label', select('label', [['', 'none'], ...classes])),
    field('Patient', h('input', { name: 'patient_id', autocomplete: 'off' }), 'Optional. Images of one patient stay in one split'),
    field('Source', h('input', { name: 'source', autocomplete: 'off' }), 'Optional'),
    field('Split', select('split', [['', 'none'], ...splits])),
    h('div', { class: 'actions wide' }, h('button', { type: 'submit' }, 'Upload')));
}

function details(dataset) {
  return facts([
    ['Classes', dataset.classes.join(', ')],
    ['Fingerprint', h('code', { title: dataset.fingerprint }, dataset.fingerprint?.slice(0, 16))],
    ['Created', format.when(dataset.created_at)],
    ['Identifier', h('code', {}, dataset.id)],
  ]);
}
