// Batches: upload a file by picker or by drag and drop, make a batch of it, and act on one.
import { upload } from "./upload.js";

const form = document.getElementById("new-batch");
const by = (id) => document.getElementById(id);

if (form) {
  const zone = by("drop");
  const input = form.elements.file;
  const bar = by("upload-progress");
  const status = by("upload-status");
  let running = null;

  const size = (bytes) => {
    const units = ["bytes", "kB", "MB", "GB"];
    let step = 0;
    for (; bytes >= 1000 && step < units.length - 1; step += 1) bytes /= 1000;
    return `${step ? bytes.toFixed(1) : bytes} ${units[step]}`;
  };
  const show = () => {
    const [file] = input.files;
    by("file-name").textContent = file ? `${file.name}, ${size(file.size)}` : "";
  };
  input.addEventListener("change", show);
  for (const name of ["dragenter", "dragover"]) {
    zone.addEventListener(name, (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
  }
  for (const name of ["dragleave", "drop"]) zone.addEventListener(name, () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    if (!event.dataTransfer.files.length) return;
    input.files = event.dataTransfer.files;
    show();
  });

  const busy = (on) => {
    by("create").disabled = on;
    by("stop-upload").hidden = !on;
    bar.hidden = !on;
  };
  by("stop-upload").addEventListener("click", () => running?.abort());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const [file] = input.files;
    if (!file || running) return;
    running = new AbortController();
    busy(true);
    try {
      const made = await upload(
        file,
        (share) => {
          bar.value = share;
          status.textContent = share < 1 ? `Uploading: ${Math.floor(share * 100)} %` : "The server stores the file…";
        },
        running.signal,
      );
      status.textContent = "Creating the batch…";
      const answer = await penstock.call("POST", "/v1/batches", {
        input_file_id: made.id,
        endpoint: form.elements.endpoint.value,
        completion_window: form.elements.window.value,
        priority: form.elements.priority.value,
        metadata: { filename: file.name.slice(0, 512) },
      });
      if (!answer.ok) throw new Error(await penstock.problem(answer));
      location.assign(`${penstock.root}console/batches/${(await answer.json()).id}`);
    } catch (error) {
      status.textContent = error.name === "AbortError" ? "The upload was stopped." : `No batch was created: ${error.message}`;
      busy(false);
    }
    running = null;
  });
}

const PROBLEMS = {
  missing: "rows without a line",
  duplicates: "lines whose row has a line already",
  unknown: "lines of no row of the input",
  unreadable: "lines that cannot be read",
};

/** What a verification found, in a sentence. */
function verdict(found) {
  const rows = `${found.total.toLocaleString()} rows: ${found.completed.toLocaleString()} answered, ${found.failed.toLocaleString()} failed`;
  if (found.ok) return `Every row has exactly one line. ${rows}.`;
  const wrong = Object.entries(PROBLEMS).filter(([name]) => found[name]).map(([name, words]) => `${found[name]} ${words}`);
  return `The files do not match the input. ${rows}; ${wrong.join(", ")}. For example: ${found.examples.join("; ")}.`;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("#verify");
  if (!button) return;
  const place = by("verdict");
  place.textContent = "A coordinator reads the files…";
  button.disabled = true;
  try {
    const answer = await penstock.call("GET", `/v1/batches/${button.dataset.batch}/verify`);
    place.textContent = answer.ok ? verdict(await answer.json()) : await penstock.problem(answer);
  } catch {
    place.textContent = "The server cannot be reached. Try again shortly.";
  }
  button.disabled = false;
});
