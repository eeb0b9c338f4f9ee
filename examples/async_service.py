"""Many conversations on one event loop; a cancelled task frees its place at once: python
examples/async_service.py
"""

import asyncio
import time

import tuili

QUESTIONS = ["Name three primes.", "Why is the sky blue?", "What is gravity?", "What is a tuple in Python?"]
    "What is the capital of France?",
    "Name three primes.",
    "Why is the sky blue?",
    "Say hello in Chinese.",
]


async def answer(llm: tuili.LLM, question: str) -> str:
    handle = llm.submit([{"role": "user", "content": question}], max_tokens=40)
    return (await handle).outputs[0].text


async def main() -> None:
    with tuili.LLM("smollm2-135m-instruct") as llm:
        start = time.monotonic()
        for question, text in zip(
            QUESTIONS, await asyncio.gather(*(answer(llm, q) for q in QUESTIONS)), strict=True
        ):
            print(f"{question}\n  {text.strip()}")
        print(f"{len(QUESTIONS)} answers in {time.monotonic() - start:.1f} s, {llm.stats()['steps']} steps")


asyncio.run(main())
