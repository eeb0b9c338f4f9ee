"""Batch inference over a data set with Ray Data: each worker holds one LLM. `pip install '.[ray]'`."""

import ray

import tuili


class Answer:
    def __init__(self) -> None:
        self.llm = tuili.LLM("smollm2-135m-instruct", num_threads=1)

    def __call__(self, batch):
        chats = [[{"role": "user", "content": str(question)}] for question in batch["question"]]
        batch["answer"] = [out.outputs[0].text for out in self.llm.chat(chats, max_tokens=24)]
        return batch


rows = [{"question": f"What is {n} times {n + 1}?"} for n in range(8)]
for row in ray.data.from_items(rows).map_batches(Answer, batch_size=4, concurrency=1).take_all():
    print(row["question"], "->", row["answer"])
