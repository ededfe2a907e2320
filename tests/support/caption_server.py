"""A server that speaks the chat completions protocol, in a process of its own, and misbehaves as it is told.

``python caption_server.py LOG '{"faults": ["500", "cut"], ...}'`` prints its port. The answer to a question is a function of the question
alone. Each question meets the faults one after the other, from a place in the list that is its own, before it is answered. Every event is
a line of the log: what was asked, and what was said.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = ("500", "503", "429", "hang", "cut", "nonsense", "no choices", "empty", "unfinished", "not an object", "no content")


def answer_to(body):
    """What is said of a question: its prompt's hash and its image's."""
    (message,) = [m for m in body["messages"] if m["role"] == "user"]
    url, text = message["content"][0]["image_url"]["url"], message["content"][1]["text"]
    return f"Prompt {_digest(text)} of image {_digest(url)}."


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Says nothing."""

    def do_GET(self):
        self.send(
            200, json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.told["models"]]})
        )

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked, told = answer_to(body), self.server.told
        if told["newer"] and "max_tokens" in body:
            self.send(400, json.dumps({"error": {"message": "use max_completion_tokens instead of max_tokens"}}))
            return
        with self.server.lock:
            meets = self.server.meets.setdefault(asked, list(self.server.faults_of(asked)))
            fault = meets.pop(0) if meets else ""
            self.server.busy += 1
            self.server.most = max(self.server.most, self.server.busy)
        try:
            time.sleep(told["seconds"])
            self.server.write(
                {"asked": asked, "said": fault or "ok", "at": time.time(), "key": self.headers["Authorization"], "body": body}
            )
            self.misbehave(fault) if fault else self.reply(asked, body)
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def reply(self, text, body, **changes):
        told = self.server.told
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": told["finish"]} | changes
        usage = {"prompt_tokens": told["tokens"][0], "completion_tokens": told["tokens"][1]} if told["tokens"] else None
        self.send(200, json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}))

    def misbehave(self, fault):
        if fault.isdigit():
            headers = {"Retry-After": self.server.told["retry_after"]} if fault == "429" else {}
            self.send(int(fault), json.dumps({"error": {"message": f"fault {fault}", "code": "c"}}), headers)
        elif fault == "hang":
            time.sleep(self.server.told["hang"])
            self.close_connection = True
        elif fault == "cut":
            whole = b'{"choices": [{"message": {"content": "half of'
            self.send_response(200)
            self.send_header("Content-Length", str(len(whole) + 100))
            self.end_headers()
            self.wfile.write(whole)
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif fault == "unfinished":
            self.reply("half", {}, finish_reason=None)
        elif fault in ("empty", "no content"):
            self.reply("  " if fault == "empty" else None, {})
        else:
            self.send(200, {"nonsense": '{"choices": [', "no choices": '{"choices": []}', "not an object": "[1]"}[fault])

    def send(self, code, text, headers=()):
        data = text.encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, log, told):
        super().__init__(("127.0.0.1", 0), Handler)
        defaults = {
            "faults": [],
            "each": 1,
            "seconds": 0.0,
            "hang": 3.0,
            "retry_after": "0.2",
            "tokens": [100, 10],
            "finish": "stop",
            "newer": False,
        }
        self.told = defaults | {"models": ["tiny"]} | told
        self.log, self.lock, self.meets, self.busy, self.most = Path(log), threading.Lock(), {}, 0, 0

    def faults_of(self, asked):
        faults = self.told["faults"]
        first = int(hashlib.sha256(asked.encode()).hexdigest(), 16) % max(1, len(faults))
        return [faults[(first + n) % len(faults)] for n in range(self.told["each"])] if faults else []

    def write(self, event):
        with self.lock, self.log.open("a") as file:
            file.write(json.dumps(event | {"busy": self.most}) + "\n")


@contextmanager
def serving(folder, **told):
    """The address of a server in a process of its own, and a function that reads its log."""
    log = Path(folder) / f"log-{time.monotonic_ns()}.jsonl"
    log.touch()
    with subprocess.Popen([sys.executable, __file__, str(log), json.dumps(told)], stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(process.stdout.readline())
            yield f"http://127.0.0.1:{port}/v1", lambda: [json.loads(line) for line in log.read_text().splitlines()]
        finally:
            process.kill()


if __name__ == "__main__":
    server = Server(sys.argv[1], json.loads(sys.argv[2]))
    print(server.server_address[1], flush=True)
    parent = os.getppid()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while os.getppid() == parent:
        time.sleep(0.2)
