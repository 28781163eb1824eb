"""The methods that see episodes as turns, or values of prefixes, a second time in plain Python; see `naive_methods`."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

from every_method import flat
from naive_methods import advantages, each, gap, reference, sampled, sigmoid


def turns_of(e):
    """The sampled positions of each turn."""
    rows = {}
    for t in sampled(e):
        rows.setdefault(int(e.sequence.turns[t]), []).append(t)
    return [rows[k] for k in sorted(rows)]


def begun_in(e, k, anchor):
    """What turn k began with: random steps always name their states."""
    if anchor != "observation":
        return e.states[k]
    spoken = [n for n, m in enumerate(e.messages) if m["role"] == "assistant"]
    since = spoken[k - 1] + 1 if k else 0
    return repr([(m["role"], m["content"]) for m in e.messages[since : spoken[k]]])


def discounted(e, k, gamma):
    return gamma ** (len(turns_of(e)) - 1 - k) * e.reward


def gigpo(method, groups, evidence, state):
    out = []
    for group, known in zip(groups, evidence, strict=True):
        steps = [(e, k) for e in group.episodes for k in range(len(turns_of(e)))]
        row = []
        for e, seen, whole in zip(group.episodes, known, advantages(group, method.std), strict=True):
            values = []
            for k, places in enumerate(turns_of(e)):
                mates = [
                    discounted(other, j, method.gamma)
                    for other, j in steps
                    if begun_in(other, j, method.anchor) == begun_in(e, k, method.anchor)
                ]
                mine = 0.0
                if len(mates) > 1 and any(x != mates[0] for x in mates):
                    mine = discounted(e, k, method.gamma) - math.fsum(mates) / len(mates)
                    mine /= statistics.stdev(mates) + 1e-6 if method.std else 1.0
                values += [whole + method.omega * mine for _ in places]
            row.append({"advantages": values, **reference(e, seen, method.kl)})
        out.append(row)
    return out


def gagpo(method, groups, evidence, state):
    out = []
    for group, known in zip(groups, evidence, strict=True):
        steps = [(e, k) for e in group.episodes for k in range(len(turns_of(e)))]

        def value(e, k, steps=steps):
            if k == len(turns_of(e)):
                return 0.0
            here = begun_in(e, k, method.anchor)
            mates = [discounted(o, j, method.gamma) for o, j in steps if begun_in(o, j, method.anchor) == here]
            return math.fsum(mates) / len(mates)

        def delta(e, k, value=value):
            last = k == len(turns_of(e)) - 1
            return (e.reward if last else 0.0) + method.gamma * value(e, k + 1) - value(e, k)

        raw = [
            [
                math.fsum((method.gamma * method.lam) ** (j - k) * delta(e, j) for j in range(k, len(turns_of(e))))
                for k in range(len(turns_of(e)))
            ]
            for e in group.episodes
        ]
        every = flat(raw)
        middle = math.fsum(every) / len(every)
        spread = statistics.stdev(every) if len(every) > 1 else 0.0
        row = []
        for e, seen, mine in zip(group.episodes, known, raw, strict=True):
            values = [
                (a - middle) / (spread + 1e-6) for a, places in zip(mine, turns_of(e), strict=True) for _ in places
            ]
            row.append({"advantages": values, **reference(e, seen, method.kl)})
        out.append(row)
    return out


def agent_opsd(method, groups, evidence, state):
    def one(e, k, a, prior):
        values = [a for _ in sampled(e)]
        if method.lam and k.teacher:
            prior = min(max(prior, 1e-4), 1 - 1e-4)
            gaps = [math.fsum(gap(e, k, t) for t in places) for places in turns_of(e)]
            carried = [math.fsum(method.gamma ** (n - j) * gaps[j] for j in range(n + 1)) for n in range(len(gaps))]
            belief = [prior, *(sigmoid(math.log(prior / (1 - prior)) + c) for c in carried)]
            sign = (a > 0) - (a < 0)
            q = [sign * (now - then) for then, now in pairwise(belief)]
            z = [(x - math.fsum(q) / len(q)) / (statistics.pstdev(q) + 1e-6) for x in q]
            w = [min(max(1 + method.band * x, 1 - method.band), 1 + method.band) for x in z]
            values = [a * (1 - method.lam + method.lam * x) for x, t in zip(w, turns_of(e), strict=True) for _ in t]
        return {"advantages": values, **reference(e, k, method.kl)}

    return [
        [
            one(e, k, a, math.fsum(group.rewards) / len(group.episodes))
            for e, k, a in zip(group.episodes, known, advantages(group), strict=True)
        ]
        for group, known in zip(groups, evidence, strict=True)
    ]


def grpo_lambda(method, groups, evidence, state):
    def trace(t, j):
        decay = method.gamma * method.lam
        if t == j or method.trace == "recent":
            return decay ** (t - j)
        return max(decay ** (t - j), decay**j)

    def one(e, k, a):
        n = len(sampled(e))
        held = a if method.floor is None else max(a, method.floor)
        values = [held * math.fsum(trace(t, j) for t in range(j, n)) for j in range(n)]
        return {"advantages": values, **reference(e, k, method.kl)}

    return each(groups, evidence, one)


def vineppo(method, groups, evidence, state):
    def one(e, k, a):
        return {
            "advantages": [float(k.values.after[t]) - float(k.values.before[t]) for t in sampled(e)],
            **reference(e, k, method.kl),
        }

    return each(groups, evidence, one)


def oracle(method, groups, evidence, state):
    sign = -1.0 if type(method).__name__ == "Inverted" else 1.0
    spreads = [statistics.stdev(g.rewards) if len(g.rewards) > 1 else 0.0 for g in groups]
    pooled = math.sqrt(math.fsum(s**2 for s in spreads) / len(spreads))
    out = []
    for group, known, spread in zip(groups, evidence, spreads, strict=True):
        factor = {
            "group": 1 / (spread + 1e-6) if spread else 0.0,
            "step": 1 / (pooled + 1e-6) if pooled else 1.0,
            "none": 1.0,
        }[method.scale]
        row = []
        for e, k in zip(group.episodes, known, strict=True):
            if method.exact:
                end = e.reward if not method.expected or e.end_value is None else e.end_value
                met = [*e.state_values[: len(turns_of(e))], end]
                gains = [met[n + 1] - met[n] for n, places in enumerate(turns_of(e)) for _ in places]
            else:
                gains = [float(k.values.after[t]) - float(k.values.before[t]) for t in sampled(e)]
            row.append({"advantages": [sign * factor * x for x in gains], **reference(e, k, method.kl)})
        out.append(row)
    return out


NAIVE = {
    "GiGPO": gigpo,
    "GAGPO": gagpo,
    "VinePPO": vineppo,
    "AgentOPSD": agent_opsd,
    "GRPOLambda": grpo_lambda,
    "Oracle": oracle,
    "Inverted": oracle,
}
