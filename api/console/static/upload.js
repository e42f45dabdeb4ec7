/**
 * Upload a file for batches, with its progress. fetch does not report any, so this is an XMLHttpRequest.
 *
 * @param {File} file
 * @param {(share: number) => void} onProgress 0 to 1
 * @param {AbortSignal} signal
 * @returns {Promise<object>} the file object
 * @throws {Error} with the API's own message; an AbortError if the signal stopped it
 */
export function upload(file, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const form = new FormData();
    form.append("purpose", "batch");
    form.append("file", file, file.name);
    request.upload.addEventListener("progress", (event) => event.lengthComputable && onProgress(event.loaded / event.total));
    request.addEventListener("load", () => {
      if (request.status < 300) return resolve(JSON.parse(request.responseText));
      let said = `the server answered ${request.status}`;
      try {
        said = JSON.parse(request.responseText).error.message;
      } catch {
        // A proxy may answer something else.
      }
      reject(new Error(said));
    });
    request.addEventListener("error", () => reject(new Error("the connection broke; upload the file again")));
    request.addEventListener("abort", () => reject(new DOMException("stopped", "AbortError")));
    signal.addEventListener("abort", () => request.abort());
    request.open("POST", `${penstock.root}console/api/v1/files`);
    request.setRequestHeader("x-penstock-console", "1");
    request.send(form);
  });
}
