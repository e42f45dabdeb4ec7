/** The SDK against a real server with a simulated engine: tests/clients/test_typescript.py starts it. */

import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, expect, test } from "vitest";
import { ConflictError, isDone, JobCancelledError, NotFoundError, Penstock, type Retry, textOf } from "../src/index.js";
import { unwrap } from "../src/webhooks.js";
import { cutter } from "./cutter.js";

const baseUrl = process.env.PENSTOCK_URL as string;
const model = "simulated";
const client = new Penstock({ baseUrl });
const input = { model, max_tokens: 40, messages: [{ role: "user", content: "Tell me a story" }] };
const closing: { close(): void }[] = [];

afterEach(() => {
  for (const one of closing.splice(0)) one.close();
});

/** A client behind connections that are cut after so many bytes. */
async function behind(...limits: number[]) {
  const cut = await cutter(baseUrl, limits);
  closing.push(cut);
  const retries: Retry[] = [];
  const patient = new Penstock({ baseUrl: cut.url, onRetry: (retry) => retries.push(retry) });
  return { cut, retries, client: patient };
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

test("the server is ready and serves the model", async () => {
  expect((await client.health()).status).toBe("ready");
  expect((await client.models()).map(({ id }) => id)).toContain(model);
});

test("a job's text streams, and is that of its result", async () => {
  const job = await client.submit({ input, stream: true, metadata: { run: "7" } });
  const pieces = await all(client.stream(job.id));
  const ended = await client.wait(job.id);
  expect(pieces.join("")).toBe(textOf(ended.result));
  expect(ended.metadata).toEqual({ run: "7" });
  expect(textOf(await client.jobs.result(job.id))).toBe(pieces.join(""));
});

test("a stream over connections that are cut loses and repeats nothing", async () => {
  const { cut, client: patient } = await behind(700, 900, 1500, 800);
  const job = await client.submit({ input, stream: true });
  const text = (await all(patient.stream(job.id))).join("");
  expect(cut.cuts).toBeGreaterThanOrEqual(2); // chunks are joined for a slow reader
  expect(text).toBe(textOf((await client.wait(job.id)).result));
  const events = await all((await behind(2000)).client.jobs.events(job.id));
  expect(new Set(events.map(({ id }) => id)).size).toBe(events.length);
  expect(events.at(-1)?.type).toBe("succeeded");
});

test("a restart after a worker is lost is marked", async () => {
  const asked = { input: { ...input, model: "puppet" } };
  const job = await client.submit({ ...asked, stream: true });
  const items = [];
  for await (const piece of client.stream(job.id, { onRestart: "mark" })) {
    items.push(typeof piece === "string" ? piece : piece.attempt);
    if (piece === "void") await client.submit(asked); // the worker gives the first one back
  }
  expect(items).toEqual(["void", 2, "good"]);
});

test("a stream is resumed by another program", async () => {
  const job = await client.submit({ input, stream: true });
  let text = "";
  let after: string | undefined;
  for await (const event of client.jobs.events(job.id)) {
    after = event.id;
    if (event.type === "chunk") text += event.data.choices[0]?.delta.content ?? "";
    if (text.length > 40) break;
  }
  const rest = await all(new Penstock({ baseUrl }).stream(job.id, { after }));
  expect(text + rest.join("")).toBe(textOf((await client.wait(job.id)).result));
});

test("a submission whose answer is lost is one job", async () => {
  const { cut, retries, client: patient } = await behind(20);
  const before = (await all(client.jobs.list())).length;
  const job = await patient.submit({ input: { ...input, messages: [{ role: "user", content: "lost" }] } });
  expect([cut.cuts, retries.length, retries[0]?.what]).toEqual([1, 1, "POST /v1/jobs"]);
  const jobs = await all(client.jobs.list());
  expect([jobs.length, jobs[0]?.id]).toEqual([before + 1, job.id]);
  const again = { input, priority: "low" } as const;
  const first = await client.submit(again, { idempotencyKey: "mine", waitS: 30 });
  expect(isDone(first)).toBe(true);
  expect((await client.submit(again, { idempotencyKey: "mine" })).id).toBe(first.id);
  await expect(client.submit({ input }, { idempotencyKey: "mine" })).rejects.toBeInstanceOf(ConflictError);
});

test("jobs are listed page by page, moved, cancelled and retried", async () => {
  await client.pools.pause("default");
  const jobs = await Promise.all([1, 2, 3].map(() => client.submit({ input, priority: "bulk" })));
  const [first, second, third] = jobs.map(({ id }) => id) as [string, string, string];
  expect((await client.jobs.change(third, { priority: "high", top: true })).priority).toBe("high");
  const queued = await all(client.jobs.list({ state: "queued", pageSize: 1 }));
  expect(queued.map(({ id }) => id).sort()).toEqual([first, second, third].sort());
  expect((await client.jobs.cancel(first)).state).toBe("cancelled");
  await expect(client.wait(first)).rejects.toBeInstanceOf(JobCancelledError);
  expect(await client.pools.purge("default", "bulk")).toBe(1);
  expect((await client.pools.resume("default")).paused).toBe(false);
  const retried = await client.jobs.retry(first);
  expect(retried.retry_of).toBe(first);
  expect((await client.wait(retried.id, { timeoutS: 30 })).state).toBe("succeeded");
  const error = await client.jobs.get("job_00000000000000000000000000000000").catch((thrown) => thrown);
  expect(error).toBeInstanceOf(NotFoundError);
  expect(error.code).toBe("job_not_found");
  expect(() => client.jobs.events("..")).toThrow("cannot be");
});

test("a wait ends with its signal", async () => {
  await client.pools.pause("default");
  const job = await client.submit({ input });
  const stop = new AbortController();
  const waiting = client.wait(job.id, { signal: stop.signal });
  const reading = all(client.stream(job.id, { signal: stop.signal }));
  setTimeout(() => stop.abort(new Error("enough")), 100);
  await expect(waiting).rejects.toThrow("enough");
  await expect(reading).rejects.toThrow("enough");
  await client.pools.resume("default");
  await client.wait(job.id, { timeoutS: 30 });
});

test("a batch from rows to results, over a cut", async () => {
  const row = (n: number) => ({
    custom_id: `row-${n}`,
    method: "POST",
    url: "/v1/chat/completions",
    body: { ...input, seed: n },
  });
  const rows = Array.from({ length: 25 }, (_, n) => JSON.stringify(row(n))).join("\n");
  const file = await client.files.upload(rows, { filename: "in.jsonl" });
  expect([file.filename, file.bytes]).toEqual(["in.jsonl", rows.length]);
  const pieces = await all((await behind(1200)).client.files.content(file.id));
  expect(Buffer.concat(pieces).toString()).toBe(rows);
  const batch = await client.batches.create({ input_file_id: file.id });
  const following = all(client.batches.results(batch.id, { follow: true, pageSize: 7 }));
  const events = all(client.batches.events(batch.id));
  const looks: number[] = [];
  const ended = await client.batches.wait(batch.id, { onProgress: (now) => looks.push(now.request_counts.completed) });
  expect(ended.request_counts).toMatchObject({ total: 25, completed: 25, failed: 0 });
  expect(looks.at(-1)).toBe(25);
  expect((await events).at(-1)?.type).toBe("completed");
  expect((await following).map(({ custom_id }) => custom_id).sort()).toEqual(
    JSON.parse(`[${rows.replaceAll("\n", ",")}]`)
      .map(({ custom_id }: { custom_id: string }) => custom_id)
      .sort(),
  );
  expect(textOf((await following)[0]?.response?.body)).not.toBe("");
  expect((await client.batches.verify(batch.id)).ok).toBe(true);
  expect((await all(client.batches.list())).map(({ id }) => id)).toContain(batch.id);
  expect(await client.files.delete(file.id)).toBe(true);
  await expect(client.files.get(file.id)).rejects.toBeInstanceOf(NotFoundError);
});

test("a webhook arrives, and its signature is right", async () => {
  let tell: (got: { body: string; headers: Record<string, string> }) => void;
  const arrived = new Promise<{ body: string; headers: Record<string, string> }>((resolve) => {
    tell = resolve;
  });
  const server: Server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    response.writeHead(204).end();
    tell({ body, headers: request.headers as Record<string, string> });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  closing.push({ close: () => server.closeAllConnections() }, server);
  const made = await client.webhooks.create({
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    events: ["batch.*"],
  });
  await client.webhooks.test(made.id);
  const { body, headers } = await arrived;
  expect((await unwrap(body, headers, made.secret)).type).toBe("ping");
  await expect(unwrap(`${body} `, headers, made.secret)).rejects.toThrow("no signature is right");
  expect((await all(client.webhooks.list())).map(({ id }) => id)).toEqual([made.id]);
  expect((await client.webhooks.rotate(made.id, { overlapS: 0 })).secret).not.toBe(made.secret);
  expect(await client.webhooks.delete(made.id)).toBe(true);
});

test("every operation can be called with its types", async () => {
  const workers = await client.call("get", "/v1/workers", {});
  expect(workers.data.map(({ models }) => models)).toContainEqual([model]);
  const one = await client.call("get", "/v1/jobs", { query: { limit: 1 } });
  expect(one.data.length).toBe(1);
});
