/** What the vectors do not say: options, addresses, redirects, signals, and the types. */

import { afterEach, expect, expectTypeOf, test, vi } from "vitest";
import {
  APIResponseError,
  ArgumentError,
  type Job,
  type JobEvent,
  Penstock,
  type Priority,
  type Restarted,
  type Retry,
} from "../src/index.js";
import { settled, virtual } from "./virtual.js";

const ID = "job_00000000000000000000000000000001";
const job = { id: ID, state: "queued" };
const ok = { status: 200, body: job };

afterEach(() => {
  vi.unstubAllEnvs();
});

test.each([
  ["http://host:1234", "http://host:1234"],
  [" https://Host/penstock/v1/ ", "https://host/penstock"], // as people give it to OpenAI's SDK
  ["http://host/", "http://host"],
])("the address %j is %s", async (baseUrl, url) => {
  const { client, seen } = virtual(() => ok, { baseUrl });
  await client.jobs.get(ID);
  expect(client.baseUrl).toBe(url);
  expect(seen[0]?.path).toBe(`${new URL(url).pathname}/v1/jobs/${ID}`.replace("//", "/"));
});

test.each(["ftp://host", "host:8080", "http://", "http:///path"])("%j is no address", (baseUrl) => {
  expect(() => new Penstock({ baseUrl })).toThrow(ArgumentError);
});

test.each([
  "http://me:hunter2@host",
  "https://hunter2@host/v1",
  "ftp://me:hunter2@host",
  "http://me:hunter2@",
  "http://a:hunter2@b:x",
])("no address has a password, and none is shown: %j", (baseUrl) => {
  const make = () => new Penstock({ baseUrl });
  expect(make).toThrow(ArgumentError);
  expect(make).not.toThrow("hunter2");
});

test("the environment names the server and the key", async () => {
  vi.stubEnv("PENSTOCK_URL", "http://named:1");
  vi.stubEnv("PENSTOCK_API_KEY", "sk-named\n");
  const { client, seen } = virtual(() => ok, { baseUrl: "" });
  await client.jobs.get(ID);
  expect([client.baseUrl, seen[0]?.headers.get("authorization")]).toEqual(["http://named:1", "Bearer sk-named"]);
});

test("a key that no header can carry is not shown", () => {
  const make = () => new Penstock({ apiKey: "sk-geheim-ü" });
  expect(make).toThrow(ArgumentError);
  expect(make).not.toThrow("geheim");
});

test.each([{ timeoutS: 0 }, { maxRetries: -1 }, { maxReconnects: Number.NaN }, { maxRetryS: -1 }])(
  "%j is out of range",
  (options) => {
    expect(() => new Penstock(options)).toThrow(ArgumentError);
  },
);

test.each(["", " ", ".", "..", undefined])("the id %j never becomes another path", async (id) => {
  const { client, seen } = virtual(() => ok);
  const call = async () => client.jobs.get(id as string);
  await expect(call()).rejects.toBeInstanceOf(ArgumentError);
  expect(() => client.jobs.events(id as string)).toThrow(ArgumentError);
  expect(seen).toEqual([]);
});

test("an id cannot leave its path", async () => {
  const { client, seen } = virtual(() => ok);
  await client.jobs.get("../admin?x=1#y");
  expect(seen[0]?.path).toBe("/v1/jobs/..%2Fadmin%3Fx%3D1%23y");
});

test("a header without a value is not sent", async () => {
  const { client, seen } = virtual(() => ok);
  await client.call("post", "/v1/jobs/{job_id}/retry", { job_id: ID, header: { "Idempotency-Key": undefined } });
  expect([...(seen[0]?.headers.keys() ?? [])]).toEqual(["accept"]);
});

test("a list of nothing asks nothing", async () => {
  const { client, seen } = virtual(() => ({ status: 200, body: { data: [job] } }));
  for await (const one of client.jobs.list({ limit: 0 })) expect(one).toBeUndefined();
  expect(seen).toEqual([]);
});

test("a redirect is not followed, and the error says where it leads", async () => {
  const { client, seen } = virtual(() => ({ status: 307, headers: { location: "https://elsewhere/v1/jobs" } }));
  const end = await settled(client.submit({ input: {} }));
  expect(end.status === "rejected" && end.reason).toBeInstanceOf(APIResponseError);
  expect(end.status === "rejected" && end.reason.message).toContain("https://elsewhere/v1/jobs");
  expect(seen.length).toBe(1);
});

test("each retry is reported before its pause", async () => {
  const told: Retry[] = [];
  const { client, seen } = virtual(() => (seen.length > 2 ? ok : { status: 503, text: "busy" }), {
    onRetry: (one) => told.push(one),
  });
  await settled(client.jobs.get(ID));
  expect(told.map(({ what, number, maxRetries }) => [what, number, maxRetries])).toEqual([
    [`GET /v1/jobs/${ID}`, 1, 4],
    [`GET /v1/jobs/${ID}`, 2, 4],
  ]);
  expect(told[0]?.error.message).toBe("503: busy");
});

test("a loop that is left closes its connection", async () => {
  let signal: AbortSignal | null | undefined;
  const bytes = new TextEncoder().encode("id: 1\nevent: queued\ndata: {}\n\nid: 2\nevent: running\ndata: {}\n\n");
  const open = async (_: string, init: RequestInit) => {
    signal = init.signal;
    const body = new ReadableStream({ start: (controller) => controller.enqueue(bytes) });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  };
  const client = new Penstock({ fetch: open });
  for await (const event of client.jobs.events(ID)) {
    expect([event.id, signal?.aborted]).toEqual(["1", false]);
    break;
  }
  expect(signal?.aborted).toBe(true);
});

test("a signal ends a pause between tries at once", async () => {
  const stop = new AbortController();
  const { client, seen } = virtual(() => ({ status: 503, headers: { "retry-after": "60" } }), {
    onRetry: () => stop.abort("enough"),
  });
  expect(await settled(client.jobs.get(ID, { signal: stop.signal }))).toEqual({ status: "rejected", reason: "enough" });
  expect(seen.length).toBe(1);
});

test("the types say what comes", () => {
  const client = new Penstock();
  expectTypeOf(client.stream(ID)).toEqualTypeOf<AsyncGenerator<string, void, void>>();
  expectTypeOf(client.stream(ID, { onRestart: "mark" })).toEqualTypeOf<AsyncGenerator<string | Restarted, void, void>>();
  expectTypeOf(client.wait).returns.toEqualTypeOf<Promise<Job>>();
  const event = {} as JobEvent;
  if (event.type === "succeeded") expectTypeOf(event.data).toEqualTypeOf<Job>();
  expectTypeOf<Priority>().toEqualTypeOf<"high" | "normal" | "low" | "bulk">();
  // @ts-expect-error: a path that the server does not have
  void (() => client.call("get", "/v1/nothing", {}));
  // @ts-expect-error: a lane that it does not have
  void (() => client.submit({ input: {}, priority: "highest" }));
});
