// Speaks the Language Server Protocol with `graphloom lsp`, as an editor would, by the protocol's own client library.
//
//   GRAPHLOOM=…/graphloom node lsp.mjs < PROJECT     a JSON object of the files of a project folder: {path: text}
//
// Prints what the server said, step by step, and the code that it ended with. Texts are changed in memory only, but
// for one file on the disk that the server is told of.

import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

import {
  CompletionRequest,
  createProtocolConnection,
  DefinitionRequest,
  DidChangeTextDocumentNotification,
  DidChangeWatchedFilesNotification,
  DidCloseTextDocumentNotification,
  DidOpenTextDocumentNotification,
  DocumentHighlightRequest,
  DocumentSymbolRequest,
  ExitNotification,
  HoverRequest,
  InitializedNotification,
  InitializeRequest,
  PrepareRenameRequest,
  PublishDiagnosticsNotification,
  ReferencesRequest,
  RegistrationRequest,
  RenameRequest,
  ShutdownRequest,
  StreamMessageReader,
  StreamMessageWriter,
} from 'vscode-languageserver-protocol/node';

const files = JSON.parse(readFileSync(0, 'utf8'));
const root = mkdtempSync(join(tmpdir(), 'gl-lsp-'));
for (const [path, text] of Object.entries(files)) {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), text);
}

const server = spawn(process.env.GRAPHLOOM, ['lsp', '--stdio'], { stdio: ['pipe', 'pipe', 'inherit'] });
const ended = new Promise((done) => server.on('exit', done));
const connection = createProtocolConnection(
  new StreamMessageReader(server.stdout),
  new StreamMessageWriter(server.stdin),
);

// What the server shows of each file, and who waits for it.
const shown = new Map();
const waiting = [];
connection.onNotification(PublishDiagnosticsNotification.type, ({ uri, diagnostics }) => {
  shown.set(local(uri), diagnostics);
  for (const check of [...waiting]) check();
});
const watched = [];
connection.onRequest(RegistrationRequest.type, ({ registrations }) => {
  watched.push(...registrations.map((registration) => registration.method));
});
connection.listen();

const uri = (path) => pathToFileURL(join(root, path)).href;
const local = (uri) => relative(root, fileURLToPath(uri));
const codes = (path) => (shown.get(path) ?? []).map((found) => found.code);

// Waits until the server shows exactly these codes for a file.
function until(path, expected) {
  return new Promise((done, fail) => {
    const late = setTimeout(() => fail(new Error(`${path}: ${codes(path)} instead of ${expected}`)), 20_000);
    const check = () => {
      if (shown.has(path) && codes(path).join() === expected.join()) {
        clearTimeout(late);
        waiting.splice(waiting.indexOf(check), 1);
        done();
      }
    };
    waiting.push(check);
    check();
  });
}

const texts = { ...files };
const versions = {};
// JavaScript counts in UTF-16, as the protocol does.
function position(path, offset) {
  const before = texts[path].slice(0, offset).split('\n');
  return { line: before.length - 1, character: before.at(-1).length };
}
const at = (path, piece, skip = 0) => ({
  textDocument: { uri: uri(path) },
  position: position(path, texts[path].indexOf(piece) + skip),
});
const open = (path) =>
  connection.sendNotification(DidOpenTextDocumentNotification.type, {
    textDocument: { uri: uri(path), languageId: 'yaml', version: (versions[path] = 1), text: texts[path] },
  });
// Replaces a piece of a text by an edit of its range alone.
async function type(path, piece, by) {
  const start = texts[path].indexOf(piece);
  const range = { start: position(path, start), end: position(path, start + piece.length) };
  texts[path] = texts[path].replace(piece, by);
  await connection.sendNotification(DidChangeTextDocumentNotification.type, {
    textDocument: { uri: uri(path), version: ++versions[path] },
    contentChanges: [{ range, text: by }],
  });
}
const labels = async (params) =>
  (await connection.sendRequest(CompletionRequest.type, params)).map((item) => item.label);
const places = (found) =>
  (found ?? []).map(({ uri, range: { start } }) => `${local(uri)}:${start.line}:${start.character}`);
const refusal = (request) => request.then(() => 'none', (error) => `${error.code}: ${error.message}`);

const said = {};
const initialized = await connection.sendRequest(InitializeRequest.type, {
  processId: process.pid,
  rootUri: pathToFileURL(root).href,
  capabilities: {
    workspace: {
      didChangeWatchedFiles: { dynamicRegistration: true },
      workspaceEdit: { documentChanges: true },
    },
  },
});
said.server = initialized.serverInfo.name;
said.encoding = initialized.capabilities.positionEncoding;
await connection.sendNotification(InitializedNotification.type, {});

// A mistake behind an emoji appears, at its column, and vanishes while typing.
await open('help.yaml');
await until('help.yaml', ['S401']);
const [mistake] = shown.get('help.yaml');
said.mistake = { ...mistake, relatedInformation: undefined };
said.quote = texts['help.yaml'].split('\n')[mistake.range.start.line].slice(
  mistake.range.start.character,
  mistake.range.end.character,
);
said.why = (await connection.sendRequest(HoverRequest.type, at('help.yaml', 'input.nme', 7))).contents.value;
await type('help.yaml', 'input.nme', 'input.name');
await until('help.yaml', []);

// Completion in a text that is not YAML, with what the last good text defined.
await type('help.yaml', 'true\n    next: end', 'true\n    next: {all: [');
said.broken = await labels(at('help.yaml', '{all: [', 7));
await until('help.yaml', ['Y001']);
await type('help.yaml', 'next: {all: [', 'next: ');
said.next = await labels(at('help.yaml', 'true\n    next: ', 15));
await type('help.yaml', 'true\n    next: ', 'true\n    next: end');
await until('help.yaml', []);
await type('help.yaml', '{{ state.turns }}', '🦀 {{ state.');
const [item] = await connection.sendRequest(CompletionRequest.type, at('help.yaml', '{{ state.', 9));
said.item = item;
await type('help.yaml', '🦀 {{ state.', '🦀 {{ state.turns }}');

// Definitions, hovers and all that is near.
said.definition = places(await connection.sendRequest(DefinitionRequest.type, at('help.yaml', 'start: ', 8)));
said.prompt = places(await connection.sendRequest(DefinitionRequest.type, at('help.yaml', 'chat/answer', 2)));
const hover = await connection.sendRequest(HoverRequest.type, at('help.yaml', 'state.turns', 7));
said.hover = hover.contents.value;
said.hovered = hover.range.end.character - hover.range.start.character;
const references = { ...at('help.yaml', '  answer:', 3), context: { includeDeclaration: true } };
said.references = places(await connection.sendRequest(ReferencesRequest.type, references)).length;
said.highlights = (
  await connection.sendRequest(DocumentHighlightRequest.type, at('help.yaml', '  answer:', 3))
).map((highlight) => highlight.kind);
said.symbols = (
  await connection.sendRequest(DocumentSymbolRequest.type, { textDocument: { uri: uri('help.yaml') } })
).map((symbol) => `${symbol.name}: ${symbol.detail}`);

// A rename leaves a graph without a mistake.
const target = at('help.yaml', 'start: ', 8);
said.placeholder = (await connection.sendRequest(PrepareRenameRequest.type, target)).placeholder;
said.taken = await refusal(connection.sendRequest(RenameRequest.type, { ...target, newName: 'answer' }));
said.file = await refusal(
  connection.sendRequest(RenameRequest.type, { ...at('help.yaml', 'chat/answer', 2), newName: 'x' }),
);
const { documentChanges } = await connection.sendRequest(RenameRequest.type, { ...target, newName: 'welcome' });
for (const { textDocument, edits } of documentChanges) {
  const path = local(textDocument.uri);
  said.version = textDocument.version === versions[path];
  await connection.sendNotification(DidChangeTextDocumentNotification.type, {
    textDocument: { uri: textDocument.uri, version: ++versions[path] },
    contentChanges: [...edits]
      .sort((a, b) => b.range.start.line - a.range.start.line || b.range.start.character - a.range.start.character)
      .map(({ range, newText }) => ({ range, text: newText })),
  });
  texts[path] = texts[path].replaceAll('greet', 'welcome');
}
said.renamed = places(await connection.sendRequest(DefinitionRequest.type, at('help.yaml', 'start: ', 8)));
await type('help.yaml', 'format: 1', 'format: 2');
await until('help.yaml', ['G101']);
await type('help.yaml', 'format: 2', 'format: 1');
await until('help.yaml', []);

// A change on the disk, of a file that is not open.
said.watched = watched;
const prompt = 'prompts/chat/answer.md';
for (const [text, expected] of [[`${files[prompt]}{{ nobody }}\n`, ['T302']], [files[prompt], []]]) {
  writeFileSync(join(root, prompt), text);
  await connection.sendNotification(DidChangeWatchedFilesNotification.type, {
    changes: [{ uri: uri(prompt), type: 2 }],
  });
  await until(prompt, expected);
}

// What nobody understands ends nothing.
said.unknown = await refusal(connection.sendRequest('textDocument/nothing', {}));
said.odd = await refusal(connection.sendRequest('textDocument/hover', { position: 'here' }));
await connection.sendNotification('textDocument/didChange', { odd: true });
said.far = await connection.sendRequest(HoverRequest.type, {
  textDocument: { uri: uri('help.yaml') },
  position: { line: 1_000_000, character: 1_000_000 },
});

// A file that is closed takes its findings with it.
await type('help.yaml', 'format: 1', 'format: 2');
await until('help.yaml', ['G101']);
await connection.sendNotification(DidCloseTextDocumentNotification.type, {
  textDocument: { uri: uri('help.yaml') },
});
await until('help.yaml', []);

await connection.sendRequest(ShutdownRequest.type);
said.down = await refusal(connection.sendRequest(HoverRequest.type, at('help.yaml', 'start')));
await connection.sendNotification(ExitNotification.type);
said.code = await ended;
connection.dispose();
rmSync(root, { recursive: true });
console.log(JSON.stringify(said));
