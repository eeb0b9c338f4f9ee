"""Where a model's parts come from: a Hugging Face folder or a GGUF file, both shown as one `ModelSource`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from tuili.errors import ModelFormatError, ModelIOError, ModelUnsupportedError, TemplateError, TokenizerError
from tuili.loading import prequantized, safetensors_file, static_embeddings, word_scores
from tuili.loading.architectures import static_embedding
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import MAX_POSITIONS, MAX_VOCAB, Config, read_config
from tuili.loading.cross_encoders import cross_encoder
from tuili.loading.files import StrPath, open_regular, parse_json, read_file, shown
from tuili.loading.foreign_blocks import widen_tensors
from tuili.loading.generation_config import (
    decoder_start_id,
    eos_token_ids,
    generation_defaults,
    legacy_generation,
)
from tuili.loading.gguf import open_gguf
from tuili.loading.gguf_index import from_index
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.gguf_unread import refuse_unread
from tuili.loading.heads import WRITERS
from tuili.loading.language_part import language_part, take_language_part
from tuili.loading.registry import (
    HF_SEQ2SEQ,
    as_embedder,
    gguf_architecture,
    hf_architecture,
    with_architecture,
)
from tuili.loading.sentence_maps import SentenceMap
from tuili.loading.sentence_modules import first_module, read_modules
from tuili.loading.tokenizers import documents as tokenizer_documents
from tuili.loading.tokenizers.numbering import Numbering

MAX_TOKENIZER_BYTES = 64 << 20
MAX_TEMPLATE_BYTES = 1 << 20


@dataclass(frozen=True)
class TokenizerFiles:
    """A Hugging Face tokenizer, not yet parsed: tokenizer.json as it lies on disk or as other files make it,
    and its companions. written: makes that of what the model writes, if it is another. bare: no tokens
    are put around texts. whole: tokenizer_json has the companions' tokens already."""

    tokenizer_json: bytes
    config: dict[str, Any]
    special_tokens: dict[str, Any]
    numbering: Numbering | None = None
    written: Callable[[], TokenizerFiles] | None = None
    bare: bool = False
    whole: bool = False
    added_tokens: object = None


@dataclass
class ModelSource:
    """Everything a model folder or GGUF file says, validated but for the tensors, which need the spec."""

    path: str
    kind: str  # "folder" | "gguf"
    architecture: str
    module: ModuleType
    config: Config
    checkpoint: Checkpoint
    tokenizer: TokenizerFiles | Metadata
    chat_template: str | None
    generation_defaults: dict[str, Any] = field(default_factory=dict)
    ignored_generation_keys: list[str] = field(default_factory=list)
    embedding: dict[str, Any] | None = None
    dense: list[SentenceMap] = field(default_factory=list)
    eos_token_ids: tuple[int, ...] = ()
    decoder_start: int | None = None


def open_source(
    path: StrPath, *, strict: bool = True, strict_paths: bool = False, index: dict[str, Any] | None = None
) -> ModelSource:
    """The model at `path`: a folder with config.json and safetensors, or a GGUF file.

    index   the GGUF file's header in short (gguf_index.py), which the packed cache keeps
    raises  ModelIOError if there is nothing, ModelUnsupportedError for archives and pickles, and all that
            readers raise
    """
    name = os.fspath(path)
    try:
        is_folder = os.path.isdir(name)
    except ValueError:
        is_folder = False
    if is_folder:
        return _open_folder(name, strict=strict, strict_paths=strict_paths)
    _refuse_foreign(name)
    opened = (
        open_gguf(name, strict=strict, strict_paths=strict_paths)
        if index is None
        else from_index(name, index)
    )
    return _gguf_source(name, *opened)


# First bytes of what is often taken for a model, and what to say about it.
_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c")
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\x93NUMPY")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npy", ".npz")
_CONVERSION = (
    "python -c \"import transformers as t; f='FOLDER'; c=t.AutoConfig.from_pretrained(f); "
    'getattr(t, c.architectures[0]).from_pretrained(f).save_pretrained(f)"'
)


def _refuse_foreign(path: str) -> None:
    """Say clearly why an archive, a pickle or a lone safetensors file is not loaded."""
    with open_regular(path) as file:
        head = bytes(file.pread(min(file.size, 263), 0))
    what = shown(path, 256)
    if path.endswith(_PICKLE_SUFFIXES) or head.startswith(_PICKLES):
        raise ModelUnsupportedError(
            f"{what}: pickled weights can run code and are never read; convert their folder: {_CONVERSION}",
            code="pickle",
        )
    if head.startswith(_ARCHIVES) or head[257:262] == b"ustar":
        raise ModelUnsupportedError(
            f"{what}: an archive, which tuili never unpacks; unpack it, and give the folder or .gguf file "
            "in it",
            code="archive",
        )
    if path.endswith(".safetensors"):
        raise ModelUnsupportedError(
            f"{what}: weights alone; give the folder that also holds config.json and tokenizer.json",
            code="lone_weights",
        )


# ---- a Hugging Face folder


def _open_folder(root: str, *, strict: bool, strict_paths: bool) -> ModelSource:
    inside = root if strict_paths else None
    kind, base = first_module(root, inside)
    if kind == "StaticEmbedding":
        return _open_static(root, base, strict=strict, inside=inside)
    folder = os.path.join(root, base) if base else root
    config, is_part = _model_config(folder, inside)
    ranking = cross_encoder(root, inside=inside)
    if ranking is not None:
        if ranking.activation is not None:  # else config.json may have one, too
            config.update(sentence_transformers={"activation_fn": ranking.activation})
        config = word_scores.as_classifier(config) if ranking.words else config
    elif os.path.lexists(os.path.join(root, "modules.json")):
        config = as_embedder(config)
    architecture, module = hf_architecture(config)
    _refuse_pickles_only(folder)
    checkpoint = safetensors_file.open_folder(folder, strict=strict, strict_paths=strict_paths)
    if is_part:
        take_language_part(checkpoint)
    with checkpoint:
        prequantized.replace_tensors(checkpoint, config, folder, inside)
        if hasattr(module, "derive"):
            module.derive(checkpoint, config)
        if ranking is not None and ranking.words:
            word_scores.add_score(checkpoint, module, config, ranking.words)
    seq2seq, begins = architecture in HF_SEQ2SEQ, getattr(module, "BEGINS_TEXTS", False)
    generation = _generation(folder, inside, config, writes=seq2seq or architecture.endswith(WRITERS))
    tokenizer = _tokenizer_files(folder, inside, str(config.values.get("model_type")), checkpoint.warnings)
    n_vocab = config.integer("vocab_size", 1, MAX_VOCAB)
    if seq2seq:  # Marian may write another vocabulary than it reads
        n_vocab = config.integer("decoder_vocab_size", 1, MAX_VOCAB, n_vocab)
    defaults, ignored = generation_defaults(generation, n_vocab, seq2seq=seq2seq)
    pooling = getattr(module, "POOLING", "mean")
    eos_ids = eos_token_ids(generation, config, n_vocab)
    modules = read_modules(root, base, inside=inside) if ranking is None else None
    embedding, dense = _embedding(modules, tokenizer.config, pooling, checkpoint.warnings)
    if ranking is not None:
        embedding |= {"pair_prompts": dict(ranking.prompts), "pair_format": ranking.format}
        embedding |= {"pair_variables": dict(ranking.variables)}
        embedding |= {} if ranking.max_len is None else {"max_seq_length": ranking.max_len}
    return ModelSource(
        path=root,
        kind="folder",
        architecture=architecture,
        module=module,
        config=config,
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        chat_template=_chat_template(folder, tokenizer.config, inside),
        generation_defaults=defaults,
        ignored_generation_keys=ignored if eos_ids is not None else [*ignored, "eos_token_id"],
        embedding=embedding,
        dense=dense,
        eos_token_ids=eos_ids or (),
        decoder_start=(
            decoder_start_id(generation if seq2seq else None, config, n_vocab) if seq2seq or begins else None
        ),
    )


def _generation(folder: str, inside: str | None, config: Config, *, writes: bool) -> Config | None:
    """The settings of generation_config.json, or without it those of a config.json of a model that writes."""
    found = read_config(folder, "generation_config.json", inside=inside)
    return legacy_generation(config) if found is None and writes else found


def _model_config(folder: str, inside: str | None) -> tuple[Config, bool]:
    """The settings of a decoder or encoder, and whether they are a part's of what also sees or hears."""
    config = read_config(folder, "config.json", inside=inside)
    if config is None:
        problem = "there is no config.json; a .gguf file in it is loaded by its own path"
        if os.path.exists(os.path.join(folder, "adapter_config.json")):
            problem = "an adapter alone; give the folder of a model that it was merged into"
        raise ModelIOError(f"{shown(folder, 256)}: {problem}", code="config_missing", errno=2)
    part = language_part(config)
    return part or with_architecture(config), part is not None


def _open_static(root: str, base: str, *, strict: bool, inside: str | None) -> ModelSource:
    """A table and its tokenizer, which lie in `base`."""
    folder = os.path.join(root, base) if base else root
    data = read_file(os.path.join(folder, "tokenizer.json"), MAX_TOKENIZER_BYTES, inside=inside)
    _refuse_pickles_only(folder)
    checkpoint = safetensors_file.open_folder(folder, strict=strict, strict_paths=inside is not None)
    config = static_embeddings.config_of(checkpoint, os.path.join(base, safetensors_file.SINGLE_NAME))
    modules = read_modules(root, base, inside=inside)
    embedding, dense = _embedding(
        modules, {"model_max_length": static_embeddings.limit_of(data)}, "mean", checkpoint.warnings
    )
    return ModelSource(
        path=root,
        kind="folder",
        architecture="StaticEmbedding",
        module=static_embedding,
        config=config,
        checkpoint=checkpoint,
        tokenizer=TokenizerFiles(data, {}, {}, bare=True),
        chat_template=None,
        embedding=embedding,
        dense=dense,
    )


def _refuse_pickles_only(folder: str) -> None:
    names = (safetensors_file.SINGLE_NAME, safetensors_file.INDEX_NAME)
    if any(os.path.lexists(os.path.join(folder, name)) for name in names):
        return
    pickles = sorted(name for name in os.listdir(folder) if name.endswith(_PICKLE_SUFFIXES))
    if pickles:
        raise ModelUnsupportedError(
            f"{shown(folder, 256)}: only pickled weights ({shown(pickles[0])}), which can run code and "
            f"are never read; where transformers is installed this converts them, in a place where nothing "
            f"is at stake: {_CONVERSION}",
            code="pickle",
        )


def _tokenizer_files(
    folder: str, inside: str | None, model_type: str, warnings: list[str] | None = None
) -> TokenizerFiles:
    settings = {
        name: read_config(folder, name, inside=inside)
        for name in ("tokenizer_config.json", "special_tokens_map.json")
    }
    config, special = (dict(found.values) if found is not None else {} for found in settings.values())

    def read(name: str) -> bytes | None:
        path = os.path.join(folder, name)
        return read_file(path, MAX_TOKENIZER_BYTES, inside=inside) if os.path.lexists(path) else None

    data, named = read("tokenizer.json"), config.get("tokenizer_class")
    if (name := tokenizer_documents.class_of(config, model_type)) is not None:
        config["tokenizer_class"] = name
    if data is not None:
        if name == tokenizer_documents.JIEBA and named is not None and warnings is not None:
            warnings.append(f"tokenizer.json cuts texts, where transformers' {name} has jieba cut words")
        older = read("added_tokens.json")
        return TokenizerFiles(
            data, config, special, added_tokens=older and parse_json(older, "added_tokens.json")
        )
    try:
        made = tokenizer_documents.document(read, config, special, model_type)
    except TokenizerError as error:
        raise TokenizerError(f"{shown(folder, 256)}: {error}", code=error.code) from error
    return _files_of(made, config, special)


def _files_of(
    made: tokenizer_documents.Made, config: dict[str, Any], special: dict[str, Any]
) -> TokenizerFiles:
    make = made.written
    written = None if make is None else lambda: _files_of(make(), config, special)
    return TokenizerFiles(made.json, config, made.special | special, made.numbering, written, whole=True)


def _chat_template(folder: str, tokenizer_config: dict[str, Any], inside: str | None) -> str | None:
    """The chat template: chat_template.jinja if there is one, else tokenizer_config.json's `chat_template`.

    A list of named templates must hold one called "default", or only one. raises TemplateError otherwise
    """
    path = os.path.join(folder, "chat_template.jinja")
    if os.path.lexists(path):
        try:
            return read_file(path, MAX_TEMPLATE_BYTES, inside=inside).decode("utf-8")
        except UnicodeDecodeError as error:
            raise TemplateError(f"chat_template.jinja: byte {error.start} is not UTF-8") from error
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        if "default" in named:
            template = named["default"]
        elif len(named) == 1 == len(template):
            (template,) = named.values()
        else:
            raise TemplateError("tokenizer_config.json: several chat templates and none is called 'default'")
    if template is not None and not isinstance(template, str):
        raise TemplateError("tokenizer_config.json: chat_template is not a string")
    return template


def _embedding(
    modules: tuple[dict[str, Any], list[SentenceMap]] | None,
    tokenizer_config: dict[str, Any],
    pooling: str,
    warnings: list[str],
) -> tuple[dict[str, Any], list[SentenceMap]]:
    settings, dense = modules or ({"pooling": pooling, "normalize": False, "max_seq_length": None}, [])
    if settings["max_seq_length"] is None:
        # transformers writes 10^30 for "none"; anything above any context means the same.
        length = tokenizer_config.get("model_max_length")
        if (
            isinstance(length, int | float)
            and not isinstance(length, bool)
            and 1 <= length <= MAX_POSITIONS // 2
        ):
            settings["max_seq_length"] = int(length)
    if compared := settings.get("similarity_fn_name"):
        warnings.append(f"similarity_fn_name is {compared}; vectors are compared by their cosine here")
    return settings, dense


# ---- a GGUF file


def _gguf_source(path: str, metadata: Metadata, checkpoint: Checkpoint) -> ModelSource:
    name = metadata.get_str("general.architecture")
    experts = f"{name}.expert_count" in metadata and metadata.get_u32(f"{name}.expert_count") > 0
    module = gguf_architecture(name, metadata.what, experts=experts)
    with checkpoint:
        widen_tensors(checkpoint)
        config: Config = module.config_from_gguf(metadata, checkpoint)
    refuse_unread(metadata)
    n_vocab = config.integer("vocab_size", 1, MAX_VOCAB)
    ids = [metadata.get_u32(f"tokenizer.ggml.{key}_token_id", None) for key in ("eos", "eot", "eom")]
    if any(token_id is not None and token_id >= n_vocab for token_id in ids):
        raise ModelFormatError(
            f"{metadata.what}: an end-of-text token id is outside the vocabulary", code="config_value"
        )
    template = metadata.get_str("tokenizer.chat_template", None)
    if template is not None and len(template.encode()) > MAX_TEMPLATE_BYTES:
        raise TemplateError(f"{metadata.what}: tokenizer.chat_template exceeds {MAX_TEMPLATE_BYTES} bytes")
    return ModelSource(
        path=path,
        kind="gguf",
        architecture=name,
        module=module,
        config=config,
        checkpoint=checkpoint,
        tokenizer=metadata,
        chat_template=template,
        embedding=(module.embedding_from_gguf(metadata) if hasattr(module, "embedding_from_gguf") else None),
        eos_token_ids=tuple(dict.fromkeys(token_id for token_id in ids if token_id is not None)),
        decoder_start=(
            decoder_start_id(None, config, n_vocab) if "decoder_start_token_id" in config else None
        ),
    )
