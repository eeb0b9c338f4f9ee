"""Show a text while it is made, and stop it when it has said enough: python examples/stream.py"""

import tuili

with tuili.LLM("smollm2-135m-instruct") as llm:
    stream = llm.stream([{"role": "user", "content": "Tell me about the sea."}], max_tokens=200)
    n_sentences = 0
    for chunk in stream:
        print(chunk.text, end="", flush=True)
        n_sentences += chunk.text.count(".")
        if n_sentences == 3:
            break  # leaving the stream behind aborts the request
    print()
