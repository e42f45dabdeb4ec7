/**
 * Files: `client.files`.
 *
 * @module
 */

import { type ListOptions, Part } from "./core.js";
import { type CallOptions, idempotent, object, segment } from "./http.js";
import type { CreateOptions } from "./jobs.js";
import { Download, read } from "./tail.js";
import type { FileObject, FileRequest } from "./types.js";

const SENDING_S = 3600; // how long sending a file and storing it may take

/** Options of {@link Files.upload}. */
export interface UploadOptions extends CreateOptions {
  /** The name that the server shows; by default the source's, or else `batch.jsonl`. */
  filename?: string;
  /** `batch`, the default, for the input of a batch. */
  purpose?: FileRequest["purpose"];
  /** Seconds after which the server deletes it; by default the server's choice. */
  expiresAfterS?: number;
}

/**
 * Upload, list, read and delete files.
 *
 * Every call throws PenstockError; if the server does not know the id, that is a NotFoundError.
 */
export class Files extends Part {
  /**
   * Send a file to the server and return it as the server knows it.
   *
   * @param source its content; in Node, `await fs.openAsBlob(path)` is a file that is read while it is sent.
   */
  async upload(
    source: Blob | string | ArrayBuffer | Uint8Array<ArrayBuffer>,
    { filename, purpose = "batch", expiresAfterS, idempotencyKey, signal }: UploadOptions = {},
  ): Promise<FileObject> {
    const body = new FormData();
    body.set("purpose", purpose);
    if (expiresAfterS !== undefined) {
      body.set("expires_after[anchor]", "created_at");
      body.set("expires_after[seconds]", String(expiresAfterS));
    }
    const blob = source instanceof Blob ? source : new Blob([source]);
    body.set("file", blob, filename ?? ((blob as File).name || "batch.jsonl"));
    const headers = idempotent(idempotencyKey);
    const answer = await this.http.call({ method: "POST", path: "/v1/files", headers, body, extraS: SENDING_S, signal });
    return object(answer.text) as FileObject;
  }

  /** Return a file's name, size and times. */
  get(file_id: string, options?: CallOptions): Promise<FileObject> {
    return this.call("get", "/v1/files/{file_id}", { file_id }, options);
  }

  /** Iterate over the files, newest first unless `order` is `asc`. */
  list(options?: ListOptions & { purpose?: string; order?: "asc" | "desc" }): AsyncGenerator<FileObject, void, void> {
    return this.pages("/v1/files", options);
  }

  /**
   * Iterate over a file's content, from byte `offset` on, in pieces of any length.
   *
   * A dropped connection is reopened at the first missing byte.
   */
  content(
    fileId: string,
    { offset = 0, signal }: CallOptions & { offset?: number } = {},
  ): AsyncGenerator<Uint8Array, void, void> {
    return read(this.http, new Download(`/v1/files/${segment(fileId, "file_id")}/content`, offset), signal);
  }

  /** Delete a file; return whether the server did. */
  async delete(file_id: string, options?: CallOptions): Promise<boolean> {
    return (await this.call("delete", "/v1/files/{file_id}", { file_id }, options)).deleted;
  }
}
