// The request of the playground as code: curl, Python with openai and with penstock, TypeScript. Pure: text in, text out.

const ENV = "PENSTOCK_API_KEY";

/** A string as a Python and JavaScript literal: JSON's escapes hold in both. */
const literal = (value) => JSON.stringify(value);

/** JSON as Python writes it. */
function python(value, indent) {
  const inner = indent + "    ";
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) {
    if (!value.length) return "[]";
    const simple = value.every((one) => typeof one !== "object" || one === null);
    if (simple) return `[${value.map((one) => python(one, inner)).join(", ")}]`;
    return `[\n${value.map((one) => `${inner}${python(one, inner)},\n`).join("")}${indent}]`;
  }
  if (typeof value === "object") {
    const pairs = Object.entries(value).map(([name, one]) => `${literal(name)}: ${python(one, inner)}`);
    return `{${pairs.join(", ")}}`;
  }
  return literal(value);
}

/** The members of an object as keyword arguments, one a line. */
const keywords = (body, indent) =>
  Object.entries(body).map(([name, value]) => `${indent}${name}=${python(value, indent)},\n`).join("");

const members = (body, indent) =>
  Object.entries(body)
    .map(([name, value]) => `${indent}${name}: ${JSON.stringify(value, null, 2).replaceAll("\n", "\n" + indent)},\n`)
    .join("");

function curl({ url, path, body, keyed }) {
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  const key = keyed ? ` \\\n  -H "Authorization: Bearer $${ENV}"` : "";
  return `curl -N ${url}${path}${key} \\\n  -H "Content-Type: application/json" \\\n  -d '${json}'\n`;
}

function openai({ url, chat, body, keyed }) {
  const call = chat ? "chat.completions" : "completions";
  const text = chat ? "chunk.choices[0].delta.content" : "chunk.choices[0].text";
  const key = keyed ? `os.environ["${ENV}"]` : '"none"';
  return `${keyed ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${url}/v1", api_key=${key})
stream = client.${call}.create(
${keywords(body, "    ")})
for chunk in stream:
    if chunk.choices:
        print(${text} or "", end="", flush=True)
`;
}

function penstock({ url, path, chat, body, keyed }) {
  const { stream, stream_options, ...input } = body;
  const key = keyed ? `, api_key=os.environ["${ENV}"]` : "";
  const endpoint = chat ? "" : `, endpoint="${path}"`;
  const lines = Object.entries(input).map(([name, value]) => `        ${literal(name)}: ${python(value, "        ")},\n`);
  return `${keyed ? "import os\n\n" : ""}from penstock import Penstock

with Penstock("${url}"${key}) as client:
    body = {
${lines.join("")}    }
    job = client.submit(body${endpoint}, stream=True)
    for text in client.stream(job.id):
        print(text, end="", flush=True)
`;
}

function typescript({ url, chat, body, keyed }) {
  const call = chat ? "chat.completions" : "completions";
  const text = chat ? "chunk.choices[0]?.delta.content" : "chunk.choices[0]?.text";
  const key = keyed ? `process.env.${ENV}` : '"none"';
  return `import OpenAI from "openai";

const client = new OpenAI({ baseURL: "${url}/v1", apiKey: ${key} });
const stream = await client.${call}.create({
${members(body, "  ")}});
for await (const chunk of stream) {
  process.stdout.write(${text} ?? "");
}
`;
}

const WAYS = { curl, openai, penstock, typescript };

/**
 * Write a request as code.
 *
 * @param {"curl" | "openai" | "penstock" | "typescript"} way
 * @param {{url: string, path: string, chat: boolean, body: object, keyed: boolean}} request
 *   url: of the server, without a path; keyed: whether it requires a key.
 * @returns {string}
 */
export const code = (way, request) => WAYS[way](request);
