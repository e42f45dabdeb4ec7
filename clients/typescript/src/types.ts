/**
 * The objects of the wire, from the server's OpenAPI document. Times are Unix seconds, durations say their unit.
 *
 * @module
 */

import type { components, paths } from "./openapi.js";
import type { StreamEvent } from "./tail.js";

type Schemas = components["schemas"];
type Query<Path extends keyof paths> = paths[Path] extends { get: { parameters: { query?: infer Fields } } }
  ? Omit<NonNullable<Fields>, "limit" | "after">
  : never;

/** A job as the server shows it. */
export type Job = Schemas["JobObject"];
/** A submission: `input` is the raw OpenAI request body of the `endpoint` (`/v1/chat/completions`). */
export type JobRequest = Schemas["JobRequest"];
/** A change of a queued job. */
export type JobChange = Schemas["JobChange"];
/** What a list of jobs can be reduced to. */
export type JobFilters = Query<"/v1/jobs">;
/** What a list of dead jobs can be reduced to. */
export type DeadFilters = Query<"/v1/dead">;
/** Which dead jobs to retry. */
export type DeadRetryRequest = Schemas["DeadRetryRequest"];
/** The outcome of a bulk retry, job by job. */
export type RetryReport = Schemas["RetriedList"];
/** The lanes that a job may ask for, in the order in which they are served. */
export type Priority = NonNullable<JobRequest["priority"]>;

/** A batch as the server shows it. */
export type Batch = Schemas["BatchObject"];
/** A new batch: the id of its input file, and what the server should know. */
export type BatchRequest = Partial<paths["/v1/batches"]["post"]["requestBody"]["content"]["application/json"]> & {
  input_file_id: string;
};
/** The result of the server's check of a batch's files. */
export type Verification = Schemas["Verified"];

/** A file that the server keeps. */
export type FileObject = Omit<Schemas["FileObject"], "status_details">;
/** The form of an upload. */
export type FileRequest = paths["/v1/files"]["post"]["requestBody"]["content"]["multipart/form-data"];

/** A pool with its lanes. */
export type Pool = Schemas["PoolObject"];
/** A live worker. */
export type Worker = Schemas["WorkerObject"];
/** A served model; `id` is the name to ask for. */
export type Model = Schemas["ModelList"]["data"][number];
/** Whether the server can take work: `checks` by name, `missing` names those that fail. */
export type Health = Schemas["HealthReport"];

/** An endpoint that is told when things end. */
export type Webhook = Schemas["WebhookObject"];
/** An endpoint with its secret. */
export type NewWebhook = Schemas["NewWebhookObject"];
/** A new endpoint. */
export type WebhookRequest = Schemas["WebhookRequest"];
/** A change of an endpoint. */
export type WebhookChange = Schemas["WebhookChange"];
/** The secret that signs the events of a tenant's single jobs and batches. */
export type WebhookSecret = Schemas["WebhookSecretObject"];
/** One try to deliver an event. */
export type Delivery = Schemas["DeliveryObject"];
/** An event that was given up. */
export type DeadLetter = Schemas["DeadLetterObject"];
/** An event that is on its way. */
export type Sent = Schemas["SentObject"];

/** An event of a stream as the client delivers it. */
type Delivered<Event> = Event extends { event: infer Type extends string; data: infer Data }
  ? // biome-ignore lint/suspicious/noExplicitAny: a chunk of whatever endpoint the job asked
    StreamEvent<Type, Type extends "chunk" ? Record<string, any> : Data>
  : never;

/** One event of a job: `chunk` has a raw OpenAI stream chunk, the last event the job as it ended. */
export type JobEvent = Delivered<Schemas["JobEvent"]>;

/** One event of a batch: `progress`, or its final status, after which nothing follows. */
export type BatchEvent = Delivered<Schemas["BatchEvent"]>;
