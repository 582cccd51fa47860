// Follows a run with the standard EventSource and prints {types, done, requests}. Without RUN it starts one itself.
// Exits with 1 unless it came in order, ended, and the client stopped by itself at 204.
import { readFileSync } from 'node:fs';
import { EventSource } from 'eventsource';

const { BASE_URL = 'http://127.0.0.1:8080', GRAPH = 'chat', API_KEY, OPENAPI = '../../openapi.json' } = process.env;
const auth = API_KEY === undefined ? {} : { 'X-API-Key': API_KEY };

async function start() {
  const response = await fetch(`${BASE_URL}/v1/graphs/${GRAPH}/chat`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...auth },
    body: JSON.stringify({ session_id: `clients-${process.pid}`, message: 'Hello!' }),
  });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  // The run goes on without this reader.
  await response.body.cancel();
  return response.headers.get('x-run-id');
}

const run = process.env.RUN ?? (await start());
const requests = [];
const source = new EventSource(`${BASE_URL}/v1/runs/${run}/events`, {
  fetch: async (url, init) => {
    const response = await fetch(url, { ...init, headers: { ...init.headers, ...auth } });
    requests.push({ after: init.headers['Last-Event-ID'], status: response.status });
    return response;
  },
});

const types = [];
let [epoch, seq] = [0, 0];
let done = false;
let failure;
const ended = new Promise((resolve) => {
  // It also keeps the process alive: the client's own timer for the next request does not.
  const slow = setTimeout(() => fail('it did not stop within 60 s'), 60_000);
  const finish = () => {
    clearTimeout(slow);
    resolve();
  };
  const fail = (why) => {
    failure ??= why;
    source.close();
    finish();
  };
  source.addEventListener('message', ({ data }) => {
    if (data !== '[DONE]') return fail(`an event without a name: ${data}`);
    done = true;
  });
  // A listener hears one name, so the names come from the document.
  const { mapping } = JSON.parse(readFileSync(OPENAPI, 'utf8')).components.schemas.GraphEvent.discriminator;
  for (const type of Object.keys(mapping)) {
    source.addEventListener(type, (event) => {
      // The client's own errors have no data; those of the run do.
      if (event.data === undefined) {
        if (source.readyState === EventSource.CLOSED) finish();
        return;
      }
      const body = JSON.parse(event.data);
      if (body.type !== type) return fail(`named ${type}, but is ${body.type}`);
      if (!(body.epoch > epoch || (body.epoch === epoch && body.seq > seq))) return fail(`${event.lastEventId} is late`);
      [epoch, seq] = [body.epoch, body.seq];
      types.push(type);
    });
  }
});
await ended;

console.log(JSON.stringify({ types, done, requests }));
if (types.at(-1) !== 'run.finished' || !done) failure ??= 'the stream was not whole';
if (requests.at(-1).status !== 204) failure ??= 'the client stopped at another answer than 204';
if (failure !== undefined) {
  console.error(failure);
  process.exit(1);
}
