// Takes one turn with the generated client and prints what came: {types, text, done, reconnects}.
// Exits with 1 when the stream is not whole, not in order, or not what its messages say at their end.
import { chat } from './generated/index.js';
import { client } from './generated/client.gen.js';

const { BASE_URL, GRAPH = 'chat', SESSION = `clients-${process.pid}`, MESSAGE = 'Hello!', API_KEY } = process.env;
client.setConfig({
  baseUrl: BASE_URL ?? 'http://127.0.0.1:8080',
  auth: ({ scheme }) => (scheme === 'bearer' ? undefined : API_KEY),
});

function check(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(what);
}

let reconnects = 0;
const { stream } = await chat({
  path: { graph: GRAPH },
  body: { session_id: SESSION, message: MESSAGE },
  // A connection that breaks before the first event has no Last-Event-ID: the key keeps it from a second turn.
  headers: { 'Idempotency-Key': crypto.randomUUID() },
  // The client repeats refused requests too, without end unless told.
  sseMaxRetryAttempts: 4,
  sseDefaultRetryDelay: 100,
  onSseError: (error) => {
    reconnects += 1;
    console.error(`the client repeats its request: ${String(error)}`);
  },
});

const types: string[] = [];
const messages = new Map<string, { task: string; text: string }>();
let last: [epoch: number, seq: number] = [0, 0];
let status: string | undefined;
let done = false;
for await (const event of stream) {
  check(!done, 'something came after [DONE]');
  check(event !== undefined, 'an event without data came');
  if (event === '[DONE]') {
    done = true;
    continue;
  }
  // From here on the type is the union of the events, and each case has the fields of its own event.
  const grows = event.epoch > last[0] || (event.epoch === last[0] && event.seq > last[1]);
  check(grows, `event ${event.epoch}-${event.seq} came after ${last.join('-')}`);
  last = [event.epoch, event.seq];
  types.push(event.type);
  switch (event.type) {
    case 'message.started':
      messages.set(event.message_id, { task: event.task_id, text: '' });
      break;
    case 'message.delta': {
      const message = messages.get(event.message_id);
      check(message !== undefined, `a delta of ${event.message_id}, which did not start`);
      message.text += event.delta;
      break;
    }
    case 'message.finished':
      if (event.content !== undefined) {
        const text = messages.get(event.message_id)?.text;
        check(text === event.content, `streamed ${JSON.stringify(text)}, then said ${JSON.stringify(event.content)}`);
      }
      break;
    case 'node.reset':
      // What a dead attempt said does not count.
      for (const [id, { task }] of messages) if (task === event.task_id) messages.delete(id);
      break;
    case 'error':
      console.error(`${event.code}: ${event.message}`);
      break;
    case 'run.finished':
      status = event.status;
      break;
    // @ts-expect-error the compiler knows every type of event, and this is none
    case 'message.ended':
      break;
    case 'run.started':
    case 'node.started':
    case 'node.finished':
    case 'node.retrying':
    case 'edge.taken':
    case 'tool.started':
    case 'tool.args_delta':
    case 'tool.called':
    case 'tool.finished':
    case 'interrupt.requested':
    case 'custom':
    case 'reasoning.started':
    case 'reasoning.delta':
    case 'reasoning.finished':
    case 'state.snapshot':
    case 'state.patch':
    case 'checkpoint.saved':
    case 'thread.deleted':
    case 'stream.rewound':
      break;
    default: {
      // Compiles only while every event of the document has its case. A newer service may send more, and a
      // client takes no notice of them.
      const newer: never = event;
      void newer;
    }
  }
}
const text = [...messages.values()].map((message) => message.text).join('\n');
console.log(JSON.stringify({ types, text, done, reconnects }));
check(done, 'the stream ended without [DONE]');
check(types.at(-1) === 'run.finished', 'run.finished is not the last event');
check(status === 'completed', `the run ended as ${status}`);
