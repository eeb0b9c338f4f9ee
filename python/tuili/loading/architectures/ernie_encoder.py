"""ERNIE 1.0 to 3.0: BERT with a table of tasks, of which every text has the first one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuili.errors import ModelFormatError, ModelUnsupportedError
from tuili.loading.architectures import bert
from tuili.loading.architectures.bert import SECOND_NAMES as SECOND_NAMES
from tuili.loading.architectures.bert import spec as spec
from tuili.loading.checkpoint import FLOATS, Bytes, Checkpoint, TensorInfo
from tuili.loading.config import MAX_MODEL, Config
from tuili.loading.weights import to_float32

IGNORED_TENSORS = (r"(ernie\.)?embeddings\.position_ids", r"(ernie\.)?pooler\..*", r"cls\..*")
_TASKS, _TYPES = ("embeddings.task_type_embeddings.weight", "embeddings.token_type_embeddings.weight")


def tensor_names(config: Config) -> dict[str, str]:
    """BERT's, behind another prefix."""
    names = bert.tensor_names(config)
    return {
        f"ernie.{theirs[5:]}" if theirs.startswith("bert.") else theirs: ours
        for theirs, ours in names.items()
    }


@dataclass(frozen=True)
class _Typed:
    """The rows of token types with the first task's added, in float32, a checkpoint's `Derived`."""

    sources: tuple[TensorInfo, TensorInfo]

    def read(self, checkpoint: Checkpoint, begin: int, n_bytes: int) -> Bytes:
        types, tasks = (
            to_float32(checkpoint.read_stored(one, 0, one.n_bytes), one.format).reshape(one.shape)
            for one in self.sources
        )
        with np.errstate(over="ignore", invalid="ignore"):  # seen where it is asked for
            rows: NDArray[np.float32] = types + tasks[0]
        return rows.view(np.uint8).reshape(-1)[begin : begin + n_bytes]


def derive(checkpoint: Checkpoint, config: Config) -> None:
    """Show the table of token types with the task's row in it, since every token has one of each."""
    if not config.flag("use_task_id", False):
        return
    width = config.integer("hidden_size", 1, MAX_MODEL)
    n_rows = {
        _TYPES: config.integer("type_vocab_size", 1, 1024, 2),
        _TASKS: config.integer("task_type_vocab_size", 1, 1024, 3),
    }
    types, tasks = (_table(checkpoint, config, name, (n, width)) for name, n in n_rows.items())
    size = 4 * types.shape[0] * width
    derived = TensorInfo(types.name, "f32", types.shape, types.offset, size, types.part)
    checkpoint.replace(derived, _Typed((types, tasks)))


def _table(checkpoint: Checkpoint, config: Config, name: str, shape: tuple[int, int]) -> TensorInfo:
    found = checkpoint.tensors.get(f"ernie.{name}") or checkpoint.tensors.get(name)
    if found is None:
        raise ModelFormatError(
            f"{config.what}: tensor {name} {list(shape)} is missing", code="tensor_missing"
        )
    if found.shape != shape:
        raise ModelFormatError(
            f"{config.what}: tensor {found.name} has shape {list(found.shape)}, the configuration asks for "
            f"{list(shape)}",
            code="tensor_shape",
        )
    if found.format not in FLOATS:
        raise ModelUnsupportedError(
            f"{config.what}: tensor {found.name} must be stored as f32, f16 or bf16, not {found.format}",
            code="tensor_dtype",
        )
    return found
