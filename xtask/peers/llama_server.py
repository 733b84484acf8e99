"""llama_server.py PROMPT TOKENS COMMAND…: starts a llama-server (its --port is added), asks it once at temperature 0, ends it with
SIGTERM. Prints the answer, and the seconds that it took from the start of the server."""
import json
import socket
import subprocess
import sys
import time
import urllib.request

prompt, tokens, *command = sys.argv[1:]
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
url = f"http://127.0.0.1:{port}"
start = time.perf_counter()
server = subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    for _ in range(12000):
        assert server.poll() is None, f"the server ended with {server.returncode}"
        try:
            urllib.request.urlopen(f"{url}/health")
            break
        except OSError:
            time.sleep(0.005)
    body = json.dumps({"prompt": prompt, "n_predict": int(tokens), "temperature": 0, "cache_prompt": False}).encode()
    request = urllib.request.Request(f"{url}/completion", body, {"Content-Type": "application/json"})
    content = json.load(urllib.request.urlopen(request))["content"]
    print(json.dumps({"content": content, "seconds": time.perf_counter() - start}))
finally:
    server.terminate()
    server.wait(timeout=60)
