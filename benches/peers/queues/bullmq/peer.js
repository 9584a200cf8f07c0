// BullMQ. Usage: peer.js enqueue KIND COUNT | publish COUNT GAP_MS | work fast|one|default
// The kinds of payloads are described in ../python/handler.py.

import { appendFileSync, renameSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Queue, Worker } from 'bullmq';

const CHUNK = 1000;
const HOLD_MS = 3600 * 1000;
const WORKERS = { fast: { concurrency: 50 }, one: { concurrency: 1 }, default: {} };

const connection = { host: '127.0.0.1', port: Number(process.env.PEER_PORT) };
const expect = Number(process.env.PEER_EXPECT ?? 0);
// Nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
const now = () => process.hrtime.bigint();
const payload = kind => `${kind} ${now()} `.padEnd(200, 'x');

let count = 0;
let first;
const latencies = [];

function report(content) {
  const path = process.env.PEER_REPORT;
  writeFileSync(`${path}.new`, JSON.stringify(content));
  renameSync(`${path}.new`, path);
}

async function run(job) {
  const started = now();
  const [kind, sent] = job.data.split(' ', 2);
  if (kind === 'mark' || kind === 'hold') {
    appendFileSync(process.env.PEER_MARKS, `${process.pid} ${started}\n`);
    if (kind === 'hold') await sleep(HOLD_MS);
    return;
  }
  count += 1;
  first ??= started;
  if (kind === 'idle') latencies.push(Number(started - BigInt(sent)));
  if (count === expect) {
    report(kind === 'idle' ? { latencies_ns: latencies } : { first_ns: Number(first), last_ns: Number(now()) });
  }
}

async function enqueue(queue, kind, total) {
  for (let done = 0; done < total; done += CHUNK) {
    const size = Math.min(CHUNK, total - done);
    await queue.addBulk(Array.from({ length: size }, () => ({ name: 'job', data: payload(kind) })));
  }
}

async function publish(queue, total, gapMs) {
  const start = performance.now();
  for (let n = 0; n < total; n += 1) {
    await sleep(Math.max(0, start + n * gapMs - performance.now()));
    await queue.add('job', payload('idle'));
  }
}

const [command, ...rest] = process.argv.slice(2);
if (command === 'work') {
  new Worker('peer', run, { connection, ...WORKERS[rest[0]] });
} else {
  const queue = new Queue('peer', { connection, defaultJobOptions: { removeOnComplete: true, removeOnFail: true } });
  if (command === 'enqueue') await enqueue(queue, rest[0], Number(rest[1]));
  else await publish(queue, Number(rest[0]), Number(rest[1]));
  await queue.close();
}
