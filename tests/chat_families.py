"""Chat templates in the shapes that model families use, written for these tests, and tokenizers trained for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

TEXTS = [
    "What is 3 plus 5?", "It is 8.", "And 2 more?", "She lives in New York, at 42.", "higher", "lower", "Be brief.",
    "The reference answer is 8, see Quito.", "You are a helpful assistant.", "user system assistant tool model",
] * 4  # fmt: skip
ALTERNATE = (
    "{% for m in turns %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
)
SYSTEM_APART = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_25 = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'tool' %}"
    "<|im_start|>user\n<tool_response>\n{{ m['content'] }}\n</tool_response><|im_end|>\n{% else %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_3 = (
    "{% for m in messages %}{% set said = m['content'] %}"
    "{% if m['role'] == 'assistant' %}"
    "{% if '</think>' in said %}{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>assistant\n{% if loop.last %}<think>\n\n</think>\n\n{% endif %}{{ said }}<|im_end|>\n"
    "{% elif m['role'] == 'tool' %}<|im_start|>user\n<tool_response>\n{{ said }}\n</tool_response><|im_end|>\n"
    "{% else %}<|im_start|>{{ m['role'] }}\n{{ said }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_35 = (
    "{% if not messages | selectattr('role', 'equalto', 'user') | list %}{{ raise_exception('No user query found') }}"
    "{% endif %}{% for m in messages %}{% if m['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}"
    "{% set said = m['content'] | trim %}{% if m['role'] == 'assistant' %}<|im_start|>assistant\n"
    "{% if loop.last %}<think>\n\n</think>\n\n{% endif %}{{ said.split('</think>')[-1] | trim }}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m['role'] }}\n{{ said }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
LLAMA_2 = (
    SYSTEM_APART + ALTERNATE + "{% if m['role'] == 'user' %}{{ bos_token }}[INST] "
    "{% if loop.first and system %}<<SYS>>\n{{ system }}\n<</SYS>>\n\n{% endif %}{{ m['content'] | trim }} [/INST]"
    "{% else %} {{ m['content'] | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ strftime_now('%d %b %Y') }}\n\n{{ system }}<|eot_id|>"
    "{% for m in turns %}<|start_header_id|>{{ 'ipython' if m['role'] == 'tool' else m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}" + SYSTEM_APART + ALTERNATE + "{% if m['role'] == 'user' %}[INST] "
    "{% if loop.last and system %}{{ system }}\n\n{% endif %}{{ m['content'] }}[/INST]"
    "{% else %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA_2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% set turns = messages %}" + ALTERNATE + "<start_of_turn>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}"
    "\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
GEMMA_3 = (
    "{{ bos_token }}"
    + SYSTEM_APART
    + ALTERNATE
    + "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}"
    "\n{% if loop.first and system %}{{ system }}\n\n{% endif %}{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
COHERE = (
    "{{ bos_token }}" + SYSTEM_APART + "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>"
    "{{ system or 'You are a helpful assistant.' }}<|END_OF_TURN_TOKEN|>" + ALTERNATE + "<|START_OF_TURN_TOKEN|>"
    "{{ '<|USER_TOKEN|>' if m['role'] == 'user' else '<|CHATBOT_TOKEN|>' }}{{ m['content'] | trim }}"
    "<|END_OF_TURN_TOKEN|>{% endfor %}{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
)
HARMONY = (
    "<|start|>system<|message|>Current date: {{ strftime_now('%Y-%m-%d') }}<|end|>{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m['content'] }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
    "{% else %}<|start|>{{ 'developer' if m['role'] == 'system' else m['role'] }}<|message|>{{ m['content'] }}<|end|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{% if m['role'] in ['user', 'system'] %}"
    "<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n"
    "{% elif m['role'] == 'assistant' %}<|assistant|>\n{{ m['content'] }}{{ eos_token }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
GRANITE = (
    "{% for m in messages %}"
    "<|start_of_role|>{{ m['role'] }}<|end_of_role|>{{ m['content'] }}<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A template, its tokenizer's own tokens, and what is right of them."""

    template: str
    special: tuple[str, ...]
    end: str
    """What ends the agent's turn."""
    stops: tuple[str, ...]
    """What the model's configuration says stops sampling."""
    bos: str | None = None
    eos: str | None = None
    added: tuple[str, ...] = ()
    """Tokens that are added and not special."""
    sentencepiece: bool = False
    rewrites: tuple[str, ...] = ()
    """What the template rewrites once it is past: nothing, `thinking`, or `turns` (even without thinking)."""


IM = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
THINKING = ("<think>", "</think>", "<tool_response>", "</tool_response>", "<tool_call>", "</tool_call>")
HEADERS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TURN = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
COMMAND = (
    "<BOS_TOKEN>", "<EOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
    "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>",
)  # fmt: skip
CHANNEL = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>", "<|endoftext|>")
SP = ("<s>", "</s>")
PHI = ("<|user|>", "<|assistant|>", "<|system|>", "<|tool|>", "<|end|>", "<|endoftext|>")
FAMILIES = {
    "chatml": Family(CHATML, IM, "<|im_end|>", ("<|im_end|>",), eos="<|im_end|>"),
    "lfm2": Family("{{ bos_token }}" + CHATML, (*IM, "<|startoftext|>"), "<|im_end|>", ("<|im_end|>",),
                   bos="<|startoftext|>", eos="<|im_end|>"),
    "qwen2.5": Family(QWEN_25, IM, "<|im_end|>", ("<|endoftext|>", "<|im_end|>"), eos="<|endoftext|>", added=THINKING),
    "qwen3": Family(QWEN_3, IM, "<|im_end|>", ("<|endoftext|>", "<|im_end|>"), eos="<|im_end|>", added=THINKING,
                    rewrites=("turns",)),
    "qwen3.5": Family(QWEN_35, IM, "<|im_end|>", ("<|im_end|>",), eos="<|im_end|>", added=THINKING,
                      rewrites=("turns",)),
    "llama2": Family(LLAMA_2, SP, "</s>", ("</s>",), "<s>", "</s>", sentencepiece=True),
    "llama3": Family(LLAMA_3, HEADERS, "<|eot_id|>", ("<|end_of_text|>", "<|eot_id|>"), "<|begin_of_text|>",
                     "<|eot_id|>"),
    "llama3, base stops": Family(LLAMA_3, HEADERS, "<|eot_id|>", ("<|end_of_text|>",), "<|begin_of_text|>",
                                 "<|end_of_text|>"),
    "mistral": Family(MISTRAL, (*SP, "[INST]", "[/INST]"), "</s>", ("</s>",), "<s>", "</s>", sentencepiece=True),
    "gemma2": Family(GEMMA_2, TURN, "<end_of_turn>", ("<eos>", "<end_of_turn>"), "<bos>", "<eos>"),
    "gemma3": Family(GEMMA_3, TURN, "<end_of_turn>", ("<eos>", "<end_of_turn>"), "<bos>", "<eos>"),
    "phi3": Family(PHI_3, PHI, "<|end|>", ("<|endoftext|>", "<|end|>"), eos="<|endoftext|>"),
    "cohere": Family(COHERE, COMMAND, "<|END_OF_TURN_TOKEN|>", ("<|END_OF_TURN_TOKEN|>",), "<BOS_TOKEN>",
                     "<|END_OF_TURN_TOKEN|>"),
    "gpt-oss": Family(HARMONY, CHANNEL, "<|return|>", ("<|return|>", "<|call|>", "<|endoftext|>"), eos="<|return|>",
                      rewrites=("turns",)),
    "zephyr": Family(ZEPHYR, SP, "</s>", ("</s>",), eos="</s>", sentencepiece=True),
    "granite": Family(GRANITE, ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"), "<|end_of_text|>",
                      ("<|end_of_text|>",), eos="<|end_of_text|>"),
}  # fmt: skip


@lru_cache
def tokenizer_of(name: str) -> Any:
    """The tokenizer of a family, trained on a few sentences: byte-level, or with SentencePiece's blanks."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    if family.sentencepiece:
        core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        core.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        core.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        # Split after blanks, as SentencePiece does, while pairs are counted; at work it does not split.
        core.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
        first, alphabet = ["<unk>", *family.special, *bytes_], [chr(n) for n in range(33, 127)]
    else:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        first, alphabet = list(family.special), pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=700, special_tokens=first, initial_alphabet=alphabet, show_progress=False),
    )
    if family.sentencepiece:
        core.pre_tokenizer = None
        core = _with_special(core, family.special)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=family.bos, eos_token=family.eos)
    strips = name == "phi3"
    wrapped.add_tokens([AddedToken(t, special=True, rstrip=strips, normalized=False) for t in family.special], True)
    wrapped.add_tokens([AddedToken(text, special=False, normalized=False) for text in family.added])
    wrapped.chat_template = family.template
    return wrapped


def _with_special(core: Any, special: tuple[str, ...]) -> Any:
    """The same tokenizer, of whose added tokens only these are left: byte pieces are plain ones."""
    import json

    from tokenizers import Tokenizer

    described = json.loads(core.to_str())
    described["added_tokens"] = [t for t in described["added_tokens"] if t["content"] in (*special, "<unk>")]
    return Tokenizer.from_str(json.dumps(described))
