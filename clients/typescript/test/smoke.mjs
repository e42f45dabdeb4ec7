// One program for every runtime: the published package, as a user imports it. Arguments: the server, and how to import.

const [url, how] = globalThis.smokeArguments ?? process.argv.slice(2);
const load = async (name) => {
  if (globalThis.smokeModules) return globalThis.smokeModules[name];
  return how === "require" ? (await import("node:module")).createRequire(import.meta.url)(name) : import(name);
};
const { Penstock, NotFoundError, deltaOf, textOf } = await load("penstock");
const { unwrap, WebhookSignatureError } = await load("penstock/webhooks");

function check(fact, what) {
  if (!fact) throw new Error(`not so: ${what}`);
}

const client = new Penstock({ baseUrl: url });
const [model] = await client.models();
const input = { model: model.id, max_tokens: 30, messages: [{ role: "user", content: "grüße 世界" }] };
const job = await client.submit({ input, stream: true });
let text = "";
for await (const piece of client.stream(job.id)) text += piece;
check(text && text === textOf((await client.wait(job.id)).result), "the stream is the result");

let first = "";
let after;
for await (const event of client.jobs.events(job.id)) {
  after = event.id;
  if (event.type === "chunk") first += deltaOf(event.data);
  if (first) break;
}
for await (const piece of client.stream(job.id, { after })) first += piece;
check(first === text, "the stream is resumed");

const missing = await client.jobs.get("job_00000000000000000000000000000000").catch((error) => error);
check(missing instanceof NotFoundError && missing.code === "job_not_found", "an unknown job is an error with its code");

const file = await client.files.upload("grüße\n", { filename: "in.jsonl" });
let bytes = 0;
for await (const piece of client.files.content(file.id)) bytes += piece.length;
check(bytes === 8 && file.bytes === 8, "a file comes back");

const stop = new AbortController();
stop.abort(new Error("enough"));
check((await client.wait(job.id, { signal: stop.signal }).catch((error) => error)).message === "enough", "a signal ends a call");

const away = new Penstock({ baseUrl: "http://127.0.0.1:59999", maxRetries: 0 });
const refused = await away.models().catch((error) => error);
check(refused.name === "APIConnectionError", "a server that is not there is a connection error");
// A browser does not say whether a connection was made.
check(refused.sent === Boolean(globalThis.smokeModules), "no connection was made");

const unsigned = await unwrap("{}", {}, "whsec_AAAA").catch((error) => error);
check(unsigned instanceof WebhookSignatureError, "an unsigned webhook is refused");
const key = await crypto.subtle.importKey("raw", new Uint8Array(3), { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
const at = String(Math.floor(Date.now() / 1000));
const body = JSON.stringify({ id: "evt_1", type: "ping", created_at: 1, data: { id: "wh_1" } });
const mac = await crypto.subtle.sign("HMAC", key, new TextEncoder().encode(`evt_1.${at}.${body}`));
const signature = `v1,${btoa(String.fromCharCode(...new Uint8Array(mac)))}`;
const headers = new Headers({ "webhook-id": "evt_1", "webhook-timestamp": at, "webhook-signature": signature });
check((await unwrap(body, headers, "whsec_AAAA")).type === "ping", "a signed webhook is read");
globalThis.smokePassed = true;
console.log("smoke: passed");
