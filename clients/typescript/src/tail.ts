/**
 * Reading a streamed answer over dropped connections: open it, read until it is done, open it again after a drop.
 *
 * @module
 */

import { APIConnectionError, APIResponseError, type PenstockError, statusError } from "./errors.js";
import { ENDED, Exchange, type Http, headerValue, object } from "./http.js";
import { CAP_S, clock, isTransient, Retries, sleep } from "./retry.js";
import { SSEParser } from "./sse.js";

const STEADY_S = 5; // a connection that lasted this long with pings was in order although it brought nothing new
const REMEMBERED = 10_000; // ids kept to recognise a repetition: far more than a server replays by mistake

/** A stream as {@link read} reads it. */
export interface Tail<T> {
  readonly path: string;
  /** Everything has been read. */
  done: boolean;
  /** The present connection brought something new. */
  progress: boolean;
  /** The present connection brought a sign of life, such as a ping. */
  readonly alive?: boolean;
  /** The least pause before the next connection. */
  readonly minDelayS?: number;
  /** Return the headers of the next connection. */
  headers(): Record<string, string>;
  /** Take an answer's status and headers; return whether its body is the stream. */
  opened(response: Response): boolean;
  /** Take bytes of the present connection and return what to deliver. */
  feed(bytes: Uint8Array): T[];
  /** Take note that the present connection ended in order. */
  ended?(): void;
}

/** Deliver a streamed answer to its end, over as many connections as that needs. */
export async function* read<T>(http: Http, tail: Tail<T>, signal?: AbortSignal | null): AsyncGenerator<T, void, void> {
  const { path } = tail;
  const retries = new Retries(http.follows, `GET ${path}`);
  for (;;) {
    const began = clock();
    let problem: PenstockError = new APIConnectionError(`${path} ended too early`);
    const exchange = new Exchange(http, { path, headers: tail.headers(), signal });
    try {
      const response = await exchange.open(http.timeoutS);
      if (!tail.opened(response)) {
        const { status, headers } = response;
        const answer = { status, headers, text: response.ok ? "" : await exchange.text() };
        throw response.ok
          ? new APIResponseError(`${path} is no stream: ${headers.get("content-type")}`, answer)
          : statusError(answer);
      }
      while (!tail.done) {
        const bytes = await exchange.read();
        if (!bytes) {
          tail.ended?.();
          break;
        }
        yield* tail.feed(bytes);
      }
      if (tail.done) return;
    } catch (error) {
      if (!isTransient(error)) throw error;
      problem = error as PenstockError;
    } finally {
      exchange.close();
    }
    // A ping alone proves little: a proxy may send one and close, again and again.
    const fresh = tail.progress || (!!tail.alive && clock() - began >= STEADY_S);
    tail.progress = false;
    await sleep(Math.max(retries.pauseS(problem, fresh), tail.minDelayS ?? 0), signal);
  }
}

/** One event as a stream delivers it. */
export interface StreamEvent<Type extends string = string, Data = unknown> {
  /** The cursor: a new stream can continue after it. */
  readonly id: string;
  readonly type: Type;
  readonly data: Data;
}

/** The events of a job, each delivered once; or of a batch. */
export class EventTail implements Tail<StreamEvent> {
  done = false;
  progress = false;
  minDelayS = 0;
  #parser = new SSEParser();
  #cursor: string;
  readonly #snapshots: boolean;
  // Ids of earlier connections only. Within one connection, an equal id is the server's grouping.
  #before = new Set<string>();
  #recent = new Set<string>();

  /**
   * @param after the id of the event to continue after; empty is the beginning.
   * @param snapshots each event says everything, as a batch's do: a new connection needs no cursor, and begins with one.
   */
  constructor(
    readonly path: string,
    after = "",
    snapshots = false,
  ) {
    this.#cursor = after;
    this.#snapshots = snapshots;
    this.#recent.add(after);
  }

  get alive(): boolean {
    return this.#parser.comments > 0;
  }

  headers(): Record<string, string> {
    const cursor = this.#snapshots ? "" : this.#cursor;
    this.#before = new Set(this.#recent);
    this.#parser = new SSEParser(cursor);
    return { accept: "text/event-stream", ...(cursor && { "last-event-id": headerValue(cursor, "after") }) };
  }

  opened({ status, headers }: Response): boolean {
    this.done = status === 204; // the contract of EventSource: the cursor was the last event, nothing follows
    return this.done || (status === 200 && !!headers.get("content-type")?.includes("text/event-stream"));
  }

  feed(bytes: Uint8Array): StreamEvent[] {
    const found: StreamEvent[] = [];
    for (const { id, event: type, data } of this.#parser.feed(bytes)) {
      if (this.done) break;
      const mark = this.#snapshots ? type + data : id;
      const repeated = this.#snapshots ? mark === this.#cursor : !!id && this.#before.has(id);
      this.#cursor = mark;
      this.progress ||= !repeated;
      if (repeated && !this.#snapshots) continue;
      this.#recent.add(id);
      if (this.#recent.size > REMEMBERED) this.#recent.delete(this.#recent.values().next().value as string);
      found.push({ id, type, data: object(data, `event ${id}`) });
      this.done = ENDED.has(type);
    }
    // Advice, within bounds: a wrong figure must not stall the stream for hours.
    this.minDelayS = Math.min((this.#parser.retryMs ?? 0) / 1000, CAP_S);
    return found;
  }
}

/** A file's content from a byte on. After a drop it continues at the first missing byte. */
export class Download implements Tail<Uint8Array> {
  done = false;
  progress = false;
  #skip = 0;

  constructor(
    readonly path: string,
    private offset: number,
  ) {}

  headers(): Record<string, string> {
    return { accept: "*/*", "accept-encoding": "identity", ...(this.offset && { range: `bytes=${this.offset}-` }) };
  }

  /** A server without ranges sends it all; the known bytes are skipped. */
  opened({ status, headers }: Response): boolean {
    const range = headers.get("content-range");
    this.done = status === 416 && range === `bytes */${this.offset}`; // the drop came after the last byte
    this.#skip = status === 200 ? this.offset : 0;
    return this.done || status === 200 || (status === 206 && !!range?.startsWith(`bytes ${this.offset}-`));
  }

  feed(bytes: Uint8Array): Uint8Array[] {
    const fresh = bytes.subarray(this.#skip);
    this.#skip -= bytes.length - fresh.length;
    this.offset += fresh.length;
    this.progress ||= fresh.length > 0;
    return fresh.length ? [fresh] : [];
  }

  /** An end in order means that the content is complete. */
  ended(): void {
    this.done = true;
  }
}
