// Client for the HTTP API: requests, problem documents (RFC 9457), paginated lists and the API key.

const KEY = 'thorax-key';
const TIMEOUT_MS = 20000;

/** An error response with its problem document. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail ?? document.title ?? `The server returned status ${status}.`);
    this.status = status;
    this.title = document.title ?? `Status ${status}`;
    this.errors = document.errors ?? [];
    this.findings = document.findings ?? [];
  }
}

/** The server sent no response. */
export class Unreachable extends Error {}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
};

/** Fetches JSON. Pass a longer `timeout` (ms) for endpoints that compute on demand. */
export const get = (path, timeout = TIMEOUT_MS) => requestJson('GET', path, { signal: AbortSignal.timeout(timeout) });

/** Sends a JSON body, or none. */
export function send(method, path, body) {
  if (body === undefined) return requestJson(method, path, {});
  return requestJson(method, path, { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } });
}

/** Posts a multipart form, or one file as the raw body. */
export const upload = (path, body) => requestJson('POST', path, { body });

/** Fetches every item of a paginated list, starting after the cursor `after`. */
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

/** Fetches a file as a blob; a plain link cannot send the API key. */
export async function bytes(path) {
  const response = await request('GET', path, {});
  return response.blob();
}

async function requestJson(method, path, options) {
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
  if (response.status === 401) document.dispatchEvent(new Event('key-required'));
  throw new Problem(response.status, await response.json().catch(() => ({ title: response.statusText })));
}

function unreachable() {
  return new Unreachable(`No response from ${location.host}. Check that the server is running.`);
}
