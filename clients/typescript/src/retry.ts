/**
 * When to try again and after how long.
 *
 * @module
 */

import { APIConnectionError, APIStatusError, type PenstockError } from "./errors.js";

/** A try that failed and is repeated after a pause: the argument of `onRetry`. */
export interface Retry {
  /** The request, such as `GET /v1/models`, or the stream. */
  readonly what: string;
  /** Why the try failed. */
  readonly error: PenstockError;
  /** Number of the coming retry, from 1. */
  readonly number: number;
  /** The most retries. */
  readonly maxRetries: number;
  /** Seconds until then. */
  readonly delayS: number;
}

/** The bounds of the retries of one call, or of one stream. */
export interface RetryPolicy {
  /** Further tries after the first. */
  readonly maxRetries: number;
  /** No further try begins later than this after the first failure. */
  readonly maxRetryS: number;
  /** Is called before each pause. */
  readonly onRetry: ((retry: Retry) => unknown) | undefined;
}

const BASE_S = 0.5;
/** The longest pause of our own making; a server's Retry-After may ask for more. */
export const CAP_S = 8;

/** Monotonic seconds. */
export const clock = (): number => performance.now() / 1000;

/** The retries of one call, or of one stream since it last brought something. */
export class Retries {
  readonly #policy: RetryPolicy;
  readonly #what: string;
  readonly #deadline: number;
  #made = 0;
  #until = 0;

  /** @param deadline on {@link clock}: the last try begins then at the latest. */
  constructor(policy: RetryPolicy, what: string, deadline = Infinity) {
    this.#policy = policy;
    this.#what = what;
    this.#deadline = deadline;
  }

  /**
   * Count a failed try, report it, and return the pause before the next one. Throws `error` if there is none.
   *
   * @param fresh the try brought something new: the failures so far are forgotten, and this one is none.
   */
  pauseS(error: PenstockError, fresh = false): number {
    if (fresh) this.#made = 0;
    const { maxRetries, maxRetryS, onRetry } = this.#policy;
    const now = clock();
    if (!this.#made) this.#until = Math.min(now + maxRetryS, this.#deadline);
    const asked = error instanceof APIStatusError ? error.retryAfter : undefined;
    const late = now >= this.#until || now + (asked ?? 0) > this.#until;
    if (this.#made >= maxRetries || late || !isTransient(error)) throw error;
    const delayS = Math.min(
      asked === undefined
        ? Math.min(CAP_S, BASE_S * 2 ** this.#made) * (0.5 + 0.5 * Math.random())
        : asked + 0.1 * Math.max(asked, BASE_S) * Math.random(), // never before the time asked for
      this.#until - now,
    );
    if (fresh) return delayS;
    const number = ++this.#made;
    onRetry?.({ what: this.#what, error, number, maxRetries, delayS });
    return delayS;
  }
}

/** Whether the same request may succeed later. A server that knows better says so in `x-should-retry`. */
export function isTransient(error: unknown): boolean {
  if (error instanceof APIStatusError) {
    return [408, 429, 502, 503, 504].includes(error.status) && error.headers.get("x-should-retry") !== "false";
  }
  return error instanceof APIConnectionError;
}

/** Pause. Rejects with the signal's reason once it is aborted. */
export function sleep(seconds: number, signal?: AbortSignal | null): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(
      () => {
        signal?.removeEventListener("abort", stop);
        resolve();
      },
      Math.ceil(seconds * 1000),
    );
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
