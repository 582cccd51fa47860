// Parses drawings with the real Mermaid package, and reads them back.
//
//   node mermaid-parse.mjs FILE…         parses files
//   node mermaid-parse.mjs < TEXTS       parses one text, or a JSON array of texts
//
// Prints {parsed, refused, drawings}: each drawing as Mermaid understood it, its labels as a reader sees them.
// Exits with 1 and says which text Mermaid refuses and why.

import { readFileSync } from 'node:fs';

import { JSDOM } from 'jsdom';

// Mermaid cleans labels with the DOM and looks for it when it is loaded, so these stand before the import.
const { window } = new JSDOM('<!doctype html><html><body></body></html>');
globalThis.window = window;
for (const name of ['document', 'Element', 'SVGElement', 'HTMLElement', 'Node', 'DOMParser']) {
  globalThis[name] = window[name];
}
const { default: mermaid } = await import('mermaid');
mermaid.initialize({ startOnLoad: false, logLevel: 'fatal' });

// Undoes Mermaid's mask for entities, and then does what a browser makes of the label.
function seen(label) {
  const html = (label ?? '').replaceAll('ﬂ°°', '&#').replaceAll('ﬂ°', '&').replaceAll('¶ß', ';');
  const element = window.document.createElement('div');
  element.innerHTML = html.replaceAll(/<br ?\/?>/g, '\n');
  if (element.childElementCount > 0) {
    throw new Error(`a label became elements: ${html}`);
  }
  return element.textContent;
}

async function understand(text) {
  const { diagramType } = await mermaid.parse(text);
  if (!diagramType.startsWith('flowchart')) {
    throw new Error(`read as ${diagramType}, not as a flowchart`);
  }
  const { nodes, edges } = (await mermaid.mermaidAPI.getDiagramFromText(text)).db.getData();
  return {
    nodes: nodes.map(({ id, label, shape, parentId }) => ({
      id,
      label: seen(label),
      shape,
      ...(parentId ? { parent: parentId } : {}),
    })),
    edges: edges.map(({ start, end, label, pattern, thickness }) => ({
      source: start,
      target: end,
      ...(label ? { label: seen(label) } : {}),
      line: thickness === 'thick' ? 'thick' : pattern,
    })),
  };
}

function inputs() {
  const files = process.argv.slice(2);
  if (files.length > 0) {
    return files.map((file) => [file, readFileSync(file, 'utf8')]);
  }
  const text = readFileSync(0, 'utf8');
  const texts = text.trimStart().startsWith('[') ? JSON.parse(text) : [text];
  return texts.map((text, at) => [`text ${at}`, text]);
}

const drawings = [];
let refused = 0;
for (const [name, text] of inputs()) {
  try {
    drawings.push(await understand(text));
  } catch (error) {
    refused += 1;
    console.error(`${name}: ${error.message}\n${text}`);
  }
}
console.log(JSON.stringify({ parsed: drawings.length, refused, drawings }));
process.exitCode = refused === 0 ? 0 : 1;
