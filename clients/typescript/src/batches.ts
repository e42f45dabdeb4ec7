/**
 * Batches: `client.batches`.
 *
 * @module
 */

import { type How, type ListOptions, Part, type WaitOptions, waitFor } from "./core.js";
import { APIResponseError, BatchEndedError, BatchWaitTimeoutError } from "./errors.js";
import { type CallOptions, idempotent, object, query, segment } from "./http.js";
import type { CreateOptions } from "./jobs.js";
import { sleep } from "./retry.js";
import { EventTail, read } from "./tail.js";
import type { Batch, BatchEvent, BatchRequest, Verification } from "./types.js";

const VERIFYING_S = 3600; // how long the server may take to check a batch's files

/** A row of a batch's results: `response`, or `error` if it never ran. */
export interface ResultRow {
  id: string;
  custom_id: string;
  // biome-ignore lint/suspicious/noExplicitAny: the body of whatever endpoint the row asked
  response: { status_code: number; request_id: string; body: any } | null;
  error: { code: string; message: string } | null;
}

/** Rows that are committed so far. */
export interface ResultPage {
  /** The rows after the cursor that was asked for. */
  readonly rows: ResultRow[];
  /** Ask for the rows after it next; undefined if there are no rows yet. */
  readonly nextCursor: string | undefined;
  /** More rows will follow, now or later. */
  readonly incomplete: boolean;
}

/** Options of {@link Batches.results} and {@link Batches.resultPages}. */
export interface ResultsOptions extends CallOptions {
  /** The `nextCursor` of the last page that you have; by default it begins with the first row. */
  after?: string | undefined;
  /** Wait for the rows that are not done yet, to the end of the batch (false). */
  follow?: boolean;
  /** Rows per request; by default the server's choice. */
  pageSize?: number;
}

/**
 * Create batches, follow them, read their results; pause, cancel, retry and verify them.
 *
 * Every call throws PenstockError; if the server does not know the id, that is a NotFoundError.
 */
export class Batches extends Part {
  /** Create a batch of the rows in an uploaded file and return it. The server checks the rows afterwards. */
  create(request: BatchRequest, options?: CreateOptions): Promise<Batch> {
    const body = { endpoint: "/v1/chat/completions", completion_window: "24h", ...request } as const;
    return this.call("post", "/v1/batches", { header: idempotent(options?.idempotencyKey), body }, options);
  }

  /** Return the batch as it is now. */
  get(batch_id: string, options?: CallOptions): Promise<Batch> {
    return this.call("get", "/v1/batches/{batch_id}", { batch_id }, options);
  }

  /** Iterate over the batches, newest first unless `order` is `asc`. */
  list(options?: ListOptions & { order?: "asc" | "desc" }): AsyncGenerator<Batch, void, void> {
    return this.pages("/v1/batches", options);
  }

  /**
   * Wait until the batch has ended and return it. Some of its rows may have failed even if it is `completed`.
   *
   * Throws BatchEndedError if it failed, expired or was cancelled and `check` is set, and BatchWaitTimeoutError if it has
   * not ended after `timeoutS`.
   */
  async wait(batchId: string, options: WaitOptions<Batch> = {}): Promise<Batch> {
    const { check = true, signal } = options;
    const policy = this.http.follows;
    const look = (_: number, deadline: number) => {
      const how: How = { signal, policy, deadline };
      return this.get(batchId, how);
    };
    const batch = await waitFor(options, look, (_, looks) => lookS(looks), BatchWaitTimeoutError);
    if (check && batch.status !== "completed") throw new BatchEndedError(ended(batch), batch);
    return batch;
  }

  /** Follow the batch: its progress again and again, and at last the event with its final status. */
  events(batchId: string, { signal }: CallOptions = {}): AsyncGenerator<BatchEvent, void, void> {
    return read(this.http, new EventTail(`${path(batchId)}/events`, "", true), signal) as AsyncGenerator<BatchEvent>;
  }

  /** Return committed rows, successful and failed ones, in the order in which they were committed. */
  resultPage(
    batchId: string,
    options?: CallOptions & { after?: string | undefined; limit?: number | undefined },
  ): Promise<ResultPage>;
  async resultPage(
    batchId: string,
    { after, limit, signal, policy }: How & { after?: string | undefined; limit?: number | undefined } = {},
  ): Promise<ResultPage> {
    const send = { path: `${path(batchId)}/results${query({ after, limit })}`, headers: { accept: "application/jsonl" }, signal };
    const answer = await this.http.call(send, policy);
    const incomplete = answer.headers.get("x-incomplete");
    const cursor = answer.headers.get("x-next-cursor") || undefined;
    const lines = answer.text;
    // Rows without a new cursor would come again and again.
    if (!incomplete || (lines && (!lines.endsWith("\n") || !cursor || cursor === after))) {
      throw new APIResponseError("the page of results is cut short", answer);
    }
    return { rows: rows(lines), nextCursor: cursor ?? after, incomplete: incomplete === "true" };
  }

  /** Iterate over the committed rows, each once, page by page. */
  async *results(batchId: string, options?: ResultsOptions): AsyncGenerator<ResultRow, void, void> {
    for await (const page of this.resultPages(batchId, options)) yield* page.rows;
  }

  /** Iterate over the committed rows page by page, as {@link Batches.results} does, in a way that can be resumed. */
  async *resultPages(
    batchId: string,
    { after, follow = false, pageSize, signal }: ResultsOptions = {},
  ): AsyncGenerator<ResultPage, void, void> {
    for (let looks = 0; ; ) {
      const how: How = { signal, policy: this.http.follows };
      const page = await this.resultPage(batchId, { after, limit: pageSize, ...how });
      if (page.rows.length) {
        yield page;
        after = page.nextCursor;
        looks = 0;
      } else if (follow && page.incomplete) await sleep(lookS(looks++), signal);
      else return;
    }
  }

  /** Cancel the batch and return it. The rows done by then stay in its files. */
  cancel(batch_id: string, options?: CallOptions): Promise<Batch> {
    return this.call("post", "/v1/batches/{batch_id}/cancel", { batch_id }, options);
  }

  /** Start no further rows of the batch; those that run finish. */
  pause(batch_id: string, options?: CallOptions): Promise<Batch> {
    return this.call("post", "/v1/batches/{batch_id}/pause", { batch_id }, options);
  }

  /** Continue a paused batch. */
  resume(batch_id: string, options?: CallOptions): Promise<Batch> {
    return this.call("post", "/v1/batches/{batch_id}/resume", { batch_id }, options);
  }

  /** Retry the failed rows of a batch that has ended as a new batch, and return that. Once per batch. */
  retry(batch_id: string, options?: CallOptions): Promise<Batch> {
    return this.call("post", "/v1/batches/{batch_id}/retry", { batch_id }, options);
  }

  /** Have the server check the batch's files: each input row is answered once, in one file or the other. */
  verify(batch_id: string, options?: CallOptions): Promise<Verification> {
    return this.call("get", "/v1/batches/{batch_id}/verify", { batch_id }, { ...options, extraS: VERIFYING_S });
  }
}

const path = (batchId: string): string => `/v1/batches/${segment(batchId, "batch_id")}`;

// Pauses between two looks grow, so that a long batch is not asked all the time.
const lookS = (tried: number): number => Math.min(0.25 * 1.5 ** tried, 5);

function rows(lines: string): ResultRow[] {
  return lines
    .split("\n")
    .filter((line) => line.trim())
    .map((line) => object(line, "a row") as ResultRow);
}

/** Say how a batch ended, with the first fault of its input. */
function ended({ id, status, errors }: Batch): string {
  const first = errors?.data?.[0];
  return `${id} ${status}${first ? `: line ${first.line}: ${first.code}: ${first.message}` : ""}`;
}
