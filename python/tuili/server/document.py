"""The OpenAPI document of the server: what it takes and what it answers."""

from __future__ import annotations

from typing import Any

from tuili import __version__
from tuili.chat.completions import MAX_NAME_CHARS, NAMES
from tuili.chat.messages import ROLES
from tuili.checks import MAX_TOKEN_IDS, MAX_WORD_IDS
from tuili.generation.params import MAX_BEAMS, MAX_DEADLINE_S, MAX_DRAFTED, MAX_LOGPROBS
from tuili.server.text_requests import MAX_BAD_WORDS, MAX_CHOICES, MAX_PROMPTS, MAX_STOP_STRINGS
from tuili.server.vector_requests import MAX_DOCUMENTS

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1}
_SEED: Schema = {"type": "integer", "minimum": 0, "maximum": 2**64 - 1}
_TOKEN_ID: Schema = {"type": "integer", "minimum": 0}
_USER: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARS}
_USERS = dict.fromkeys(NAMES, _USER)
_TOKEN_IDS: Schema = {"type": "array", "items": _TOKEN_ID, "maxItems": MAX_TOKEN_IDS}
_WORD: Schema = {"type": "array", "items": _TOKEN_ID, "minItems": 1, "maxItems": MAX_WORD_IDS}
_CUT: Schema = {"anyOf": [{"const": -1}, {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}]}


def _integer(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def _number(low: float, high: float) -> Schema:
    return {"type": "number", "minimum": low, "maximum": high}


_SAMPLING: dict[str, Schema] = {
    "max_tokens": _integer(0, 2**31 - 1),  # 0 beside prompt_logprobs
    "temperature": _number(0, 1e30),
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "n": _integer(1, MAX_CHOICES),
    "stop": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": MAX_STOP_STRINGS}]},
    "seed": _SEED,
    "presence_penalty": _number(-100, 100),
    "frequency_penalty": _number(-100, 100),
    "logit_bias": {"type": "object", "additionalProperties": _number(-100, 100)},
    "response_format": {
        "type": "object",
        "properties": {
            "type": {"enum": ["text", "json_object", "json_schema"]},
            "json_schema": {"type": "object", "properties": {"name": _TEXT, "schema": {"type": "object"}}},
        },
        "required": ["type"],
    },
    "stream": {"type": "boolean"},
    "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
    **_USERS,
    # vLLM's names for what OpenAI does not have, and transformers' for what vLLM has not
    "top_k": _integer(-1, 2**31 - 1),
    "min_p": _number(0, 1),
    "typical_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "repetition_penalty": {"type": "number", "exclusiveMinimum": 0, "maximum": 1e6},
    "no_repeat_ngram_size": _integer(0, 1024),
    "min_tokens": _integer(0, 2**31 - 1),
    "ignore_eos": {"type": "boolean"},
    "stop_token_ids": _TOKEN_IDS,
    "include_stop_str_in_output": {"type": "boolean"},
    "skip_special_tokens": {"type": "boolean"},
    "truncate_prompt_tokens": _CUT,
    "allowed_token_ids": {**_TOKEN_IDS, "minItems": 1},
    "bad_words": {"type": "array", "items": _TEXT, "maxItems": MAX_BAD_WORDS},
    "use_beam_search": {"type": "boolean"},
    "length_penalty": _number(-10, 10),
    "bad_words_ids": {"type": "array", "items": _WORD, "maxItems": MAX_TOKEN_IDS},
    "sequence_bias": {
        "type": "array",
        "items": {
            "type": "array",
            "prefixItems": [_WORD, _number(-1e30, 1e30)],
            "minItems": 2,
            "maxItems": 2,
        },
        "maxItems": MAX_TOKEN_IDS,
    },
    "suppress_tokens": _TOKEN_IDS,
    "begin_suppress_tokens": _TOKEN_IDS,
    "encoder_no_repeat_ngram_size": _integer(0, 1024),
    "encoder_repetition_penalty": _number(1e-6, 1e6),
    "exponential_decay_length_penalty": {
        "type": "array",
        "prefixItems": [_integer(0, 2**31 - 1), {"type": "number", "exclusiveMinimum": 0, "maximum": 1e6}],
        "minItems": 2,
        "maxItems": 2,
    },
    "renormalize_logits": {"type": "boolean"},
    "num_beams": _integer(1, MAX_BEAMS),
    "early_stopping": {"anyOf": [{"type": "boolean"}, {"const": "never"}]},
    "forced_bos_token_id": _TOKEN_ID,
    "forced_eos_token_id": {"anyOf": [_TOKEN_ID, {**_TOKEN_IDS, "minItems": 1}]},
    "decoder_start_token_id": _TOKEN_ID,
    "prompt_logprobs": _integer(0, MAX_LOGPROBS),
    "deadline_s": _number(0, MAX_DEADLINE_S),
    "prompt_lookup_num_tokens": _integer(0, MAX_DRAFTED),
    "regex": _TEXT,
    "choice": {"type": "array", "items": _TEXT},
    "grammar": _TEXT,
    "structured_outputs": {
        "type": "object",
        "properties": {
            "json": {"anyOf": [{"type": "object"}, _TEXT]},
            "json_object": {"type": "boolean"},
            "regex": _TEXT,
            "choice": {"type": "array", "items": _TEXT},
            "grammar": _TEXT,
        },
        "additionalProperties": False,
    },
}
_MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": {"enum": list(ROLES)},
        "content": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                        "required": ["type", "text"],
                    },
                },
            ]
        },
    },
    "required": ["role"],
}
_TOOL: Schema = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
                "description": {"type": "string"},
                "parameters": {"type": "object"},
                "strict": {"type": "boolean"},
            },
            "required": ["name"],
            "additionalProperties": False,
        },
    },
    "required": ["type", "function"],
    "additionalProperties": False,
}
_MESSAGES: Schema = {"type": "array", "items": _MESSAGE, "minItems": 1}
_OF_CHATS: dict[str, Schema] = {
    "add_generation_prompt": {"type": "boolean"},
    "continue_final_message": {"type": "boolean"},
    "chat_template_kwargs": {"type": "object"},
}
_PROMPT: Schema = {
    "anyOf": [
        _TEXT,
        {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_PROMPTS},
        {"type": "array", "items": _TOKEN_ID, "minItems": 1},
        {"type": "array", "items": {"type": "array", "items": _TOKEN_ID, "minItems": 1}, "minItems": 1},
    ]
}
_DOCUMENTS: Schema = {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_DOCUMENTS}
_PAIR: Schema = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "text_pair": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}
_ERROR: Schema = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}


def document(model: str, kind: str) -> dict[str, Any]:
    """OpenAPI 3.1 for the model that is served."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "tuili", "version": __version__, "description": f"{model}, {kind}"},
        "paths": {**_text_paths(model), **_other_posts(model), **_gets(model)},
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _ERROR},
        },
        "security": [{"key": []}],
    }


def _text_paths(model: str) -> Schema:
    chat = {
        "model": _name(model),
        "messages": _MESSAGES,
        "max_completion_tokens": _integer(0, 2**31 - 1),
        "logprobs": {"type": "boolean"},
        "top_logprobs": _integer(0, MAX_LOGPROBS),
        "tools": {"type": "array", "items": _TOOL},
        "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "object"}]},
        "parallel_tool_calls": {"type": "boolean"},
        **_OF_CHATS,
        **_SAMPLING,
    }
    text = {"model": _name(model), "prompt": _PROMPT, "logprobs": _integer(0, MAX_LOGPROBS)}
    text |= {"echo": {"type": "boolean"}, **_SAMPLING}
    return {
        "/v1/chat/completions": _post("Answer a conversation", chat, ["messages"], streams=True),
        "/v1/completions": _post("Continue a text", text, ["prompt"], streams=True),
    }


def _other_posts(model: str) -> Schema:
    embeddings = {
        "model": _name(model),
        "input": {"anyOf": [_TEXT, _DOCUMENTS]},
        "encoding_format": {"enum": ["float", "base64"]},
        "dimensions": _integer(1, 1 << 20),
        "prompt": {"type": "string"},
        "prompt_name": {"type": "string"},
        "truncate_prompt_tokens": _CUT,
        **_USERS,
    }
    rerank = {
        "model": _name(model),
        "query": _TEXT,
        "documents": _DOCUMENTS,
        "top_n": _integer(1, 2**31 - 1),
        "return_documents": {"type": "boolean"},
        "truncate_prompt_tokens": _CUT,
        **_USERS,
    }
    side = {"anyOf": [{"type": "string"}, {**_DOCUMENTS, "items": {"type": "string"}}]}
    score = {
        "model": _name(model),
        **dict.fromkeys(("text_1", "text_2", "queries", "documents"), side),
        "truncate_prompt_tokens": _CUT,
        **_USERS,
    }
    one = {"anyOf": [{"type": "string"}, _PAIR]}
    many = {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_DOCUMENTS}
    classify = {
        "model": _name(model),
        "input": {"anyOf": [*one["anyOf"], many]},
        "use_activation": {"type": "boolean"},
        "truncate_prompt_tokens": _CUT,
        **_USERS,
    }
    tokenize = {
        "model": _name(model),
        "prompt": {"type": "string"},
        "messages": _MESSAGES,
        "tools": {"type": "array", "items": _TOOL},
        **_OF_CHATS,
        "add_special_tokens": {"type": "boolean"},
        "return_token_strs": {"type": "boolean"},
    }
    detokenize = {"model": _name(model), "tokens": {"type": "array", "items": _TOKEN_ID}}
    return {
        "/v1/embeddings": _post("Vectors of texts", embeddings, ["input"]),
        **dict.fromkeys(
            ("/v1/rerank", "/rerank"), _post("Order documents by a query", rerank, ["query", "documents"])
        ),
        **dict.fromkeys(("/v1/score", "/score"), _post("Scores of pairs of texts", score, [])),
        **dict.fromkeys(("/v1/classify", "/classify"), _post("Labels of texts", classify, ["input"])),
        "/tokenize": _post("Token ids of a text or a conversation", tokenize, []),
        "/detokenize": _post("The text of token ids", detokenize, ["tokens"]),
    }


def _gets(model: str) -> Schema:
    named = {"name": "model", "in": "path", "required": True, "schema": _name(model)}
    return {
        "/v1/models": _get("The model"),
        "/v1/models/{model}": {**_get("The model"), "parameters": [named]},
        "/health": _get("Whether the server lives", is_open=True),
        "/ready": _get("Whether it takes requests", is_open=True),
        "/metrics": _get("Counters for Prometheus", "text/plain"),
        "/openapi.json": _get("This document"),
    }


def _name(model: str) -> Schema:
    return {"type": "string", "enum": [model]}


def _post(
    summary: str, properties: dict[str, Schema], required: list[str], *, streams: bool = False
) -> Schema:
    schema = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    media = {"application/json": {"schema": {"type": "object"}}}
    if streams:
        media["text/event-stream"] = {"schema": {"type": "string"}}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    answers = {"200": {"description": "The answer", "content": media}, **_errors()}
    return {"post": {"summary": summary, "requestBody": body, "responses": answers}}


def _get(summary: str, media: str = "application/json", *, is_open: bool = False) -> Schema:
    answer = {"description": "The answer", "content": {media: {"schema": {}}}}
    operation: Schema = {"summary": summary, "responses": {"200": answer, **_errors()}}
    return {"get": {**operation, "security": []} if is_open else operation}


def _errors() -> Schema:
    schema = {"schema": {"$ref": "#/components/schemas/Error"}}
    content = {"application/json": schema}
    return {name: {"description": "An error", "content": content} for name in ("4XX", "5XX")}
