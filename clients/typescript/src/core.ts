/**
 * What the groups of calls share: typed calls of all paths over our retries, pages of lists, and waits.
 *
 * @module
 */

import type { PenstockError } from "./errors.js";
import { type CallOptions, ENDED, type Http, object, query, type Send, segment } from "./http.js";
import type { paths } from "./openapi.js";
import { clock, isTransient, sleep } from "./retry.js";

/** How a call is carried out, beside what its request says. */
export interface How extends Pick<Send, "signal" | "extraS" | "atMostOnce"> {
  deadline?: number;
  policy?: Http["calls"];
}

/** Options of every list. */
export interface ListOptions extends CallOptions {
  /** The most items to return; by default all. */
  limit?: number;
  /** Items per request, 1 to 100 (100). */
  pageSize?: number;
}

/** A method of HTTP. */
export type Verb = "get" | "post" | "put" | "patch" | "delete";
/** The paths that have an operation of this verb. */
export type Path<V extends Verb> = { [P in keyof paths]: paths[P][V] extends object ? P : never }[keyof paths];
/** What a call of an operation takes: the names in its path, and `query`, `header` and `body`. */
export type Init<Operation> = Operation extends { parameters: infer All extends Parameters }
  ? { [Name in keyof All["path"]]: All["path"][Name] } & {
      query?: All["query"];
      header?: All["header"];
      body?: BodyOf<Operation>;
    }
  : never;
/** What a call of an operation returns. */
export type AnswerOf<Operation> = Operation extends { responses: infer Answers }
  ? JSONOf<Answers[keyof Answers & (200 | 201 | 202)]>
  : never;
type Parameters = { path?: unknown; query?: unknown; header?: unknown };
type BodyOf<Operation> = Operation extends { requestBody?: infer Body } ? JSONOf<NonNullable<Body>> : undefined;
type JSONOf<T> = T extends { content: { "application/json": infer Body } } ? Body : never;
type ItemOf<List> = List extends { data: (infer Item)[] } ? Item : never;

/** A group of calls of a client. */
export abstract class Part {
  protected readonly http: Http;

  constructor(http: Http) {
    this.http = http;
  }

  protected async call<V extends Verb, P extends Path<V>>(
    verb: V,
    path: P,
    init: Init<paths[P][V]>,
    { deadline, policy, ...how }: How = {},
  ): Promise<AnswerOf<paths[P][V]>> {
    const { query: fields, header, body, ...names } = init as Record<string, object | undefined>;
    const send: Send = {
      ...how,
      method: verb.toUpperCase(),
      path: path.replace(/{(\w+)}/g, (_, name) => segment(names[name] as unknown as string, name)) + query(fields),
      headers: { ...header, "content-type": body && "application/json" },
      body: JSON.stringify(body),
    };
    return object((await this.http.call(send, policy, deadline)).text) as AnswerOf<paths[P][V]>;
  }

  /** Deliver the items of a list, and fetch each page when it is needed. `init` also has the list's own filters. */
  protected async *pages<P extends Path<"get">>(
    path: P,
    { limit = Infinity, pageSize = 100, signal, ...query }: ListOptions = {},
    names = {},
  ): AsyncGenerator<ItemOf<AnswerOf<paths[P]["get"]>>, void, void> {
    let after: string | boolean | null | undefined;
    while (limit > 0) {
      const init = { ...names, query: { ...query, limit: Math.min(pageSize, limit), after } };
      const page = (await this.call("get", path, init as never, { signal })) as unknown as Page<
        ItemOf<AnswerOf<paths[P]["get"]>>
      >;
      yield* page.data.slice(0, limit);
      limit -= page.data.length;
      after = page.has_more && (page.next_cursor ?? page.last_id);
      if (!after) return;
    }
  }
}

interface Page<T> {
  data: T[];
  has_more?: boolean;
  next_cursor?: string | null;
  last_id?: string | null; // as OpenAI's lists name the cursor
}

/** Options of a wait. */
export interface WaitOptions<T> extends CallOptions {
  /** Seconds; by default without a limit. */
  timeoutS?: number;
  /** Throw if it ended without success (true). */
  check?: boolean;
  /** Is called with what each look brought, also at the end. */
  onProgress?: (now: T) => unknown;
}

/**
 * Look until something has ended.
 *
 * @param look looks once; it gets the seconds that are left.
 * @param pauseS the pause after a look that took some seconds, as the number of looks grows.
 * @param Late the error for the end of the time.
 */
export async function waitFor<T extends { id: string; state?: string; status?: string }>(
  { timeoutS = Infinity, onProgress, signal }: WaitOptions<T>,
  look: (leftS: number, deadline: number) => Promise<T>,
  pauseS: (tookS: number, looks: number) => number,
  Late: new (message: string, seen: T, options?: ErrorOptions) => PenstockError,
): Promise<T> {
  const deadline = clock() + timeoutS;
  let seen: T | undefined;
  for (let looks = 0; ; looks++) {
    const began = clock();
    let cause: unknown;
    try {
      seen = await look(Math.max(deadline - began, 0), deadline);
      onProgress?.(seen);
      if (ENDED.has(stateOf(seen))) return seen;
    } catch (error) {
      cause = error;
      if (!seen || clock() < deadline || !isTransient(error)) throw error;
    }
    const now = clock();
    if (now >= deadline) throw new Late(`${seen.id} is still ${stateOf(seen)} after ${timeoutS} s`, seen, { cause });
    await sleep(Math.min(pauseS(now - began, looks), deadline - now), signal);
  }
}

const stateOf = (seen: { state?: string; status?: string }): string => seen.state ?? seen.status ?? "";
