// Asks the language server of VS Code's YAML extension what an editor would show.
//
//   node yaml-editor.mjs < DOCUMENTS     a JSON array of {path, text}; `‸` in a text is where the cursor stands
//
// Prints, for each document, {problems, completions, hover}: problems as `LINE: message`, and what the server offers
// and tells at the cursor. Paths are relative to the repository, and a document finds its schema as it would on disk:
// by its first line, relative to its path.

import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

import {
  CompletionRequest,
  ConfigurationRequest,
  createProtocolConnection,
  DidChangeConfigurationNotification,
  DidOpenTextDocumentNotification,
  HoverRequest,
  InitializedNotification,
  InitializeRequest,
  PublishDiagnosticsNotification,
  RegistrationRequest,
  ShutdownRequest,
  StreamMessageReader,
  StreamMessageWriter,
} from 'vscode-languageserver-protocol/node';

const CURSOR = '‸';
const binary = resolve('node_modules/yaml-language-server/bin/yaml-language-server');
const server = spawn(process.execPath, [binary, '--stdio'], { stdio: ['pipe', 'pipe', 'inherit'] });
const connection = createProtocolConnection(
  new StreamMessageReader(server.stdout),
  new StreamMessageWriter(server.stdin),
);

// No schemas from the network: the documents name theirs.
const settings = { validate: true, hover: true, completion: true, schemaStore: { enable: false } };
const told = new Map();
connection.onNotification(PublishDiagnosticsNotification.type, ({ uri, diagnostics }) => {
  told.get(uri)?.(diagnostics);
});
connection.onRequest(ConfigurationRequest.type, ({ items }) =>
  items.map(({ section }) => (section === 'yaml' ? settings : null)),
);
connection.onRequest(RegistrationRequest.type, () => {});
connection.listen();

await connection.sendRequest(InitializeRequest.type, {
  processId: process.pid,
  rootUri: null,
  capabilities: {
    textDocument: {
      completion: { completionItem: { documentationFormat: ['markdown'], snippetSupport: true } },
      hover: { contentFormat: ['markdown'] },
    },
    workspace: { configuration: true },
  },
});
await connection.sendNotification(InitializedNotification.type, {});
await connection.sendNotification(DidChangeConfigurationNotification.type, { settings: { yaml: settings } });

async function ask({ path, text }, number) {
  const before = text.split(CURSOR)[0].split('\n');
  const position = { line: before.length - 1, character: before.at(-1).length };
  // Each document is a file of its own beside the one that it stands for.
  const uri = pathToFileURL(resolve('../..', path).replace(/\.yaml$/, `-${number}.yaml`)).href;
  const problems = new Promise((done) => told.set(uri, done));
  await connection.sendNotification(DidOpenTextDocumentNotification.type, {
    textDocument: { uri, languageId: 'yaml', version: 1, text: text.replace(CURSOR, '') },
  });
  const shown = (await problems).map(({ range, message }) => `${range.start.line + 1}: ${message}`);
  if (!text.includes(CURSOR)) {
    return { problems: shown, completions: {}, hover: '' };
  }
  const at = { textDocument: { uri }, position };
  const offered = await connection.sendRequest(CompletionRequest.type, at);
  const hover = await connection.sendRequest(HoverRequest.type, at);
  const completions = Object.fromEntries(
    offered.items.map(({ label, documentation }) => [label, documentation?.value ?? documentation ?? '']),
  );
  return { problems: shown, completions, hover: hover?.contents?.value ?? '' };
}

const answers = [];
for (const [number, document] of JSON.parse(readFileSync(0, 'utf8')).entries()) {
  answers.push(await ask(document, number));
}
console.log(JSON.stringify(answers));
await connection.sendRequest(ShutdownRequest.type);
connection.dispose();
server.kill();
