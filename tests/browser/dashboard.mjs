// End-to-end test of the dashboard of a running `thorax demo`.
//
//   node dashboard.mjs http://127.0.0.1:8080 radiograph.png screenshots/
//
// Uses the browser named by CHROMIUM, by default /usr/bin/chromium. Prints `N passed, M failed` and exits with 1 on failure.
// Writes a screenshot of each page; `dashboard.png` is the one in the README (docs/images/dashboard.png).

import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { chromium } from 'playwright-core';

const [server, radiograph, screenshots] = process.argv.slice(2);
if (!screenshots) {
  console.error('usage: node dashboard.mjs URL PNG FOLDER');
  process.exit(2);
}
const origin = new URL(server).origin;
const RUN_MS = 10 * 60 * 1000;
const PHONE = { width: 375, height: 740 };
const DESK = { width: 1280, height: 900 };

await mkdir(screenshots, { recursive: true });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
});
let passed = 0;
let failed = 0;

/** Runs one check on its own page. Console errors fail the check, except those that match `expected`. */
async function check(sentence, work, { expected, ...options } = {}) {
  const context = await browser.newContext({ viewport: DESK, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(15000);
  const complaints = [];
  const complain = (text) => expected?.test(text) || complaints.push(text);
  page.on('console', (message) => message.type() === 'error' && complain(message.text()));
  page.on('pageerror', (error) => complain(error.message));
  page.on('request', (request) => {
    const { protocol, origin: from } = new URL(request.url());
    if (protocol.startsWith('http') && from !== origin) complain(`request to another origin: ${request.url()}`);
  });
  try {
    await work(page);
    if (complaints.length) throw new Error(`console errors: ${complaints.join('; ')}`);
    passed += 1;
    console.log(`ok      ${sentence}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${sentence}\n        ${error.message}`);
    await page.screenshot({ path: path.join(screenshots, `failed-${failed}.png`) }).catch(() => {});
  } finally {
    await context.close();
  }
}

function expect(holds, otherwise) {
  if (!holds) throw new Error(otherwise);
}

async function open(page, hash) {
  await page.goto(`${origin}/#${hash}`);
  await page.locator('main h1').waitFor();
}

const screenshot = (page, name) => page.screenshot({ path: path.join(screenshots, `${name}.png`), fullPage: true });

async function getJson(address) {
  const response = await fetch(origin + address);
  expect(response.ok, `${address} returned ${response.status}`);
  return response.json();
}

/** Waits until the demo's run has succeeded and its model is champion; returns the run. */
async function demo() {
  const end = Date.now() + RUN_MS;
  while (Date.now() < end) {
    const { items } = await getJson('/v1/training-runs');
    const run = items.find(({ status }) => status === 'succeeded');
    const ended = !run && items.find(({ status }) => ['failed', 'cancelled'].includes(status));
    expect(!ended, `the demo's run is ${ended?.status}: ${ended?.error}`);
    const { items: models } = await getJson('/v1/models');
    if (run && models.some(({ aliases }) => aliases.includes('champion'))) return run;
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  throw new Error('the demo\'s run did not succeed in time');
}

/** Submits a run and waits until it has succeeded. */
async function train(submission) {
  const headers = { 'content-type': 'application/json' };
  const response = await fetch(`${origin}/v1/training-runs`, { method: 'POST', headers, body: JSON.stringify(submission) });
  expect(response.status === 202, `the submission returned ${response.status}`);
  const { id } = await response.json();
  const end = Date.now() + RUN_MS;
  while (Date.now() < end) {
    const current = await getJson(`/v1/training-runs/${id}`);
    if (current.status === 'succeeded') return current;
    expect(!['failed', 'cancelled'].includes(current.status), `the run is ${current.status}: ${current.error}`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error('the run did not succeed in time');
}

let run;
await check('the demo\'s run succeeds while the page is watching', async (page) => {
  await open(page, '/');
  await screenshot(page, 'overview-first');
  const { items: [{ id }] } = await getJson('/v1/training-runs');
  await open(page, `/runs/${id}`);
  const chart = page.locator('[data-chart="Loss of each batch"]');
  await chart.locator('path.line.batches').waitFor({ timeout: RUN_MS });
  await screenshot(page, 'run-live');
  run = await demo();
  await page.locator('h1 .status.succeeded').waitFor();
});
if (!run) await finish();
const runPage = `/runs/${run.id}`;
const datasetPage = `/datasets/${run.dataset_id}`;

await check('the overview names the serving model, marks it synthetic and shows the next step', async (page) => {
  await open(page, '/');
  const now = page.getByRole('region', { name: 'Now' });
  await now.getByText('Serving').waitFor();
  expect(await now.locator('.badge', { hasText: 'synthetic' }).count() === 1, 'no synthetic badge');
  const next = page.getByRole('region', { name: 'Next step' });
  expect((await next.innerText()).includes(`${origin}/v1/predictions`), 'no command to post a radiograph');
  await screenshot(page, 'overview');
});

await check('the list of runs leads to the run', async (page) => {
  await open(page, '/runs');
  await page.locator(`a[href="#${runPage}"]`).click();
  await page.waitForURL(`**/#${runPage}`);
  await page.locator('h1 .status.succeeded').waitFor();
});

await check('each stage has a loss and an accuracy curve with a point for every epoch', async (page) => {
  const { items: epochs } = await getJson(`/v1/training-runs/${run.id}/epochs`);
  await open(page, runPage);
  for (const stage of new Set(epochs.map((epoch) => epoch.stage))) {
    const length = epochs.filter((epoch) => epoch.stage === stage).length;
    for (const title of ['Loss', 'Accuracy']) {
      const chart = page.locator(`[data-key="stage-${stage}"] [data-chart="${title}"]`);
      for (const line of ['train', 'selection']) {
        const d = await chart.locator(`path.line.${line}`).getAttribute('d');
        expect(/^M[\d.]+ [\d.]+(L[\d.]+ [\d.]+)*$/.test(d), `${title} ${line}: the path is ${d}`);
        expect(d.split('L').length === length, `${title} ${line}: ${d.split('L').length} points for ${length} epochs`);
        const tips = await chart.locator(`.point.${line} title`).allTextContents();
        expect(tips.length === length && tips.every((tip) => /^Epoch \d+, .+: \d/.test(tip)), `${title} ${line}: titles ${tips}`);
      }
      expect(await chart.locator('.tick text').count() >= 4, `${title}: no axis labels`);
      expect(await chart.locator('.legend li').count() >= 2, `${title}: no legend`);
    }
  }
  await screenshot(page, 'run');
  await page.screenshot({ path: path.join(screenshots, 'dashboard.png'), clip: { x: 0, y: 0, width: DESK.width, height: DESK.height } });
});

await check('the loss per batch is drawn from the first batch to the last', async (page) => {
  const { items: points, steps } = await getJson(`/v1/training-runs/${run.id}/losses`);
  expect(points.length <= 2000 && points[0].step === 1 && points.at(-1).step === steps, `${points.length} points of ${steps} batches`);
  await open(page, runPage);
  const chart = page.locator('[data-chart="Loss of each batch"]');
  const d = await chart.locator('path.line.batches').getAttribute('d');
  expect(d.split('L').length === points.length, `${d.split('L').length} points drawn of ${points.length}`);
  expect((await chart.locator('.latest').innerText()) === `batch ${steps}: ${points.at(-1).loss.toFixed(4)}`, 'the last loss differs');
});

await check('a page whose event stream fails polls instead', async (page) => {
  await page.route('**/events', (route) => route.abort());
  await page.route(`**/v1/training-runs/${run.id}`, async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, json: { ...(await response.json()), status: 'running', finished_at: null } });
  });
  await open(page, runPage);
  const again = (request) => request.url().endsWith(`/v1/training-runs/${run.id}`);
  for (let i = 0; i < 2; i += 1) await page.waitForRequest(again, { timeout: 6000 });
}, { expected: /ERR_FAILED/ });

await check('all epochs are listed in a table', async (page) => {
  const { items: epochs } = await getJson(`/v1/training-runs/${run.id}/epochs`);
  await open(page, runPage);
  await page.getByText('All epochs as a table').click();
  const rows = page.getByRole('region', { name: 'Epochs' }).locator('tbody tr');
  expect(await rows.count() === epochs.length, `${await rows.count()} rows for ${epochs.length} epochs`);
  const first = await rows.first().innerText();
  expect(first.includes(epochs[0].train.loss.toFixed(4)), `the first row is ${first}`);
  const waits = [epochs[0].data_wait_share, epochs[0].serving_wait_share].map((share) => `${(share * 100).toFixed(1)} %`);
  expect(first.trim().replace(/\s+/g, ' ').endsWith(waits.join(' ')), `the first row does not end with its wait shares: ${first}`);
});

await check('each evaluation shows its confusion matrix, per-class scores with intervals, and its caveat', async (page) => {
  const { items: evaluations } = await getJson(`/v1/training-runs/${run.id}/evaluations`);
  expect(evaluations.length >= 2, `${evaluations.length} evaluations`);
  await open(page, runPage);
  await page.evaluate(() => document.querySelectorAll('details').forEach((one) => { one.open = true; }));
  for (const { stage, split, classes, confusion_matrix: matrix, scores, caveat } of evaluations) {
    const shown = page.locator(`.evaluation[data-stage="${stage}"][data-split="${split}"]`);
    const counts = await shown.locator('.confusion .n').allTextContents();
    expect(counts.join() === matrix.flat().map((n) => n.toLocaleString('en')).join(), `${split}: the matrix shows ${counts}`);
    expect((await shown.locator('.confusion th[scope=row]').allTextContents()).join() === classes.join(), `${split}: row headings`);
    for (const [i, name] of classes.entries()) {
      const row = await shown.locator('.per-class tbody tr').nth(i).innerText();
      const { precision, recall, roc_auc: area, brier } = scores.per_class[name];
      const figures = [precision, recall, area, brier].flatMap(({ value, low, high }) => [value, low, high].map((one) => one?.toFixed(3) ?? 'undefined'));
      figures.push(name, String(recall.n), String(recall.patients));
      expect(figures.every((figure) => row.includes(figure)), `${split}, ${name}: the row is ${row}`);
    }
    expect(!caveat || (await shown.innerText()).includes(caveat), `${split}: the caveat is missing`);
  }
});

await check('the data set shows images and patients by class and split', async (page) => {
  const { distribution, classes } = await getJson(`/v1/datasets/${run.dataset_id}`);
  await open(page, datasetPage);
  expect(await page.locator('h1 .badge', { hasText: 'synthetic' }).count() === 1, 'no synthetic badge');
  for (const [split, counts] of Object.entries(distribution.images)) {
    const row = page.locator('.distribution tbody tr').filter({ has: page.locator('th', { hasText: split }) });
    const text = await row.innerText();
    for (const name of classes) {
      const patients = distribution.patients[split]?.[name] ?? 0;
      expect(text.includes(String(counts[name] ?? 0)) && text.includes(`${patients} patient`), `${split}, ${name}: ${text}`);
    }
  }
  await screenshot(page, 'dataset');
});

/** Creates a data set from the demo's images in which one patient and one image occur in train and test; returns its id. */
async function leaking() {
  const send = async (address, body, headers = {}) => {
    const response = await fetch(origin + address, { method: 'POST', headers, body });
    expect(response.status === 201, `${address} returned ${response.status}`);
    return response.json();
  };
  const { id } = await send('/v1/datasets', JSON.stringify({ name: `leaking ${Date.now()}` }), { 'content-type': 'application/json' });
  const { items } = await getJson(`/v1/datasets/${run.dataset_id}/radiographs?limit=24`);
  const add = async ({ id: from, label }, split, patient, size) => {
    const image = await fetch(`${origin}/v1/radiographs/${from}/image${size ? `?size=${size}` : ''}`);
    const form = new FormData();
    for (const [name, value] of Object.entries({ label, split, patient_id: patient })) form.append(name, value);
    form.append('file', await image.blob(), size ? `copy-of-${from.slice(-6)}.png` : `${from.slice(-6)}.png`);
    await send(`/v1/datasets/${id}/radiographs`, form);
  };
  for (const [i, item] of items.entries()) await add(item, i < 18 ? 'train' : 'test', `person-${i}`);
  await add(items[0], 'test', 'person-0', 200);
  return id;
}

let leaky = '';
await check('the data audit shows the verdict, the shortcut baselines and the near-duplicates', async (page) => {
  leaky = await leaking();
  await open(page, `/datasets/${leaky}`);
  const verdict = page.locator('.verdict-list');
  await verdict.waitFor({ timeout: 60000 });
  const text = await verdict.innerText();
  expect(['patient-overlap', 'duplicate-across-splits'].every((name) => text.includes(name)), `the verdict is ${text}`);
  const duplicates = page.locator('.duplicates li.grave figure');
  await duplicates.first().scrollIntoViewIfNeeded();
  await page.locator('.duplicates figure img').nth(1).waitFor();
  const sizes = await page.locator('.duplicates figure img').evaluateAll((images) => Promise.all(images.map((image) => image.decode().then(() => image.naturalWidth))));
  expect(sizes.length === 2 && sizes.every((size) => size === 224), `the thumbnails are ${sizes} px wide`);
  const { shortcuts } = await getJson(`/v1/datasets/${leaky}/report`);
  const baselines = await page.locator('.shortcuts tbody').innerText();
  for (const { features, cross_validated: { accuracy, majority } } of shortcuts) {
    expect([features, accuracy.value.toFixed(3), majority.value.toFixed(3)].every((part) => baselines.includes(part)), `${features}: the table is ${baselines}`);
  }
  await screenshot(page, 'dataset-report');
});

await check('a run on leaking splits is refused with the findings, and starts once they are acknowledged', async (page) => {
  await open(page, '/runs');
  await page.locator('select[name=dataset_id]').selectOption(leaky);
  await page.locator('select[name=recipe]').selectOption('simple-cnn');
  const start = page.getByRole('button', { name: 'Start run' });
  await start.click();
  const boxes = page.locator('output fieldset input[type=checkbox]');
  await boxes.nth(1).waitFor();
  await screenshot(page, 'runs-leakage');
  await boxes.nth(0).check();
  await start.click();
  await page.locator('output fieldset input:checked').waitFor();
  expect(await boxes.count() === 2, `${await boxes.count()} boxes after one was ticked`);
  await page.locator('output fieldset input:not(:checked)').check();
  await start.click();
  await page.waitForURL(/#\/runs\/[\w-]+$/);
  const id = page.url().split('/').pop();
  await fetch(`${origin}/v1/training-runs/${id}/cancel`, { method: 'POST' });
}, { expected: /status of 409/ });

await check('a data set is created from the form, and its name is inserted as text', async (page) => {
  await open(page, '/datasets');
  const name = `<b class="injected">tour</b> ${Date.now()}`;
  await page.getByLabel('Name', { exact: true }).fill(name);
  await page.getByRole('button', { name: 'Create data set' }).click();
  await page.waitForURL(/#\/datasets\/[\w-]+$/);
  await page.locator('h1', { hasText: name }).waitFor();
  expect(await page.locator('.injected').count() === 0, 'the name became an element');
  await page.getByLabel('Files', { exact: true }).setInputFiles(radiograph);
  await page.getByRole('combobox', { name: 'Label' }).selectOption({ index: 1 });
  await page.getByRole('button', { name: 'Upload' }).click();
  await page.locator('output .status.created').waitFor();
  await page.locator('.distribution').waitFor();
});

await check('a classified radiograph shows class, probabilities, model, timing and the research notice', async (page) => {
  await open(page, '/predict');
  await page.locator('#radiograph').setInputFiles(radiograph);
  const result = page.locator('.result');
  await result.waitFor();
  const { classes } = await getJson(`/v1/datasets/${run.dataset_id}`);
  const verdict = await result.locator('.verdict').innerText();
  expect(classes.some((name) => verdict.startsWith(name)), `the verdict is ${verdict}`);
  const shares = (await result.locator('.probabilities .share').allTextContents()).map(parseFloat);
  expect(shares.length === classes.length, `${shares.length} probabilities`);
  expect(Math.abs(shares.reduce((a, b) => a + b) - 100) < 0.5, `they add up to ${shares.reduce((a, b) => a + b)} %`);
  expect(/research only/i.test(await result.locator('.notice').innerText()), 'no notice');
  expect(/inference [\d.]+ ms/.test(await result.innerText()), 'no timing');
  expect(await result.locator('.badge', { hasText: 'synthetic' }).count() === 1, 'the result is not marked synthetic');
  expect(await page.locator('.viewbox canvas').evaluate((canvas) => canvas.width) > 0, 'no preview');
  await screenshot(page, 'prediction');
});

await check('the heatmap and its caveat appear when the checkbox is ticked and disappear when it is unticked', async (page) => {
  await open(page, '/predict');
  await page.locator('#radiograph').setInputFiles(radiograph);
  await page.locator('.result').waitFor();
  expect(await page.locator('.heatmap').count() === 0, 'a heatmap without a request');
  await page.getByLabel('Show what moved the score').check();
  const image = page.locator('.heatmap img');
  await image.waitFor();
  await page.waitForFunction(() => document.querySelector('.heatmap img')?.naturalWidth > 0);
  expect(/not where the disease is/.test(await page.locator('.heatmap figcaption').innerText()), 'no caveat');
  await screenshot(page, 'explanation');
  await page.getByLabel('Show what moved the score').uncheck();
  await image.waitFor({ state: 'detached' });
  expect(await page.locator('.result .verdict').count() === 1, 'the result disappeared, too');
});

await check('a file that is not an image shows the reason from the server', async (page) => {
  await open(page, '/predict');
  const fake = { name: 'fake.png', mimeType: 'image/png', buffer: Buffer.from('not an image at all') };
  await page.locator('#radiograph').setInputFiles(fake);
  const problem = page.locator('#result .problem');
  await problem.waitFor();
  expect((await problem.innerText()).length > 20, `the reason is ${await problem.innerText()}`);
  expect(await page.locator('.result').count() === 0, 'a result is shown');
}, { expected: /status of 4(15|22)/ });

await check('an invalid plan is refused with each invalid field', async (page) => {
  await open(page, '/runs');
  await page.getByText('Plan overrides').click();
  await page.getByLabel(/as JSON/).fill('{"batch_size": 0, "dropout": 1}');
  await page.getByRole('button', { name: 'Start run' }).click();
  await page.locator('output .problem li').first().waitFor();
  const fields = await page.locator('output .problem li code').allTextContents();
  expect(['batch_size', 'dropout'].every((name) => fields.some((field) => field.endsWith(name))), `the fields are ${fields}`);
}, { expected: /status of 422/ });

let compared = '';
await check('two selected runs are compared: intervals, paired test, overlaid curves', async (page) => {
  const short = await train({ dataset_id: run.dataset_id, recipe: 'simple-cnn', name: 'short', seed: 2,
    plan: { batch_size: 32, stages: [{ image_size: 32, steps: [{ scope: 'all', learning_rate: 1e-3, epochs: 2 }] }] } });
  compared = `/compare/${run.id},${short.id}`;
  await open(page, '/runs');
  const button = page.getByRole('button', { name: 'Compare', exact: true });
  await page.getByLabel('Compare short').check();
  expect(await button.isDisabled(), 'Compare is enabled for a single run');
  await page.getByLabel(`Compare ${run.name}`).check();
  await button.click();
  await page.waitForURL(`**/#${compared}`);
  const { items, plan_differences: differences } = await getJson(`/v1/training-runs/compare?ids=${run.id},${short.id}`);
  const scores = page.getByRole('region', { name: 'Scores on the test split' });
  for (const [i, { scores: { macro_f1: macro, n } }] of items.entries()) {
    const row = await scores.locator('tbody tr').nth(i).innerText();
    expect([macro.value, macro.low, macro.high].every((end) => row.includes(end.toFixed(3))) && row.includes(n), `row ${i} is ${row}`);
  }
  const verdict = await page.locator('.verdicts').innerText();
  expect(new RegExp(`^short: .*: p [=<] 0\\.\\d+, n = ${items[1].paired.n}`).test(verdict), `the verdict is ${verdict}`);
  const fields = await page.locator('.differences code').allTextContents();
  expect(differences.every(({ pointer }) => fields.includes(pointer)), `the table has ${fields}`);
  for (const title of ['Loss', 'Accuracy', 'Macro F1']) {
    for (const [i, { epochs }] of items.entries()) {
      const points = await page.locator(`[data-chart="${title}"] .point.run-${i}`).count();
      expect(points === epochs.length, `${title}: ${points} points for ${epochs.length} epochs`);
    }
  }
  await screenshot(page, 'comparison');
  await page.getByRole('combobox', { name: 'Split' }).selectOption('validation');
  await page.getByRole('region', { name: 'Scores on the validation split' }).waitFor();
});

await check('a learning-rate range test is drawn with a marker at the selected rate', async (page) => {
  const step = { scope: 'all', learning_rate: 1e-3, epochs: 1, range_test: { batches: 20 } };
  const tested = await train({ dataset_id: run.dataset_id, recipe: 'simple-cnn', plan: { stages: [{ image_size: 32, steps: [step] }] } });
  const { items: [{ chosen }] } = await getJson(`/v1/training-runs/${tested.id}/range-tests`);
  await open(page, `/runs/${tested.id}`);
  const chart = page.locator('[data-chart="Range test of stage 1, step 1"]');
  await chart.locator('path.line').waitFor();
  const marks = await chart.locator('circle.best').count();
  expect(marks === (chosen === null ? 0 : 1), `${marks} marks for ${chosen}`);
  expect(await chart.locator('.tick text', { hasText: 'e' }).count() >= 5, 'no powers of ten on the axis');
  await screenshot(page, 'run-range-test');
});

await check('a finished run is repeated from its page', async (page) => {
  const [, first] = compared.split(',');
  await open(page, `/runs/${first}`);
  await page.getByRole('button', { name: 'Repeat the run' }).click();
  await page.locator(`.facts a[href="#/runs/${first}"]`).waitFor();
});
await check('the augmentation preview shows samples, or reports that the recipe has no augmentation', async (page) => {
  await open(page, '/runs');
  const show = page.getByRole('button', { name: 'Preview augmentation' });
  await page.locator('select[name=recipe]').selectOption('covid-resnet-original');
  await show.click();
  const sheet = page.getByAltText(/random augmentations by covid-resnet-original/);
  await sheet.waitFor();
  expect(await sheet.evaluate((image) => image.decode().then(() => image.naturalWidth)) > 229, 'the preview contains a single image');
  await page.locator('select[name=recipe]').selectOption('covid-resnet');
  await show.click();
  await page.getByText('this recipe has no augmentation').waitFor();
}, { expected: /status of 422/ });

await check('the models page lists the champion and downloads it', async (page) => {
  await open(page, '/models');
  const row = page.locator('tr', { has: page.locator('.badge.alias', { hasText: 'champion' }) });
  const download = page.waitForEvent('download');
  await row.getByText('Download').click();
  expect(/\.safetensors$/.test((await download).suggestedFilename()), 'not a safetensors file');
  await screenshot(page, 'models');
  await page.locator('table a[href^="#/models/"]').first().click();
  await page.getByRole('heading', { name: 'Input drift' }).waitFor();
  await screenshot(page, 'live');
});

await check('no page is wider than a phone screen', async (page) => {
  for (const hash of ['/', '/runs', runPage, compared, '/datasets', datasetPage, `/datasets/${leaky}`, '/models', '/predict']) {
    await open(page, hash);
    await page.locator('.sheet').first().waitFor();
    if (hash.startsWith('/datasets/')) await page.locator('.verdict-list').waitFor();
    const excess = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    expect(excess <= 0, `${hash} is ${excess} px too wide`);
    await screenshot(page, `phone${hash.replace(/\/[\w]{8}-.*$/, hash.endsWith(leaky) ? '-leaking' : '-one').replaceAll('/', '-')}`);
  }
}, { viewport: PHONE, hasTouch: true, isMobile: true });

await check('the Tab key reaches the navigation with a visible focus ring', async (page) => {
  await open(page, '/');
  const seen = [];
  for (let i = 0; i < 8; i += 1) {
    await page.keyboard.press('Tab');
    seen.push(await page.evaluate(() => {
      const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
      const ring = outlineStyle !== 'none' && parseFloat(outlineWidth) > 0;
      return { text: document.activeElement.textContent.trim(), ring, inNav: Boolean(document.activeElement.closest('nav')) };
    }));
    if (seen.at(-1).text === 'Runs') break;
  }
  const last = seen.at(-1);
  expect(seen[0].text === 'Skip to content', `Tab reaches first ${seen[0].text}`);
  expect(last.inNav && last.text === 'Runs', `Tab reached ${seen.map(({ text }) => text).join(', ')}`);
  expect(last.ring, 'the focus is not visible');
  await page.keyboard.press('Enter');
  await page.locator('h1', { hasText: 'Training runs' }).waitFor();
  expect(await page.evaluate(() => document.activeElement.nodeName) === 'H1', 'the heading of the new page is not focused');
});

await check('a lost connection hides stale figures until the server responds again', async (page) => {
  await open(page, '/');
  await page.context().setOffline(true);
  await page.evaluate(() => document.dispatchEvent(new Event('visibilitychange')));
  await page.getByRole('alert').getByText('No connection').waitFor();
  expect(await page.locator('main').isHidden(), 'stale figures are still shown');
  await screenshot(page, 'no-connection');
  await page.context().setOffline(false);
  await page.getByRole('button', { name: 'Retry now' }).click();
  await page.locator('main h1').waitFor();
}, { expected: /ERR_INTERNET_DISCONNECTED/ });

await check('a server that requires a key receives the key that was entered', async (page) => {
  const problem = { type: '/problems/unauthorized', title: 'A key is needed', status: 401, detail: 'send a key' };
  await page.route('**/v1/**', (route) => (route.request().headers().authorization === 'Bearer open sesame'
    ? route.continue() : route.fulfill({ status: 401, contentType: 'application/problem+json', body: JSON.stringify(problem) })));
  await page.goto(`${origin}/`);
  await page.getByLabel('Key', { exact: true }).fill('open sesame');
  await page.getByRole('button', { name: 'Use this key' }).click();
  await page.locator('main h1', { hasText: 'Overview' }).waitFor();
}, { expected: /status of 401/ });

await check('the dark theme is dark', async (page) => {
  await open(page, runPage);
  const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
  expect(Math.max(...ground) < 60, `the background is ${ground}`);
  await screenshot(page, 'run-dark');
}, { colorScheme: 'dark' });

await finish();

async function finish() {
  await browser.close();
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}
