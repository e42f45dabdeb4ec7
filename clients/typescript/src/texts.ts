/**
 * The text of an answer or of a stream's chunk: of OpenAI's completions and Responses, and of Anthropic's Messages.
 *
 * @module
 */

// biome-ignore lint/suspicious/noExplicitAny: answers of several APIs, which say their shape themselves
type Any = any;

/** Return an answer's text: of the first choice, or of its output; empty if it has none (embeddings, tool calls). */
export function textOf(body: Record<string, unknown> | null | undefined): string {
  const answer: Any = body ?? {};
  if (answer.choices) return firstChoice(answer, "message");
  const blocks = answer.type === "message" ? [...(answer.content ?? [])] : [];
  for (const item of answer.output ?? []) if (item?.type === "message") blocks.push(...(item.content ?? []));
  return blocks.map((block) => (/^(output_)?text$/.test(block?.type) ? block.text || "" : "")).join("");
}

/** Return the text that a stream's chunk adds to the first choice, or to the output; empty if it adds none. */
export function deltaOf(chunk: Record<string, unknown>): string {
  const { choices, type, delta }: Any = chunk;
  if (choices) return firstChoice(chunk, "delta");
  if (type === "response.output_text.delta") return typeof delta === "string" ? delta : "";
  return (type === "content_block_delta" && delta?.text) || "";
}

function firstChoice(body: Any, part: string): string {
  const first = body.choices.find((choice: Any) => !choice.index);
  const text = first?.text || first?.[part]?.content;
  return typeof text === "string" ? text : "";
}
