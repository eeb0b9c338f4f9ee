"""Settings files of a model folder, read strictly: config.json and those beside it.

No arithmetic on a value happens before its getter has checked type and range.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

# The core's limits, which it checks again; here the error can name the key.
from tuili._core import MAX_EXPERTS as MAX_EXPERTS
from tuili._core import MAX_HEAD_DIM as MAX_HEAD_DIM
from tuili._core import MAX_HEADS as MAX_HEADS
from tuili._core import MAX_INNER as MAX_INNER
from tuili._core import MAX_LAYERS as MAX_LAYERS
from tuili._core import MAX_MODEL as MAX_MODEL
from tuili._core import MAX_POSITIONS as MAX_POSITIONS
from tuili._core import MAX_VOCAB as MAX_VOCAB
from tuili.errors import ModelFormatError, ModelLimitError, ModelUnsupportedError
from tuili.loading.files import parse_json, read_file, shown

MAX_CONFIG_BYTES = 4 << 20
MAX_EOS_IDS = 64

_REQUIRED: Any = object()


class Config:
    """Typed access to one JSON object of settings.

    Each getter takes a key, a range, and a default for when the key is absent or null; without default that
    is an error. `defaults` collects the defaults taken, for `llm.config`. `names` says how the file itself
    spells a key, for error messages (GGUF). `head` is the kind of the model's task head (heads.py), `tensors`
    the names of what the files hold, `max_model_len` the longest text that was asked for; `longrope` becomes
    which of its factors count (rope.py), `asked` the keys that were asked for, `warnings` what settings
    have no effect.
    raises  ModelFormatError (config_key, config_type, config_value) naming file, key and value
    """

    def __init__(self, values: Mapping[str, Any], what: str, names: Mapping[str, str] | None = None) -> None:
        self.values = values
        self.what = what
        self.names = names or {}
        self.defaults: dict[str, Any] = {}
        self.head: str | None = None
        self.tensors: Collection[str] = ()
        self.max_model_len: int | None = None
        self.longrope: str | None = None
        self.asked: set[str] = set()
        self.warnings: list[str] = []

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def fill(self, usual: Mapping[str, float]) -> None:
        """Take `usual` for the settings that the file does not mention; one that is null stays null."""
        missing = {key: value for key, value in usual.items() if key not in self.values}
        self.update(**missing)
        self.defaults.update(missing)

    def update(self, **values: Any) -> None:
        """Take `values` in the place of what the file says; the object that was read from it stays."""
        self.values = {**self.values, **values}

    def _get(self, key: str, default: Any) -> Any:
        self.asked.add(key)
        value = self.values.get(key)
        if value is None:
            if default is _REQUIRED:
                raise ModelFormatError(
                    f"{self.what}: {self.names.get(key, key)} is missing", code="config_key"
                )
            self.defaults[key] = default
        return value

    def wrong(self, key: str, expected: str, *, code: str = "config_value") -> ModelFormatError:
        """The error that says what `key` should have been."""
        name, value = self.names.get(key, key), shown(self.values.get(key))
        return ModelFormatError(f"{self.what}: {name} must be {expected}, not {value}", code=code)

    def integer(self, key: str, low: int, high: int, default: Any = _REQUIRED) -> Any:
        """An int in [low, high]; floats, strings and booleans are refused."""
        value = self._get(key, default)
        if value is None:
            return default
        if type(value) is not int:
            raise self.wrong(key, "an integer", code="config_type")
        if not low <= value <= high:
            raise self.wrong(key, f"{low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, default: Any = _REQUIRED) -> Any:
        """A finite float in [low, high]; an int is taken as float."""
        value = self._get(key, default)
        if value is None:
            return default
        if type(value) not in (int, float):
            raise self.wrong(key, "a number", code="config_type")
        if not low <= value <= high:  # also refuses not-a-number
            raise self.wrong(key, f"{low} to {high}")
        return float(value)

    def positive(self, key: str, default: Any = _REQUIRED) -> Any:
        """A float that is finite and at least 1e-30."""
        return self.number(key, 1e-30, 1e30, default)

    def flag(self, key: str, default: Any = _REQUIRED) -> Any:
        """A bool."""
        value = self._get(key, default)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.wrong(key, "true or false", code="config_type")
        return value

    def switch(self, key: str, usual: bool) -> bool:
        """A bool, `usual` where the key is absent and off where it is null, as transformers reads it."""
        self.fill({key: usual})
        return bool(self.flag(key, False))

    def ignore(self, key: str, *usual: object) -> None:
        """Warn, if `key` is there and is none of `usual`, that it has no effect, as in transformers."""
        value = self.values.get(key)
        if value is not None and value not in usual:
            self.warn(f"{key} is {shown(value)}, which has no effect, as in transformers")

    def warn(self, text: str) -> None:
        """A warning, once."""
        if (text := f"{self.what}: {text}") not in self.warnings:
            self.warnings.append(text)

    def text(self, key: str, default: Any = _REQUIRED) -> Any:
        """A str of at most 4096 characters."""
        value = self._get(key, default)
        if value is None:
            return default
        if not isinstance(value, str) or len(value) > 4096:
            raise self.wrong(key, "a short string", code="config_type")
        return value

    def choice(self, key: str, allowed: Sequence[str], default: Any = _REQUIRED) -> Any:
        """One of `allowed`; another string is ModelUnsupportedError (config_unsupported)."""
        value = self.text(key, default)
        if value not in allowed and value is not default:
            raise ModelUnsupportedError(
                f"{self.what}: {key} is '{shown(value)}'; supported: {', '.join(allowed)}",
                code="config_unsupported",
            )
        return value

    def section(self, key: str) -> Config | None:
        """A nested object, or None if absent; its defaults are listed with this object's."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(key, "an object", code="config_type")
        section = Config(value, f"{self.what}: {key}")
        section.defaults, section.warnings = self.defaults, self.warnings
        return section

    def token_ids(self, key: str, n_vocab: int) -> tuple[int, ...] | None:
        """One token id or a list of up to 64, each in [0, n_vocab); None if absent."""
        value = self.values.get(key)
        if value is None:
            return None
        ids = value if isinstance(value, list) else [value]
        if len(ids) > MAX_EOS_IDS:
            raise ModelLimitError(
                f"{self.what}: {key} lists {len(ids)} ids; the limit is {MAX_EOS_IDS}", code="eos_ids"
            )
        if not all(type(item) is int and 0 <= item < n_vocab for item in ids):
            raise self.wrong(key, f"token ids from 0 to {n_vocab - 1}")
        return tuple(ids)


def read_config(folder: str, name: str, *, inside: str | None = None) -> Config | None:
    """One settings file of a folder as a Config; None if there is no such file."""
    path = os.path.join(folder, name)
    if not os.path.lexists(path):
        return None
    values = parse_json(read_file(path, MAX_CONFIG_BYTES, inside=inside), name)
    if not isinstance(values, dict):
        raise ModelFormatError(f"{name}: not a JSON object", code="config_type")
    return Config(values, name)
