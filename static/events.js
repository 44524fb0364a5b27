// Server-sent events of a run. EventSource cannot send the API key, so this reads the stream with fetch and
// reconnects with Last-Event-ID when it breaks.

import { key } from './api.js';

const RETRY_MS = 3000;
const MAX_RETRY_MS = 60000;
/** The server sends a keep-alive comment every 15 seconds. */
const IDLE_TIMEOUT_MS = 45000;

/**
 * Calls `onEvent(kind, data)` for each event of the stream at `path`, and `onState(true)` or `onState(false)` when the stream opens
 * or breaks. Returns a function that closes it.
 */
export function follow(path, onEvent, onState) {
  const controller = new AbortController();
  listen(path, onEvent, onState, controller.signal);
  return () => controller.abort();
}

async function listen(path, onEvent, onState, signal) {
  let last;
  for (let wait = RETRY_MS; ; wait = Math.min(wait * 2, MAX_RETRY_MS)) {
    try {
      const response = await fetch(path, { headers: headers(last), cache: 'no-store', signal });
      if (isFinal(response.status)) return;
      if (response.ok) {
        onState(true);
        for await (const event of events(response.body)) {
          wait = RETRY_MS;
          last = event.id ?? last;
          onEvent(event.kind, event.data);
        }
      }
    } catch {
      // The connection broke: retry below.
    }
    if (signal.aborted) return;
    onState(false);
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

/** No more events (204), or a client error that a retry would not fix. */
function isFinal(status) {
  return status === 204 || (status >= 400 && status < 500 && status !== 429);
}

/** Events of a stream until it ends, breaks or exceeds the idle timeout. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const idle = setTimeout(() => reader.cancel(), IDLE_TIMEOUT_MS);
    const { value, done } = await reader.read().finally(() => clearTimeout(idle));
    if (done) return;
    const blocks = (text + value).split('\n\n');
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries([...block.matchAll(/^(id|event|data): ?(.*)$/gm)].map(([, name, field]) => [name, field]));
      if (fields.data) yield { id: fields.id, kind: fields.event, data: JSON.parse(fields.data) };
    }
  }
}
