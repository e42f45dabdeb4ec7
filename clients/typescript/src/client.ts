/**
 * The client: everything that it offers, by what it is about.
 *
 * @module
 */

import { Batches } from "./batches.js";
import { type AnswerOf, type How, type Init, Part, type Path, type Verb } from "./core.js";
import { Webhooks } from "./endpoints.js";
import { statusError } from "./errors.js";
import { Files } from "./files.js";
import { type CallOptions, type ClientOptions, Http, object } from "./http.js";
import { Jobs } from "./jobs.js";
import type { paths } from "./openapi.js";
import { Dead, Pools, Workers } from "./operations.js";
import type { Health, Model } from "./types.js";

/**
 * A client of one Penstock server.
 *
 * A call is retried on connection errors and on 408, 429, 502, 503 and 504, with backoff and after the server's
 * Retry-After. A submission carries an idempotency key, so it never runs twice. A call that would do more the second time
 * (`pools.purge`, `workers.drain`, `dead.retry` without ids) is retried only if the first certainly did not reach the
 * server. Redirects are not followed: the key and the prompts go nowhere else.
 *
 * @example
 * ```ts
 * const client = new Penstock({ baseUrl: "http://127.0.0.1:8080" });
 * const job = await client.submit({ input: { model: "m", messages: [{ role: "user", content: "Hello" }] }, stream: true });
 * for await (const text of client.stream(job.id)) console.log(text);
 * ```
 */
export class Penstock extends Part {
  /** The server's address in use. */
  readonly baseUrl: string;
  readonly jobs: Jobs;
  readonly batches: Batches;
  readonly files: Files;
  readonly webhooks: Webhooks;
  readonly pools: Pools;
  readonly workers: Workers;
  readonly dead: Dead;
  /** Shortcuts to the most used of {@link Jobs}. */
  readonly submit: Jobs["submit"];
  readonly wait: Jobs["wait"];
  readonly stream: Jobs["stream"];

  /** Throws {@link ArgumentError} if an option is out of range, or no header can carry the key. */
  constructor(options: ClientOptions = {}) {
    const http = new Http(options);
    super(http);
    this.baseUrl = http.url;
    this.jobs = new Jobs(http);
    this.batches = new Batches(http);
    this.files = new Files(http);
    this.webhooks = new Webhooks(http);
    this.pools = new Pools(http);
    this.workers = new Workers(http);
    this.dead = new Dead(http);
    this.submit = this.jobs.submit.bind(this.jobs);
    this.wait = this.jobs.wait.bind(this.jobs);
    this.stream = this.jobs.stream.bind(this.jobs) as Jobs["stream"];
  }

  /**
   * Call any operation of the server that answers with JSON, with its types, and return that.
   *
   * @example `await client.call("get", "/v1/admin/keys", { query: { limit: 5 } })`
   * @param init the names in its path, and `query`, `header` and `body`.
   * @param how `atMostOnce`: the call would do more the second time, so it is not repeated if its answer is lost.
   */
  override call<V extends Verb, P extends Path<V>>(
    verb: V,
    path: P,
    init: Init<paths[P][V]>,
    how?: How,
  ): Promise<AnswerOf<paths[P][V]>> {
    return super.call(verb, path, init, how);
  }

  /** Return whether the server can run jobs now. A server that is not ready throws nothing. */
  async health({ signal }: CallOptions = {}): Promise<Health> {
    const answer = await this.http.answer({ path: "/health/ready", signal }); // no retries: 503 is an answer
    const { status, text } = answer;
    if (status !== 200 && !text.includes('"checks"')) throw statusError(answer);
    return object(text) as Health;
  }

  /** Return the models served now. */
  async models(options?: CallOptions): Promise<Model[]> {
    return (await this.call("get", "/v1/models", {}, options)).data;
  }
}
