"""Opening a model: from the packed cache if it is there, else from its own files, which fill the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from tuili.errors import TuiliError
from tuili.loading import gguf_index
from tuili.loading.files import StrPath
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.model import LoadedModel, LoadPlan, check_options, load, plan_model
from tuili.loading.model_source import TokenizerFiles
from tuili.loading.packed_cache import PackedCache, folder_of
from tuili.loading.tokenizers import cache as tokenizer_cache
from tuili.loading.tokenizers.tokenizer import LoadedTokenizer, from_gguf, from_huggingface

logger = logging.getLogger("tuili")


@dataclass
class OpenedModel:
    """A model in memory, its tokenizer, and its place in the packed cache, None if that is off."""

    loaded: LoadedModel
    tokenizer: LoadedTokenizer
    cache: PackedCache | None
    _plan: LoadPlan | None  # of a model that the cache did not hold

    @property
    def packing(self) -> str:
        """What became of the packed cache, in words."""
        return "off" if self.cache is None else self.cache.state

    def save(self) -> str:
        """Begin to fill the cache, if it did not hold the model; returns what `config` says of it."""
        if self.cache is None or self._plan is None:
            return self.packing
        source, self._plan = self._plan.source, None
        facts: dict[str, Any] = {"tokenizer": tokenizer_cache.facts_of(self.tokenizer)}
        if isinstance(source.tokenizer, Metadata):
            facts["gguf"] = gguf_index.to_index(source.tokenizer, source.checkpoint)

        def sections() -> Iterator[Any]:
            return tokenizer_cache.sections_of(self.tokenizer)

        return self.cache.save(self.loaded.model, facts, sections)

    def close(self) -> None:
        """Wait until the cache is filled."""
        if self.cache is not None:
            self.cache.wait()


def open_model(
    path: StrPath,
    *,
    packed_cache: bool,
    cache_dir: StrPath | None,
    progress: Callable[[int, int], None] | None,
    check_finite: bool,
    **options: Any,
) -> OpenedModel:
    """A model that is ready to run.

    options  those of `plan_model`. check_finite reads the model's own files, since it is their values that
             are asked about
    raises   what `plan_model`, `load`, `from_gguf` and `from_huggingface` raise; never because of the cache
    """
    check_options(*(options[name] for name in ("dtype", "compute", "quantization", "num_threads")))
    kinds = ("dtype", "quantization", "compute", "strict")
    cache = None
    folder_of(cache_dir)  # what is no folder's name is refused, also where nothing is kept
    if packed_cache and not check_finite and all(_is_plain(options[name]) for name in kinds):
        cache = PackedCache(path, cache_dir, {name: options[name] for name in kinds})
    try:
        found = _from_cache(path, cache, options) if cache is not None and cache.entry is not None else None
        if found is not None:
            if progress is not None:
                progress(1, 1)
            return found
        plan = plan_model(path, check_finite=check_finite, **options)
        loaded = load(plan, progress)
        return OpenedModel(loaded, _tokenizer(loaded), cache, plan)
    finally:
        if cache is not None:
            cache.close()


def _is_plain(option: object) -> bool:
    return option is None or isinstance(option, str | bool)


def _from_cache(path: StrPath, cache: PackedCache, options: dict[str, Any]) -> OpenedModel | None:
    """The model as the cache holds it, or None: then its files will say what is wrong with it, if it is."""
    assert cache.entry is not None
    facts = cache.entry.facts
    try:
        plan = plan_model(path, **options, packed=facts)
        model = cache.build(plan)
        if model is None:
            return None
        places = {name: cache.entry.section(name) for name in tokenizer_cache.SECTIONS}
        loaded = plan.finished(model)
        tokenizer = tokenizer_cache.restore(
            facts["tokenizer"], lambda name: model.mapped_range(*places[name]), lambda: _tokenizer(loaded)
        )
        return OpenedModel(loaded, tokenizer, cache, None)
    except (TuiliError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        cache.refuse(error)
        return None


def _tokenizer(loaded: LoadedModel) -> LoadedTokenizer:
    source, n_vocab = loaded.tokenizer, loaded.spec.n_vocab
    return from_files(source, n_vocab) if isinstance(source, TokenizerFiles) else from_gguf(source, n_vocab)


def from_files(files: TokenizerFiles, n_vocab: int | None = None) -> LoadedTokenizer:
    """The tokenizer of a Hugging Face folder, and of what the model writes. As `from_huggingface`."""
    made = from_huggingface(
        files.tokenizer_json,
        files.config,
        files.special_tokens,
        n_vocab=n_vocab,
        numbering=files.numbering,
        bare=files.bare,
        whole=files.whole,
        older=files.added_tokens,
    )
    written = files.written
    return made if written is None else replace(made, written=lambda: from_files(written(), n_vocab))
