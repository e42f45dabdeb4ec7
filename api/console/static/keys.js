// API keys: make and rotate. A secret is shown once, in a dialog, and is nowhere in the page before or after.
import { copy } from "./clipboard.js";

const by = (id) => document.getElementById(id);
const DAY_S = 86_400;

/** Show a secret until its dialog is closed. */
function show(secret) {
  by("secret").textContent = secret;
  by("secret-status").textContent = "";
  by("secret-dialog").showModal();
}

by("secret-dialog").addEventListener("close", () => {
  by("secret").textContent = "";
  penstock.refresh();
});
by("secret-copy").addEventListener("click", async () => {
  by("secret-status").textContent = await copy(by("secret"));
});

/** Have a form in a dialog make a call whose answer has a key. */
function submits(form, request) {
  const problem = form.querySelector("[data-problem]");
  form.querySelector("[data-close]").addEventListener("click", () => form.closest("dialog").close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("[type=submit]");
    problem.textContent = "";
    button.disabled = true;
    try {
      const answer = await penstock.call("POST", ...request());
      if (!answer.ok) {
        problem.textContent = await penstock.problem(answer);
        return;
      }
      const { key } = await answer.json();
      form.closest("dialog").close();
      form.reset();
      show(key);
    } catch {
      problem.textContent = "The server cannot be reached. Look into the list before you try again: the key may exist.";
    } finally {
      button.disabled = false;
    }
  });
}

const make = by("key-form");
submits(make, () => {
  const given = new FormData(make);
  const models = given.get("models").split(",").map((name) => name.trim()).filter(Boolean);
  const body = { tenant: given.get("tenant"), name: given.get("name"), scopes: given.getAll("scopes") };
  if (models.length) body.models = models;
  if (given.get("expires")) body.expires_in_s = Number(given.get("expires")) * DAY_S;
  return ["/v1/admin/keys", body];
});
by("new").addEventListener("click", () => by("key-dialog").showModal());

const rotate = by("rotate-form");
submits(rotate, () => [
  `/v1/admin/keys/${encodeURIComponent(rotate.dataset.key)}/rotate`,
  { overlap_s: Number(rotate.elements.overlap.value) },
]);
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-rotate]");
  if (!button) return;
  rotate.dataset.key = button.dataset.rotate;
  rotate.querySelector("[data-problem]").textContent = "";
  by("rotate-name").textContent = button.dataset.name;
  by("rotate-dialog").showModal();
});
