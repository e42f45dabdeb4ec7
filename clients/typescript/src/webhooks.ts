/**
 * For receivers of webhooks: check the signature of a request, and read its event.
 *
 * The signature is that of Standard Webhooks (https://www.standardwebhooks.com), checked with the platform's WebCrypto.
 *
 * @module
 */

import { WebhookSignatureError } from "./errors.js";

export { WebhookSignatureError } from "./errors.js";

/** What an endpoint gets: the body of a request whose signature is right. */
export interface Notification {
  /** The event's: the same at each delivery, so that a receiver can pass over what it has. */
  readonly id: string;
  /** `job.succeeded`, `batch.completed`, `ping`, ... */
  readonly type: string;
  /** When it happened, Unix seconds. */
  readonly created_at: number;
  /** What it is about, and how that ended; without `status`, a test. */
  readonly data: { readonly id: string; readonly status?: string };
}

/** A request's headers: an object, what has `get`, as `Headers` of any package has, or pairs, as of a `Map`. */
export type WebhookHeaders =
  | Record<string, string | string[] | undefined>
  | { get(name: string): string | null | undefined }
  | Iterable<readonly [string, string]>;

const TOLERANCE_S = 300;

/**
 * Check that Penstock sent a request, in the last five minutes, and return its event.
 *
 * Throws {@link WebhookSignatureError} if the signature is wrong, or the request is too old; answer it with 400.
 *
 * @param body as it came, not parsed.
 * @param headers the request's, of `fetch`, of Node or as a `Map`: `webhook-id`, `webhook-timestamp` and `webhook-signature`.
 * @param secret `whsec_...`, of the endpoint, or of the tenant for the `webhook_url` of one job.
 */
export async function unwrap(body: string | Uint8Array, headers: WebhookHeaders, secret: string): Promise<Notification> {
  const find = finder(headers);
  const [id, at, signatures] = ["id", "timestamp", "signature"].map((name) => find(`webhook-${name}`));
  if (!id || !signatures || !at) refuse("a header is missing");
  const age = Math.abs(Date.now() / 1000 - (/^\d+$/.test(at) ? Number(at) : Number.NaN));
  if (!(age <= TOLERANCE_S)) refuse("its timestamp is too far from now");
  const text = typeof body === "string" ? body : new TextDecoder().decode(body);
  const signed = new TextEncoder().encode(`${id}.${at}.${text}`);
  const { subtle } = crypto;
  const hmac = { name: "HMAC", hash: "SHA-256" };
  const raw = bytes(secret.replace(/^whsec_/, "")) ?? refuse("the secret is not base64");
  const key = await subtle.importKey("raw", raw, hmac, false, ["verify"]);
  for (const one of signatures.split(" ")) {
    const [version, signature = ""] = one.split(",");
    const given = version === "v1" && bytes(signature);
    // `verify` compares in constant time.
    if (given && (await subtle.verify(hmac, key, given, signed))) return JSON.parse(text);
  }
  return refuse("no signature is right");
}

function refuse(why: string): never {
  throw new WebhookSignatureError(`not a webhook of ours: ${why}`);
}

/** Return what finds a header by its name in lower case. Not by `instanceof`: each package and realm has its own classes. */
function finder(headers: WebhookHeaders): (name: string) => string | undefined {
  const pairs = Symbol.iterator in headers;
  if (!pairs && typeof headers.get === "function") {
    const { get } = headers as { get(name: string): string | null | undefined };
    return (name) => get.call(headers, name) ?? undefined;
  }
  const named = new Map<string, string>();
  for (const [name, value] of pairs ? headers : Object.entries(headers)) named.set(name.toLowerCase(), String(value ?? ""));
  return (name) => named.get(name);
}

function bytes(base64: string): Uint8Array<ArrayBuffer> | undefined {
  try {
    return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  } catch {
    return undefined;
  }
}
