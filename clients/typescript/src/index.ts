/**
 * Penstock's client: submit jobs, follow them, read their results. Begin with {@link Penstock}.
 *
 * @module
 */

export * from "./batches.js";
export * from "./client.js";
export type { AnswerOf, How, Init, ListOptions, Path, Verb, WaitOptions } from "./core.js";
export * from "./endpoints.js";
export {
  APIConnectionError,
  APIResponseError,
  APIStatusError,
  APITimeoutError,
  ArgumentError,
  AuthenticationError,
  BadRequestError,
  BatchEndedError,
  BatchWaitTimeoutError,
  ConflictError,
  JobCancelledError,
  JobEndedError,
  JobExpiredError,
  JobFailedError,
  JobNotFinishedError,
  NotFoundError,
  PenstockError,
  PermissionDeniedError,
  RateLimitedError,
  ServerError,
  StreamRestartedError,
  UnavailableError,
  WaitTimeoutError,
  WebhookSignatureError,
} from "./errors.js";
export * from "./files.js";
export type { CallOptions, ClientOptions } from "./http.js";
export * from "./jobs.js";
export type { components, paths } from "./openapi.js";
export * from "./operations.js";
export type { Retry } from "./retry.js";
export type { StreamEvent } from "./tail.js";
export * from "./texts.js";
export * from "./types.js";
