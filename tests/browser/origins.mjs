// Pages of other origins against `thorax serve`, in Chromium: without permission they change and read nothing, with it the example page of
// docs/web-clients.md works.
//
//   node origins.mjs data-demo/ radiograph.png
//
// The data folder must have a champion (`thorax demo` trains one). Starts the program named by THORAX_BINARY, by default `thorax` on the
// path, and the browser named by CHROMIUM. Prints `N passed, M failed` and exits with 1 on failure.

import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const [folder, radiograph] = process.argv.slice(2);
if (!radiograph) {
  console.error('usage: node origins.mjs FOLDER PNG');
  process.exit(2);
}
const KEY = 'a-key-of-the-browser-test';
const REBOUND = 'rebound.example';
let passed = 0;
let failed = 0;

/** A server on the data folder with these variables, until `work` is done. */
async function withThorax(variables, work) {
  const env = { ...process.env, THORAX_LISTEN: '127.0.0.1:0', THORAX_DEVICE: 'cpu', THORAX_DRAIN_SECONDS: '0', ...variables };
  const server = spawn(process.env.THORAX_BINARY ?? 'thorax', ['serve', '--data-dir', folder], { env, stdio: ['ignore', 'pipe', 'ignore'] });
  const ended = new Promise((resolve) => server.once('exit', resolve));
  try {
    let url;
    for await (const line of createInterface({ input: server.stdout })) {
      url = line.match(/^thorax is ready at (http:\S+?)\/?$/)?.[1];
      if (url) break;
    }
    expect(url, 'thorax did not become ready');
    server.stdout.resume();
    await work(url);
  } finally {
    server.kill('SIGTERM');
    await ended;
  }
}

/** A web server for `html`; its port. */
function serve(html) {
  const server = createServer((_, response) => response.setHeader('content-type', 'text/html; charset=utf-8').end(html));
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve({ port: server.address().port, close: () => server.close() })));
}

async function check(sentence, work) {
  const context = await browser.newContext();
  const page = await context.newPage();
  page.setDefaultTimeout(15000);
  try {
    await work(page);
    passed += 1;
    console.log(`ok      ${sentence}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${sentence}\n        ${error.message}`);
  } finally {
    await context.close();
  }
}

function expect(holds, otherwise) {
  if (!holds) throw new Error(otherwise);
}

async function getJson(url, path) {
  const response = await fetch(url + path);
  expect(response.ok, `${path} returned ${response.status}`);
  return response.json();
}

/** What a hostile page could change. */
async function state(url) {
  const [datasets, models, runs, predictions, jobs] = await Promise.all(
    ['datasets', 'models', 'training-runs', 'predictions', 'prediction-jobs'].map((list) => getJson(url, `/v1/${list}?limit=200`)),
  );
  const details = await Promise.all(datasets.items.map(({ id }) => getJson(url, `/v1/datasets/${id}`)));
  const ready = (await fetch(`${url}/health/ready`)).status;
  return JSON.stringify({ details, models, runs, predictions, jobs, ready });
}

/** Each attempt of a hostile page; runs in the page, and says what it could read. */
async function attack({ url, dataset, image }) {
  const read = [];
  const json = JSON.stringify({ name: `from ${location.origin}` });
  const attempt = async (name, path, options) => {
    try {
      const response = await fetch(url + path, options);
      if (response.type !== 'opaque') read.push(name);
    } catch {
      // Blocked by the browser, as it should be.
    }
  };
  await attempt('no-cors', '/v1/datasets', { method: 'POST', mode: 'no-cors', body: json });
  await attempt('cors', '/v1/datasets', { method: 'POST', headers: { 'content-type': 'application/json' }, body: json });
  await attempt('delete', `/v1/datasets/${dataset}`, { method: 'DELETE' });
  await attempt('unload', '/v2/repository/models/champion/unload', { method: 'POST', mode: 'no-cors' });
  await attempt('read', '/v1/datasets', {});
  await attempt('predict', '/v1/predictions', { method: 'POST', mode: 'no-cors', body: new Blob([Uint8Array.from(image)]) });
  const form = new FormData();
  form.append('label', 'normal');
  form.append('file', new Blob([Uint8Array.from(image)], { type: 'image/png' }), 'planted.png');
  await attempt('upload', `/v1/datasets/${dataset}/radiographs`, { method: 'POST', mode: 'no-cors', body: form });
  const submit = (path, enctype, name, value) => new Promise((resolve) => {
    const frame = document.body.appendChild(Object.assign(document.createElement('iframe'), { name: path }));
    const post = document.body.appendChild(Object.assign(document.createElement('form'), { method: 'post', action: url + path, enctype, target: path }));
    post.appendChild(Object.assign(document.createElement('input'), { name, value }));
    frame.addEventListener('load', resolve);
    post.submit();
    setTimeout(resolve, 3000);
  });
  await submit('/v1/datasets', 'text/plain', '{"name":"form', '"}');
  await submit('/v2/repository/models/champion/unload', 'application/x-www-form-urlencoded', 'a', 'b');
  await submit(`/v1/datasets/${dataset}/radiographs`, 'multipart/form-data', 'label', 'normal');
  const picture = new Image();
  const shown = new Promise((resolve) => {
    picture.onload = () => resolve(true);
    picture.onerror = () => resolve(false);
  });
  picture.src = `${url}/static/favicon.svg`;
  if (await shown) read.push('image');
  return read;
}

/** Opens a hostile page at an origin, lets it try everything, and compares. */
async function isRefused(page, origin, url) {
  const sent = new Set();
  const accepted = [];
  const named = (request) => `${request.method()} ${request.url().slice(url.length)}`;
  page.on('request', (request) => request.url().startsWith(url) && sent.add(named(request)));
  page.on('response', (response) => {
    if (response.url().startsWith(url) && response.status() !== 403) accepted.push(`${named(response.request())}: ${response.status()}`);
  });
  await page.goto(`${origin}/`);
  const { items } = await getJson(url, '/v1/datasets');
  const before = await state(url);
  const image = [...(await readFile(radiograph))];
  const read = await page.evaluate(attack, { url, dataset: items[0].id, image });
  expect((await state(url)) === before, 'the page changed something');
  expect(read.length === 0, `the page read the responses of: ${read.join(', ')}`);
  expect(sent.size >= 7, `the browser sent only: ${[...sent].join(', ')}`);
  expect(accepted.length === 0, `responses other than 403: ${accepted.join(', ')}`);
}

const example = (await readFile(new URL('../../docs/web-clients.md', import.meta.url), 'utf8')).match(/```html\n([\s\S]*?)```/)?.[1];
expect(example, 'docs/web-clients.md has no page');
const hostile = await serve('<!doctype html><title>hostile</title><body>');
const friendly = await serve(example);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', `--host-resolver-rules=MAP ${REBOUND} 127.0.0.1`],
});

/** Uses the example page; what it shows. */
async function classify(page, url, key) {
  await page.goto(`http://127.0.0.1:${friendly.port}/?server=${encodeURIComponent(url)}`);
  await page.locator('input[type=file]').setInputFiles(radiograph);
  await page.locator('input[type=password]').fill(key);
  await page.locator('button').click();
  const output = page.locator('output');
  await page.waitForFunction(() => document.querySelector('output').value);
  return output.textContent();
}

await withThorax({}, async (url) => {
  const { port } = new URL(url);
  await check('a page of another port of the same host changes and reads nothing', (page) =>
    isRefused(page, `http://127.0.0.1:${hostile.port}`, url));
  await check('a page of another site changes and reads nothing', (page) => isRefused(page, `http://localhost:${hostile.port}`, url));
  await check('a page that reaches the server by DNS rebinding changes and reads nothing', async (page) => {
    const before = await state(url);
    const response = await page.goto(`http://${REBOUND}:${port}/`);
    expect(response.status() === 403, `the page got ${response.status()}`);
    const statuses = await page.evaluate(async () => {
      const all = [['GET', '/v1/datasets'], ['POST', '/v1/datasets'], ['POST', '/v2/repository/models/champion/unload']];
      return Promise.all(all.map(async ([method, path]) => (await fetch(path, { method, body: method === 'POST' ? '{"name":"x"}' : undefined })).status));
    });
    expect(statuses.every((status) => status === 403), `statuses ${statuses}`);
    expect((await state(url)) === before, 'the page changed something');
  });
  await check('the example page is refused without permission', async (page) => {
    const shown = await classify(page, url, '');
    expect(shown.startsWith('No response from'), shown);
  });
  await check('a link from another site opens the dashboard', async (page) => {
    await page.goto(`http://localhost:${hostile.port}/`);
    await page.evaluate((href) => document.body.append(Object.assign(document.createElement('a'), { href, textContent: 'Thorax' })), `${url}/`);
    const opened = page.waitForResponse(`${url}/`);
    await page.locator('a').click();
    expect((await opened).status() === 200, 'the dashboard did not open');
    await page.locator('main h1').waitFor();
  });
});

const allowed = { THORAX_CORS_ORIGINS: `http://127.0.0.1:${friendly.port}` };
await withThorax(allowed, async (url) => {
  await check('the example page shows a prediction from a listed origin', async (page) => {
    const shown = await classify(page, url, '');
    expect(/, probability [01]\.\d+ \(request [0-9a-f-]{36}\)$/.test(shown), shown);
  });
  await check('a page of an origin that is not listed changes and reads nothing', (page) =>
    isRefused(page, `http://127.0.0.1:${hostile.port}`, url));
});

await withThorax({ ...allowed, THORAX_ADMIN_KEY: KEY }, async (url) => {
  await check('the example page shows a prediction with an API key', async (page) => {
    const shown = await classify(page, url, KEY);
    expect(/, probability [01]\.\d+ \(request [0-9a-f-]{36}\)$/.test(shown), shown);
  });
  await check('the example page shows that the API key is wrong', async (page) => {
    const shown = await classify(page, url, 'wrong');
    expect(/^API key required: .* \(request [0-9a-f-]{36}\)$/.test(shown), shown);
  });
});

await browser.close();
hostile.close();
friendly.close();
console.log(`\n${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
