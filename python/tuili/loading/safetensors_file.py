"""Reader of safetensors headers (https://github.com/huggingface/safetensors, "Format"), one file or sharded.

A file is `u64 N`, N bytes of JSON, then the data, which the tensors must cover exactly: no hole, no overlap,
nothing behind. Strict, because a file that two programs understand differently is how attacks are hidden.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import cast

from tuili.errors import ModelFormatError, ModelLimitError, ModelPathError, ModelUnsupportedError
from tuili.loading.checkpoint import Checkpoint, TensorInfo
from tuili.loading.files import RegularFile, open_regular, parse_json, read_file, shown

# The format allows 100 MB; real headers stay below 2 MB, and parsed JSON takes up to 30 times its size.
MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 65_536
MAX_NAME_BYTES = 4096
MAX_METADATA_BYTES = 1 << 20
MAX_DIMS = 8
MAX_INDEX_BYTES = 16 << 20

# Bits per element of every dtype of the format. Those that are not also in _FORMATS may be in a file, but not
# be used.
_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
_FORMATS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}


def read_header(
    file: RegularFile, *, strict: bool = True, warnings: list[str] | None = None
) -> list[TensorInfo]:
    """Every tensor of one safetensors file, in the order of their data.

    strict   False tolerates holes and bytes behind the last tensor, with a line in `warnings`
    raises   ModelFormatError, ModelLimitError, ModelUnsupportedError; nothing larger than the header is
             allocated
    """
    what = shown(file.path, 256)
    if file.size < 8:
        raise ModelFormatError(
            f"{what}: {file.size} bytes; a safetensors file has at least 8", code="header_too_small"
        )
    n_header = int.from_bytes(file.pread(8, 0), "little")
    if n_header > MAX_HEADER_BYTES:
        raise ModelLimitError(
            f"{what}: byte 0: header of {n_header} bytes; the limit is {MAX_HEADER_BYTES}",
            code="header_too_large",
        )
    if n_header > file.size - 8:
        raise ModelFormatError(
            f"{what}: byte 0: header of {n_header} bytes in a file of {file.size}", code="header_exceeds_file"
        )
    if n_header < 2:
        raise ModelFormatError(f"{what}: byte 0: header of {n_header} bytes", code="header_too_small")
    header = bytes(file.pread(n_header, 8))
    file.check_unchanged()
    if header[0] != ord("{") or not header.rstrip(b" ").endswith(b"}"):
        raise ModelFormatError(
            f"{what}: byte 8: the header must be a JSON object, padded with spaces only",
            code="header_not_object",
        )
    # A tensor is one object and two arrays in at least 45 bytes.
    max_containers = min(3 * MAX_TENSORS, n_header // 15) + 2
    entries = cast(dict[str, object], parse_json(header, what, max_depth=8, max_containers=max_containers))
    _check_metadata(entries.pop("__metadata__", {}), what)
    begin = 8 + n_header
    tensors = [_tensor(name, entry, begin, file.size, what) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.n_bytes))
    for problem in _gaps(tensors, begin, file.size, what):
        if strict:
            raise ModelFormatError(f"{problem}; strict=False accepts that", code="data_not_covered")
        if warnings is not None:
            warnings.append(problem)
    return tensors


def _check_metadata(metadata: object, what: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelFormatError(f"{what}: __metadata__ must map strings to strings", code="metadata_type")
    if (
        len(metadata) > 1024
        or sum(len(key) + len(value) for key, value in metadata.items()) > MAX_METADATA_BYTES
    ):
        raise ModelLimitError(
            f"{what}: __metadata__ exceeds 1024 entries or {MAX_METADATA_BYTES} characters",
            code="metadata_too_large",
        )


def _tensor(name: str, entry: object, begin: int, file_size: int, what: str) -> TensorInfo:
    """One entry of the header, whose data must lie between `begin` and the end of the file."""

    def wrong(message: str, field: str) -> ModelFormatError:
        return ModelFormatError(f"{what}: tensor '{shown(name)}': {message}", code=f"tensor_{field}")

    if not 0 < len(name.encode()) <= MAX_NAME_BYTES:
        raise ModelLimitError(
            f"{what}: tensor '{shown(name)}': a name has 1 to {MAX_NAME_BYTES} bytes", code="tensor_name"
        )
    if not name.isprintable():
        raise wrong("control characters in the name", "name")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise wrong("it must have dtype, shape and data_offsets, nothing else", "entry")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str):
        raise wrong(f"dtype is not a string: {shown(dtype)}", "dtype")
    if dtype not in _DTYPE_BITS:
        raise ModelUnsupportedError(
            f"{what}: tensor '{shown(name)}': unknown dtype '{shown(dtype)}'", code="tensor_dtype"
        )
    for field, values in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(values, list) or not all(type(item) is int and item >= 0 for item in values):
            raise wrong(f"{field} must be a list of non-negative integers, not {shown(values)}", field)
    if len(shape) > MAX_DIMS:
        raise wrong(f"{len(shape)} dimensions; the limit is {MAX_DIMS}", "shape")
    n_bits = _DTYPE_BITS[dtype]
    for dim in shape:
        # Partial products count even if a later dimension is 0: what cannot be represented is refused.
        n_bits *= dim or 1
        if n_bits >= 1 << 63:
            raise wrong(f"shape {shown(shape)} is larger than any file", "shape")
    if 0 in shape:
        n_bits = 0
    if n_bits % 8:
        raise wrong(f"{n_bits} bits are not whole bytes", "shape")
    if len(offsets) != 2 or not offsets[0] <= offsets[1] <= file_size - begin:
        raise wrong(
            f"data_offsets {shown(offsets)} are not a range in the {file_size - begin} bytes of data",
            "offsets",
        )
    if (offsets[1] - offsets[0]) * 8 != n_bits:
        raise wrong(
            f"{dtype} {shown(shape)} takes {n_bits // 8} bytes, data_offsets span {offsets[1] - offsets[0]}",
            "size",
        )
    return TensorInfo(name, _FORMATS.get(dtype, dtype), tuple(shape), begin + offsets[0], n_bits // 8)


def _gaps(tensors: list[TensorInfo], begin: int, end: int, what: str) -> Iterator[str]:
    """Each hole of the data, and the bytes behind it, as a sentence; an overlap is an error at once."""
    at = begin
    for tensor in tensors:
        if tensor.offset < at:
            raise ModelFormatError(
                f"{what}: tensor '{shown(tensor.name)}' at byte {tensor.offset} overlaps the one before, "
                f"which ends at {at}",
                code="tensor_overlap",
            )
        if tensor.offset > at:
            yield f"{what}: bytes {at} to {tensor.offset} belong to no tensor"
        at = tensor.offset + tensor.n_bytes
    if at < end:
        yield f"{what}: {end - at} bytes follow the last tensor"


# ---- a folder

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


def open_folder(folder: str, *, strict: bool = True, strict_paths: bool = False) -> Checkpoint:
    """The checkpoint of a Hugging Face folder: model.safetensors, or the shards that the index names."""
    checkpoint = Checkpoint(inside=folder if strict_paths else None)
    index_path = os.path.join(folder, INDEX_NAME)
    single_path = os.path.join(folder, SINGLE_NAME)
    if os.path.lexists(single_path) or not os.path.lexists(index_path):
        with open_regular(single_path, inside=checkpoint.inside) as file:
            checkpoint.add_part(file, read_header(file, strict=strict, warnings=checkpoint.warnings))
        if os.path.lexists(index_path):
            checkpoint.warnings.append(f"{INDEX_NAME} is ignored, since there is a {SINGLE_NAME}")
        return checkpoint
    weight_map, total = _weight_map(index_path, checkpoint)
    for shard in sorted(set(weight_map.values())):
        with open_regular(os.path.join(folder, shard), inside=checkpoint.inside) as file:
            tensors = read_header(file, strict=strict, warnings=checkpoint.warnings)
            for tensor in tensors:
                if tensor.name not in weight_map:
                    raise ModelFormatError(
                        f"{shown(shard)} holds tensor '{shown(tensor.name)}', which {INDEX_NAME} does "
                        f"not list",
                        code="index_tensor",
                    )
            checkpoint.add_part(file, tensors)
    for name, shard in weight_map.items():
        found = checkpoint.tensors.get(name)
        if found is None or os.path.basename(checkpoint.parts[found.part].path) != shard:
            raise ModelFormatError(
                f"{INDEX_NAME} places tensor '{shown(name)}' in {shown(shard)}, which does not hold it",
                code="index_tensor",
            )
    n_bytes = sum(tensor.n_bytes for tensor in checkpoint.tensors.values())
    if total is not None and total != n_bytes:
        checkpoint.warnings.append(
            f"{INDEX_NAME}: total_size is {shown(total)}, the tensors take {n_bytes} bytes"
        )
    return checkpoint


def _weight_map(path: str, checkpoint: Checkpoint) -> tuple[dict[str, str], object]:
    """The index's map from tensor to file name, and its claim of the total size."""
    data = read_file(path, MAX_INDEX_BYTES, inside=checkpoint.inside)
    if data.count(b".safetensors") > MAX_TENSORS:
        raise ModelLimitError(f"{INDEX_NAME}: more than {MAX_TENSORS} tensors", code="too_many_tensors")
    index = parse_json(data, INDEX_NAME, max_depth=8, max_containers=1024)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFormatError(
            f"{INDEX_NAME}: weight_map is missing, empty or not an object", code="index_map"
        )
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise ModelFormatError(
                f"{INDEX_NAME}: weight_map['{shown(name)}'] is not a string", code="index_map"
            )
        # A file name and nothing else: no separator, drive, parent folder or control character.
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,243}\.safetensors", shard):
            raise ModelPathError(
                f"{INDEX_NAME}: weight_map['{shown(name)}'] is '{shown(shard)}', not a plain "
                f"*.safetensors name",
                code="shard_name",
            )
    metadata = index.get("metadata") if isinstance(index, dict) else None
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return cast(dict[str, str], weight_map), total
