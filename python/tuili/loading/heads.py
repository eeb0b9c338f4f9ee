"""Task heads: which one a Hugging Face folder's architecture has, its labels, and what it can be asked."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from tuili.errors import ModelFormatError
from tuili.loading.config import MAX_VOCAB, Config
from tuili.loading.files import shown
from tuili.loading.sentence_maps import ACTIVATIONS, torch_activation

MAX_LABELS = 1 << 16
WRITERS = ("ForCausalLM", "LMHeadModel")  # what the name of a decoder that writes ends in

# The end of an architecture's name -> what its head answers about.
_KINDS = {
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "tokens",
    "ForQuestionAnswering": "spans",
    "ForMaskedLM": "words",
    "ForPreTraining": "words",
    "ForMultipleChoice": "choices",
    "ForNextSentencePrediction": "next",
}
_TASKS = {
    "sequence": ("text-classification",),
    "tokens": ("token-classification",),
    "spans": ("question-answering",),
    "words": ("fill-mask",),
    "choices": ("rank",),
}
_BY_KIND = {
    "decoder": ("text-generation",),
    "encoder": ("feature-extraction",),
    "encoder-decoder": ("text2text-generation", "translation", "summarization"),
}
_PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


@dataclass(frozen=True)
class AnswerRow:
    """Which row of a text is a sequence's answer, where the head gives one for every token.

    kind  "mean": that of all rows; "end": at the last token of `ids`; "unpadded": at the last one that is
          none of `ids`, as transformers looks for the end of a text
    """

    kind: Literal["mean", "end", "unpadded"]
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Head:
    """A task head as its files describe it.

    kind      "sequence" | "tokens" | "spans" | "words" | "choices" (one number for a question and a choice)
    labels    of sequences and tokens: the name of each output
    function  what makes scores of a sequence's outputs: "softmax" | "sigmoid" | "none"
    ranking   the same where a sequence is a query and a document, or one of torch's ACTIVATIONS
    row       of a sequence's rows, None if the core gives one alone
    """

    kind: str
    labels: tuple[str, ...]
    function: str
    ranking: str
    row: AnswerRow | None = None

    @property
    def entailment(self) -> int | None:
        """The output that says that a text entails another, or None."""
        found = [i for i, label in enumerate(self.labels) if label.lower().startswith("entail")]
        return found[0] if found else None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of pipelines that can use it; "rank" is `LLM`'s."""
        if self.kind == "sequence" and self.entailment is not None:
            return ("text-classification", "zero-shot-classification")
        return _TASKS[self.kind]


def kind_of(architecture: str) -> str | None:
    """The kind of head that an architecture has by its name, or None.

    ELECTRA's pretraining head says which words were replaced, which no task asks.
    """
    if architecture == "ElectraForPreTraining":
        return None
    return next((kind for end, kind in _KINDS.items() if architecture.endswith(end)), None)


def labels_of(config: Config) -> tuple[str, ...]:
    """The labels of `id2label`, or LABEL_0, LABEL_1, … of `num_labels`, by default two.

    raises  ModelFormatError unless the ids are 0, 1, 2, … and the labels are strings; integers, which some
            files have, count as their digits
    """
    given = config.values.get("id2label")
    n_labels = config.integer("num_labels", 1, MAX_LABELS, None)
    if given is None or (n_labels is not None and isinstance(given, dict) and len(given) != n_labels):
        return tuple(f"LABEL_{i}" for i in range(2 if n_labels is None else n_labels))
    if not isinstance(given, dict) or not 1 <= len(given) <= MAX_LABELS:
        raise config.wrong("id2label", f"an object of 1 to {MAX_LABELS} labels")
    labels = [str(x) if type(x := given.get(str(i))) is int else x for i in range(len(given))]
    if not all(isinstance(label, str) for label in labels):
        raise config.wrong("id2label", f"a string for each of 0 to {len(given) - 1}")
    return tuple(shown(label, 256) for label in labels)


def n_outputs(config: Config) -> int:
    """How many numbers the head of this configuration gives."""
    if config.head == "words":
        return int(config.integer("vocab_size", 1, MAX_VOCAB))
    return {"spans": 2, "next": 2, "choices": 1}.get(config.head or "") or len(labels_of(config))


def describe(config: Config, module: ModuleType) -> Head | None:
    """The head of a configuration, None if it has none.

    module  of the architecture, which may have `answer_row(config)`
    raises  ModelFormatError for labels and settings that cannot be
    """
    if config.head is None:
        return None
    if config.head not in ("sequence", "tokens", "next"):
        return Head(config.head, (), "softmax", "none")
    labels = labels_of(config)
    if config.head == "next":  # whatever number of labels the file has for others
        return Head("sequence", labels if len(labels) == 2 else ("LABEL_0", "LABEL_1"), "softmax", "none")
    problem = config.choice("problem_type", _PROBLEMS, None)
    if problem == "regression":
        function = "none"
    else:
        function = "sigmoid" if problem == "multi_label_classification" or len(labels) == 1 else "softmax"
    row = module.answer_row(config) if config.head == "sequence" and hasattr(module, "answer_row") else None
    return Head(config.head, labels, function, _ranking(config, labels), row)


def _ranking(config: Config, labels: tuple[str, ...]) -> str:
    """sentence-transformers' activation of a cross-encoder: a sigmoid for one label unless the file says."""
    settings = config.section("sentence_transformers")
    named: Any = settings.text("activation_fn", None) if settings is not None else None
    if named is None:
        named = config.text("sbert_ce_default_activation_function", None)
    if named is None:
        return "sigmoid" if len(labels) == 1 else "none"
    name = torch_activation(named)
    if name is None:
        raise ModelFormatError(
            f"{config.what}: activation_fn must be one of torch.nn's {', '.join(ACTIVATIONS)}, not "
            f"'{shown(named)}'",
            code="config_value",
        )
    return {"Sigmoid": "sigmoid", "Identity": "none"}.get(name, name)


def as_config(kind: str, head: Head | None) -> dict[str, Any]:
    """What `llm.config` says of the model's tasks."""
    return {
        "tasks": [*_BY_KIND[kind], *(head.tasks if head is not None else ())],
        "labels": list(head.labels) if head is not None else [],
    }
