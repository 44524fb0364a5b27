// Uses the types that openapi-typescript generated from openapi/openapi.json.
//
//     node build/client.js http://127.0.0.1:8080 radiograph.png
//
// The server must have a data set, a training run and a champion. Sends THORAX_ADMIN_KEY if it is set.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import createClient from 'openapi-fetch';
import type { components, paths } from './schema.js';

const [address, path] = process.argv.slice(2);
assert(address && path, 'usage: client.js URL IMAGE');
const key = process.env.THORAX_ADMIN_KEY;
const client = createClient<paths>({ baseUrl: address, headers: key ? { Authorization: `Bearer ${key}` } : {} });

const datasets = await client.GET('/v1/datasets', { params: { query: { limit: 10 } } });
assert(datasets.data && datasets.data.items.length > 0, JSON.stringify(datasets.error));

const runs = await client.GET('/v1/training-runs');
const first: components['schemas']['TrainingRun'] | undefined = runs.data?.items[0];
assert(first, JSON.stringify(runs.error));
const run = await client.GET('/v1/training-runs/{id}', { params: { path: { id: first.id } } });
assert.equal(run.data?.status, 'succeeded');

const image = new Uint8Array(await readFile(path));
const form = () => {
  const data = new FormData();
  data.append('file', new Blob([image], { type: 'image/png' }), 'radiograph.png');
  return data;
};
const predicted = await client.POST('/v1/predictions', {
  body: { file: [path] },
  bodySerializer: form,
});
assert(predicted.data && 'probabilities' in predicted.data, JSON.stringify(predicted.error));
const { id, prediction, probabilities } = predicted.data;
const probability: number | undefined = probabilities[prediction];
assert(probability !== undefined && probability > 0);
const recorded = await client.GET('/v1/predictions/{id}', { params: { path: { id } } });
assert.equal(recorded.data?.prediction, prediction);

const retry = { header: { 'Idempotency-Key': randomUUID() } };
const body = { name: `client ${randomUUID()}` };
const created = [
  await client.POST('/v1/datasets', { params: retry, body }),
  await client.POST('/v1/datasets', { params: retry, body }),
];
assert.equal(created[0]?.data?.id, created[1]?.data?.id);
assert(created[0]?.data, JSON.stringify(created[0]?.error));

const missing = await client.GET('/v1/datasets/{id}', { params: { path: { id: randomUUID() } } });
const problem: components['schemas']['Problem'] | undefined = missing.error;
assert.equal(problem?.status, 404);
console.log('the generated TypeScript client works');
