// The truth about a data set: what leaks, what besides disease tells the classes apart, and what a score can mean.

import { bytes, get } from './api.js';
import { h } from './dom.js';
import { scoreCell } from './evaluation.js';
import * as format from './format.js';
import { note, problemNote, section, table } from './parts.js';

/** The first report on many images takes the server a while. */
const PATIENCE_MS = 10 * 60 * 1000;
const IMAGE_SIDE = 224;
const FIRST_GROUPS = 6;

/** Sections of the data set's page; the report comes in when it is made. */
export function reportSections(dataset, importing, ctx) {
  const title = 'What a score means';
  if (Object.keys(dataset.distribution?.images ?? {}).length === 0) return [];
  if (importing) return [section(title, note('The report is made when the import has ended.'))];
  const { report, error } = latest(dataset, ctx);
  if (error) return [section(title, problemNote(error, 'The report could not be made'))];
  if (!report) return [section(title, h('p', { class: 'waiting' }, 'Looking at every image. The first time this takes a while…'))];
  return [
    section(title, h('ul', { class: 'verdict-list' }, ...report.verdict.map((sentence) => h('li', {}, sentence)))),
    section('Shortcuts', ...shortcuts(report)),
    section('Same pictures', ...pictures(report.duplicates, ctx)),
    section('Class by origin', ...attributes(report)),
    section('Patients', ...patients(report)),
    section('Labels', ...labels(report.labels)),
  ];
}

/** What is known now; asks for the report when there is none of these data. */
function latest(dataset, ctx) {
  const key = JSON.stringify([dataset.fingerprint, dataset.leakage]);
  if (ctx.memo.report?.key !== key) {
    const asked = { key };
    ctx.memo.report = asked;
    get(`/v1/datasets/${dataset.id}/report`, PATIENCE_MS)
      .then((report) => { asked.report = report; }, (error) => { asked.error = error; })
      .then(ctx.redraw);
  }
  return ctx.memo.report;
}

function shortcuts({ shortcuts: found, labelled }) {
  if (found.length === 0) return [note(`There are ${format.plural(labelled, 'labelled image')}: too few to measure what predicts their class without any disease.`)];
  const [{ cross_validated: all, on_test: test }] = found;
  const cell = (accuracy, of) => (accuracy ? scoreCell(accuracy[of]) : '–');
  const rows = [
    ['always the commonest class', cell(all, 'majority'), cell(test, 'majority')],
    ...found.map((one) => [one.features, cell(one.cross_validated, 'accuracy'), cell(one.on_test, 'accuracy')]),
  ];
  return [
    table('Accuracy of predicting the class from what is no disease', ['From', 'Cross-validated', test ? `On test (${format.count(test.n)})` : 'On test'], rows,
      { numeric: [1, 2], class: 'scores shortcuts' }),
    note(`The bar that a network must beat. Cross-validated by patient over ${format.plural(all.n, 'image')} of ${format.plural(all.patients, 'patient')}; `,
      'on test: learnt from train and scored on test. Ranges are 95 % intervals, from a bootstrap over patients.'),
  ];
}

function pictures({ compared, featureless, unreadable, groups, across_splits: across, with_several_classes: several }, ctx) {
  const left = [featureless && `${format.count(featureless)} have too little detail to be compared`, unreadable && `${format.count(unreadable)} could not be read`];
  const looked = [`${format.plural(compared, 'image')} compared`, ...left.filter(Boolean)].join('; ');
  const kinds = 'Found is the same picture in another size, compression, brightness or contrast, or mirrored; not one that is cropped or turned.';
  if (groups.count === 0) return [note(`No two images look the same: ${looked}. ${kinds}`)];
  const shown = groups.items.map((group) => pictureGroup(group, ctx));
  const more = shown.slice(FIRST_GROUPS);
  return [
    h('p', { class: across || several ? 'caveat' : 'note' },
      `${format.plural(groups.count, 'group')} of images that look the same: ${format.count(across)} across splits, ${format.count(several)} with different classes.`),
    h('ul', { class: 'pictures' }, ...shown.slice(0, FIRST_GROUPS)),
    more.length > 0 && h('details', { class: 'data' }, h('summary', {}, `${format.count(more.length)} more`), h('ul', { class: 'pictures' }, ...more)),
    groups.count > groups.items.length && note(`The first ${groups.items.length} of ${format.count(groups.count)} groups.`),
    note(`${looked}. ${kinds}`),
  ];
}

function pictureGroup({ images, likeness, identical, mirrored, across_splits: across, several_classes: several }, ctx) {
  const what = [identical ? 'the same at 64 × 64 pixels' : `likeness ${likeness.toFixed(3)}`, mirrored && 'mirrored', across && 'across splits', several && 'different classes'];
  return h('li', { class: across || several ? 'grave' : null }, h('strong', {}, what.filter(Boolean).join(', ')),
    h('div', { class: 'members' }, ...images.map((image) => h('figure', {}, picture(image, ctx),
      h('figcaption', {}, `${image.file_name}: ${image.split ?? 'no split'}, ${image.label ?? 'unlabelled'}, ${image.patient ? `patient ${image.patient}` : 'unknown patient'}`)))));
}

/** Fetched with the key, once for a visit, when it comes into view. */
function picture({ id, file_name: name }, ctx) {
  ctx.memo.pictures ??= new Map();
  const known = ctx.memo.pictures.get(id);
  if (typeof known === 'string') return h('img', { src: known, alt: name });
  if (known) return h('div', { class: 'no-image' }, known.message);
  const place = h('div', { class: 'no-image', 'data-key': id }, 'Loading…');
  const seen = new IntersectionObserver((entries) => {
    if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
    seen.disconnect();
    bytes(`/v1/radiographs/${id}/image?size=${IMAGE_SIDE}`)
      .then((blob) => ctx.memo.pictures.set(id, URL.createObjectURL(blob)), (error) => ctx.memo.pictures.set(id, error))
      .then(ctx.redraw);
  });
  seen.observe(place);
  return place;
}

function attributes({ attributes: all, classes }) {
  if (all.length === 0) return [note('Nothing that is known of the images differs between them.')];
  const summary = all.map((one) => [one.attribute, format.count(one.known), `${one.information_bits.toFixed(3)}`, one.chance_bits.toFixed(3),
    format.percent(one.share_of_class, 1), one.p < 0.0015 ? '≤ 0.001' : one.p.toFixed(3)]);
  const counts = ({ attribute, rows }) => h('details', { class: 'data', 'data-key': attribute }, h('summary', {}, `Class by ${attribute}`),
    table(`Images by ${attribute} and class`, [attribute, ...classes], rows.map(({ value, images }) => [value, ...classes.map((name) => format.count(images[name] ?? 0))]),
      { numeric: classes.map((_, i) => i + 1) }));
  return [
    table('What tells the class without any disease', ['Attribute', 'Known', 'Bits', 'By chance', 'Share of the class', 'p'], summary, { numeric: [1, 2, 3, 4, 5] }),
    note('Bits: mutual information with the class, as counted. By chance: the mean when the classes are dealt anew among the patients. ',
      'Share: what is left, of all there is to know about the class.'),
    ...all.map(counts),
  ];
}

function patients({ patients: known, without_patient: without, patients_in_several_splits: splits, patients_with_several_classes: several }) {
  const list = (title, { count, items }) => count > 0 && h('details', { class: 'data' }, h('summary', {}, `${format.plural(count, 'patient')} ${title}`),
    table(`Patients ${title}`, ['Patient', 'Images', 'Splits', 'Classes'], items.map((one) => [h('code', {}, one.patient), format.count(one.images), one.splits.join(', '),
      Object.entries(one.classes).map(([name, n]) => `${format.count(n)} ${name}`).join(', ')]), { numeric: [1] }),
    count > items.length && note(`The first ${items.length}.`));
  return [
    note(`${format.plural(known, 'patient')} known; ${format.plural(without, 'image')} without a patient id. `,
      splits.count === 0 ? 'No known patient is in two splits. ' : '', several.count === 0 ? 'None has images of several classes.' : ''),
    list('in more than one split', splits),
    list('with images of more than one class', several),
  ];
}

function labels(found) {
  const kinds = [
    ['contradictions', 'row that contradicts another about the same file', 'rows that contradict another about the same file'],
    ['rows_without_file', 'row without its file', 'rows without their file'],
    ['files_without_row', 'file that no row names', 'files that no row names'],
    ['unusable', 'unusable row or file', 'unusable rows or files'],
  ];
  if (kinds.every(([kind]) => found[kind].count === 0)) return [note('The imports found nothing wrong with the labels.')];
  return kinds.filter(([kind]) => found[kind].count > 0).map(([kind, one, many]) => h('details', { class: 'data', 'data-key': kind },
    h('summary', {}, format.plural(found[kind].count, one, many)),
    table(many, ['File', 'Line', 'Reason'], found[kind].items.map(({ file, line, reason }) => [file, line ? String(line) : '', reason])),
    found[kind].count > found[kind].items.length && note(`The first ${found[kind].items.length}.`)));
}
