"""throughput.py URL KEY CLIENTS PROMPT ANSWER: so many clients of an OpenAI-compatible server at a time, each with a prompt of so many token
ids of its own and an answer of at most so many tokens. Prints the tokens a second that all got together, in the second of two rounds."""
import json
import sys
import threading
import time
import urllib.request

url, key = sys.argv[1:3]
clients, prompt, answer = map(int, sys.argv[3:])


def post(path, body=None):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{url}{path}", body and json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request))


model = post("/v1/models")["data"][0]["id"]


def ask(client, made):
    tokens = [3 + (client * 977 + i * 7) % 4000 for i in range(prompt)]
    body = {"model": model, "prompt": tokens, "max_tokens": answer, "temperature": 0}
    made[client] = post("/v1/completions", body)["usage"]["completion_tokens"]


for _ in range(2):
    made = [0] * clients
    threads = [threading.Thread(target=ask, args=(i, made)) for i in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    assert all(made), made
print(sum(made) / seconds)
