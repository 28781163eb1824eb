"""What a model directory is: one hash over everything in it that changes what its policy says."""

from __future__ import annotations

import hashlib
from fnmatch import fnmatch
from pathlib import Path

from harness.rollout.chat_template import CLOCK, CLOCK_NAME

KINDS = (
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.npz"),  # weights
    *("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.vocab"),  # configuration, tokenizer, template, stops
    "*.py",
)
BESIDE = (
    *(
        "measured.json",
        "start.json",
        "run_state.json",
        "trainer_state.*",
        "training_args.bin",
        "optimizer.*",
        "scheduler.*",
        "rng_state*",
    ),
    *("snapshot_*", "readme*", "license*", "notice*", ".*"),
)
"""Files of those kinds that change nothing: measurements, a trainer's state, words for people."""
TEMPLATES = "additional_chat_templates"


def checkpoint_hash(directory: Path) -> str:
    """sha256 of the files that decide what a model directory says: weights in any format, configuration, tokenizer,
    chat templates wherever they stand, generation settings with their stops; and the moment at which a template's
    clock stands, where one asks for it."""
    digest = hashlib.sha256()
    asks = False
    for folder in (directory, directory / TEMPLATES):
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            name = file.name.lower()
            if not file.is_file() or not _is_one(name, KINDS) or _is_one(name, BESIDE):
                continue
            with file.open("rb") as stream:
                digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
            asks |= name.endswith((".jinja", "tokenizer_config.json")) and CLOCK_NAME.encode() in file.read_bytes()
    if asks:
        digest.update(CLOCK.isoformat().encode())
    return digest.hexdigest()


def _is_one(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
