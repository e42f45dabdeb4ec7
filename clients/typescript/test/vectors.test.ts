/** The conformance vectors of clients/vectors: the Python SDK runs the same. */

import { readFileSync } from "node:fs";
import { runInNewContext } from "node:vm";
import { describe, expect, test, vi } from "vitest";
import * as penstock from "../src/index.js";
import { SSEParser } from "../src/sse.js";
import { unwrap } from "../src/webhooks.js";
import { type Answer, type Options, type Seen, type Streamed, settled, virtual } from "./virtual.js";

// biome-ignore lint/suspicious/noExplicitAny: vectors are data of many shapes
type Vector = any;

const ID = "job_00000000000000000000000000000001";

function load(name: string): Vector {
  return JSON.parse(readFileSync(new URL(`../../vectors/${name}.json`, import.meta.url), "utf8"));
}

function checkError(error: unknown, expected: Vector): void {
  const { kind, ...members } = expected;
  expect(error).toBeInstanceOf((penstock as Vector)[kind]);
  const camel = (name: string) => name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase());
  for (const [name, value] of Object.entries(members)) expect((error as Vector)[camel(name)] ?? null, name).toEqual(value);
}

function checkPauses(seen: Seen[], bounds: [number, number][] = []): void {
  for (const [place, [least, most]] of bounds.entries()) {
    const pause = (seen[place + 1] as Seen).at - (seen[place] as Seen).at;
    expect(pause).toBeGreaterThanOrEqual(least - 0.002); // timers count whole milliseconds
    expect(pause).toBeLessThanOrEqual(most + 0.002);
  }
}

describe("sse", () => {
  test.each(load("sse") as Vector[])("$name", (vector) => {
    const bytes = Buffer.from(vector.base64 ?? vector.stream, vector.base64 ? "base64" : "utf8");
    const cuts = [[bytes], [...bytes].map((byte) => Uint8Array.of(byte))];
    for (let n = 0; n <= bytes.length; n++) cuts.push([bytes.subarray(0, n), bytes.subarray(n)]);
    for (const parts of cuts) {
      const parser = new SSEParser();
      const events = parts.flatMap((part) => parser.feed(part));
      const { lastId, retryMs, comments } = parser;
      const seen = { events, last_id: lastId, retry_ms: retryMs ?? null, comments: vector.comments && comments };
      const { last_id, retry_ms = null } = vector;
      expect(seen).toEqual({ events: vector.events, last_id, retry_ms, comments: vector.comments });
    }
  });
});

describe("streams", () => {
  const frame = ({ id, event, data }: Vector) => `id: ${id}\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`;

  /** What the server answers to one connection, as the vector says that it goes. */
  function connect(vector: Vector, how: Vector, { headers, path }: Seen): Answer | Streamed {
    if (how.fault || how.status) return how;
    if (!path.endsWith("/events")) return { status: 200, body: vector.job };
    const after = how.ignores_cursor ? null : headers.get("last-event-id");
    const ids = vector.log.map(({ id }: Vector) => id);
    if (after && after === ids.at(-1)) return { status: 204 };
    const events = vector.log.slice(after ? ids.indexOf(after) + 1 : 0);
    const whole = Buffer.from((how.prefix ?? "") + events.slice(0, how.events).map(frame).join(""));
    const cut = how.bytes !== undefined || how.events !== undefined;
    return { status: 200, bytes: whole.subarray(0, how.bytes), end: cut && how.end !== "close" ? "cut" : "done", ...how };
  }

  async function run(vector: Vector, connections: Vector[]): Promise<void> {
    const { client, seen } = virtual((request) => connect(vector, connections[seen.length - 1] ?? {}, request));
    const { after, on_restart } = vector;
    const items: unknown[] = [];
    const read = async () => {
      if (vector.call === "events") for await (const { id, type } of client.jobs.events(ID, { after })) items.push([id, type]);
      else {
        for await (const piece of client.stream(ID, { after, onRestart: (on_restart ?? "throw") as "mark" })) {
          items.push(typeof piece === "string" ? piece : { restarted: piece.attempt, event_id: piece.eventId });
        }
      }
    };
    const end = await settled(read());
    const { outcome } = vector;
    if (outcome.error) checkError(end.status === "rejected" && end.reason, outcome.error);
    else if (end.status === "rejected") throw end.reason;
    expect(items).toEqual(outcome.items);
    const asked = seen.filter(({ path }) => path.endsWith("/events")).map(({ headers }) => headers.get("last-event-id"));
    if (outcome.last_event_ids && !vector.cut_anywhere) expect(asked).toEqual(outcome.last_event_ids);
    checkPauses(seen, outcome.pauses_s);
  }

  test.each(load("streams") as Vector[])("$name", async (vector) => {
    if (!vector.cut_anywhere) return run(vector, vector.connections ?? []);
    const length = Buffer.byteLength(vector.log.map(frame).join(""));
    for (let bytes = 0; bytes <= length; bytes++) await run(vector, [{ bytes }]);
  });
});

describe("calls", () => {
  const calls: Record<string, (client: penstock.Penstock, vector: Vector) => unknown> = {
    get_job: (client) => client.jobs.get(ID),
    submit_job: (client, { idempotency_key }) => client.submit({ input: { messages: [] } }, { idempotencyKey: idempotency_key }),
    cancel_job: (client) => client.jobs.cancel(ID),
    retry_job: (client) => client.jobs.retry(ID),
    job_result: (client) => client.jobs.result(ID),
    wait_job: (client, { timeout_s, check }) => client.wait(ID, { timeoutS: timeout_s, check }),
    list_jobs: (client) => client.jobs.list(),
    create_batch: (client) => client.batches.create({ input_file_id: "file_1" }),
    wait_batch: (client, { timeout_s }) => client.batches.wait("batch_1", { timeoutS: timeout_s }),
    batch_results: (client) => client.batches.results("batch_1"),
    follow_results: (client) => client.batches.results("batch_1", { follow: true }),
    purge_lane: (client) => client.pools.purge("p", "low"),
    drain_worker: (client) => client.workers.drain("w"),
    retry_dead: (client) => client.dead.retry({ limit: 5 }),
    retry_dead_ids: (client) => client.dead.retry({ ids: [ID] }),
    create_webhook: (client) => client.webhooks.create({ url: "https://example.com/" }),
  };

  const repeated = ({ method, path, query, headers, body }: Seen) => JSON.stringify([method, path, query, body, ...headers]);

  test.each(load("calls") as Vector[])("$name", async (vector) => {
    const options: Options = { maxRetries: vector.max_retries, maxRetryS: vector.max_retry_s };
    const { client, seen } = virtual(() => {
      const answer = vector.answers[seen.length - 1];
      if (!answer) throw new Error("one try too many");
      return answer;
    }, options);
    const items: string[] = [];
    const work = async () => {
      const got = calls[vector.call]?.(client, vector);
      if (!(got as Vector)[Symbol.asyncIterator]) return got;
      for await (const { custom_id, id } of got as AsyncIterable<Vector>) items.push(custom_id ?? id);
    };
    const end = await settled(work());
    const { value, error, tries, pauses_s, queries, idempotency_key } = vector.outcome;
    if (error) checkError(end.status === "rejected" && end.reason, error);
    else if (end.status === "rejected") throw end.reason;
    else if (typeof value === "object") expect(end.value).toMatchObject(value);
    else if (value !== undefined) expect(end.value).toEqual(value);
    expect(items).toEqual(vector.outcome.items ?? []);
    expect(seen.length).toBe(tries);
    checkPauses(seen, pauses_s);
    if (queries) expect(seen.map(({ query }) => query)).toEqual(queries);
    else expect(new Set(seen.map(repeated)).size).toBe(1);
    const key = seen[0]?.headers.get("idempotency-key");
    if (typeof idempotency_key === "string") expect(key).toBe(idempotency_key);
    else if (idempotency_key !== undefined) expect(!!key).toBe(idempotency_key);
  });
});

describe("webhooks", () => {
  const forms: Record<string, (headers: Record<string, string>) => Parameters<typeof unwrap>[1]> = {
    "an object": (headers) => headers,
    Headers: (headers) => new Headers(headers),
    "the Headers of another package": (headers) => ({ get: (name: string) => new Headers(headers).get(name) }),
    "a Map": (headers) => new Map(Object.entries(headers)),
    "the Map of another realm": (headers) => runInNewContext("new Map(all)", { all: Object.entries(headers) }),
    pairs: (headers) => Object.entries(headers),
  };
  const cases = Object.keys(forms).flatMap((form) => (load("webhooks") as Vector[]).map((vector) => ({ form, ...vector })));

  test.each(cases)("$name, in $form", async ({ form, now, body, headers, secret, type }) => {
    vi.useFakeTimers({ toFake: ["Date"], now: now * 1000 });
    try {
      const got = unwrap(body, (forms[form] as Vector)(headers), secret);
      if (type === null) await expect(got).rejects.toBeInstanceOf(penstock.WebhookSignatureError);
      else expect((await got).type).toBe(type);
    } finally {
      vi.useRealTimers();
    }
  });
});
