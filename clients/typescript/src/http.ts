/**
 * One HTTP exchange with its time limits, and calls that are tried again.
 *
 * @module
 */

import {
  type Answer,
  APIConnectionError,
  APIResponseError,
  type APIStatusError,
  APITimeoutError,
  ArgumentError,
  type PenstockError,
  statusError,
} from "./errors.js";
import { clock, Retries, type RetryPolicy, sleep } from "./retry.js";

/** How to reach a server, as whom, and how patiently. */
export interface ClientOptions {
  /** The server's address; by default `PENSTOCK_URL`, or else `http://127.0.0.1:8080`. */
  baseUrl?: string;
  /** Sent as a bearer token; by default `PENSTOCK_API_KEY`, or else none. */
  apiKey?: string;
  /** Seconds without any answer before a try is given up (30); waits asked of the server come on top. */
  timeoutS?: number;
  /** Further tries of one call (4). */
  maxRetries?: number;
  /** Tries in a row that bring nothing new, to reopen an event stream or continue a wait (10). */
  maxReconnects?: number;
  /** No try of a call begins later than this many seconds after its first failure (120). */
  maxRetryS?: number;
  /** Is called before each pause. */
  onRetry?: RetryPolicy["onRetry"];
  /** What sends requests, for proxies and certificates of your own; by default the global `fetch`. */
  fetch?: (url: string, init: RequestInit) => Promise<Response>;
}

/** What every call takes beside its own arguments. */
export interface CallOptions {
  /** Ends the call: it rejects with the signal's reason. A job that runs is not cancelled by it. */
  signal?: AbortSignal | null | undefined;
}

/** One HTTP request, relative to the base URL. */
export interface Send extends CallOptions {
  method?: string;
  path: string;
  /** One without a value is not sent. */
  headers?: Record<string, string | undefined>;
  body?: BodyInit | null;
  /** Seconds of the wait that it asks of the server. */
  extraS?: number;
  /** It must not reach the server twice, because the second time would do more. */
  atMostOnce?: boolean;
}

/** The states of a job and the statuses of a batch that never change again. */
export const ENDED: ReadonlySet<string> = new Set(["succeeded", "completed", "failed", "cancelled", "expired"]);

const IDLE_STREAM_S = 90; // a stream that sends nothing for this long, not even a ping, counts as dead
const GRACE_S = 1; // how long after a deadline an answer still counts: the server ends a long poll just then
// The words of Node, Bun and Deno for "no connection was made". A browser does not say.
const NEVER_SENT = /refused|ENOTFOUND|EAI_|CONNECT_TIMEOUT|\(Connect\)/i;

/** A client's connections. */
export class Http {
  readonly url: string;
  readonly calls: RetryPolicy;
  readonly follows: RetryPolicy;
  readonly timeoutS: number;
  readonly headers: Record<string, string> = {};
  readonly fetch: NonNullable<ClientOptions["fetch"]>;

  /** Throws {@link ArgumentError} if the address is none, no header can carry the key, or a number is out of range. */
  constructor(options: ClientOptions) {
    const { timeoutS = 30, maxRetries = 4, maxReconnects = 10, maxRetryS = 120, onRetry } = options;
    const address = (options.baseUrl || env("PENSTOCK_URL") || "http://127.0.0.1:8080").trim();
    const url = /^https?:\/\/[^/]/.test(address) && URL.canParse(address) && new URL(address);
    // `fetch` refuses a user's name and password, and errors name the address.
    if (!url || url.username || url.password) {
      throw new ArgumentError("baseUrl must be http(s)://host, without a password");
    }
    if (!(timeoutS > 0 && maxRetries >= 0 && maxReconnects >= 0 && maxRetryS >= 0)) {
      throw new ArgumentError("a number is out of range");
    }
    this.url = url.href.replace(/(\/v1)?\/*$/, ""); // people paste the address they give to the OpenAI SDK
    this.timeoutS = timeoutS;
    this.calls = { maxRetries, maxRetryS, onRetry };
    this.follows = { maxRetries: maxReconnects, maxRetryS, onRetry };
    const key = (options.apiKey || env("PENSTOCK_API_KEY") || "").trim(); // a file's ends with a newline
    if (key) this.headers.authorization = `Bearer ${headerValue(key, "apiKey")}`;
    this.fetch = options.fetch ?? ((url, init) => fetch(url, init));
  }

  /** Send once, and return the whole answer, whatever its status. */
  async answer(send: Send, maxS?: number): Promise<Answer> {
    const exchange = new Exchange(this, send);
    const { status, headers } = await exchange.open(Math.min(this.timeoutS + (send.extraS ?? 0), maxS ?? Infinity));
    return { status, headers, text: await exchange.text() };
  }

  /**
   * Send until the answer is a success, or an error that another try cannot change.
   *
   * @param deadline on the retries' clock: the last try begins then at the latest, and none takes much longer.
   */
  async call(send: Send, policy = this.calls, deadline?: number): Promise<Answer> {
    const { method = "GET", path, signal } = send;
    const retries = new Retries(policy, `${method} ${path.split("?")[0]}`, deadline);
    for (;;) {
      let error: PenstockError;
      try {
        const answer = await this.answer(send, deadline && Math.max(deadline - clock(), 0) + GRACE_S);
        if (answer.status < 300) return answer;
        error = statusError(answer);
      } catch (thrown) {
        if (!(thrown instanceof APIConnectionError)) throw thrown;
        error = thrown;
      }
      const arrived = error instanceof APIConnectionError ? error.sent : (error as APIStatusError).status !== 429;
      if (send.atMostOnce && arrived) {
        error.message += " (not repeated: it may have been carried out)";
        throw error;
      }
      await sleep(retries.pauseS(error), signal);
    }
  }
}

/** One request and the reading of its answer, each within a time. */
export class Exchange {
  readonly #http: Http;
  readonly #send: Send;
  readonly #abort = new AbortController();
  #response!: Response;
  #reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  #limitS = 0;

  constructor(http: Http, send: Send) {
    this.#http = http;
    this.#send = send;
  }

  /** Send, and return the status and headers. Throws {@link APIConnectionError}, {@link APIResponseError}. */
  async open(limitS: number): Promise<Response> {
    const { url, fetch, headers } = this.#http;
    const { method = "GET", path, body = null, signal } = this.#send;
    this.#limitS = limitS;
    this.#response = await this.#within(limitS, () =>
      fetch(url + path, {
        method,
        body,
        headers: given({ accept: "application/json", ...headers, ...this.#send.headers }),
        signal: signal ? AbortSignal.any([signal, this.#abort.signal]) : this.#abort.signal,
        redirect: "manual", // the key and the prompts go nowhere else
      }),
    );
    const { status, headers: answered } = this.#response;
    if (status < 200 || (status >= 300 && status < 400)) {
      this.close(); // in a browser the status is 0, and the address unknown
      throw new APIResponseError(`${url} redirects: set baseUrl to ${answered.get("location") ?? "that address"}`);
    }
    return this.#response;
  }

  /** Read the whole body. */
  text(): Promise<string> {
    return this.#within(this.#limitS, () => this.#response.text());
  }

  /** Read the next bytes; undefined at the end. */
  async read(): Promise<Uint8Array | undefined> {
    this.#reader ??= this.#response.body?.getReader();
    return (await this.#within(Math.max(this.#http.timeoutS, IDLE_STREAM_S), async () => this.#reader?.read()))?.value;
  }

  /** Close the connection. Once everything was read, this does nothing. */
  close(): void {
    this.#abort.abort();
  }

  async #within<T>(seconds: number, work: () => Promise<T>): Promise<T> {
    const { url } = this.#http;
    const { signal } = this.#send;
    signal?.throwIfAborted();
    const late = new APITimeoutError(`no answer in time from ${url}`);
    const timer = setTimeout(() => this.#abort.abort(late), Math.min(seconds * 1000, 2 ** 31 - 1));
    try {
      return await work();
    } catch (cause) {
      signal?.throwIfAborted();
      if (this.#abort.signal.aborted) throw late;
      const { message, code, cause: deeper } = cause as Error & { code?: string; cause?: { code?: string } };
      const detail = String(deeper?.code ?? code ?? deeper ?? message);
      throw new APIConnectionError(`cannot reach ${url}: ${detail}`, { cause, sent: !NEVER_SENT.test(detail) });
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Return a name for use in a path. Throws {@link ArgumentError} if it is empty, or would lead to another path. */
export function segment(name: string, what: string): string {
  if (!name?.trim() || /^\.\.?$/.test(name)) throw new ArgumentError(`${what} cannot be "${name}"`);
  return encodeURIComponent(name);
}

/** Return the value if a header can carry it. Throws {@link ArgumentError}, which does not show it. */
export function headerValue(value: string, what: string): string {
  if (!/^[ -~]*$/.test(value)) throw new ArgumentError(`${what} must be printable ASCII`);
  return value;
}

/** Read a JSON object; `what` names it in the error's message. */
export function object(text: string, what = "the answer"): object {
  try {
    const data = JSON.parse(text);
    if (data && typeof data === "object" && !Array.isArray(data)) return data;
  } catch {} // the same error as for another value
  throw new APIResponseError(`${what} is not a JSON object: ${text.slice(0, 200)}`);
}

/** Return a query string of the fields that are given, with its question mark. */
export function query(fields: object = {}): string {
  return `?${new URLSearchParams(given(fields))}`.replace(/^\?$/, "");
}

/** Return the header that makes a repeated request harmless. Without a key of the caller's, a fresh one. */
export function idempotent(key?: string): { "Idempotency-Key": string } {
  const fresh = () => crypto.getRandomValues(new Uint32Array(4)).join("-"); // randomUUID is for secure pages alone
  return { "Idempotency-Key": headerValue(key || fresh(), "idempotencyKey") };
}

function given(fields: object): Record<string, string> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value != null));
}

function env(name: string): string | undefined {
  try {
    return (globalThis as { process?: { env?: Record<string, string> } }).process?.env?.[name];
  } catch {
    return undefined; // Deno without the permission
  }
}
