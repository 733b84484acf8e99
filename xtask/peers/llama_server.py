"""llama_server.py PROMPT COMMAND…: starts a llama-server (its --port is added), asks it once at temperature 0, ends it with SIGTERM."""
import json
import socket
import subprocess
import sys
import time
import urllib.request

prompt, *command = sys.argv[1:]
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
url = f"http://127.0.0.1:{port}"
server = subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    for _ in range(600):
        assert server.poll() is None, f"the server ended with {server.returncode}"
        try:
            urllib.request.urlopen(f"{url}/health")
            break
        except OSError:
            time.sleep(0.1)
    body = json.dumps({"prompt": prompt, "n_predict": 24, "temperature": 0, "cache_prompt": False}).encode()
    request = urllib.request.Request(f"{url}/completion", body, {"Content-Type": "application/json"})
    print(json.load(urllib.request.urlopen(request))["content"])
finally:
    server.terminate()
    server.wait(timeout=60)
