// Components shared by several pages.

import { h, nodes } from './dom.js';
import * as format from './format.js';

/** A section with its heading in the margin. */
export function section(title, ...children) {
  const id = `section-${title.toLowerCase().replace(/\W+/g, '-')}`;
  return h('section', { class: 'sheet', 'aria-labelledby': id, 'data-key': id },
    h('h2', { id }, title), h('div', { class: 'sheet-body' }, ...nodes(children)));
}

/** Page heading with a context line above and badges next to it. */
export function pageHead(title, { above, badges, lede } = {}) {
  return h('header', { class: 'page-head' },
    above && h('p', { class: 'above' }, ...nodes(above)),
    h('h1', {}, title, ...nodes(badges).map((badge) => [' ', badge]).flat()),
    lede && h('p', { class: 'lede' }, ...nodes(lede)));
}

/** Horizontally scrollable table. `rows` contain cells: text or nodes. */
export function table(caption, heads, rows, options = {}) {
  const head = h('tr', {}, ...heads.map((text, i) => h('th', { scope: 'col', class: options.numeric?.includes(i) && 'number' }, text)));
  const body = rows.map((row) => h('tr', {}, ...row.map((cell, i) => i === 0
    ? h('th', { scope: 'row' }, ...nodes(cell))
    : h('td', { class: options.numeric?.includes(i) && 'number' }, ...nodes(cell)))));
  return h('div', { class: 'scroll', role: 'region', tabindex: '0', 'aria-label': caption },
    h('table', { class: options.class }, h('caption', { class: options.caption ? null : 'unseen' }, caption),
      h('thead', {}, head), h('tbody', {}, ...body)));
}

/** Definition list; pairs without a value are omitted. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined);
  return h('dl', { class: 'facts' }, ...shown.map(([term, value]) => h('div', {}, h('dt', {}, term), h('dd', {}, ...nodes(value)))));
}

export function status(value) {
  return h('span', { class: `status ${value}` }, value);
}

export function syntheticBadge(thing) {
  return thing?.synthetic
    && h('span', { class: 'badge', title: 'From synthetic phantoms, not from patients' }, 'synthetic');
}

/** Shell command; one click selects it. */
export function command(text) {
  return h('pre', { class: 'command', tabindex: '0' }, h('code', {}, text));
}

export function link(hash, text) {
  return h('a', { href: `#${hash}` }, text);
}

/** Error message with its invalid fields. */
export function problemNote(error, heading = error.title) {
  const fields = (error.errors ?? []).map(({ pointer, detail }) => h('li', {}, h('code', {}, pointer), ' ', detail));
  return h('div', { class: 'problem' }, heading && h('p', {}, h('strong', {}, heading)), h('p', {}, error.message),
    fields.length > 0 && h('ul', {}, ...fields));
}

export function note(...children) {
  return h('p', { class: 'note' }, ...nodes(children));
}

/** Label above the control, hint below. Control names must be unique within a page. */
export function field(label, control, hint) {
  const id = `hint-${control.name}`;
  if (hint) control.setAttribute('aria-describedby', id);
  return h('div', { class: 'field' }, h('label', {}, h('span', {}, label), control), hint && h('small', { id }, hint));
}

export function select(name, options, attributes = {}) {
  return h('select', { name, ...attributes }, ...options.map(([value, text, chosen]) => h('option', { value, selected: chosen }, text)));
}

/**
 * Form whose `submit(values, form)` returns nodes to show below it, or throws an error that is shown there.
 * `values` contains the non-empty text fields.
 */
export function form(attributes, submit, ...children) {
  const onsubmit = async (event) => {
    event.preventDefault();
    const element = event.currentTarget;
    const output = element.querySelector('output');
    const values = Object.fromEntries([...new FormData(element)].filter(([, value]) => value !== ''));
    lock(element, true);
    output.replaceChildren(h('p', { class: 'waiting' }, 'Working…'));
    try {
      output.replaceChildren(...nodes(await submit(values, element)));
    } catch (error) {
      output.replaceChildren(problemNote(error));
    } finally {
      lock(element, false);
    }
  };
  return h('form', { onsubmit, ...attributes }, ...nodes(children), h('output', { 'data-keep': '' }));
}

function lock(element, busy) {
  element.setAttribute('aria-busy', busy);
  for (const button of element.querySelectorAll('button')) button.disabled = busy;
}

/** Button that runs one request; an error is shown next to it. */
export function action(text, work, attributes = {}) {
  const onclick = async (event) => {
    const button = event.currentTarget;
    const outlet = button.nextElementSibling;
    button.disabled = true;
    outlet.replaceChildren();
    try {
      await work();
    } catch (error) {
      outlet.replaceChildren(problemNote(error));
    } finally {
      button.disabled = false;
    }
  };
  return h('span', { class: 'action' }, h('button', { type: 'button', onclick, ...attributes }, text),
    h('span', { role: 'alert', 'data-keep': '' }));
}

/** "Stage 1 of 3, step 2 of 2 (all, 1e-3), epoch 3 of 5, batch 12 of 38". */
export function progressText(run) {
  const { progress, plan, status: state } = run;
  if (state === 'queued') return 'Waiting for the device';
  if (!progress?.stage) return state === 'running' ? 'Preparing: decoding and resizing images' : '';
  const stage = plan.stages[progress.stage - 1];
  const step = stage?.steps[progress.step - 1];
  const parts = [`Stage ${progress.stage} of ${plan.stages.length}`];
  if (step) parts.push(`${step.scope === 'head' ? 'head only' : 'whole network'} at ${format.rate(step.learning_rate)}`);
  if (step && progress.epoch) parts.push(`epoch ${progress.epoch} of ${step.epochs}`);
  if (progress.batches) parts.push(`batch ${progress.batch} of ${progress.batches}`);
  return parts.join(', ');
}

/** "4.2 images/s, about 12 min left". */
export function paceText({ progress }) {
  const parts = [];
  if (progress?.images_per_second > 0) parts.push(`${progress.images_per_second.toFixed(1)} images/s`);
  if (Number.isFinite(progress?.eta_seconds)) parts.push(`about ${format.duration(progress.eta_seconds)} left`);
  return parts.join(', ');
}

/** Progress bar of the plan: one segment per step, as wide as its number of epochs. */
export function planBar(run) {
  const { plan, progress } = run;
  const total = plan.stages.flatMap((stage) => stage.steps).reduce((sum, step) => sum + step.epochs, 0);
  const done = (progress?.fraction ?? 0) * total;
  let before = 0;
  const stages = plan.stages.map((stage, s) => {
    const steps = stage.steps.map((step) => {
      const filled = Math.max(0, Math.min(1, (done - before) / step.epochs));
      before += step.epochs;
      return h('span', { class: `step ${step.scope}`, vars: { epochs: step.epochs, filled },
        title: `${step.scope}: ${format.plural(step.epochs, 'epoch')} at ${format.rate(step.learning_rate)}` });
    });
    const epochs = stage.steps.reduce((sum, step) => sum + step.epochs, 0);
    return h('span', { class: 'stage', vars: { epochs } }, h('span', { class: 'steps' }, ...steps),
      h('span', { class: 'stage-name' }, `${plan.stages.length > 1 ? `${s + 1}: ` : ''}${stage.image_size} px`));
  });
  return h('div', { class: 'plan-bar', role: 'progressbar', 'aria-label': 'Completed share of epochs', 'aria-valuemin': 0,
    'aria-valuemax': 100, 'aria-valuenow': Math.round((progress?.fraction ?? 0) * 100) }, ...stages);
}

export function isActive(run) {
  return ['queued', 'running', 'paused', 'cancelling'].includes(run.status);
}
