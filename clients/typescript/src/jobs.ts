/**
 * Jobs: `client.jobs`.
 *
 * @module
 */

import { type How, type ListOptions, Part, type WaitOptions, waitFor } from "./core.js";
import {
  APIResponseError,
  ArgumentError,
  JobNotFinishedError,
  raiseEnded,
  StreamRestartedError,
  WaitTimeoutError,
} from "./errors.js";
import { type CallOptions, ENDED, idempotent, segment } from "./http.js";
import { EventTail, read } from "./tail.js";
import { deltaOf, textOf } from "./texts.js";
import type { Job, JobChange, JobEvent, JobFilters, JobRequest } from "./types.js";

const LONG_POLL_S = 60; // shorter than the idle limits of common proxies
const MIN_POLL_S = 0.25; // the pause after a poll that the server answered at once although it was asked to wait

/** A mark in a text stream: all text before it is void, and attempt number `attempt` starts over. */
export interface Restarted {
  readonly attempt: number;
  readonly eventId: string;
}

/** Options of {@link Jobs.events}. */
export interface EventsOptions extends CallOptions {
  /** The id of the event to continue after; by default the stream begins at the beginning. */
  after?: string | undefined;
}

/** Options of {@link Jobs.stream}. */
export interface StreamOptions extends EventsOptions {
  /** What to do when a worker was lost after text had been delivered, which is then void (`throw`). */
  onRestart?: "throw" | "mark";
}

/** Options of what creates something. */
export interface CreateOptions extends CallOptions {
  /** The same key gives the same object; by default a fresh one, for our own retries. */
  idempotencyKey?: string;
}

/** Options of {@link Jobs.submit}. */
export interface SubmitOptions extends CreateOptions {
  /** Whole seconds to wait for the end, 0 to 300. A failed job is returned, not thrown. */
  waitS?: number;
}

/**
 * Submit jobs, follow them, read their results, cancel and retry them.
 *
 * Every call throws PenstockError; if the server does not know the id, that is a NotFoundError.
 */
export class Jobs extends Part {
  /**
   * Submit a job and return it: accepted and durable, and finished if that took no longer than `waitS`.
   *
   * @param request the input (the raw OpenAI request body of the endpoint) and the job's own fields.
   */
  submit(request: JobRequest, options?: SubmitOptions): Promise<Job> {
    const wait = seconds(options?.waitS);
    const header = { ...idempotent(options?.idempotencyKey), ...(wait && { Prefer: `wait=${wait}` }) };
    return this.call("post", "/v1/jobs", { header, body: request }, { ...options, extraS: wait });
  }

  /** Return the job as it is now, or with `waitS` (0 to 300) at its end if that comes sooner. */
  get(jobId: string, options?: CallOptions & { waitS?: number }): Promise<Job> {
    const wait = seconds(options?.waitS);
    const init = { job_id: jobId, query: { wait: wait || undefined } };
    return this.call("get", "/v1/jobs/{job_id}", init, { ...options, extraS: wait });
  }

  /**
   * Wait until the job has ended and return it with its result.
   *
   * Throws JobFailedError, JobCancelledError or JobExpiredError if it ended so and `check` is set, and WaitTimeoutError if
   * it has not ended after `timeoutS`. An unreachable server is retried as for an event stream, but not after `timeoutS`.
   */
  async wait(jobId: string, options: WaitOptions<Job> = {}): Promise<Job> {
    const { check = true, signal } = options;
    const policy = this.http.follows;
    const job = await waitFor(
      options,
      (leftS, deadline) => {
        // Whole seconds, as the contract counts; 0.05 makes up for the time since the deadline was set.
        const waitS = Math.floor(Math.min(leftS + 0.05, LONG_POLL_S));
        const how: How & { waitS: number } = { waitS, signal, policy, deadline };
        return this.get(jobId, how);
      },
      (tookS) => (tookS < MIN_POLL_S ? MIN_POLL_S : 0),
      WaitTimeoutError,
    );
    if (check) raiseEnded(job);
    return job;
  }

  /** Return the raw OpenAI response of a job that has succeeded. Throws JobNotFinishedError, or as {@link Jobs.wait}. */
  async result(jobId: string, options?: CallOptions): Promise<Record<string, unknown>> {
    // Read from the job object: in the answer of /result, a failed job's own 503 looks like the server's.
    const job = await this.get(jobId, options);
    if (!isDone(job)) throw new JobNotFinishedError(`${jobId} is ${job.state}`, job);
    raiseEnded(job);
    if (!job.result) throw new APIResponseError(`the result of ${jobId} is gone`);
    return job.result;
  }

  /** Cancel the job and return it: a queued one ends at once, a running one soon, a finished one stays as it is. */
  cancel(job_id: string, options?: CallOptions): Promise<Job> {
    return this.call("post", "/v1/jobs/{job_id}/cancel", { job_id }, options);
  }

  /** Retry a finished job, however it ended: submit the same request as a new job and return that. Once per job. */
  retry(job_id: string, options?: CreateOptions): Promise<Job> {
    return this.call("post", "/v1/jobs/{job_id}/retry", { job_id, header: idempotent(options?.idempotencyKey) }, options);
  }

  /** Move a queued job to another lane (`priority`), or to the head of its lane (`top`), and return it. */
  change(job_id: string, body: JobChange, options?: CallOptions): Promise<Job> {
    return this.call("patch", "/v1/jobs/{job_id}", { job_id, body }, options);
  }

  /** Iterate over jobs, newest first unless `order` is `asc`. Pages are fetched when they are needed. */
  list(options?: JobFilters & ListOptions): AsyncGenerator<Job, void, void> {
    return this.pages("/v1/jobs", options);
  }

  /**
   * Follow the job: its events so far, then the new ones up to its end, each event once.
   *
   * A dropped connection is reopened after the last event. Leaving the loop stops only the watching.
   */
  events(jobId: string, { after, signal }: EventsOptions = {}): AsyncGenerator<JobEvent, void, void> {
    return read(
      this.http,
      new EventTail(`/v1/jobs/${segment(jobId, "job_id")}/events`, after),
      signal,
    ) as AsyncGenerator<JobEvent>;
  }

  /**
   * Iterate over the first choice's text as it is generated; {@link Jobs.events} gives everything else.
   *
   * A job submitted without `stream` has no deltas: its whole text comes as one piece at its end. When a worker was lost
   * after text had been delivered, that text is void: by default a StreamRestartedError is thrown, and with
   * `onRestart: "mark"` the place is marked with a {@link Restarted} and the stream continues.
   */
  stream(jobId: string, options?: StreamOptions & { onRestart?: "throw" }): AsyncGenerator<string, void, void>;
  stream(jobId: string, options: StreamOptions): AsyncGenerator<string | Restarted, void, void>;
  async *stream(jobId: string, options: StreamOptions = {}): AsyncGenerator<string | Restarted, void, void> {
    let delivered = options.after !== undefined;
    for await (const { id, type, data } of this.events(jobId, options) as AsyncGenerator<AnyEvent>) {
      const text = type === "chunk" && deltaOf(data);
      if (text) {
        delivered = true;
        yield text;
      } else if (type === "restarted" && delivered) {
        const attempt = Number(data.attempt);
        if (options.onRestart !== "mark") throw new StreamRestartedError(jobId, attempt, id);
        delivered = false;
        yield { attempt, eventId: id };
      } else if (ENDED.has(type)) {
        raiseEnded(data as unknown as Job);
        if (data.stream === false) yield textOf((await this.get(jobId, options)).result);
      }
    }
  }
}

type AnyEvent = { id: string; type: string; data: Record<string, unknown> };

/** Whether a job has ended, in whatever way. */
export function isDone(job: Job): boolean {
  return ENDED.has(job.state);
}

function seconds(waitS = 0): number {
  if (!(waitS >= 0 && waitS <= 300)) throw new ArgumentError("waitS must be 0 to 300");
  return Math.ceil(waitS);
}
