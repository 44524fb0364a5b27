// Data audit: leakage, shortcut baselines, duplicates, and what a score on this data set can mean.

import { bytes, get } from './api.js';
import { h } from './dom.js';
import { scoreCell } from './evaluation.js';
import * as format from './format.js';
import { note, problemNote, section, table } from './parts.js';

/** The first report on a large data set takes minutes. */
const REPORT_TIMEOUT_MS = 10 * 60 * 1000;
const IMAGE_SIDE = 224;
const FIRST_GROUPS = 6;

/** Audit sections of the data set page; they appear when the report has been computed. */
export function reportSections(dataset, importing, ctx) {
  const title = 'Data audit';
  if (Object.keys(dataset.distribution?.images ?? {}).length === 0) return [];
  if (importing) return [section(title, note('The audit starts when the import has finished.'))];
  const { report, error } = latest(dataset, ctx);
  if (error) return [section(title, problemNote(error, 'The audit failed'))];
  if (!report) return [section(title, h('p', { class: 'waiting' }, 'Auditing all images. The first audit takes a while…'))];
  return [
    section(title, h('ul', { class: 'verdict-list' }, ...report.verdict.map((sentence) => h('li', {}, sentence)))),
    section('Shortcut baselines', ...shortcuts(report)),
    section('Near-duplicates', ...duplicates(report.duplicates, ctx)),
    section('Class by attribute', ...attributes(report)),
    section('Patients', ...patients(report)),
    section('Labels', ...labels(report.labels)),
  ];
}

/** The report for the current data, fetched when the data changed. */
function latest(dataset, ctx) {
  const key = JSON.stringify([dataset.fingerprint, dataset.leakage]);
  if (ctx.memo.report?.key !== key) {
    const pending = { key };
    ctx.memo.report = pending;
    get(`/v1/datasets/${dataset.id}/report`, REPORT_TIMEOUT_MS)
      .then((report) => { pending.report = report; }, (error) => { pending.error = error; })
      .then(ctx.redraw);
  }
  return ctx.memo.report;
}

function shortcuts({ shortcuts: found, labelled }) {
  if (found.length === 0) return [note(`${format.plural(labelled, 'labelled image')}: too few to compute shortcut baselines.`)];
  const [{ cross_validated: all, on_test: test }] = found;
  const cell = (accuracy, of) => (accuracy ? scoreCell(accuracy[of]) : '–');
  const rows = [
    ['majority class', cell(all, 'majority'), cell(test, 'majority')],
    ...found.map((one) => [one.features, cell(one.cross_validated, 'accuracy'), cell(one.on_test, 'accuracy')]),
  ];
  return [
    table('Shortcut baselines: accuracy without looking at pathology', ['Features', 'Cross-validated', test ? `Test (${format.count(test.n)})` : 'Test'], rows,
      { numeric: [1, 2], class: 'scores shortcuts' }),
    note(`A network must beat these baselines. Cross-validated by patient over ${format.plural(all.n, 'image')} of ${format.plural(all.patients, 'patient')}; `,
      'test: fitted on train, scored on test. 95 % confidence intervals from a bootstrap over patients.'),
  ];
}

function duplicates({ compared, featureless, unreadable, groups, across_splits: across, with_several_classes: several }, ctx) {
  const left = [featureless && `${format.count(featureless)} have too little detail to compare`, unreadable && `${format.count(unreadable)} could not be read`];
  const counts = [`${format.plural(compared, 'image')} compared`, ...left.filter(Boolean)].join('; ');
  const kinds = 'Detects copies that differ in size, compression, brightness, contrast or mirroring; not cropped or rotated ones.';
  if (groups.count === 0) return [note(`No near-duplicates: ${counts}. ${kinds}`)];
  const shown = groups.items.map((group) => duplicateGroup(group, ctx));
  const more = shown.slice(FIRST_GROUPS);
  return [
    h('p', { class: across || several ? 'caveat' : 'note' },
      `${format.plural(groups.count, 'group')} of near-duplicates: ${format.count(across)} across splits, ${format.count(several)} with different labels.`),
    h('ul', { class: 'duplicates' }, ...shown.slice(0, FIRST_GROUPS)),
    more.length > 0 && h('details', { class: 'data' }, h('summary', {}, `${format.count(more.length)} more`), h('ul', { class: 'duplicates' }, ...more)),
    groups.count > groups.items.length && note(`The first ${groups.items.length} of ${format.count(groups.count)} groups.`),
    note(`${counts}. ${kinds}`),
  ];
}

function duplicateGroup({ images, likeness, identical, mirrored, across_splits: across, several_classes: several }, ctx) {
  const what = [identical ? 'identical at 64 × 64 pixels' : `similarity ${likeness.toFixed(3)}`, mirrored && 'mirrored', across && 'across splits', several && 'different labels'];
  return h('li', { class: across || several ? 'grave' : null }, h('strong', {}, what.filter(Boolean).join(', ')),
    h('div', { class: 'members' }, ...images.map((image) => h('figure', {}, thumbnail(image, ctx),
      h('figcaption', {}, `${image.file_name}: ${image.split ?? 'no split'}, ${image.label ?? 'unlabelled'}, ${image.patient ? `patient ${image.patient}` : 'unknown patient'}`)))));
}

/** Thumbnail, fetched with the API key once per visit when it scrolls into view. */
function thumbnail({ id, file_name: name }, ctx) {
  ctx.memo.thumbnails ??= new Map();
  const known = ctx.memo.thumbnails.get(id);
  if (typeof known === 'string') return h('img', { src: known, alt: name });
  if (known) return h('div', { class: 'no-image' }, known.message);
  const placeholder = h('div', { class: 'no-image', 'data-key': id }, 'Loading…');
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
    observer.disconnect();
    bytes(`/v1/radiographs/${id}/image?size=${IMAGE_SIDE}`)
      .then((blob) => ctx.memo.thumbnails.set(id, URL.createObjectURL(blob)), (error) => ctx.memo.thumbnails.set(id, error))
      .then(ctx.redraw);
  });
  observer.observe(placeholder);
  return placeholder;
}

function attributes({ attributes: all, classes }) {
  if (all.length === 0) return [note('No known attribute varies between the images.')];
  const summary = all.map((one) => [one.attribute, format.count(one.known), `${one.information_bits.toFixed(3)}`, one.chance_bits.toFixed(3),
    format.percent(one.share_of_class, 1), format.pValue(one.p)]);
  const counts = ({ attribute, rows }) => h('details', { class: 'data', 'data-key': attribute }, h('summary', {}, `Class by ${attribute}`),
    table(`Images by ${attribute} and class`, [attribute, ...classes], rows.map(({ value, images }) => [value, ...classes.map((name) => format.count(images[name] ?? 0))]),
      { numeric: classes.map((_, i) => i + 1) }));
  return [
    table('Association of attributes with the class', ['Attribute', 'Known', 'Mutual information (bits)', 'By chance (bits)', 'Explained share', 'p'], summary, { numeric: [1, 2, 3, 4, 5] }),
    note('Mutual information with the class, plug-in estimate. By chance: mean over label permutations by patient. ',
      'Explained share: the excess over chance, relative to the entropy of the class.'),
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
    ['contradictions', 'row that contradicts another row for the same file', 'rows that contradict another row for the same file'],
    ['rows_without_file', 'row whose file is missing', 'rows whose file is missing'],
    ['files_without_row', 'file without a row', 'files without a row'],
    ['unusable', 'unusable row or file', 'unusable rows or files'],
  ];
  if (kinds.every(([kind]) => found[kind].count === 0)) return [note('Imports found no label problems.')];
  return kinds.filter(([kind]) => found[kind].count > 0).map(([kind, one, many]) => h('details', { class: 'data', 'data-key': kind },
    h('summary', {}, format.plural(found[kind].count, one, many)),
    table(many, ['File', 'Line', 'Reason'], found[kind].items.map(({ file, line, reason }) => [file, line ? String(line) : '', reason])),
    found[kind].count > found[kind].items.length && note(`The first ${found[kind].items.length}.`)));
}
