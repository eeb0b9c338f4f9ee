"""A model in an asyncio web service: `pip install '.[server]'`, then `uvicorn web_app:app` in this folder.

curl -d 'What is the capital of France?' http://127.0.0.1:8000/ask
curl -Nd 'Tell me about the sea.' http://127.0.0.1:8000/stream

FastAPI is Starlette: the same lines do there.
"""

import asyncio
import contextlib

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import tuili


@contextlib.asynccontextmanager
async def lifespan(app: Starlette):
    with await asyncio.to_thread(tuili.LLM, "smollm2-135m-instruct", max_queue=32) as llm:
        await asyncio.to_thread(llm.tokenizer.encode, "")  # or the first question waits for it
        app.state.llm = llm
        yield


async def question(request: Request) -> list[dict[str, str]]:
    return [{"role": "user", "content": (await request.body()).decode()}]


async def ask(request: Request) -> Response:
    llm = request.app.state.llm
    try:
        output = await llm.submit(await question(request), max_tokens=64, deadline_s=5)
    except (tuili.QueueFullError, tuili.DeadlineExceeded):  # refused at once if it cannot be met
        return JSONResponse({"error": "busy, try again"}, 429)
    except ValueError as error:  # a prompt that is too long, for example
        return JSONResponse({"error": str(error)}, 400)
    return JSONResponse({"text": output.outputs[0].text, "why": output.outputs[0].finish_reason})


async def stream(request: Request) -> Response:
    try:
        chunks = request.app.state.llm.stream(await question(request), max_tokens=200)
    except (tuili.QueueFullError, ValueError) as error:
        return JSONResponse({"error": str(error)}, 429 if isinstance(error, tuili.QueueFullError) else 400)
    texts = (chunk.text async for chunk in chunks)  # a client that leaves ends them, and the request
    return StreamingResponse(texts, media_type="text/plain; charset=utf-8")


app = Starlette(
    routes=[Route(f"/{f.__name__}", f, methods=["POST"]) for f in (ask, stream)], lifespan=lifespan
)
