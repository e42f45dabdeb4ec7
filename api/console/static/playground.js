// The playground: a conversation or a completion, streamed, with the code that does the same. Text of a model is only
// ever set as text, never as markup.
import { copy } from "./clipboard.js";
import { code } from "./code.js";
import { events } from "./stream.js";

const form = document.getElementById("playground");
const field = (name) => form.elements[name];
const by = (id) => document.getElementById(id);
const turns = by("turns");
const CHAT = "/v1/chat/completions";
const COMPLETION = "/v1/completions";
/** The server's address, as the SDKs want it: also behind a proxy that puts a path before it. */
const SERVER = new URL(penstock.root, location.href).href.replace(/\/$/, "");
const NUMBERS = ["max_tokens", "temperature", "top_p", "seed"];

/** The conversation so far: {role, content}. */
let said = [];
let running = null;
/** The last call as it was sent: {path, chat, body}; null before the first. */
let sent = null;
/** Changes with "Clear": an answer to an earlier conversation belongs nowhere. */
let conversation = 0;

const chat = () => field("way").value === "chat";

/** The request that a send would make now. */
function request(text) {
  const body = { model: field("model").value };
  if (chat()) {
    const system = field("system").value.trim();
    body.messages = [...(system ? [{ role: "system", content: system }] : []), ...said, { role: "user", content: text }];
  } else {
    body.prompt = text;
  }
  for (const name of NUMBERS) if (field(name).value !== "") body[name] = Number(field(name).value);
  body.stream = true;
  return body;
}

/** A call with this text, as it would be sent now. */
const call = (text) => ({ path: chat() ? CHAT : COMPLETION, chat: chat(), body: request(text) });

/** Show the last call as code; while a message is written, and before the first call, the one that a send would make. */
function showCode() {
  const text = field("prompt").value;
  const shown = sent && !text ? sent : call(text || (chat() ? "Hello!" : "Once upon a time"));
  const facts = { ...shown, url: SERVER, keyed: form.dataset.keyed === "true" };
  by("code").textContent = code(field("language").value, facts);
}

/** Offer the ways that the chosen model has, and show the fields of the chosen way. */
function showWay() {
  const served = (field("model").selectedOptions[0]?.dataset.endpoints || "").split(" ").filter(Boolean);
  for (const [way, path] of [["chat", CHAT], ["completion", COMPLETION]]) {
    by(`way-${way}`).disabled = served.length > 0 && !served.includes(path);
  }
  const chosen = form.querySelector("[name=way]:checked");
  if (chosen?.disabled) form.querySelector("[name=way]:enabled")?.click();
  by("system-field").hidden = !chat();
  by("prompt-label").textContent = chat() ? "Message" : "Prompt";
  showCode();
}

/** Add a turn to the page; return where its text goes. */
function turn(role, text) {
  const item = document.createElement("li");
  item.className = `turn turn-${role}`;
  const who = document.createElement("strong");
  who.textContent = { user: "You", assistant: field("model").value, error: "Error" }[role];
  const thought = document.createElement("details");
  thought.hidden = true;
  const summary = document.createElement("summary");
  summary.textContent = "Reasoning";
  const thinking = document.createElement("div");
  thinking.className = "turn-text";
  thought.append(summary, thinking);
  const words = document.createElement("div");
  words.className = "turn-text";
  words.textContent = text;
  const facts = document.createElement("small");
  item.append(who, thought, words, facts);
  turns.append(item);
  by("empty").hidden = true;
  item.scrollIntoView({ block: "nearest" });
  return { item, words, facts, thought, thinking };
}

const ms = (value) => (value >= 1000 ? `${(value / 1000).toFixed(2)} s` : `${Math.round(value)} ms`);

/** The figures of an answer: the server's where it gave them, else this page's. */
function figures(seen, began, firstAt, last) {
  const own = last.penstock || {};
  const parts = [];
  if (last.usage) parts.push(`${last.usage.prompt_tokens} + ${last.usage.completion_tokens} tokens`);
  if (own.queue_ms != null) parts.push(`waited ${ms(own.queue_ms)}`);
  const first = own.ttft_ms ?? (firstAt && firstAt - began);
  if (first != null) parts.push(`first token after ${ms(first)}`);
  parts.push(`whole answer ${ms(own.total_ms ?? performance.now() - began)}`);
  if (own.tokens_per_s) parts.push(`${own.tokens_per_s.toFixed(1)} tokens/s`);
  if (seen.reason) parts.push(`ended by ${seen.reason}`);
  return parts.join(" · ");
}

function take(chunk, seen, place) {
  const choice = chunk.choices?.[0];
  if (chunk.error) throw new Error(chunk.error.message);
  if (chunk.usage) seen.last.usage = chunk.usage;
  if (chunk.penstock) seen.last.penstock = chunk.penstock;
  if (!choice) return "";
  const delta = choice.delta ?? choice.message ?? { content: choice.text };
  const thought = delta.reasoning ?? delta.reasoning_content;
  if (thought) {
    place.thought.hidden = false;
    place.thinking.append(thought);
  }
  if (choice.finish_reason) seen.reason = choice.finish_reason;
  return delta.content ?? "";
}

/** Say where a call's job stands in the queue, until `over()`. */
async function sayPlace(job, over) {
  for (;;) {
    await new Promise((done) => setTimeout(done, 1000));
    const reply = over() ? null : await fetch(`${penstock.root}console/api/v1/jobs/${job}`);
    if (!reply?.ok) return;
    const { state, position, eta_s: eta } = await reply.json();
    if (over()) return;
    const where = position === null ? state : position ? `${position} before it` : "it is the next";
    const when = eta === null ? "" : `, starts in about ${eta < 120 ? `${Math.ceil(eta)} s` : `${Math.round(eta / 60)} min`}`;
    by("status").textContent = `Waiting for the answer: ${where}${when}`;
  }
}

async function send(text) {
  const began = performance.now();
  const mine = conversation;
  sent = call(text);
  const { path, body } = sent;
  const asked = turn("user", text);
  const place = turn("assistant", "");
  const seen = { last: {}, reason: "" };
  let answer = "", firstAt = null, why = "";
  running = new AbortController();
  busy(true);
  try {
    const reply = await fetch(`${penstock.root}console/api${path}`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-penstock-console": "1", "x-penstock-early-head": "1" },
      body: JSON.stringify(body),
      signal: running.signal,
    });
    const accepted = reply.headers.get("x-penstock-job-id");
    if (accepted && form.dataset.jobs === "true") sayPlace(accepted, () => mine !== conversation || !running || firstAt);
    const streamed = reply.headers.get("content-type")?.startsWith("text/event-stream");
    const chunks = streamed ? events(reply) : [await reply.json()];
    for await (const chunk of chunks) {
      const piece = take(chunk, seen, place);
      if (piece) {
        if (!firstAt) by("status").textContent = "The answer comes…";
        firstAt ??= performance.now();
        answer += piece;
        place.words.append(piece);
        turns.scrollTop = turns.scrollHeight;
      }
    }
  } catch (error) {
    why = error.name === "AbortError" ? "stopped" : error.message;
  }
  if (mine !== conversation) return;
  running = null;
  place.facts.textContent = figures(seen, began, firstAt, seen.last);
  const job = seen.last.penstock?.job_id;
  if (job && form.dataset.jobs === "true") {
    const link = document.createElement("a");
    link.href = `${penstock.root}console/jobs/${job}`;
    link.textContent = "its job";
    place.facts.append(" · ", link);
  }
  turns.scrollTop = turns.scrollHeight;
  if (why && why !== "stopped") {
    turn("error", why);
    if (!answer) place.item.remove();
  } else if (why) {
    place.facts.textContent = `stopped after ${ms(performance.now() - began)}`;
  }
  if (!answer) asked.item.dataset.unanswered = "true";
  if (chat() && answer) said.push({ role: "user", content: text }, { role: "assistant", content: answer });
  if (!answer) field("prompt").value = text;
  busy(false, why === "stopped" ? "Stopped." : why ? "The call failed." : "The answer is complete.");
}

/** Say what happens now, to eyes and to screen readers. */
function busy(on, status = "Waiting for the answer…") {
  by("send").disabled = on;
  by("stop").disabled = !on;
  by("send").setAttribute("aria-busy", String(on));
  by("status").textContent = status;
  showCode();
  if (!on) field("prompt").focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = field("prompt").value;
  if (running || !text.trim()) return;
  field("prompt").value = "";
  send(text);
});
field("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});
by("stop").addEventListener("click", () => running?.abort());
by("clear").addEventListener("click", () => {
  running?.abort();
  running = null;
  conversation += 1;
  said = [];
  sent = null;
  turns.replaceChildren();
  by("empty").hidden = false;
  busy(false, "");
});
by("copy").addEventListener("click", async () => {
  by("status").textContent = await copy(by("code"));
});
form.addEventListener("input", showCode);
form.addEventListener("change", showWay);
showWay();
