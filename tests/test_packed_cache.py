"""The packed cache: the same bits with it and without, and nothing wrong with it ever ends a load (FS-13)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tuili
from interrupts import at_each_function
from tiny_files import gguf_metadata, gguf_tensors, write_gguf, write_gguf_file, write_hf_folder
from tiny_models import tiny_bert, tiny_gemma3, tiny_llama
from tuili import _core
from tuili.cli import main as cli
from tuili.errors import EngineOutOfMemoryError, InvalidParameterError, ModelFormatError
from tuili.loading import packed_cache
from tuili.loading.checkpoint import FORMATS
from tuili.loading.packed_cache import entries, folder_of, trim, verify
from tuili.loading.packed_file import PackedFile

OPTIONS: dict[str, Any] = {"num_threads": 1, "kv_cache_bytes": 1 << 20, "max_model_len": 64}
PINNED_LAYOUT = (2, "a63093f038df4f7a03af726ec78d49597d9f7f4af5bc2f92509e0f4a998d4683")
IDS = list(range(1, 40))
TEXT = "the river, 中文 and <|im_start|> words"


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    """Tiny models are cached too."""
    monkeypatch.setattr(packed_cache, "MIN_WEIGHT_BYTES", 0)


def load(path: Path, cache: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    """What `config` says of the cache, and everything that the model answers."""
    with tuili.LLM(path, cache_dir=cache, **OPTIONS, **options) as llm:
        state = llm.config.pop("packed_cache")
        answers: dict[str, Any] = {"config": json.dumps(llm.config, default=str), "memory": llm.memory}
        if llm.kind == "decoder":
            out = llm.generate(IDS, max_tokens=12, temperature=0).outputs[0]
            answers |= {"logits": llm.logits(IDS).tobytes(), "ids": out.token_ids, "text": out.text}
        else:
            answers["vectors"] = llm.embed([TEXT, "a"]).tobytes()
        tokens = llm.tokenizer
        ids = tokens.encode(TEXT)
        answers["tokens"] = ids, tokens.encode(TEXT, parse_special=False), tokens.decode(ids)
        answers["bytes"] = [tokens.token_bytes(i, first=first) for i in range(120) for first in (True, False)]
        answers["backends"] = [
            getattr(tokens.loaded, name).to_str() for name in ("backend", "plain", "plain_inner")
        ]
        answers["special"] = tokens.loaded.special, tokens.loaded.eos_ids, tokens.loaded.unk_id
    return state, answers


def only_file(cache: Path) -> Path:
    (path,) = (Path(entry.path) for entry in entries(folder_of(cache)))
    return path


def model_file(folder: Path) -> Path:
    return write_gguf(tiny_llama(), folder / "model.gguf")


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_mapped_model_answers_with_the_same_bits(tmp_path, format):
    path = write_gguf(tiny_llama(format=format), tmp_path / "model.gguf")
    off, expected = load(path, tmp_path, packed_cache=False)
    first, packed = load(path, tmp_path)
    second, mapped = load(path, tmp_path)
    assert off == "off" and first.startswith("being written") and second.startswith("read from")
    assert packed == expected and mapped == expected


@pytest.mark.parametrize("make", [tiny_llama, tiny_gemma3, tiny_bert])
@pytest.mark.parametrize("write", [write_hf_folder, write_gguf])
def test_so_does_every_kind_of_model_with_its_tokenizer(tmp_path, make, write):
    path = write(make(), tmp_path / "model.gguf")
    _, expected = load(path, tmp_path, packed_cache=False)
    load(path, tmp_path)
    state, mapped = load(path, tmp_path)
    assert state.startswith("read from") and mapped == expected


@pytest.mark.parametrize("narrow", ["bf16", "f16"])
def test_floats_that_fewer_bytes_hold_take_no_more(tmp_path, narrow):
    model = tiny_llama(format=narrow)
    for weight in model.weights.values():
        values = weight.values().astype(np.float32)
        weight.format, weight.rows = "f32", values.reshape(len(weight.rows), -1).view(np.uint8)
    one = model.weights["layers.1.up"]
    one.rows = (one.rows.view(np.float32) * np.float32(1.1)).view(np.uint8)
    path = write_hf_folder(model, tmp_path / "model")
    _, wide = load(path, tmp_path, dtype="float32")
    _, packed = load(path, tmp_path)
    state, mapped = load(path, tmp_path)
    formats = json.loads(packed["config"])["weight_bytes"]
    assert state.startswith("read from") and mapped == packed
    assert formats[narrow] > formats["f32"] > one.rows.nbytes
    assert all(packed[name] == wide[name] for name in ("logits", "ids", "text"))


def test_a_cached_tokenizer_is_not_read_for_token_ids(tmp_path, monkeypatch):
    path = model_file(tmp_path)
    load(path, tmp_path)
    from tokenizers import Tokenizer

    with tuili.LLM(path, cache_dir=tmp_path, **OPTIONS) as llm:
        backends = llm.tokenizer.loaded.backends
        assert llm.generate(IDS, max_tokens=4).outputs[0].text
        assert backends._made is None
        llm.tokenizer.encode("a")
        assert isinstance(backends._made.backend, Tokenizer)


def split_gguf(folder: Path, seed: int) -> Path:
    """A model in two parts; returns the first."""
    model = tiny_llama(seed=seed)
    tensors = list(gguf_tensors(model).items())
    paths = [folder / f"model-0000{no}-of-00002.gguf" for no in (1, 2)]
    for no, path in enumerate(paths):
        split = {"split.no": np.uint16(no), "split.count": np.uint16(2)}
        split["split.tensors.count"] = np.int32(len(tensors))
        own = dict(tensors[:5] if no == 0 else tensors[5:])
        write_gguf_file(path, gguf_metadata(model) | split, own)
    return paths[0]


def test_a_model_in_parts_is_known_by_all_of_them(tmp_path):
    path = split_gguf(tmp_path, seed=1)
    _, expected = load(path, tmp_path)
    assert load(path, tmp_path) == (f"read from {only_file(tmp_path)}", expected)
    first = path.read_bytes(), path.stat()
    split_gguf(tmp_path, seed=2)
    path.write_bytes(first[0])  # the first part is the old one again; the second has changed
    os.utime(path, ns=(first[1].st_atime_ns, first[1].st_mtime_ns))
    state, other = load(path, tmp_path)
    assert state.startswith("being written") and other["logits"] != expected["logits"]


def test_a_model_is_the_same_by_whatever_path(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    path = model_file(tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    _, relative = load(Path("models/model.gguf"), tmp_path)
    monkeypatch.chdir("/")
    state, absolute = load(path, tmp_path)
    assert state.startswith("read from") and absolute["logits"] == relative["logits"]
    assert json.loads(absolute["config"])["path"] == str(path)


@pytest.mark.parametrize(
    "options", [{"dtype": "bfloat16"}, {"quantization": "int8"}, {"compute": "float32"}, {"strict": False}]
)
def test_options_have_files_of_their_own(tmp_path, options):
    path = write_gguf(tiny_llama(format="f32"), tmp_path / "model.gguf")
    load(path, tmp_path)
    state, expected = load(path, tmp_path, **options)
    assert state.startswith("being written")
    state, mapped = load(path, tmp_path, **options)
    assert state.startswith("read from") and mapped == expected
    assert len(entries(folder_of(tmp_path))) == 2


def test_check_finite_reads_the_files_themselves(tmp_path):
    path = model_file(tmp_path)
    load(path, tmp_path)
    assert load(path, tmp_path, check_finite=True)[0] == "off"


# --- what is wrong with a file


def flip(data: bytearray, at: int) -> bytearray:
    data[at] ^= 0x10
    return data


DAMAGES = {
    "empty": lambda data: bytearray(),
    "garbage": lambda data: bytearray(os.urandom(len(data))),
    "magic": lambda data: flip(data, 0),
    "layout": lambda data: flip(data, 8),
    "header's place": lambda data: flip(data, 17),
    "header's length": lambda data: flip(data, 25),
    "length": lambda data: flip(data, 33),
    "header's sum": lambda data: flip(data, 50),
    "header": lambda data: flip(data, len(data) - 5),
    "short by one": lambda data: data[:-1],
    "half": lambda data: data[: len(data) // 2],
    "preamble only": lambda data: data[:60],
    "long": lambda data: data + b"x",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_packed_anew(tmp_path, caplog, damage):
    path = model_file(tmp_path)
    _, expected = load(path, tmp_path)
    file = only_file(tmp_path)
    file.write_bytes(damage(bytearray(file.read_bytes())))
    assert verify(str(file)) is not None
    state, answers = load(path, tmp_path)
    assert state.startswith("being written") and answers == expected
    assert "packed cache" in caplog.text
    assert verify(str(file)) is None and load(path, tmp_path)[0].startswith("read from")


def edit_header(file: Path, change: Any) -> None:
    """Change the header's JSON and make its sum right, as only a bug or an enemy would."""
    import struct

    data = bytearray(file.read_bytes())
    begin = int.from_bytes(data[16:24], "little")
    document = json.loads(data[begin:])
    change(document)
    header = json.dumps(document).encode()
    start = struct.pack("<QQQ32s", begin, len(header), begin + len(header), hashlib.sha256(header).digest())
    data[16 : 16 + len(start)] = start
    file.write_bytes(data[:begin] + header)


CHANGES = {
    "a tensor past the end": lambda d: d["tensors"][0].__setitem__(2, 1 << 40),
    "a negative begin": lambda d: d["tensors"][0].__setitem__(2, -64),
    "not aligned": lambda d: d["tensors"][0].__setitem__(2, d["tensors"][0][2] + 4),
    "a wrong length": lambda d: d["tensors"][0].__setitem__(3, d["tensors"][0][3] + 64),
    "a length that wraps": lambda d: d["tensors"][0].__setitem__(3, 1 << 70),
    "another format": lambda d: d["tensors"][0].__setitem__(1, "q4_0"),
    "no such format": lambda d: d["tensors"][0].__setitem__(1, "q9"),
    "an unknown tensor": lambda d: d["tensors"][0].__setitem__(0, "x"),
    "a tensor twice": lambda d: d["tensors"].append(d["tensors"][0]),
    "a tensor missing": lambda d: d["tensors"].pop(),
    "no tensors": lambda d: d.pop("tensors"),
    "no tokenizer": lambda d: d["facts"].pop("tokenizer"),
    "too few tokens": lambda d: d["facts"]["tokenizer"].__setitem__("n_vocab", 3),
    "a section past the end": lambda d: d["sections"]["token_ends"].__setitem__(0, 1 << 40),
    "no section": lambda d: d["sections"].clear(),
    "no index": lambda d: d["facts"]["gguf"].clear(),
    "other files": lambda d: d["facts"]["files"].append(["x", 1, 2, 3]),
    "another build": lambda d: d["facts"]["core"].__setitem__(0, 1),
    "a list": lambda d: d.__setitem__("facts", []),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_header_that_lies_is_never_believed(tmp_path, change):
    path = model_file(tmp_path)
    _, expected = load(path, tmp_path)
    edit_header(only_file(tmp_path), change)
    state, answers = load(path, tmp_path)
    assert state.startswith("being written") and answers == expected


def test_a_changed_model_is_packed_anew_in_the_same_file(tmp_path):
    path = write_gguf(tiny_llama(seed=1), tmp_path / "model.gguf")
    _, old = load(path, tmp_path)
    write_gguf(tiny_llama(seed=2), path)
    state, new = load(path, tmp_path)
    assert state.startswith("being written") and new["logits"] != old["logits"]
    assert load(path, tmp_path) == (f"read from {only_file(tmp_path)}", new)


def test_a_changed_tokenizer_counts_as_a_changed_model(tmp_path):
    path = write_hf_folder(tiny_llama(), tmp_path / "llama")
    load(path, tmp_path)
    (path / "special_tokens_map.json").write_text('{"unk_token": null}')
    assert load(path, tmp_path)[0].startswith("being written")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused(tmp_path, mode):
    path = model_file(tmp_path)
    load(path, tmp_path)
    assert only_file(tmp_path).stat().st_mode & 0o777 == 0o600
    only_file(tmp_path).chmod(mode)
    assert load(path, tmp_path)[0].startswith("being written")
    assert only_file(tmp_path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("make", ["symlink", "fifo", "folder"])
def test_what_is_not_a_file_is_refused(tmp_path, make):
    path = model_file(tmp_path)
    load(path, tmp_path)
    file = only_file(tmp_path)
    file.rename(tmp_path / "elsewhere")
    if make == "symlink":
        file.symlink_to(tmp_path / "elsewhere")
    elif make == "fifo":
        os.mkfifo(file)
    else:
        file.mkdir()
    assert load(path, tmp_path)[0].startswith("being written")


def test_where_nothing_can_be_mapped_the_files_are_read(tmp_path, monkeypatch, caplog):
    """FS-10: mmap fails for want of address space."""
    path = model_file(tmp_path)
    _, expected = load(path, tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise EngineOutOfMemoryError("cannot map")

    monkeypatch.setattr(packed_cache, "_map", fail)
    state, answers = load(path, tmp_path)
    assert state.startswith("being written") and answers == expected
    assert "cannot map" in caplog.text


# --- where nothing can be written


def state_after(path: Path, cache: Path) -> str:
    with tuili.LLM(path, cache_dir=cache, **OPTIONS) as llm:
        assert llm.generate(IDS, max_tokens=2).outputs[0].token_ids
        llm._opened.close()
        return llm._opened.packing


def test_a_folder_that_cannot_be_made_is_a_line_in_the_log(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert state_after(model_file(tmp_path), tmp_path / "file").startswith("not written")
    assert "packed cache" in caplog.text


@pytest.mark.parametrize("call", ["makedirs", "open", "pwrite", "fdatasync", "rename"])
def test_a_full_or_read_only_disk_is_a_line_in_the_log(tmp_path, caplog, monkeypatch, call):
    path, original = model_file(tmp_path), getattr(os, call)

    def fail(first: Any, *rest: Any, **more: Any) -> Any:
        if call == "open" and not (rest and rest[0] & os.O_CREAT):
            return original(first, *rest, **more)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    assert state_after(path, tmp_path) == "not written: No space left on device"
    assert "packed cache" in caplog.text
    assert not list(tmp_path.glob("packed/*")) + list(tmp_path.glob("packed/.*"))


def test_a_disk_that_is_nearly_full_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(packed_cache, "RESERVE_BYTES", 1 << 62)
    assert "are free" in state_after(model_file(tmp_path), tmp_path)


def test_a_file_that_changes_meanwhile_is_not_written_down(tmp_path, monkeypatch):
    path, write = model_file(tmp_path), packed_cache.write

    def write_late(*arguments: Any) -> int:
        os.utime(path, ns=(1, 1))
        return write(*arguments)

    monkeypatch.setattr(packed_cache, "write", write_late)
    assert "changed meanwhile" in state_after(path, tmp_path)
    assert not entries(folder_of(tmp_path))


# --- the folder as a whole


def test_the_least_recently_used_files_go_first(tmp_path, monkeypatch):
    folder = folder_of(tmp_path)
    paths = [write_gguf(tiny_llama(seed=i), tmp_path / f"{i}.gguf") for i in range(3)]
    for path in paths[:2]:
        load(path, tmp_path)
        time.sleep(0.02)
    load(paths[0], tmp_path)  # now the second is the older one
    size = entries(folder)[0].n_bytes
    monkeypatch.setattr(packed_cache, "MAX_BYTES", int(size * 2.5))
    load(paths[2], tmp_path)
    assert [entry.facts["model"] for entry in entries(folder)] == [str(paths[2]), str(paths[0])]
    monkeypatch.setattr(packed_cache, "MAX_BYTES", size // 2)
    assert "the limit is" in state_after(paths[1], tmp_path)


def test_unfinished_files_go_when_nobody_can_be_writing_them(tmp_path):
    folder = Path(folder_of(tmp_path))
    folder.mkdir()
    old, new, foreign = (folder / name for name in (f".{'0' * 32}-1-2.tmp", f".{'1' * 32}-1-2.tmp", "mine"))
    for path in (old, new, foreign):
        path.write_text("x")
    os.utime(old, (1, 1))
    trim(str(folder), 0)
    assert not old.exists() and new.exists() and foreign.exists()


def test_verify_finds_any_flipped_byte(tmp_path):
    load(model_file(tmp_path), tmp_path)
    file = only_file(tmp_path)
    good = file.read_bytes()
    assert verify(str(file)) is None
    used = [*range(72), *np.random.default_rng(0).integers(72, len(good), 150).tolist()]
    for at in used:
        file.write_bytes(flip(bytearray(good), at))
        assert verify(str(file)) is not None, f"byte {at} of {len(good)}"


def test_the_command_lists_verifies_and_clears(tmp_path, capsys):
    load(model_file(tmp_path), tmp_path)
    file = only_file(tmp_path)
    arguments = ["--cache-dir", str(tmp_path)]
    assert cli.main(["cache", *arguments]) == 0
    assert "model.gguf" in capsys.readouterr().out
    assert cli.main(["cache", "verify", *arguments]) == 0
    assert "ok" in capsys.readouterr().out
    data = bytearray(file.read_bytes())
    file.write_bytes(flip(data, 5000))
    assert cli.main(["cache", "verify", "--json", *arguments]) == 1
    (found,) = json.loads(capsys.readouterr().out)["files"]
    assert found["path"] == str(file) and "damaged" in found["problem"]
    assert cli.main(["cache", "clear", *arguments]) == 0
    assert "1 files removed" in capsys.readouterr().out
    assert not file.exists()


# --- processes

CHILD = """
import sys, hashlib
import tuili
from tuili.loading import packed_cache
packed_cache.MIN_WEIGHT_BYTES = 0
for _ in range(3):
    with tuili.LLM(sys.argv[1], cache_dir=sys.argv[2], num_threads=1, kv_cache_bytes=1 << 20) as llm:
        print(hashlib.sha256(llm.logits(list(range(1, 40))).tobytes()).hexdigest(), flush=True)
"""


def test_four_processes_that_write_and_read_at_once_agree(tmp_path):
    path = model_file(tmp_path)
    command = [sys.executable, "-W", "error", "-c", CHILD, str(path), str(tmp_path)]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    ends = [child.communicate(timeout=120) for child in children]
    assert {line for out, _ in ends for line in out.split()} and not any(err for _, err in ends), ends
    assert len({line for out, _ in ends for line in out.split()}) == 1
    assert verify(str(only_file(tmp_path))) is None
    assert [entry.name for entry in os.scandir(folder_of(tmp_path))] == [only_file(tmp_path).name]


def test_a_model_outlives_its_file(tmp_path):
    path = model_file(tmp_path)
    load(path, tmp_path)
    with tuili.LLM(path, cache_dir=tmp_path, **OPTIONS) as llm:
        assert trim(folder_of(tmp_path), 0)
        assert llm.generate("the river", max_tokens=4).outputs[0].token_ids


def test_ctrl_c_at_any_moment_leaves_no_descriptor(tmp_path):
    path = model_file(tmp_path)
    load(path, tmp_path)
    file, before = str(only_file(tmp_path)), os.listdir("/proc/self/fd")

    def opened() -> None:
        with PackedFile(file):
            pass

    for n_calls in at_each_function(opened):
        assert os.listdir("/proc/self/fd") == before, f"after {n_calls} functions"
    assert n_calls > 5, "the trace saw nothing"


# --- the core's part


def test_a_changed_layout_has_a_new_version(tmp_path):
    """These bytes are what files of this version hold: count kPackedLayoutVersion up, then change the sum."""
    found = hashlib.sha256()
    for format in sorted(FORMATS):
        with tuili.LLM(
            write_gguf(tiny_llama(format=format), tmp_path / "model.gguf"), packed_cache=False, **OPTIONS
        ) as llm:
            for name, kind, data in llm.loaded.model.packed_tensors():
                found.update(f"{name} {kind} {len(data)}".encode() + data.tobytes())
    assert (_core.PACKED_LAYOUT_VERSION, found.hexdigest()) == PINNED_LAYOUT


def test_the_core_checks_what_it_maps(tmp_path):
    load(model_file(tmp_path), tmp_path)
    with (
        PackedFile(str(only_file(tmp_path))) as file,
        tuili.LLM(tmp_path / "model.gguf", cache_dir=tmp_path, **OPTIONS) as llm,
    ):
        builder = _core.ModelBuilder(llm.loaded.spec)
        name, format, begin, n_bytes = file.tensors[0]
        with pytest.raises(ModelFormatError):
            builder.place(name, format, begin, n_bytes)  # nothing is mapped yet
        with pytest.raises(ModelFormatError):
            builder.map(file.fd, file.n_bytes + 1)
        builder.map(file.fd, file.n_bytes)
        with pytest.raises(InvalidParameterError):
            builder.map(file.fd, file.n_bytes)
        last = file.n_bytes // 64 * 64
        for wrong in ((last, n_bytes), (begin + 1, n_bytes), (begin, n_bytes - 64), (-64, n_bytes)):
            with pytest.raises(ModelFormatError):
                builder.place(name, format, *wrong)
        model = llm.loaded.model
        for begin, n_bytes in ((-1, 1), (file.n_bytes, 1), (0, file.n_bytes + 1), (1 << 62, 1 << 62)):
            with pytest.raises(ModelFormatError):
                model.mapped_range(begin, n_bytes)
        assert not model.mapped_range(0, 8).flags.writeable


@pytest.mark.parametrize("cache_dir", [5, b"cache", "a\0b", ""])
@pytest.mark.parametrize("packed_cache", [True, False])
def test_a_cache_folder_that_is_none_is_refused_also_if_it_is_not_used(tmp_path, cache_dir, packed_cache):
    path = write_hf_folder(tiny_llama(), tmp_path / "llama")
    with pytest.raises(InvalidParameterError, match="cache_dir") as refused:
        tuili.LLM(path, num_threads=1, packed_cache=packed_cache, cache_dir=cache_dir)
    assert refused.value.param == "cache_dir"
