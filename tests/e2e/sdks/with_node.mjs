// The OpenAI SDK for Node: chat, Responses, a background response, and its stream broken off and resumed.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const OpenAI = createRequire(process.env.PENSTOCK_SDK)("openai").default;

const model = process.env.PENSTOCK_MODEL;
const client = new OpenAI({ baseURL: `${process.env.PENSTOCK_URL}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Hello" }];

const chat = await client.chat.completions.create({ model, messages, max_tokens: 16 });
assert.ok(chat.choices[0].message.content);
let text = "";
const chunks = await client.chat.completions.create({
  model, messages, max_tokens: 16, stream: true, stream_options: { include_usage: true },
});
let usage = null;
for await (const chunk of chunks) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.ok(text);
assert.ok(usage.completion_tokens > 0);
const runner = client.chat.completions.stream({ model, messages, max_tokens: 16 });
assert.ok((await runner.finalChatCompletion()).choices[0].message.content);
await assert.rejects(client.chat.completions.create({ model: "nobody", messages }), OpenAI.NotFoundError);
await assert.rejects(client.chat.completions.create({ model, messages: [] }), OpenAI.BadRequestError);
assert.ok((await client.models.list()).data.some((one) => one.id === model));

const response = await client.responses.create({ model, input: "Hello", max_output_tokens: 16 });
assert.ok(response.output_text);
const kinds = [];
for await (const event of await client.responses.create({ model, input: "Hello", max_output_tokens: 16, stream: true })) {
  kinds.push(event.type);
}
assert.equal(kinds[0], "response.created");
assert.ok(["response.completed", "response.incomplete"].includes(kinds.at(-1)), kinds.at(-1));
const final = await client.responses.stream({ model, input: "Hello", max_output_tokens: 16 }).finalResponse();
assert.ok(final.output_text);

const asked = { model, input: "Hello", max_output_tokens: 64, background: true };
let waiting = await client.responses.create(asked);
assert.equal(waiting.status, "queued");
while (["queued", "in_progress"].includes(waiting.status)) {
  await new Promise((wake) => setTimeout(wake, 50));
  waiting = await client.responses.retrieve(waiting.id);
}
assert.ok(["completed", "incomplete"].includes(waiting.status), waiting.status);
assert.ok(waiting.output_text);

const seen = [];
let id = null;
for await (const event of await client.responses.create({ ...asked, stream: true })) {
  id = event.response?.id ?? id;
  seen.push(event);
  if (seen.length === 8) break;
}
for await (const event of await client.responses.retrieve(id, { stream: true, starting_after: seen.at(-1).sequence_number })) {
  seen.push(event);
}
assert.deepEqual(seen.map((event) => event.sequence_number), seen.map((_, place) => place));
const said = seen.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");
assert.equal(said, (await client.responses.retrieve(id)).output_text);
const items = [];
for await (const item of await client.responses.inputItems.list(id)) items.push(item);
assert.equal(items.length, 1);

const long = await client.responses.create({ ...asked, max_output_tokens: 3500, ignore_eos: true });
assert.equal((await client.responses.cancel(long.id)).status, "cancelled");
await client.responses.delete(id);
await assert.rejects(client.responses.retrieve(id), OpenAI.NotFoundError);
console.log("openai-node: passed");
