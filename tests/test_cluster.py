"""A Ray cluster of two nodes on this machine, of which one is killed. Slow; skipped without ray (tuili[ray]).

Catalogue rows RAY-01, RAY-05, RAY-06, RAY-07.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def test_the_core_knows_nothing_of_ray():
    """tuili.cluster is the only file that imports it, and nothing imports tuili.cluster."""
    for path in (TESTS.parent / "python" / "tuili").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert path.name == "cluster.py" or not ("import ray" in text or "from ray" in text), path
        assert "tuili.cluster" not in text or path.name == "cluster.py", path


# In a process of its own: Ray starts threads, takes signals and warns.
KILL_A_NODE = """
import sys, threading, time
import numpy as np
import ray
from ray import serve
from ray.cluster_utils import Cluster

import tuili
from tuili.cluster import Client, application, fingerprint

model = sys.argv[1]
SIZES = {"num_threads": 1, "kv_cache_bytes": 1 << 22, "max_model_len": 512}
requests = [
    {"messages": [{"role": "user", "content": f"the river {i}"}], "max_tokens": 200, "ignore_eos": True,
     "temperature": 1.0, "seed": i, "logprobs": True} for i in range(200)
]

with tuili.LLM(model, **SIZES) as llm:
    expected = fingerprint(llm)
    alone = [llm.create_chat_completion(**fields)["choices"] for fields in requests]

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80 << 20})
other = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
ray.init(address=cluster.address, log_to_driver=False)
handle = serve.run(application(model, expected=expected, replicas=(2, 2), **SIZES))
client = Client(handle)
assert client.chat(**requests[0])["choices"] == alone[0]

try:
    client.chat(messages=[], max_tokens=3)
except tuili.InvalidParameterError as error:
    print("typed", error.code)

killer = threading.Timer(0.3, lambda: cluster.remove_node(other, allow_graceful=False))
killer.start()
answers = client.chat_all(requests)
killer.join()
lost = [answer for answer in answers if not isinstance(answer, dict)]
right = [answer["choices"] == own for answer, own in zip(answers, alone) if isinstance(answer, dict)]
print("answers", len(answers), "lost", len(lost), "right", sum(right), "of", len(right))
assert all(right) and len(answers) == 200
assert all(answer.code == "replica_lost" for answer in lost)

begin = time.monotonic()
for i, answer in enumerate(answers):
    if not isinstance(answer, dict):
        while True:  # again, until a replica is there
            try:
                assert client.chat(**requests[i])["choices"] == alone[i]
                break
            except tuili.EngineClosedError:
                assert time.monotonic() < begin + 120
print("asked again", len(lost))

kept = [ray.put(np.zeros(20 << 20, np.uint8)) for _ in range(12)]  # three times what its store may hold
assert client.chat(**requests[1])["choices"] == alone[1]
del kept
print("full store")

cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
handle = serve.run(application(model, expected=expected, replicas=(1, 1), **SIZES))
client = Client(handle)
try:
    strange = application(model, expected="0.0.0-other", replicas=(1, 1), **SIZES)
    serve.run(strange, name="other", route_prefix=None)
except RuntimeError:
    other = serve.status().applications["other"]
    told = other.deployments["tuili"].message
    print("refused", "node_differs" if "one version of tuili" in told else told[-500:])
    print("given up", other.status.value)
assert client.chat(**requests[2])["choices"] == alone[2]
print("the others go on")
serve.shutdown()
ray.shutdown()
cluster.shutdown()
print("whole")
"""


@pytest.mark.slow
def test_a_node_that_is_killed_loses_nothing_that_was_not_said(llama_path):
    pytest.importorskip("ray", reason="ray is not installed: tuili[ray]")
    code = textwrap.dedent(KILL_A_NODE)
    environment = os.environ | {"RAY_SERVE_LOG_TO_STDERR": "0", "RAY_DEDUP_LOGS": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(llama_path)],
        capture_output=True,
        text=True,
        timeout=900,
        env=environment,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert "whole" in lines and "refused node_differs" in lines
    assert any(line.startswith("typed ") for line in lines)
    assert {"full store", "given up DEPLOY_FAILED", "the others go on"} <= set(lines)
