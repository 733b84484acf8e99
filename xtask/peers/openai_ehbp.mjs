// openai_ehbp.mjs BASE KEY PROMPT encrypted|plain: a streamed and a plain chat, through npm ehbp if encrypted. Prints the answer.
import OpenAI from "openai";
import { createTransport } from "ehbp";

const [base, apiKey, prompt, mode] = process.argv.slice(2);
const options = { baseURL: `${base}/v1`, apiKey, maxRetries: 0 };
if (mode === "encrypted") {
  const transport = await createTransport(base);
  options.fetch = (url, init) => transport.request(url, init);
}
const client = new OpenAI(options);
const model = (await client.models.list()).data[0].id;
const ask = { model, messages: [{ role: "user", content: prompt }], max_tokens: 32, temperature: 0 };
const answer = (await client.chat.completions.create(ask)).choices[0].message.content;
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) streamed += chunk.choices[0]?.delta?.content ?? "";
if (streamed !== answer) throw new Error(`streamed ${JSON.stringify(streamed)}, plain ${JSON.stringify(answer)}`);
console.log(answer);
