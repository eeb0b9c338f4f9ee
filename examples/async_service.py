"""Many conversations on one event loop; a cancelled task frees its place: python examples/async_service.py"""

import asyncio
import time

import tuili

QUESTIONS = ["Name three primes.", "Why is the sky blue?", "What is gravity?", "What is a tuple?"]


async def answer(llm: tuili.LLM, question: str) -> str:
    handle = llm.submit([{"role": "user", "content": question}], max_tokens=40)
    return (await handle).outputs[0].text


async def main() -> None:
    with tuili.LLM("smollm2-135m-instruct") as llm:
        start = time.monotonic()
        texts = await asyncio.gather(*(answer(llm, question) for question in QUESTIONS))
        for question, text in zip(QUESTIONS, texts, strict=True):
            print(f"{question}\n  {text.strip()}")
        print(f"{len(texts)} answers in {time.monotonic() - start:.1f} s, {llm.stats()['steps']} steps")


asyncio.run(main())
