"""The registry of architectures: what config.json and GGUF files call them, and the file of each."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from tuili.errors import ModelFormatError, ModelUnsupportedError
from tuili.loading.config import Config
from tuili.loading.files import shown
from tuili.loading.heads import WRITERS

# Architecture, as `architectures` of config.json or `general.architecture` of GGUF spell it -> file in
# architectures/.
HF_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "CwmForCausalLM": "cwm",
    "MistralForCausalLM": "mistral",
    "MinistralForCausalLM": "mistral",
    "Ministral3ForCausalLM": "ministral3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Phi3ForCausalLM": "phi3",
    "PhimoeForCausalLM": "phimoe",
    "GemmaForCausalLM": "gemma1",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma",
    "VaultGemmaForCausalLM": "vaultgemma",
    "SmolLM3ForCausalLM": "smollm3",
    "ArceeForCausalLM": "arcee",
    "AfmoeForCausalLM": "afmoe",
    "ApertusForCausalLM": "apertus",
    "ExaoneForCausalLM": "exaone",
    "Exaone4ForCausalLM": "exaone4",
    "ExaoneMoeForCausalLM": "exaone_moe",
    "HeliumForCausalLM": "helium",
    "HyperCLOVAXForCausalLM": "hyperclovax",
    "Jais2ForCausalLM": "jais2",
    "NanoChatForCausalLM": "nanochat",
    "NemotronForCausalLM": "nemotron",
    "SeedOssForCausalLM": "seed_oss",
    "OlmoForCausalLM": "olmo",
    "Olmo2ForCausalLM": "olmo2",
    "Olmo3ForCausalLM": "olmo2",
    "OlmoeForCausalLM": "olmoe",
    "FlexOlmoForCausalLM": "flex_olmo",
    "GraniteForCausalLM": "granite",
    "GraniteMoeForCausalLM": "granite_moe",
    "GraniteMoeSharedForCausalLM": "granite_moe",
    "GraniteMoeHybridForCausalLM": "granite_hybrid",
    "GraniteSWAForCausalLM": "granite_swa",
    "GraniteMoeSWAForCausalLM": "granite_swa",
    "Starcoder2ForCausalLM": "starcoder2",
    "StableLmForCausalLM": "stablelm",
    "GlmForCausalLM": "glm",
    "Glm4ForCausalLM": "glm",
    "Glm4MoeForCausalLM": "glm4_moe",
    "Glm4MoeLiteForCausalLM": "glm4_moe_lite",
    "SolarOpenForCausalLM": "glm4_moe",
    "Ernie4_5ForCausalLM": "ernie",
    "Ernie4_5_MoeForCausalLM": "ernie_moe",
    "CohereForCausalLM": "cohere",
    "Cohere2ForCausalLM": "cohere",
    "Cohere2MoeForCausalLM": "cohere2_moe",
    "OpenAIGPTLMHeadModel": "openai_gpt",
    "CTRLLMHeadModel": "ctrl",
    "GPT2LMHeadModel": "gpt2",
    "GPT2DoubleHeadsModel": "gpt2",
    "GPTBigCodeForCausalLM": "gpt_bigcode",
    "GPTJForCausalLM": "gptj",
    "GPTNeoForCausalLM": "gpt_neo",
    "CodeGenForCausalLM": "codegen",
    "GPTNeoXForCausalLM": "gpt_neox",
    "GPTNeoXJapaneseForCausalLM": "gpt_neox_japanese",
    "OPTForCausalLM": "opt",
    "XGLMForCausalLM": "xglm",
    "BioGptForCausalLM": "biogpt",
    "MptForCausalLM": "mpt",
    "MPTForCausalLM": "mpt",
    "PhiForCausalLM": "phi",
    "PersimmonForCausalLM": "persimmon",
    "FalconForCausalLM": "falcon",
    "RWForCausalLM": "falcon",
    "BloomForCausalLM": "bloom",
    "MixtralForCausalLM": "mixtral",
    "Qwen2MoeForCausalLM": "qwen_moe",
    "Qwen3MoeForCausalLM": "qwen_moe",
    "MiniMaxM2ForCausalLM": "minimax_m2",
    "MellumForCausalLM": "mellum",
    "FlintForCausalLM": "flint",
    "Dots1ForCausalLM": "dots1",
    "GptOssForCausalLM": "gpt_oss",
    "DeepseekV2ForCausalLM": "deepseek",
    "DeepseekV3ForCausalLM": "deepseek",
    "YoutuForCausalLM": "glm4_moe_lite",
    "HunYuanDenseV1ForCausalLM": "hunyuan",
    "HunYuanMoEV1ForCausalLM": "hunyuan",
    "HYV3ForCausalLM": "hy_v3",
    "ModernBertDecoderForCausalLM": "modernbert_decoder",
    "InternLM2ForCausalLM": "internlm2",
    "InternLM3ForCausalLM": "exaone",
    "IQuestCoderForCausalLM": "exaone",
    "BaichuanForCausalLM": "baichuan",
    "BaiChuanForCausalLM": "baichuan",
    "MiniCPMForCausalLM": "minicpm",
    "MiniCPM3ForCausalLM": "minicpm3",
}
HF_SEQ2SEQ = {
    "T5ForConditionalGeneration": "t5",
    "MT5ForConditionalGeneration": "t5",
    "UMT5ForConditionalGeneration": "t5",
    "LongT5ForConditionalGeneration": "t5",
    "BartForConditionalGeneration": "bart",
    "MBartForConditionalGeneration": "bart",
    "PLBartForConditionalGeneration": "bart",
    "MvpForConditionalGeneration": "bart",
    "BlenderbotForConditionalGeneration": "bart",
    "BlenderbotSmallForConditionalGeneration": "bart",
    "LEDForConditionalGeneration": "led",
    "PegasusForConditionalGeneration": "pegasus",
    "MarianMTModel": "pegasus",
    "M2M100ForConditionalGeneration": "m2m_100",
}
HF_ARCHITECTURES |= HF_SEQ2SEQ
_DECODERS_ALONE = dict.fromkeys(("Bart", "MBart", "PLBart", "Mvp", "Blenderbot", "BlenderbotSmall"), "bart")
_DECODERS_ALONE |= {"Pegasus": "pegasus", "Marian": "pegasus"}
HF_ARCHITECTURES |= {f"{stem}ForCausalLM": file for stem, file in _DECODERS_ALONE.items()}
# Encoders: the beginning of the name, with each of these ends -> file, and what else it may end in.
_TASKS = (
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
)
_CHOICES = "ForMultipleChoice"
_BERTS = (_CHOICES, "ForPreTraining", "ForNextSentencePrediction")
_ENCODERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Bert": ("bert", (*_BERTS, "LMHeadModel")),
    "Roberta": ("roberta", (_CHOICES, "ForCausalLM")),
    "XLMRoberta": ("roberta", (_CHOICES, "ForCausalLM")),
    "Camembert": ("roberta", (_CHOICES, "ForCausalLM")),
    "XLMRobertaXL": ("xlm_roberta_xl", (_CHOICES, "ForCausalLM")),
    "Data2VecText": ("data2vec_text", (_CHOICES, "ForCausalLM")),
    "RobertaPreLayerNorm": ("roberta_prelayernorm", (_CHOICES, "ForCausalLM")),
    "Ernie": ("ernie_encoder", (*_BERTS, "ForCausalLM")),
    "MegatronBert": ("megatron_bert", (*_BERTS, "ForCausalLM")),
    "RoFormer": ("roformer", (_CHOICES, "ForCausalLM")),
    "DistilBert": ("distilbert", (_CHOICES,)),
    "Electra": ("electra", (_CHOICES, "ForPreTraining", "ForCausalLM")),
    "Albert": ("albert", (_CHOICES, "ForPreTraining")),
    "MPNet": ("mpnet", (_CHOICES,)),
    "Deberta": ("deberta", ()),
    "DebertaV2": ("deberta_v2", (_CHOICES,)),
    "RemBert": ("rembert", (_CHOICES,)),
    "BigBird": ("big_bird", (_CHOICES, "ForPreTraining")),
    "Gte": ("gte", ()),
    "ModernBert": ("modernbert", (_CHOICES,)),
    "NomicBert": ("nomic_bert", ()),
    "EuroBert": ("eurobert", ()),
    "JinaEmbeddingsV3": ("jina_embeddings_v3", ()),
}
HF_ARCHITECTURES |= {
    f"{stem}{task}": file for stem, (file, more) in _ENCODERS.items() for task in (*_TASKS, *more)
}
HF_ARCHITECTURES |= {
    f"{stem}{end}": "t5_encoder"
    for stem in ("T5", "MT5", "UMT5")
    for end in ("EncoderModel", "ForTokenClassification")
}
HF_ARCHITECTURES |= {
    f"Longformer{end}": "longformer" for end in ("Model", "ForMaskedLM", "ForTokenClassification")
}
HF_ARCHITECTURES |= {
    f"OpenAIPrivacyFilter{end}": "openai_privacy_filter" for end in ("Model", "ForTokenClassification")
}
HF_ARCHITECTURES |= {"LongT5EncoderModel": "t5_encoder"}
HF_ARCHITECTURES |= {"DPRContextEncoder": "dpr", "DPRQuestionEncoder": "dpr"}
GGUF_ARCHITECTURES = {
    "llama": "llama",
    "llama with experts": "mixtral",  # as the file itself calls it: llama
    "qwen2": "qwen2",
    "qwen2moe": "qwen_moe",
    "qwen3": "qwen3",
    "qwen3moe": "qwen_moe",
    "phi3": "phi3",
    "deepseek2": "deepseek",
    "gpt-oss": "gpt_oss",
    "gemma": "gemma1",
    "gemma2": "gemma2",
    "gemma3": "gemma",
    "smollm3": "smollm3",
    "arcee": "arcee",
    "apertus": "apertus",
    "afmoe": "afmoe",
    "nemotron": "nemotron",
    "seed_oss": "seed_oss",
    "hunyuan-dense": "hunyuan",
    "hunyuan-moe": "hunyuan",
    "glm4moe": "glm4_moe",
    "dots1": "dots1",
    "ernie4_5-moe": "ernie_moe",
    "minimax-m2": "minimax_m2",
    "jais2": "jais2",
    "gpt2": "gpt2",
    "gptneox": "gpt_neox",
    "phi2": "phi",
    "falcon": "falcon",
    "bloom": "bloom",
    "starcoder": "gpt_bigcode",
    "mpt": "mpt",
    "exaone4": "exaone4",
    "internlm2": "internlm2",
    "baichuan": "baichuan",
    "minicpm": "minicpm",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "olmoe": "olmoe",
    "granite": "granite",
    "granitemoe": "granite_moe",
    "starcoder2": "starcoder2",
    "stablelm": "stablelm",
    "chatglm": "glm",
    "glm4": "glm",
    "ernie4_5": "ernie",
    "command-r": "cohere",
    "cohere2": "cohere",
    "bert": "bert",
    "nomic-bert": "nomic_bert",
    "t5": "t5",
    "t5encoder": "t5_encoder",
}

_PLAIN_ENDS = r"(For(CausalLM|ConditionalGeneration)|LMHeadModel|MTModel|Model)$"
_LLAMAS = {"exaone": "Exaone", "internlm3": "InternLM3", "iquestcoder": "IQuestCoder"}
# How model_type spells some: Gemma 3's plain one also sees images.
_SPELT = {"Gemma3": "Gemma3Text", "HunYuanDenseV1": "HunYuanV1Dense", "HunYuanMoEV1": "HunYuanV1MoE"}


def _architecture(table: Mapping[str, str], name: str, where: str) -> ModuleType:
    stem = re.sub(f"({'|'.join(WRITERS)})$", "", name)
    both = any(f"{stem}{words}" in table for words in WRITERS)
    if name not in table and stem != name and stem in _ENCODERS and not both:
        raise ModelUnsupportedError(
            f"{where} is '{name}', and {stem} is read as an encoder alone: with {', '.join(_TASKS)}",
            code="architecture",
        )
    if name not in table:
        raise ModelUnsupportedError(f"{where} is '{shown(name)}'; {_near(table, name)}", code="architecture")
    return importlib.import_module(f"tuili.loading.architectures.{table[name]}")


def _near(table: Mapping[str, str], name: str) -> str:
    """What a message says of the names in `table`: those that are like `name`, and where all of them are."""
    known = [name for name in table if " " not in name]
    near = difflib.get_close_matches(shown(name), known, n=5, cutoff=0.7)
    likes = f"nearest: {', '.join(near)}; " if near else ""
    return f"{likes}all that are supported are in docs/architectures.md"


def with_architecture(config: Config) -> Config:
    """`config`, which may leave `architectures` out: then it is the class that has the name of `model_type`,
    with a head for words if it writes. So are files that `config.save_pretrained` writes. Some that
    transformers computes as a Llama go by their `model_type`, whatever the class is called."""

    def letters(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.lower())

    kind = config.values.get("model_type")
    names = config.values.get("architectures")
    own = _LLAMAS.get(kind) if isinstance(kind, str) else None
    if own and isinstance(names, list) and len(names) == 1 and str(names[0]).startswith("Llama"):
        config.update(architectures=[str(names[0]).replace("Llama", own, 1)])
    is_name = isinstance(kind, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", kind)
    if config.values.get("architectures") is None and is_name:
        for name in HF_ARCHITECTURES:
            stem = re.sub(_PLAIN_ENDS, "", name)
            if letters(_SPELT.get(stem, stem)) == letters(str(kind)):
                config.defaults["architectures"] = [name]
                config.update(architectures=[name])
                break
    return config


def as_embedder(config: Config) -> Config:
    """The configuration of a sentence-transformers folder, which may name another class than it is read as:
    of a decoder with a head for words the layers alone, of T5 and its kin the encoder."""
    names = config.values.get("architectures")
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str):
        name = re.sub(r"^(M?|UM|Long)T5(Model|ForConditionalGeneration)$", r"\1T5EncoderModel", names[0])
        stems = [name.removesuffix(words) for words in WRITERS if name.endswith(words)]
        if stems and name in HF_ARCHITECTURES and stems[0] not in _DECODERS_ALONE:
            name = f"{stems[0]}Model"
        config.update(architectures=[name])
    return config


def _headed(name: str) -> str | None:
    """The decoder or encoder-decoder under the head that `name` ends in, or None if there is none."""
    from tuili.loading.architectures.decoder_heads import ENDS
    from tuili.loading.architectures.seq2seq_heads import CLASSES

    if name in CLASSES:
        return CLASSES[name]
    for end in ENDS:
        for stem in (name.removesuffix(end), name.removesuffix(f"Text{end}")):
            for words in WRITERS if stem not in _DECODERS_ALONE else ():
                if name != stem and f"{stem}{words}" in HF_ARCHITECTURES:
                    return f"{stem}{words}"
    return None


def _expect_known(config: Config, key: str, pattern: str) -> None:
    value = config.values.get(key)
    if value is not None and not (isinstance(value, str) and re.fullmatch(pattern, value)):
        raise ModelUnsupportedError(
            f"{config.what}: {key} is {shown(value)}, which is unknown", code="config_unsupported"
        )


def hf_architecture(config: Config) -> tuple[str, ModuleType]:
    """Name and file of the architecture that a config.json asks for, whose usual settings are filled in."""
    names = config.values.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise config.wrong("architectures", "a list of one name")
    # The weights speak for themselves, in their own headers; a setting that means nothing is still an error.
    _expect_known(config, "model_type", r"[A-Za-z0-9_.-]{1,64}")
    for key in ("torch_dtype", "dtype"):
        _expect_known(config, key, r"auto|(torch\.)?(float(16|32|64)|bfloat16|half)")
    from tuili.loading.architectures import class_defaults, decoder_heads, expect_only, seq2seq_heads

    expect_only(config, "per_layer_config", {})  # settings of some layers that go before those of all
    expect_only(config, "attention_chunk_size")  # which transformers' cache heeds in any class
    headed = _headed(names[0]) if names[0] not in HF_ARCHITECTURES else None
    name = headed or names[0]
    module: Any = _architecture(HF_ARCHITECTURES, name, f"{config.what}: architectures")
    second_names = class_defaults.second_names(name, HF_ARCHITECTURES[name])
    config.values = class_defaults.first_names(config.values, second_names)
    config.fill(class_defaults.usual_of(name))
    if name in HF_SEQ2SEQ:
        expect_only(config, "is_causal")  # either value is one of both halves
        expect_only(config, "sliding_window")  # of the cache, where whole texts have none
    if headed in HF_SEQ2SEQ:
        module = seq2seq_heads.HeadedSeq2seq(module, headed)
    elif headed is not None:
        module = decoder_heads.HeadedDecoder(module, headed)
    elif names[0].endswith(WRITERS):
        for key, usual in (("is_causal", True), ("use_bidirectional_attention", False)):
            if config.flag(key, usual) is not usual:
                raise ModelUnsupportedError(
                    f"{config.what}: {key} must be {usual} of {names[0]}, which writes from left to right",
                    code="config_unsupported",
                )
    else:
        expect_only(config, "is_causal", False)  # transformers hides what follows from such an encoder
    return names[0], module


def gguf_architecture(name: str, what: str, *, experts: bool = False) -> ModuleType:
    """The file of the architecture that a GGUF file asks for; Mixtral's files call themselves Llama."""
    if not re.fullmatch(r"[a-z0-9_-]{1,64}", name):
        raise ModelFormatError(
            f"{what}: general.architecture is '{shown(name)}', not a name", code="architecture"
        )
    if experts and f"{name} with experts" in GGUF_ARCHITECTURES:
        name = f"{name} with experts"
    return _architecture(GGUF_ARCHITECTURES, name, f"{what}: general.architecture")
