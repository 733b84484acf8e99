"""openai_chat.py BASE KEY: the stock OpenAI client: models, chat plain and streamed, completions, seeds, errors."""
import sys

import openai

base, key = sys.argv[1:]
client = openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0)
model = client.models.list().data[0].id
ask = dict(model=model, messages=[{"role": "user", "content": "It was late in the evening when"}], max_tokens=24, temperature=0)

plain = client.chat.completions.create(**ask)
text = plain.choices[0].message.content
assert text and plain.usage.completion_tokens <= 24 and plain.choices[0].finish_reason in ("length", "stop"), plain

parts = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
streamed = "".join(c.choices[0].delta.content or "" for c in parts if c.choices)
assert streamed == text, (streamed, text)
assert parts[-1].usage.completion_tokens == plain.usage.completion_tokens, parts[-1]

logged = client.chat.completions.create(**ask, logprobs=True, top_logprobs=3)
first = logged.choices[0].logprobs.content[0]
assert len(first.top_logprobs) == 3 and first.logprob == first.top_logprobs[0].logprob <= 0, first

seeded = dict(ask, temperature=0.9, top_p=0.9, seed=7)
assert client.chat.completions.create(**seeded).choices[0].message.content == client.chat.completions.create(**seeded).choices[0].message.content

completion = client.completions.create(model=model, prompt="Once upon a time", max_tokens=40, temperature=0, stop=["."])
assert "." not in completion.choices[0].text, completion

for wrong, error in ((dict(ask, max_tokens=10**6), openai.BadRequestError), (dict(ask, model="another"), openai.NotFoundError)):
    try:
        client.chat.completions.create(**wrong)
        sys.exit(f"{wrong} was accepted")
    except error as refusal:
        assert refusal.body["message"], refusal
try:
    openai.OpenAI(base_url=f"{base}/v1", api_key="coffer-wrong", max_retries=0).models.list()
    sys.exit("a wrong key was accepted")
except openai.AuthenticationError:
    pass
print(f"openai {openai.__version__}: models, chat, stream, logprobs, seed, completions, errors; answered {text[:40]!r}")
