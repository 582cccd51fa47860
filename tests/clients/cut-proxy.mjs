// A TCP proxy before BASE_URL that breaks the first connection after CUT_AFTER bytes of the answer.
// Runs the program that its arguments name, with the proxy as its BASE_URL; without one it prints its own URL and
// stays. Exits as the program does, or with 1 when nothing was cut.
import { spawn } from 'node:child_process';
import { connect, createServer } from 'node:net';

const target = new URL(process.env.BASE_URL ?? 'http://127.0.0.1:8080');
const cutAfter = Number(process.env.CUT_AFTER ?? 2000);
let connections = 0;
let cut = false;

const proxy = createServer((client) => {
  connections += 1;
  const first = connections === 1;
  let left = cutAfter;
  const server = connect(Number(target.port || 80), target.hostname);
  client.pipe(server);
  server.on('data', (bytes) => {
    client.write(first ? bytes.subarray(0, left) : bytes);
    left -= bytes.length;
    if (first && left <= 0 && !cut) {
      cut = true;
      // Ends the connection after what was written, in the middle of the answer.
      client.end(() => client.destroy());
      server.destroy();
    }
  });
  server.on('end', () => client.end());
  server.on('error', () => client.destroy());
  client.on('error', () => server.destroy());
  client.on('close', () => server.destroy());
});

proxy.listen(0, '127.0.0.1', () => {
  const url = `http://127.0.0.1:${proxy.address().port}`;
  const [program, ...args] = process.argv.slice(2);
  if (program === undefined) {
    console.log(url);
    return;
  }
  const child = spawn(program, args, { stdio: 'inherit', env: { ...process.env, BASE_URL: url } });
  child.on('error', (error) => { console.error(error.message); process.exit(1); });
  child.on('exit', (code) => {
    if (!cut || connections < 2) console.error(`cut: ${cut}, connections: ${connections}; CUT_AFTER=${cutAfter} was too much`);
    process.exit(cut && connections > 1 ? code ?? 1 : 1);
  });
});
