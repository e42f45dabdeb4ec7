/**
 * Everything the client throws, on one page: the tree of the Python SDK, under the same names.
 *
 *     PenstockError
 *     ├── ArgumentError             an argument that cannot be sent
 *     ├── APIConnectionError        no answer: refused, reset, cut
 *     │   └── APITimeoutError       no answer in time
 *     ├── APIResponseError          an answer that is not what the contract says
 *     ├── APIStatusError            an answer with an error status
 *     │   ├── BadRequestError       400, 405, 413, 422
 *     │   ├── AuthenticationError   401
 *     │   ├── PermissionDeniedError 403
 *     │   ├── NotFoundError         404
 *     │   ├── ConflictError         409
 *     │   ├── RateLimitedError      429
 *     │   └── ServerError           500 and above
 *     │       └── UnavailableError  503
 *     ├── JobEndedError             the job ended without a result
 *     │   ├── JobFailedError
 *     │   ├── JobCancelledError
 *     │   └── JobExpiredError
 *     ├── JobNotFinishedError       the result was asked for too early
 *     ├── WaitTimeoutError          not ended after `timeoutS`
 *     ├── BatchEndedError           the batch ended, but not as `completed`
 *     ├── BatchWaitTimeoutError     as WaitTimeoutError, of a batch
 *     ├── StreamRestartedError      text that was already delivered is void
 *     └── WebhookSignatureError     a request that no Penstock server signed just now
 *
 * @module
 */

import type { Batch, Job } from "./types.js";

/** The root of all errors of this package. */
export class PenstockError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** An argument that cannot be sent, such as an empty id. Nothing was sent. */
export class ArgumentError extends PenstockError {}

/** The server could not be reached, or went away before it had answered. */
export class APIConnectionError extends PenstockError {
  /** Whether the request may have reached the server. False if certainly no connection was made. */
  readonly sent: boolean;

  constructor(message: string, options?: ErrorOptions & { sent?: boolean }) {
    super(message, options);
    this.sent = options?.sent ?? true;
  }
}

/** The server did not answer within the client's timeout. */
export class APITimeoutError extends APIConnectionError {}

/** An answer of the server: where it came from in its logs, and what it said. */
abstract class OfAnswer extends PenstockError {
  /** The HTTP status; 0 if it is not known, as in the middle of a stream. */
  readonly status: number;
  readonly headers: Headers;
  /** The answer's body: parsed if it is JSON, otherwise its text; undefined if it was empty or not read. */
  readonly body: unknown;

  constructor(message: string, answer?: Answer) {
    super(message);
    this.status = answer?.status ?? 0;
    this.headers = answer?.headers ?? new Headers();
    this.body = content(answer?.text);
  }

  /** The id to look for in the server's logs; null if the answer named none. */
  get requestId(): string | null {
    return this.headers.get("x-request-id");
  }
}

/** A status, the headers and the text of an answer. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
}

/** The server's answer breaks the contract; for example, it is a page of a proxy. */
export class APIResponseError extends OfAnswer {}

/** The server answered with an error status. */
export class APIStatusError extends OfAnswer {
  /** The machine-readable code, such as `queue_full`; undefined if the body had none. */
  readonly code: string | null | undefined;
  /** The OpenAI error type, such as `invalid_request_error`; undefined if the body had none. */
  readonly type: string | null | undefined;
  /** The request field at fault; undefined if it is no particular one. */
  readonly param: string | null | undefined;
  /** Seconds that the server asks to wait; undefined if it did not say. */
  readonly retryAfter: number | undefined;

  constructor(answer: Answer) {
    const { code, type, param, message } = Object((content(answer.text) as { error?: unknown })?.error) as ErrorFields;
    super(`${answer.status}${code ? ` ${code}` : ""}: ${message || answer.text.slice(0, 200)}`, answer);
    this.code = code;
    this.type = type;
    this.param = param;
    this.retryAfter = retryAfterS(answer.headers.get("retry-after"));
  }
}

/** The request is wrong and will stay wrong. */
export class BadRequestError extends APIStatusError {}
/** No API key, or one that the server does not know. */
export class AuthenticationError extends APIStatusError {}
/** The API key may not do this. */
export class PermissionDeniedError extends APIStatusError {}
/** No such job, model or path. */
export class NotFoundError extends APIStatusError {}
/** The request does not fit the present state, for example an idempotency key used with another body. */
export class ConflictError extends APIStatusError {}
/** Too many requests or jobs at once; `retryAfter` says when to try again. */
export class RateLimitedError extends APIStatusError {}
/** The server failed, or cannot serve just now. */
export class ServerError extends APIStatusError {}
/** The server cannot serve just now: it has no worker, the job waited too long, or Redis is unreachable. */
export class UnavailableError extends ServerError {}

const BY_STATUS: Record<number, typeof APIStatusError> = {
  400: BadRequestError,
  401: AuthenticationError,
  403: PermissionDeniedError,
  404: NotFoundError,
  405: BadRequestError,
  409: ConflictError,
  413: BadRequestError,
  422: BadRequestError,
  429: RateLimitedError,
  503: UnavailableError,
};

/** Return the error for an answer outside 200 to 299. Unlisted 4xx are plain {@link APIStatusError}s. */
export function statusError(answer: Answer): APIStatusError {
  const { status } = answer;
  return new (BY_STATUS[status] ?? (status < 500 ? APIStatusError : ServerError))(answer);
}

abstract class OfJob extends PenstockError {
  /** The job as it was then. */
  readonly job: Job;

  constructor(message: string, job: Job, options?: ErrorOptions) {
    super(message, options);
    this.job = job;
  }
}

/** The job ended without a result. */
export class JobEndedError extends OfJob {}
/** The job failed; `job.error` has the code and the message. */
export class JobFailedError extends JobEndedError {}
/** The job was cancelled. */
export class JobCancelledError extends JobEndedError {}
/** The job's deadline passed before its end. */
export class JobExpiredError extends JobEndedError {}
/** The result was asked for while the job is queued or running. */
export class JobNotFinishedError extends OfJob {}
/** The job did not end in the time given to `wait`; it continues. */
export class WaitTimeoutError extends OfJob {}

abstract class OfBatch extends PenstockError {
  /** The batch as it was then. */
  readonly batch: Batch;

  constructor(message: string, batch: Batch, options?: ErrorOptions) {
    super(message, options);
    this.batch = batch;
  }
}

/** A batch failed (its input is wrong), expired or was cancelled. */
export class BatchEndedError extends OfBatch {}
/** The batch did not end in the time given to `wait`; it continues. */
export class BatchWaitTimeoutError extends OfBatch {}

/** A worker was lost after text had been delivered. That text is void, and the next attempt starts over. */
export class StreamRestartedError extends PenstockError {
  readonly jobId: string;
  /** The number of the new attempt. */
  readonly attempt: number;
  /** The restart's cursor: `stream(jobId, { after: eventId })` gives the new attempt. */
  readonly eventId: string;

  constructor(jobId: string, attempt: number, eventId: string) {
    super(`${jobId} restarted: the text so far is void`);
    this.jobId = jobId;
    this.attempt = attempt;
    this.eventId = eventId;
  }
}

/** A receiver got a request whose signature is wrong, or that is older than five minutes. */
export class WebhookSignatureError extends PenstockError {}

/** Throw the error for a job that ended without a result. */
export function raiseEnded(job: Job): void {
  const { id, state, error } = job;
  const Ended = { failed: JobFailedError, cancelled: JobCancelledError, expired: JobExpiredError }[state as string];
  if (Ended) throw new Ended(`${id} ${state}${error ? `: ${error.code}: ${error.message}` : ""}`, job);
}

/** Read Retry-After (RFC 9110 section 10.2.3), seconds or a date; undefined if it is absent or unreadable. */
export function retryAfterS(value: string | null, now = Date.now()): number | undefined {
  if (!value) return undefined;
  if (/^ *\d+ *$/.test(value)) return Number(value);
  const at = Date.parse(/[a-z]/i.test(value) ? value : ""); // it would read "-1" as a year
  return at >= 0 ? Math.max((at - now) / 1000, 0) : undefined;
}

interface ErrorFields {
  message?: string | null;
  code?: string | null;
  type?: string | null;
  param?: string | null;
}

function content(text: string | undefined): unknown {
  try {
    return text && JSON.parse(text);
  } catch {
    return text; // a proxy's page
  }
}
