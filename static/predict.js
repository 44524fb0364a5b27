// Predict page: upload one file, show class probabilities and, on request, a heatmap.

import { all, bytes, upload } from './api.js';
import { h } from './dom.js';
import * as format from './format.js';
import { command, facts, link, note, pageHead, problemNote, section, syntheticBadge } from './parts.js';

export default {
  section: 'predict',
  title: () => 'Predict',
  live: () => false,
  async load() {
    const [models, runs] = await Promise.all([all('/v1/models'), all('/v1/training-runs')]);
    return { models: models.reverse(), runs };
  },
  view(data, ctx) {
    if (data.models.length === 0) {
      return [pageHead('Predict'), section('Radiograph', note('No model yet. ', link('/runs', 'Start a run'),
        '; a stage of the first successful run becomes champion automatically. To try it without data, train on synthetic phantoms:'),
      command('thorax demo'))];
    }
    const champion = data.models.find((model) => model.aliases.includes('champion'));
    return [
      pageHead('Predict', { lede: 'The file is classified and not stored.' }),
      section('Radiograph', picker(ctx), explainToggle(ctx), servingNote(champion, data.runs)),
      section('Result', h('div', { id: 'result', 'aria-live': 'polite' }, resultView(data, ctx.memo))),
    ];
  },
};

function servingNote(champion, runs) {
  if (!champion) return h('p', { class: 'caveat' }, 'No model is serving. ', link('/models', 'Choose a champion'), ' first.');
  const run = runs.find(({ id }) => id === champion.run_id);
  return note('Served by the champion, ', format.modelName(champion, run), ' ', syntheticBadge(champion), '. Choose another under ',
    link('/models', 'Models'), '.');
}

function picker(ctx) {
  const dropped = (event) => {
    hover(false)(event);
    predict(event.dataTransfer.files[0], ctx);
  };
  const chosen = (event) => {
    const [file] = event.target.files;
    event.target.value = ''; // lets the same file be chosen again
    predict(file, ctx);
  };
  return h('label', { class: 'viewbox', ondragover: hover(true), ondragleave: hover(false), ondrop: dropped },
    h('canvas', { width: 0, height: 0, 'data-keep': '', 'aria-hidden': 'true' }),
    h('span', {}, h('strong', {}, ctx.memo.file ? 'Choose another file' : 'Choose a radiograph'), ' or drop it here. PNG, JPEG or DICOM.'),
    h('input', { type: 'file', id: 'radiograph', accept: 'image/png,image/jpeg,application/dicom,.dcm', onchange: chosen }));
}

/** Heatmap checkbox. Ticking it after a result without a heatmap repeats the request. */
function explainToggle(ctx) {
  const { memo } = ctx;
  const onchange = (event) => {
    memo.explain = event.target.checked;
    if (memo.explain && memo.file && !memo.overlay) predict(memo.file, ctx);
    else ctx.redraw();
  };
  return h('label', { class: 'explain' }, h('input', { type: 'checkbox', id: 'explain', checked: memo.explain, onchange }),
    h('span', {}, 'Show what moved the score. The server keeps a small copy of the image in memory for a while.'));
}

const hover = (over) => (event) => {
  event.preventDefault();
  event.currentTarget.classList.toggle('over', over);
};

async function predict(file, ctx) {
  if (!file) return;
  const { memo } = ctx;
  const request = (memo.request = (memo.request ?? 0) + 1);
  if (memo.overlay) URL.revokeObjectURL(memo.overlay);
  Object.assign(memo, { file, busy: true, error: null, result: null, overlay: null });
  ctx.redraw();
  preview(file);
  const body = new FormData();
  body.append('file', file);
  try {
    const result = await upload(memo.explain ? '/v1/predictions?explain=true' : '/v1/predictions', body);
    const overlay = result.heatmap ? URL.createObjectURL(await bytes(result.heatmap.href)) : null;
    if (request === memo.request) Object.assign(memo, { result, overlay });
    else if (overlay) URL.revokeObjectURL(overlay);
  } catch (error) {
    if (request === memo.request) memo.error = error;
  }
  if (request !== memo.request) return;
  memo.busy = false;
  ctx.redraw();
}

/** Draws the file on a canvas, without an object URL. A file the browser cannot decode, such as DICOM, shows no preview. */
async function preview(file) {
  const canvas = document.querySelector('.viewbox canvas');
  canvas.width = 0;
  canvas.height = 0;
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return;
  const shrink = Math.min(1, 900 / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.round(bitmap.width * shrink);
  canvas.height = Math.round(bitmap.height * shrink);
  canvas.getContext('2d').drawImage(bitmap, 0, 0, canvas.width, canvas.height);
}

function resultView(data, { busy, error, result, file, explain, overlay }) {
  if (busy) return h('p', { class: 'waiting' }, 'Classifying…');
  if (error) return problemNote(error, error.title ?? 'Prediction failed');
  if (!result) return note('The predicted class, class probabilities, model and timing appear here.');
  const model = data.models.find(({ id }) => id === result.model.id);
  const classes = model?.spec.classes ?? Object.keys(result.probabilities);
  const run = data.runs.find(({ id }) => id === result.model.run_id);
  const from = [result.model.alias, model ? format.modelName(model, run) : format.short(result.model.id)].filter(Boolean).join(': ');
  const { queue_ms, preprocess_ms, inference_ms } = result.timing ?? {};
  return h('div', { class: 'result' },
    h('p', { class: 'verdict' }, result.prediction, ' ', h('span', { class: 'verdict-share' }, format.percent(result.probabilities[result.prediction], 1))),
    h('dl', { class: 'probabilities' }, ...classes.map((name) => bar(name, result.probabilities[name], name === result.prediction))),
    explain && overlay && heatmap(result.heatmap, overlay),
    (result.warnings ?? []).map(({ detail }) => note(`Check the image: ${detail}.`)),
    h('p', { class: 'notice' }, result.notice),
    result.reliability && note(result.reliability),
    facts([
      ['File', file.name],
      ['Model', [run ? link(`/runs/${run.id}`, from) : from, ' ', syntheticBadge(result.model)]],
      ['Timing', `inference ${format.milliseconds(inference_ms)}, preprocessing ${format.milliseconds(preprocess_ms)}, queue ${format.milliseconds(queue_ms)}`],
      ['Identifier', h('code', {}, result.id)],
    ]));
}

function heatmap({ class: name, caveat }, overlay) {
  return h('figure', { class: 'heatmap' }, h('img', { src: overlay, alt: `Radiograph with a heatmap of what moved the score of ${name}` }),
    h('figcaption', {}, h('strong', {}, `What moved the score of ${name}. `), caveat));
}

function bar(name, probability, chosen) {
  return h('div', { class: chosen ? 'chosen' : null }, h('dt', {}, name),
    h('dd', {}, h('span', { class: 'bar', vars: { share: probability } }), h('span', { class: 'share' }, format.percent(probability, 1))));
}
