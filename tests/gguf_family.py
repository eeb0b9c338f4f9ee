"""How a class of config.json becomes a GGUF architecture (gguf_families.py has them all)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gguf
import numpy as np

from architecture_table import CASES, Case

Tensors = dict[str, np.ndarray]
Values = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Family:
    """How a class of config.json becomes a GGUF architecture.

    tried     settings that are tried, on top of those of the class's first case
    settings  writes the keys that are this family's own
    stored    what becomes of the tensors besides
    alone     cases that llama.cpp does not load, or computes in another way, and why
    turned    whether rows of query and key are stored as pairs
    raised    whether 1 is added to norms
    """

    architecture: str
    arch: gguf.MODEL_ARCH
    tried: tuple[Values, ...] = ({},)
    settings: Callable[[gguf.GGUFWriter, Values], None] = lambda writer, config: None
    stored: Callable[[Tensors, Values], Tensors] = lambda tensors, config: tensors
    alone: Mapping[int, str] = dataclasses.field(default_factory=dict)
    turned: bool = False
    raised: bool = False

    def cases(self) -> Iterator[Case]:
        first = next(case for case in CASES if case.architecture == self.architecture)
        for number, settings in enumerate(self.tried):
            config = first.config | settings
            leave_out = config.pop("leave_out", first.leave_out)
            yield dataclasses.replace(first, config=config, tries=f"{number}", leave_out=leave_out)
