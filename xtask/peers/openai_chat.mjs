// openai_chat.mjs BASE KEY: the stock OpenAI client for Node: models, chat plain and streamed, a wrong key.
import OpenAI from "openai";

const [base, key] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const ask = { model, messages: [{ role: "user", content: "It was late in the evening when" }], max_tokens: 24, temperature: 0 };
const text = (await client.chat.completions.create(ask)).choices[0].message.content;
if (!text) throw new Error("no answer");
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) streamed += chunk.choices[0]?.delta?.content ?? "";
if (streamed !== text) throw new Error(`streamed ${JSON.stringify(streamed)}, plain ${JSON.stringify(text)}`);
const refused = await new OpenAI({ baseURL: `${base}/v1`, apiKey: "coffer-wrong", maxRetries: 0 }).models.list().then(() => 200, (e) => e.status);
if (refused !== 401) throw new Error(`a wrong key gives ${refused}`);
console.log(`openai for Node: models, chat, stream, errors; answered ${JSON.stringify(text.slice(0, 40))}`);
