/** A server and a clock of the tests' own: answers come from a script, and pauses pass at once. */

import { onTestFinished, vi } from "vitest";
import { Penstock } from "../src/index.js";

export type Options = ConstructorParameters<typeof Penstock>[0];

/** A request that arrived. */
export interface Seen {
  method: string;
  path: string;
  query: string;
  headers: Headers;
  body: string | null;
  at: number;
}

export type Answer =
  | { fault: "refused" | "reset" | "timeout" }
  | { status: number; headers?: Record<string, string>; body?: unknown; text?: string; takes_s?: number };

/** Bytes, and how the connection ends after them. */
export interface Streamed {
  status: 200;
  bytes: Uint8Array;
  end: "done" | "cut";
  lasts_s?: number;
}

/** A client of a server that answers as told. */
export function virtual(answer: (seen: Seen) => Answer | Streamed, options: Options = {}): { client: Penstock; seen: Seen[] } {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance", "Date"] });
  onTestFinished(() => {
    vi.useRealTimers();
  });
  const seen: Seen[] = [];
  const send = async (url: string, init: RequestInit): Promise<Response> => {
    const { pathname: path, search } = new URL(url);
    const one = { method: init.method as string, path, query: search.slice(1), headers: new Headers(init.headers), at: now() };
    const body = typeof init.body === "string" ? init.body : null;
    seen.push({ ...one, body });
    return respond(answer({ ...one, body }), init.signal as AbortSignal);
  };
  return { client: new Penstock({ baseUrl: "http://penstock.test", fetch: send, ...options }), seen };
}

/** Seconds on the tests' clock. */
export const now = (): number => performance.now() / 1000;

/** Let time pass until something is settled. */
export async function settled<T>(work: Promise<T>): Promise<PromiseSettledResult<T>> {
  let result: PromiseSettledResult<T> | undefined;
  void Promise.allSettled([work]).then(([one]) => {
    result = one;
  });
  for (let step = 0; !result; step++) {
    if (step > 100_000) throw new Error("it does not end");
    for (let turn = 0; turn < 20 && !result; turn++) await Promise.resolve();
    if (!result) await new Promise(setImmediate); // streams take turns of the real loop
    if (!result) await vi.advanceTimersToNextTimerAsync();
  }
  return result;
}

async function respond(answer: Answer | Streamed, signal: AbortSignal): Promise<Response> {
  if ("fault" in answer) {
    if (answer.fault === "timeout")
      await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    throw failure(answer.fault === "refused" ? "ECONNREFUSED" : "ECONNRESET");
  }
  if ("bytes" in answer) {
    const headers = { "content-type": "text/event-stream; charset=utf-8" };
    return new Response(pieces(answer), { status: 200, headers });
  }
  const { status, headers, body, text, takes_s = 0 } = answer;
  if (takes_s) await new Promise((resolve) => setTimeout(resolve, takes_s * 1000));
  const content = text ?? (body === undefined ? null : JSON.stringify(body));
  return new Response(content, { status, headers: headers ?? { "content-type": "application/json" } });
}

function pieces({ bytes, end, lasts_s = 0 }: Streamed): ReadableStream<Uint8Array> {
  const left = [bytes.slice(0, bytes.length >> 1), bytes.slice(bytes.length >> 1)].filter((piece) => piece.length);
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const piece = left.shift();
        if (piece) return controller.enqueue(piece);
        if (lasts_s) await new Promise((resolve) => setTimeout(resolve, lasts_s * 1000));
        if (end === "cut") controller.error(failure("ECONNRESET"));
        else controller.close();
      },
    },
    { highWaterMark: 0 },
  );
}

function failure(code: string): TypeError {
  return new TypeError("fetch failed", { cause: Object.assign(new Error(code), { code }) });
}
