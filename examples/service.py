"""A service whose requests share one batch, each with a deadline: python examples/service.py

curl -d 'What is the capital of France?' http://127.0.0.1:8000/
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import tuili

llm = tuili.LLM("smollm2-135m-instruct", max_queue=32)


class Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        question = self.rfile.read(int(self.headers["Content-Length"])).decode()
        try:
            output = llm.chat([{"role": "user", "content": question}], max_tokens=64, deadline_s=5)
            status, answer = 200, {"text": output.outputs[0].text, "why": output.outputs[0].finish_reason}
        except (tuili.QueueFullError, tuili.DeadlineExceeded):  # refused at once if it cannot be met
            status, answer = 429, {"error": "busy, try again"}
        except ValueError as error:  # a prompt that is too long, for example: the asker's mistake, not ours
            status, answer = 400, {"error": str(error)}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 8000), Answer).serve_forever()
