/**
 * A Server-Sent Events parser without I/O: bytes in, events out, however they were cut.
 *
 * Follows the WHATWG HTML standard, section 9.2.6 "Interpreting an event stream".
 *
 * @module
 */

/** One dispatched event. */
export interface ServerSentEvent {
  /** Its type, `message` where the stream named none. */
  readonly event: string;
  /** Its data lines joined by newlines. */
  readonly data: string;
  /** The last event id seen so far, its own or an earlier event's; empty where there is none. */
  readonly id: string;
}

/** Parses one stream. Make a new one for every connection and give it the cursor of the last. */
export class SSEParser {
  /** The cursor to resume behind, as of the last complete event. */
  lastId: string;
  /** The reconnection time the server asked for; undefined where it did not. */
  retryMs: number | undefined;
  /** Number of comment lines so far: a sign of life on an idle stream. */
  comments = 0;
  readonly #decoder = new TextDecoder(); // drops a byte order mark
  #partial = "";
  #afterCR = false;
  #id: string;
  #event = "";
  #data: string[] = [];

  constructor(lastId = "") {
    this.lastId = this.#id = lastId;
  }

  /**
   * Take the next bytes, in any cut, and return the events they complete.
   *
   * An event is complete at its blank line; one that the end of the stream cuts off is never returned.
   */
  feed(bytes: Uint8Array): ServerSentEvent[] {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (!text) return [];
    if (this.#afterCR && text[0] === "\n") text = text.slice(1); // the second half of a CRLF
    this.#afterCR = text.endsWith("\r");
    const lines = text.split(/\r\n|\n|\r/); // only these end a line; JSON may contain U+2028 raw
    lines[0] = this.#partial + lines[0];
    this.#partial = lines.pop() as string;
    const events: ServerSentEvent[] = [];
    for (const line of lines) {
      if (line) this.#line(line);
      else this.#dispatch(events);
    }
    return events;
  }

  #line(line: string): void {
    const colon = line.indexOf(":");
    if (!colon) {
      this.comments++;
      return;
    }
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#event = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^\d+$/.test(value)) this.retryMs = Number(value);
  }

  #dispatch(events: ServerSentEvent[]): void {
    this.lastId = this.#id;
    if (this.#data.length) {
      events.push({ event: this.#event || "message", data: this.#data.join("\n"), id: this.lastId });
    }
    this.#event = "";
    this.#data = [];
  }
}
