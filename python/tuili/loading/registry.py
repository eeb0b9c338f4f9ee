"""The registry of architectures: which file reads what calls itself so."""

from __future__ import annotations

# Architecture, as `architectures` of config.json or `general.architecture` of GGUF spell it -> file in
# architectures/.
HF_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "MinistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Phi3ForCausalLM": "phi3",
    "GemmaForCausalLM": "gemma1",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma",
    "SmolLM3ForCausalLM": "smollm3",
    "ArceeForCausalLM": "arcee",
    "Exaone4ForCausalLM": "exaone4",
    "HeliumForCausalLM": "helium",
    "NemotronForCausalLM": "nemotron",
    "SeedOssForCausalLM": "seed_oss",
    "OlmoForCausalLM": "olmo",
    "Olmo2ForCausalLM": "olmo2",
    "Olmo3ForCausalLM": "olmo2",
    "OlmoeForCausalLM": "olmoe",
    "GraniteForCausalLM": "granite",
    "GraniteMoeForCausalLM": "granite_moe",
    "GraniteMoeSharedForCausalLM": "granite_moe",
    "GraniteMoeHybridForCausalLM": "granite_hybrid",
    "Starcoder2ForCausalLM": "starcoder2",
    "StableLmForCausalLM": "stablelm",
    "GlmForCausalLM": "glm",
    "Glm4ForCausalLM": "glm",
    "Ernie4_5ForCausalLM": "ernie",
    "CohereForCausalLM": "cohere",
    "Cohere2ForCausalLM": "cohere",
    "GPT2LMHeadModel": "gpt2",
    "GPT2DoubleHeadsModel": "gpt2",
    "GPTBigCodeForCausalLM": "gpt_bigcode",
    "GPTJForCausalLM": "gptj",
    "GPTNeoForCausalLM": "gpt_neo",
    "GPTNeoXForCausalLM": "gpt_neox",
    "OPTForCausalLM": "opt",
    "BioGptForCausalLM": "biogpt",
    "MptForCausalLM": "mpt",
    "MPTForCausalLM": "mpt",
    "PhiForCausalLM": "phi",
    "FalconForCausalLM": "falcon",
    "BloomForCausalLM": "bloom",
    "MixtralForCausalLM": "mixtral",
    "Qwen2MoeForCausalLM": "qwen_moe",
    "Qwen3MoeForCausalLM": "qwen_moe",
    "GptOssForCausalLM": "gpt_oss",
    "DeepseekV2ForCausalLM": "deepseek",
    "DeepseekV3ForCausalLM": "deepseek",
    "InternLM2ForCausalLM": "internlm2",
    "BaichuanForCausalLM": "baichuan",
    "BaiChuanForCausalLM": "baichuan",
    "MiniCPMForCausalLM": "minicpm",
}
HF_SEQ2SEQ = {
    "T5ForConditionalGeneration": "t5",
    "MT5ForConditionalGeneration": "t5",
    "UMT5ForConditionalGeneration": "t5",
    "BartForConditionalGeneration": "bart",
    "MBartForConditionalGeneration": "bart",
    "PegasusForConditionalGeneration": "pegasus",
    "MarianMTModel": "pegasus",
    "M2M100ForConditionalGeneration": "m2m_100",
}
HF_ARCHITECTURES |= HF_SEQ2SEQ
DECODERS_ALONE = {"Bart": "bart", "MBart": "bart", "Pegasus": "pegasus", "Marian": "pegasus"}
HF_ARCHITECTURES |= {f"{stem}ForCausalLM": file for stem, file in DECODERS_ALONE.items()}
# Encoders: the beginning of the name, with each of these ends -> file, and what else it may end in.
TASKS = (
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
)
_CHOICES = "ForMultipleChoice"
_BERTS = (_CHOICES, "ForPreTraining", "ForNextSentencePrediction")
ENCODERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Bert": ("bert", (*_BERTS, "LMHeadModel")),
    "Roberta": ("roberta", (_CHOICES, "ForCausalLM")),
    "XLMRoberta": ("roberta", (_CHOICES, "ForCausalLM")),
    "Camembert": ("roberta", (_CHOICES, "ForCausalLM")),
    "Data2VecText": ("data2vec_text", (_CHOICES, "ForCausalLM")),
    "RobertaPreLayerNorm": ("roberta_prelayernorm", (_CHOICES, "ForCausalLM")),
    "Ernie": ("ernie_encoder", (*_BERTS, "ForCausalLM")),
    "MegatronBert": ("megatron_bert", (*_BERTS, "ForCausalLM")),
    "RoFormer": ("roformer", (_CHOICES, "ForCausalLM")),
    "DistilBert": ("distilbert", (_CHOICES,)),
    "Electra": ("electra", (_CHOICES, "ForPreTraining", "ForCausalLM")),
    "Albert": ("albert", (_CHOICES, "ForPreTraining")),
    "MPNet": ("mpnet", (_CHOICES,)),
    "DebertaV2": ("deberta_v2", (_CHOICES,)),
    "ModernBert": ("modernbert", (_CHOICES,)),
    "NomicBert": ("nomic_bert", ()),
    "EuroBert": ("eurobert", ()),
}
HF_ARCHITECTURES |= {
    f"{stem}{task}": file for stem, (file, more) in ENCODERS.items() for task in (*TASKS, *more)
}
HF_ARCHITECTURES |= {
    f"{stem}{end}": "t5_encoder"
    for stem in ("T5", "MT5", "UMT5")
    for end in ("EncoderModel", "ForTokenClassification")
}
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
    "gpt2": "gpt2",
    "gptneox": "gpt_neox",
    "phi2": "phi",
    "falcon": "falcon",
    "bloom": "bloom",
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
