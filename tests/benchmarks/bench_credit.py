"""CPU seconds of credit for one step: 64 episodes of 4,096 sampled tokens, groups of 8. Run: python
tests/benchmarks/bench_credit.py

Beside each figure stands its share of what the step's update would cost on the same core, at the rate measured here
for a policy of about 0.8 M parameters (a plain forward and backward pass in torch).
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from agents.methods import SHORT
from harness.core.plugs import resolve
from harness.types import Ending, Episode, Evidence, RolloutGroup, Scores, TokenSequence, TopK

AIMS = {"sampled": 0.3, "distribution": 5.0}


def step(needs, groups, siblings, tokens, k, rng):
    """One step of evenly long episodes in 30 turns; every group has successes and failures."""
    sequences, evidence = [], []
    for g in range(groups):
        episodes, known = [], []
        for i in range(siblings):
            mask = np.ones(tokens + 1, dtype=bool)
            mask[0] = False
            logprobs = np.where(mask, -rng.exponential(1.0, tokens + 1), 0.0)
            turns = np.arange(tokens + 1) * 30 // (tokens + 1)
            sequence = TokenSequence(rng.integers(0, 5000, tokens + 1), mask, logprobs, turns)
            episodes.append(Episode(f"t{g}", sequence, float(i % 3 == 0), i % 3 == 0, Ending.COMPLETED))
            known.append(_evidence(needs, sequence, k, rng))
        sequences.append(RolloutGroup(f"t{g}", tuple(episodes)))
        evidence.append(known)
    return sequences, evidence


def _evidence(needs, sequence, k, rng):
    reference = np.where(sequence.mask, sequence.logprobs - 0.1, 0.0) if needs.reference else None
    if needs.teacher == "none":
        return Evidence(reference=reference)
    own = np.where(sequence.mask, sequence.logprobs + rng.normal(0, 0.3, len(sequence)), 0.0)
    if needs.teacher == "sampled":
        return Evidence(Scores(own), reference=reference)
    ids = rng.integers(0, 5000, (len(sequence), k))
    raw = rng.normal(0, 3, (len(sequence), k)).astype(np.float32)
    student = raw - np.log(np.exp(raw).sum(1, keepdims=True) * 1.02)
    burst = (rng.random(len(sequence)) < 0.05)[:, None] * rng.normal(0, 2, (len(sequence), k))
    moved = raw + 0.05 * rng.normal(size=raw.shape) + burst
    teacher = (moved - np.log(np.exp(moved).sum(1, keepdims=True) * 1.02)).astype(np.float32)
    return Evidence(Scores(own, TopK(ids, teacher)), Scores(sequence.logprobs, TopK(ids, student)), reference)


def update_rate():
    """Tokens per CPU second of a forward and backward pass, sequences of 512 on one thread."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4
    )
    model = LlamaForCausalLM(config)
    tokens = torch.randint(0, 512, (8, 512))
    took = []
    for _ in range(3):
        began = time.process_time()
        model(tokens, labels=tokens).loss.backward()
        took.append(time.process_time() - began)
    return tokens.numel() / min(took)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--siblings", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--k", type=int, default=100)
    given = parser.parse_args()
    total = given.groups * given.siblings * given.tokens
    update = total / update_rate()
    print(f"{given.groups * given.siblings} episodes x {given.tokens} tokens, G = {given.siblings}, K = {given.k}")
    print(f"an update of these {total} tokens (0.8 M parameters): {update:.1f} CPU-s")
    print(f"{'method':<16} {'CPU-s':>7} {'aim':>5} {'us/token':>9} {'of update':>10}  needs")
    for name, plug in SHORT.items():
        method = resolve(plug)()
        groups, evidence = step(
            method.needs, given.groups, given.siblings, given.tokens, given.k, np.random.default_rng(0)
        )
        state = method.initial_state()
        took = []
        for _ in range(2):
            began = time.process_time()
            method.assign(groups, evidence, state)
            took.append(time.process_time() - began)
        seconds = min(took)
        aim = AIMS["distribution" if method.needs.teacher == "distribution" else "sampled"]
        print(
            f"{name:<16} {seconds:>7.3f} {aim:>5} {1e6 * seconds / total:>9.2f} {seconds / update:>10.2%}"
            f"  {method.needs.teacher}"
        )


if __name__ == "__main__":
    main()
