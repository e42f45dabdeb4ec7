/**
 * Queues, workers and dead jobs: `client.pools`, `client.workers`, `client.dead`.
 *
 * @module
 */

import { type ListOptions, Part } from "./core.js";
import type { CallOptions } from "./http.js";
import type { DeadFilters, DeadRetryRequest, Job, Pool, Priority, RetryReport, Worker } from "./types.js";

/** Look at the queues; pause, resume and purge them. Every call throws PenstockError. */
export class Pools extends Part {
  /** Return the pools with the jobs that wait in their lanes. */
  async list(options?: CallOptions): Promise<Pool[]> {
    return (await this.call("get", "/v1/queues", {}, options)).data;
  }

  /** Stop dispatching a pool's jobs, and return the pool. Jobs are accepted and wait; running ones finish. */
  pause(pool: string, options?: CallOptions): Promise<Pool> {
    return this.#act(pool, "pause", options);
  }

  /** Dispatch a paused pool's jobs again, and return the pool. */
  resume(pool: string, options?: CallOptions): Promise<Pool> {
    return this.#act(pool, "resume", options);
  }

  /** Take all kinds of requests again (`poisoned_kind`), and return the pool. */
  unpoison(pool: string, options?: CallOptions): Promise<Pool> {
    return this.#act(pool, "unpoison", options);
  }

  /**
   * Cancel every job that waits in a lane, and return their number. Running jobs finish.
   *
   * If its answer is lost, the request is not repeated: look whether the lane is empty before you do.
   */
  async purge(pool: string, lane: Priority | "realtime", options?: CallOptions): Promise<number> {
    const how = { ...options, atMostOnce: true };
    return (await this.call("delete", "/v1/queues/{pool}/{lane}", { pool, lane }, how)).cancelled;
  }

  #act(pool: string, action: "pause" | "resume" | "unpoison", options?: CallOptions): Promise<Pool> {
    return this.call("post", "/v1/queues/{pool}/{action}", { pool, action }, options);
  }
}

/** List the workers and drain them. Every call throws PenstockError. */
export class Workers extends Part {
  /** Return the workers that are alive. */
  async list(options?: CallOptions): Promise<Worker[]> {
    return (await this.call("get", "/v1/workers", {}, options)).data;
  }

  /**
   * Drain a worker: it finishes its jobs, gives back the rest, and ends. Returns at once, with the workers asked.
   *
   * If its answer is lost, the request is not repeated: the worker may drain already.
   *
   * @param name a worker's name, which means all of this name, or an incarnation's id.
   */
  async drain(name: string, options?: CallOptions & { timeoutS?: number }): Promise<Worker[]> {
    const body = { timeout_s: options?.timeoutS };
    return (await this.call("post", "/v1/workers/{name}/drain", { name, body }, { ...options, atMostOnce: true })).data;
  }
}

/** The jobs that failed or expired and were not retried yet. Every call throws PenstockError. */
export class Dead extends Part {
  /** Iterate over the dead jobs, newest end first. */
  list(options?: DeadFilters & ListOptions): AsyncGenerator<Job, void, void> {
    return this.pages("/v1/dead", options);
  }

  /**
   * Retry many dead jobs in one request. A job that cannot be retried is an outcome with its error, not thrown.
   *
   * With filters the request is not repeated if its answer is lost; with `ids` it is, because a job is retried once.
   */
  retry(body: DeadRetryRequest, options?: CallOptions): Promise<RetryReport> {
    return this.call("post", "/v1/dead/retry", { body }, { ...options, atMostOnce: !body.ids });
  }
}
