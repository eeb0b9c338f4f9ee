"""Replicas of one model on a Ray cluster: `pip install '.[ray]'`, then `python examples/ray_serve.py`.

`ray.init(address="auto")` joins a cluster that runs; the model's files and tuili's version must be the same
on all of its nodes. Ray's ports let anybody who reaches them run code: trusted networks only.
"""

import ray
from ray import serve

import tuili
from tuili.cluster import Client, application, fingerprint

MODEL = "smollm2-135m-instruct"

ray.init()
with tuili.LLM(MODEL) as llm:
    expected = fingerprint(llm)  # nodes with other files or another version are refused
client = Client(serve.run(application(MODEL, expected=expected, replicas=(1, 2), num_threads=1)))

questions = ["Name a river in Europe.", "Name a river in Asia.", "Name a river in Africa."]
for answer in client.chat_all(
    [{"messages": [{"role": "user", "content": question}], "max_tokens": 24} for question in questions]
):
    print(answer["choices"][0]["message"]["content"] if isinstance(answer, dict) else answer)
serve.shutdown()
