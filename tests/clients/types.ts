// What openapi-typescript makes of the document: compiled under `strict`, never run.
import type { components, operations, paths } from './generated/openapi-typescript.js';

type Item = paths['/v1/graphs/{graph}/chat']['post']['responses'][200]['content']['text/event-stream'];
type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : never) : never;

/** The item of the stream is one event or the sentinel, not a list and not `unknown`. */
export const item: Same<Item, components['schemas']['GraphEvent'] | '[DONE]'> = true;

/** The union narrows by `type`. */
export function delta(item: Item): string | undefined {
  return item !== '[DONE]' && item.type === 'message.delta' ? item.delta : undefined;
}

/** A body needs its session. */
type Body = operations['chat']['requestBody']['content']['application/json'];
export const body: Body = { session_id: 's', message: 'Hello!' };
// @ts-expect-error who asks comes from authentication, never from a body
export const forged: Body = { session_id: 's', tenant: 'other' };
