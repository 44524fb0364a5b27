// What happens to a run, as it happens. The browser's EventSource cannot send the key, so its work is done here: reading the
// stream, and coming back with the last id it saw when the stream breaks.

import { key } from './api.js';

const RETRY_MS = 3000;
const LONGEST_MS = 60000;
/** The server says something every 15 seconds. */
const SILENCE_MS = 45000;

/**
 * Calls `told(kind, data)` for each event of the stream at `path`, and `state(true)` or `state(false)` when the stream begins
 * or breaks. Answers with a function that ends it.
 */
export function follow(path, told, state) {
  const controller = new AbortController();
  listen(path, told, state, controller.signal);
  return () => controller.abort();
}

async function listen(path, told, state, signal) {
  let last;
  for (let wait = RETRY_MS; ; wait = Math.min(wait * 2, LONGEST_MS)) {
    try {
      const response = await fetch(path, { headers: headers(last), cache: 'no-store', signal });
      if (isFinal(response.status)) return;
      if (response.ok) {
        state(true);
        for await (const event of events(response.body)) {
          wait = RETRY_MS;
          last = event.id ?? last;
          told(event.kind, event.data);
        }
      }
    } catch {
      // Broken, as below.
    }
    if (signal.aborted) return;
    state(false);
    await new Promise((resolve) => setTimeout(resolve, wait));
    if (signal.aborted) return;
  }
}

function headers(last) {
  const secret = key.get();
  return {
    accept: 'text/event-stream',
    ...(secret && { authorization: `Bearer ${secret}` }),
    ...(last && { 'last-event-id': last }),
  };
}

/** Nothing follows (204), or asking again would not help. */
function isFinal(status) {
  return status === 204 || (status >= 400 && status < 500 && status !== 429);
}

/** The events of a stream until it ends, breaks or is silent for too long. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const silence = setTimeout(() => reader.cancel(), SILENCE_MS);
    const { value, done } = await reader.read().finally(() => clearTimeout(silence));
    if (done) return;
    const blocks = (text + value).split('\n\n');
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries([...block.matchAll(/^(id|event|data): ?(.*)$/gm)].map(([, name, field]) => [name, field]));
      if (fields.data) yield { id: fields.id, kind: fields.event, data: JSON.parse(fields.data) };
    }
  }
}
