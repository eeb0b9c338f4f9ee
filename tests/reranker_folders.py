"""Rerankers in folders as sentence-transformers 6 writes them, over architecture_table.py's tiny decoders."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import architecture_files
from architecture_table import CASES
from tiny_files import build_tokenizer
from tiny_models import TinyModel

QUERY = "the cat of York"
DOCUMENTS = ["a dog is in the house", "the new river", "cats, and the end of it", "你好"]
LONG = "the new river and the house of the cat " * 10  # than the tokenizer says that models take
_SHOWN = {
    "flat": """{% for m in messages %}<|user|>{{ m.role }}: {{ m.content }}
{% endfor %}<|assistant|>""",
    "structured": """{{ (messages | selectattr("role", "eq", "document") | first).content[0].text }}
<|user|>{{ (messages | selectattr("role", "eq", "query") | first).content[0].text }}""",
}
_END = "{% if add_generation_prompt %}<|assistant|>{{ ask }}{% endif %}"


@dataclass(frozen=True)
class Reranker:
    """format: of messages; words: the token for a document and the one against; prompt: the default one;
    variables: of the template."""

    architecture: str
    format: str | None
    words: tuple[int, ...] = ()
    prompt: str | None = None
    activation: str = "linear.Identity"
    variables: dict[str, Any] = field(default_factory=dict)

    def of(self, architecture: str) -> Reranker:
        """The same of another decoder."""
        return replace(self, architecture=architecture)


RERANKERS = {
    "two words": Reranker("Qwen3ForCausalLM", "flat", (70, 80), "Judge whether it is of use."),
    "one word": Reranker("LlamaForCausalLM", "structured", (99,), None, "activation.Sigmoid"),
    "words of texts": Reranker("Qwen2ForCausalLM", None, (70, 80), "find: "),
    "variables": Reranker(
        "Qwen3ForCausalLM", "flat", (70, 80), None, variables={"add_generation_prompt": True, "ask": "cat"}
    ),
    "classifier": Reranker("Qwen3ForCausalLM", "flat", (), None, "activation.Sigmoid"),
    "classifier of texts": Reranker("LlamaForCausalLM", None, (), "find: "),
}


def write(name: str, folder: Path) -> Path:
    """The folder of one of RERANKERS."""
    asked = RERANKERS[name]
    case = next(case for case in CASES if case.architecture == asked.architecture)
    task, output = (
        ("text-generation", "causal_logits") if asked.words else ("sequence-classification", "scores")
    )

    def with_score(tensors: dict[str, Any]) -> dict[str, Any]:
        if asked.words:
            return tensors
        kept = {key: value for key, value in tensors.items() if not key.startswith("lm_head")}
        width = tensors["model.norm.weight"].size
        return kept | {"score.weight": architecture_files.values("score", (1, width))}

    architecture_files.write(case, folder, with_score)
    config = json.loads((folder / "config.json").read_text()) | {"pad_token_id": 0}
    if not asked.words:
        ours = asked.architecture.replace("ForCausalLM", "ForSequenceClassification")
        config |= {"architectures": [ours], "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    message = {"method": "forward", "method_output_name": "logits", "format": asked.format}
    kinds: dict[str, Any] = {"text": {"method": "forward", "method_output_name": "logits"}}
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.Transformer"}]
    if asked.words:
        (folder / "1_LogitScore").mkdir()
        ids = dict(zip(("true_token_id", "false_token_id"), (*asked.words, None), strict=False))
        settings = {**ids, "module_input_name": output}
        (folder / "1_LogitScore" / "config.json").write_text(json.dumps(settings))
        kind = "sentence_transformers.cross_encoder.modules.LogitScore"
        modules.append({"idx": 1, "name": "1", "path": "1_LogitScore", "type": kind})
    prompts = {"own": asked.prompt} if asked.prompt else {}
    tokens = {"pad_token": "<|bos|>", "eos_token": "<|eos|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    tokenizer = build_tokenizer(TinyModel("", {"model_type": "llama"}, {}, {}))
    tokenizer.save(str(folder / "tokenizer.json"))
    files: dict[str, Any] = {
        "config.json": config,
        "modules.json": modules,
        "tokenizer_config.json": tokens | {"model_max_length": 120},
        "config_sentence_transformers.json": {
            "model_type": "CrossEncoder",
            "activation_fn": f"torch.nn.modules.{asked.activation}",
            "prompts": prompts,
            "default_prompt_name": "own" if prompts else None,
        },
        "sentence_bert_config.json": {
            "transformer_task": task,
            "module_output_name": output,
            "modality_config": kinds | ({} if asked.format is None else {"message": message}),
            "processing_kwargs": {"chat_template": asked.variables},
        },
    }
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content))
    if asked.format is not None:
        (folder / "chat_template.jinja").write_text(_SHOWN[asked.format] + _END)
    return folder
