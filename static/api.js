// The HTTP interface: requests, problem documents, lists and the key.

const KEY = 'thorax-key';
const PATIENCE_MS = 20000;

/** The server answered with a problem document. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail ?? document.title ?? `The server answered ${status}.`);
    this.status = status;
    this.title = document.title ?? `Status ${status}`;
    this.errors = document.errors ?? [];
    this.findings = document.findings ?? [];
  }
}

/** The server did not answer. */
export class Unreachable extends Error {}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
};

/** The JSON at `path`; what takes the server long is waited for longer. */
export const get = (path, patience = PATIENCE_MS) => ask('GET', path, { signal: AbortSignal.timeout(patience) });

/** Sends JSON. */
export function send(method, path, body) {
  if (body === undefined) return ask(method, path, {});
  return ask(method, path, { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } });
}

/** Sends a form with files, or one file as it is. */
export const upload = (path, body) => ask('POST', path, { body });

/** Every item of a list, page after page; `after` starts behind a cursor. */
export async function all(path, after) {
  const items = [];
  let cursor = after;
  do {
    const query = new URLSearchParams({ limit: 200, ...(cursor ? { after: cursor } : {}) });
    const page = await get(`${path}?${query}`);
    items.push(...page.items);
    cursor = page.next;
  } while (cursor);
  return items;
}

/** The bytes at `path`, for downloads that need the key. */
export async function bytes(path) {
  const response = await request('GET', path, {});
  return response.blob();
}

async function ask(method, path, options) {
  const response = await request(method, path, options);
  if (response.status === 204) return null;
  const text = await response.text().catch(() => { throw unreachable(); });
  return text ? JSON.parse(text) : null;
}

async function request(method, path, { headers = {}, ...options }) {
  const secret = key.get();
  if (secret) headers.authorization = `Bearer ${secret}`;
  headers.accept = 'application/json, application/problem+json';
  let response;
  try {
    response = await fetch(path, { method, headers, cache: 'no-store', ...options });
  } catch {
    throw unreachable();
  }
  if (response.ok) return response;
  if (response.status === 401) document.dispatchEvent(new Event('key-needed'));
  throw new Problem(response.status, await response.json().catch(() => ({ title: response.statusText })));
}

function unreachable() {
  return new Unreachable(`The server at ${location.host} does not answer. Is it still running?`);
}
