// Finds the page for the address, loads it, draws it and keeps it fresh.

import { Unreachable, key } from './api.js';
import { h, nodes, patchChildren } from './dom.js';
import { problemNote } from './parts.js';
import compare from './compare.js';
import dataset from './dataset.js';
import datasets from './datasets.js';
import live from './live.js';
import models from './models.js';
import overview from './overview.js';
import predict from './predict.js';
import run from './run.js';
import runs from './runs.js';

// A page: section, title(data), load(id, memo), view(data, ctx), live(data), announce?(data), watch?(id, ctx, state).
const ROUTES = [
  [/^\/?$/, overview],
  [/^\/runs$/, runs],
  [/^\/runs\/([\w-]+)$/, run],
  [/^\/compare\/(.+)$/, compare],
  [/^\/datasets$/, datasets],
  [/^\/datasets\/([\w-]+)$/, dataset],
  [/^\/predict$/, predict],
  [/^\/models$/, models],
  [/^\/models\/([\w-]+)$/, live],
];
const LIVE_MS = 2000;
const IDLE_MS = 15000;
const LONGEST_MS = 30000;

const main = document.getElementById('main');
const trouble = document.getElementById('trouble');
const announcer = document.getElementById('announcer');
const dialog = document.getElementById('key-dialog');

let visit = { failures: 0 };

function open() {
  if (location.hash === '#main') return;
  rest(visit);
  const path = location.hash.slice(1);
  const [pattern, page] = ROUTES.find(([pattern]) => pattern.test(path)) ?? [/^/, nowhere];
  visit = { page, id: path.match(pattern)[1], memo: {}, failures: 0, first: visit.page !== undefined };
  main.replaceChildren(h('p', { class: 'waiting' }, 'Loading…'));
  trouble.replaceChildren();
  for (const link of document.querySelectorAll('nav a')) {
    if (link.dataset.section === page.section) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  refresh();
}

/** Loads again and draws; a visit that has been left draws nothing. */
async function refresh() {
  const current = visit;
  clearTimeout(current.timer);
  const turn = (current.turn = (current.turn ?? 0) + 1);
  let wait;
  try {
    const data = await current.page.load(current.id, current.memo);
    if (current !== visit || turn !== current.turn) return;
    current.failures = 0;
    draw(current, data);
    if (current.page.live(data)) watch(current);
    wait = current.page.live(data) && !current.told ? LIVE_MS : IDLE_MS;
  } catch (error) {
    if (current !== visit || turn !== current.turn) return;
    current.failures += 1;
    wait = isFinal(error) ? null : Math.min(LIVE_MS * 2 ** (current.failures - 1), LONGEST_MS);
    showTrouble(error, wait);
  }
  if (wait && !document.hidden) current.timer = setTimeout(refresh, wait);
}

/** A page that is told what happens is asked for less often; when that ends it is asked for as before. */
function watch(current) {
  if (!current.page.watch || current.unwatch || document.hidden) return;
  current.unwatch = current.page.watch(current.id, context(current), (told) => {
    if (current !== visit || told === Boolean(current.told)) return;
    current.told = told;
    if (!told) refresh();
  });
}

/** Neither asks nor listens. */
function rest(current) {
  clearTimeout(current.timer);
  current.unwatch?.();
  Object.assign(current, { unwatch: null, told: false });
}

function draw(current, data) {
  trouble.replaceChildren();
  main.hidden = false;
  current.data = data;
  document.title = `${current.page.title(data)} · Thorax`;
  const fresh = h('div', {}, ...nodes(current.page.view(data, context(current))));
  if (current.drawn) patchChildren(main, fresh);
  else main.replaceChildren(...fresh.childNodes);
  const news = current.page.announce?.(data) ?? '';
  if (announcer.textContent !== news) announcer.textContent = news;
  if (!current.drawn && current.first) focusHeading();
  current.drawn = true;
}

function context(current) {
  return {
    refresh,
    memo: current.memo,
    redraw: () => current === visit && !current.failures && draw(current, current.data),
    go: (hash) => { location.hash = hash; },
  };
}

/** Asking again by itself would not help. */
function isFinal({ status }) {
  return status >= 400 && status < 500 && status !== 429;
}

/** Old figures are hidden, not shown as if they were current; what was typed in a form comes back with them. */
function showTrouble(error, wait) {
  main.hidden = true;
  const retry = h('button', { type: 'button', class: 'quiet', onclick: refresh }, 'Try again now');
  const again = wait && `Next attempt in ${Math.round(wait / 1000)} s. `;
  const heading = error instanceof Unreachable ? 'No connection' : error.title ?? 'The page failed';
  if (!error.status && !(error instanceof Unreachable)) console.error(error);
  patchChildren(trouble, h('div', {}, h('section', { class: 'trouble' }, problemNote(error, heading), h('p', {}, ...nodes([again, retry])))));
}

function focusHeading() {
  const heading = main.querySelector('h1');
  if (!heading) return;
  heading.tabIndex = -1;
  heading.focus({ preventScroll: true });
  scrollTo(0, 0);
}

const nowhere = {
  title: () => 'Not found',
  load: async () => ({}),
  live: () => false,
  view: () => [h('h1', {}, 'There is no such page'), h('p', {}, h('a', { href: '#/' }, 'Go to the overview'))],
};

document.addEventListener('key-needed', () => {
  document.getElementById('key-refused').hidden = !key.get();
  if (!dialog.open) dialog.showModal();
});
document.getElementById('key-later').onclick = () => dialog.close();
document.getElementById('key-form').onsubmit = (event) => {
  key.set(new FormData(event.target).get('key').trim());
  event.target.reset();
  refresh();
};
document.addEventListener('visibilitychange', () => {
  if (document.hidden) rest(visit);
  else refresh();
});
addEventListener('hashchange', open);
open();
