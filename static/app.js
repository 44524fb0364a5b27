// Router: finds the page for the location hash, loads its data, renders it and refreshes it.

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
const MAX_RETRY_MS = 30000;

const main = document.getElementById('main');
const pageError = document.getElementById('page-error');
const announcer = document.getElementById('announcer');
const dialog = document.getElementById('key-dialog');

let visit = { failures: 0 };

function open() {
  if (location.hash === '#main') return;
  stopUpdates(visit);
  const path = location.hash.slice(1);
  const [pattern, page] = ROUTES.find(([pattern]) => pattern.test(path)) ?? [/^/, notFound];
  visit = { page, id: path.match(pattern)[1], memo: {}, failures: 0, first: visit.page !== undefined };
  main.replaceChildren(h('p', { class: 'waiting' }, 'Loading…'));
  pageError.replaceChildren();
  for (const link of document.querySelectorAll('nav a')) {
    if (link.dataset.section === page.section) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  refresh();
}

/** Loads the data and renders the page. Results that arrive after the reader left the page are dropped. */
async function refresh() {
  const current = visit;
  clearTimeout(current.timer);
  const request = (current.request = (current.request ?? 0) + 1);
  let wait;
  try {
    const data = await current.page.load(current.id, current.memo);
    if (current !== visit || request !== current.request) return;
    current.failures = 0;
    render(current, data);
    if (current.page.live(data)) watch(current);
    wait = current.page.live(data) && !current.streaming ? LIVE_MS : IDLE_MS;
  } catch (error) {
    if (current !== visit || request !== current.request) return;
    current.failures += 1;
    wait = isFinal(error) ? null : Math.min(LIVE_MS * 2 ** (current.failures - 1), MAX_RETRY_MS);
    showError(error, wait);
  }
  if (wait && !document.hidden) current.timer = setTimeout(refresh, wait);
}

/** Subscribes the page to its event stream. While the stream is open the page polls at the idle interval; when it breaks, polling speeds up again. */
function watch(current) {
  if (!current.page.watch || current.unwatch || document.hidden) return;
  current.unwatch = current.page.watch(current.id, context(current), (streaming) => {
    if (current !== visit || streaming === Boolean(current.streaming)) return;
    current.streaming = streaming;
    if (!streaming) refresh();
  });
}

/** Stops polling and closes the event stream. */
function stopUpdates(current) {
  clearTimeout(current.timer);
  current.unwatch?.();
  Object.assign(current, { unwatch: null, streaming: false });
}

function render(current, data) {
  pageError.replaceChildren();
  main.hidden = false;
  current.data = data;
  document.title = `${current.page.title(data)} · Thorax`;
  const fresh = h('div', {}, ...nodes(current.page.view(data, context(current))));
  if (current.rendered) patchChildren(main, fresh);
  else main.replaceChildren(...fresh.childNodes);
  const announcement = current.page.announce?.(data) ?? '';
  if (announcer.textContent !== announcement) announcer.textContent = announcement;
  if (!current.rendered && current.first) focusHeading();
  current.rendered = true;
}

function context(current) {
  return {
    refresh,
    memo: current.memo,
    redraw: () => current === visit && !current.failures && render(current, current.data),
    go: (hash) => { location.hash = hash; },
  };
}

/** Client errors other than 429: a retry would not help. */
function isFinal({ status }) {
  return status >= 400 && status < 500 && status !== 429;
}

/** Hides the page, so that stale figures are not read as current. The DOM stays, so form input survives. */
function showError(error, wait) {
  main.hidden = true;
  const retry = h('button', { type: 'button', class: 'quiet', onclick: refresh }, 'Retry now');
  const nextAttempt = wait && `Retrying in ${Math.round(wait / 1000)} s. `;
  const heading = error instanceof Unreachable ? 'No connection' : error.title ?? 'The page could not be rendered';
  if (!error.status && !(error instanceof Unreachable)) console.error(error);
  patchChildren(pageError, h('div', {}, h('section', { class: 'page-error' }, problemNote(error, heading), h('p', {}, ...nodes([nextAttempt, retry])))));
}

function focusHeading() {
  const heading = main.querySelector('h1');
  if (!heading) return;
  heading.tabIndex = -1;
  heading.focus({ preventScroll: true });
  scrollTo(0, 0);
}

const notFound = {
  title: () => 'Not found',
  load: async () => ({}),
  live: () => false,
  view: () => [h('h1', {}, 'Page not found'), h('p', {}, h('a', { href: '#/' }, 'Go to the overview'))],
};

document.addEventListener('key-required', () => {
  document.getElementById('key-rejected').hidden = !key.get();
  if (!dialog.open) dialog.showModal();
});
document.getElementById('key-later').onclick = () => dialog.close();
document.getElementById('key-form').onsubmit = (event) => {
  key.set(new FormData(event.target).get('key').trim());
  event.target.reset();
  refresh();
};
document.addEventListener('visibilitychange', () => {
  if (document.hidden) stopUpdates(visit);
  else refresh();
});
addEventListener('hashchange', open);
open();
