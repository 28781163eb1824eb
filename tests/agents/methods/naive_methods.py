"""Every method a second time, token by token in plain Python: slow, obvious, and sharing no code with the product.

Each function returns, per group and episode, {stream: list of values on the sampled tokens}.
"""

from __future__ import annotations

import math
import statistics

from harness.types import KLForm


def sampled(episode):
    return [t for t in range(len(episode.sequence)) if episode.sequence.mask[t]]


def advantages(group, std=True, leave_one_out=False):
    rewards = [episode.reward for episode in group.episodes]
    if all(reward == rewards[0] for reward in rewards):
        return [0.0] * len(rewards)
    out = []
    for i, reward in enumerate(rewards):
        others = rewards[:i] + rewards[i + 1 :] if leave_one_out else rewards
        value = reward - math.fsum(others) / len(others)
        out.append(value / (statistics.stdev(rewards) + 1e-6) if std else value)
    return out


def gap(episode, seen, t):
    return float(seen.teacher.logprobs[t]) - float(episode.sequence.logprobs[t]) if seen.teacher else None


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def reference(episode, seen, weight, form=KLForm.K3):
    if weight == 0:
        return {}
    return {
        "anchor.weights": [weight for _ in sampled(episode)],
        "anchor.logprobs": [float(seen.reference[t]) for t in sampled(episode)],
        "anchor.forms": [form for _ in sampled(episode)],
    }


def each(groups, evidence, one):
    """one(episode, seen, A) for every episode."""
    return [
        [one(e, k, a) for e, k, a in zip(group.episodes, known, advantages(group), strict=True)]
        for group, known in zip(groups, evidence, strict=True)
    ]


def grpo(method, groups, evidence, state):
    return [
        [
            {"advantages": [a for _ in sampled(e)], **reference(e, k, method.kl)}
            for e, k, a in zip(group.episodes, known, advantages(group, method.std, method.leave_one_out), strict=True)
        ]
        for group, known in zip(groups, evidence, strict=True)
    ]


def sdar(method, groups, evidence, state):
    def one(e, k, a):
        out = {"advantages": [a for _ in sampled(e)], **reference(e, k, method.kl)}
        if method.coef:
            out["likelihood"] = [
                method.coef * sigmoid(method.beta * gap(e, k, t)) if k.teacher else 0.0 for t in sampled(e)
            ]
        return out

    return each(groups, evidence, one)


def controlled(method, state):
    fed = min(1.0, max(0.0, state["rho"] + 0.5 - method.rho_target))
    lam = method.lam_min + (method.lam_max - method.lam_min) * fed
    return lam, method.mu_min + (method.mu_max - method.mu_min) * (1 - fed)


def cringe(method, groups, evidence, state):
    lam, mu = controlled(method, state) if method.adaptive else (method.lam, method.kl)

    def one(e, k, a):
        c = [math.tanh(method.beta * gap(e, k, t) / 2) if k.teacher else 0.0 for t in sampled(e)]
        out = {"advantages": [a for _ in c], **reference(e, k, mu)}
        return {**out, "likelihood": [lam * x for x in c]} if lam else out

    return each(groups, evidence, one)


def craft_c(method, group, known, adv):
    """c of every episode of one group, as lists over its sampled tokens."""
    if not any(k.teacher for k in known):
        return [[0.0 for _ in sampled(e)] for e in group.episodes]
    tables = []  # position -> Delta, per sibling
    for e, k in zip(group.episodes, known, strict=True):
        table, inside, turn_now = {}, 0, None
        for count, t in enumerate(sampled(e)):
            turn = int(e.sequence.turns[t])
            inside = inside + 1 if turn == turn_now else 0
            turn_now = turn
            key = (turn, inside) if method.alignment == "turn" else count
            table[key] = max(-20.0, min(20.0, gap(e, k, t))) if k.teacher else 0.0
        tables.append(table)
    out = []
    for i, table in enumerate(tables):
        row = []
        for key, own in table.items():
            others = [j for j in range(len(tables)) if j != i and key in tables[j]]
            if method.credit == "fallback":
                cti = adv[i] * own
            elif len(others) + 1 < method.g_min:
                cti = adv[i] * own if method.below == "fallback" else 0.0
            else:
                tilt = [0.0 if method.weights == "uniform" else tables[j][key] / method.tau for j in others]
                weight = [math.exp(x - max(tilt)) for x in tilt]
                mean = math.fsum(w * adv[j] for w, j in zip(weight, others, strict=True)) / math.fsum(weight)
                cti = mean - adv[i] if method.credit == "printed" else adv[i] - mean
            row.append(math.tanh((method.beta_plus if cti > 0 else method.beta_minus) * cti / 2))
        out.append(row)
    return out


def craft(method, groups, evidence, state):
    if not method.enabled:
        return sdar(method.baseline, groups, evidence, state)
    lam, mu = controlled(method, state) if method.phase_aware else (method.lam, method.kl)
    result = []
    for group, known in zip(groups, evidence, strict=True):
        adv = advantages(group)
        row = []
        for e, k, a, c in zip(group.episodes, known, adv, craft_c(method, group, known, adv), strict=True):
            out = {"advantages": [a for _ in c], **reference(e, k, mu)}
            if lam:
                out["likelihood"] = [lam * x for x in c]
            if mu and method.polarised_kl:
                out["anchor.forms"] = [polarised(x, method) for x in c]
            row.append(out)
        result.append(row)
    return result


def polarised(c, method):
    if abs(c) <= 1e-9 or -method.theta_kl <= c <= method.theta_kl:
        return KLForm.K3
    return KLForm.K1 if (c > 0) != method.swap else KLForm.NEG_K1


def rlsd(method, groups, evidence, state):
    lam = method.lam * max(0.0, 1 - state["steps"] / method.decay_steps)

    def one(e, k, a):
        stream = []
        for t in sampled(e):
            if k.teacher is None:
                stream.append(a)
                continue
            sign = (a > 0) - (a < 0)
            ratio = math.exp(min(700.0, sign * gap(e, k, t)))
            stream.append(a * ((1 - lam) + lam * min(max(ratio, 1 - method.eps_w), 1 + method.eps_w)))
        return {"advantages": stream, **reference(e, k, method.kl)}

    return each(groups, evidence, one)


def skill_sd(method, groups, evidence, state):
    def one(e, k, a):
        source = k.teacher.logprobs if k.teacher else e.sequence.logprobs
        return {
            "advantages": [a for _ in sampled(e)],
            "anchor.weights": [method.coef if k.teacher else 0.0 for _ in sampled(e)],
            "anchor.logprobs": [float(source[t]) for t in sampled(e)],
            "anchor.forms": [KLForm.IS_K3 for _ in sampled(e)],
        }

    return each(groups, evidence, one)


def bins(scores, t, token=None):
    """Probabilities of the entries, of the sampled token where it is asked for and not among them, and of the tail."""
    entries = [math.exp(x) for x in scores.distribution.logprobs[t]]
    if token is not None:
        entries.append(0.0 if token in scores.distribution.ids[t] else math.exp(scores.logprobs[t]))
    return [*entries, max(1 - math.fsum(entries), 0.0)]


def kl(p, q):
    # A tail of rounding size on either side is an empty tail.
    return max(
        0.0, math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 1e-14 and b > 0)
    )


def distillation(k, episode, weight, divergence, alpha):
    if k.teacher is None:
        return {}
    rows = [[float(x) for x in k.teacher.distribution.logprobs[t]] for t in sampled(episode)]
    return {
        "distillation.weights": [weight for _ in rows],
        "distillation.target.logprobs": rows,
        "kind": (divergence, alpha),
    }


def hsd(method, groups, evidence, state):
    lengths = [len(sampled(e)) for g in groups for e in g.episodes]
    per_episode = sum(lengths) / len(lengths) if lengths else 0.0

    def one(e, k, a):
        if method.kl_form == "sequence" and method.kl:
            gaps = [float(e.sequence.logprobs[t]) - float(k.reference[t]) for t in sampled(e)]
            ahead = [math.fsum(gaps[place:]) for place in range(len(gaps))]
            out = {"likelihood": [-method.kl * per_episode * g for g in ahead]}
        else:
            out = reference(e, k, method.kl)
        if not (method.failures_only and e.success):
            out |= distillation(k, e, method.mix, method.direction, method.alpha)
        return {**out, "advantages": [(1 - method.mix) * a for _ in sampled(e)]} if method.mix < 1 else out

    return each(groups, evidence, one)


def opsd(method, groups, evidence, state):
    return each(groups, evidence, lambda e, k, a: distillation(k, e, 1.0, method.divergence, method.alpha))


def mixed_opsd(method, groups, evidence, state):
    def one(e, k, a):
        pull = distillation(k, e, method.mix, method.divergence, method.alpha)
        return {"advantages": [(1 - method.mix) * a for _ in sampled(e)], **reference(e, k, method.kl), **pull}

    return each(groups, evidence, one)


def sdpo(method, groups, evidence, state):
    tokens = taught = 0
    for group, known in zip(groups, evidence, strict=True):
        for e, k in zip(group.episodes, known, strict=True):
            tokens += len(sampled(e))
            taught += len(sampled(e)) if k.teacher else 0
    return each(groups, evidence, lambda e, k, a: distillation(k, e, tokens / taught, method.divergence, method.alpha))


def quantile(values, q):
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def sc_grpo(method, groups, evidence, state):
    def divergence(group, e, k):
        wins = sum(episode.success for episode in group.episodes)
        if k.teacher is None or wins < 2 or wins == len(group.episodes):
            return None
        return [kl(bins(k.teacher, t), bins(k.student, t)) for t in sampled(e)]

    seen = [
        [divergence(g, e, k) for e, k in zip(g.episodes, known, strict=True)]
        for g, known in zip(groups, evidence, strict=True)
    ]
    pooled = [d for rows in seen for row in rows if row for d in row]
    scale = max(quantile(pooled, 0.75), 1e-4) if pooled else 1e-4
    return [
        [
            {
                "advantages": [a for _ in sampled(e)] if ds is None else [a * d / (d + scale) for d in ds],
                **reference(e, k, method.kl),
            }
            for e, k, a, ds in zip(group.episodes, known, advantages(group), rows, strict=True)
        ]
        for group, known, rows in zip(groups, evidence, seen, strict=True)
    ]


def saliency(d, entropy, turns, masked, rule):
    """Step by step through the tokens, with the state of the span that is open."""
    free = [t for t in range(len(d)) if not masked[t]]
    out = [0.0] * len(d)
    if not free or quantile([d[t] for t in free], 0.95) <= 0:
        return out
    values = [d[t] for t in free]
    top, middle = quantile(values, 0.95), statistics.median(values)
    mad = statistics.median(abs(x - middle) for x in values)

    def score(t):
        return d[t] / max(quantile(values, 0.75), 1e-3) if mad < 1e-6 else (d[t] - middle) / (1.4826 * mad + 1e-6)

    span = []  # entropies of the tokens of the open span
    level = 0.0
    for t in range(len(d)):
        if masked[t]:
            span = []
            continue
        goes_on = (
            span
            and turns[t] == turns[t - 1]
            and score(t) >= rule.reset
            and entropy[t] <= math.fsum(span) / len(span) + rule.entropy_rise
            and len(span) < rule.longest
        )
        height = min(1.0, d[t] / top)
        if goes_on:
            level = max(level * rule.decay, height)
            span.append(entropy[t])
        elif score(t) >= rule.spike and d[t] >= rule.least:
            level, span = height, [entropy[t]]
        else:
            span = []
        out[t] = level if span else 0.0
    return out


def squared_score(probabilities, own):
    """|e_y - p|^2 with one entry for every bin."""
    return max(0.0, 1 - 2 * own + math.fsum(x * x for x in probabilities))


def sgcd(method, groups, evidence, state):
    weights = []
    plain, weighted = [], []
    for group, known in zip(groups, evidence, strict=True):
        wins = sum(e.success for e in group.episodes)
        row = []
        for e, k, a in zip(group.episodes, known, advantages(group), strict=True):
            places = sampled(e)
            if method.gamma == 0 or k.teacher is None or not 0 < wins < len(group.episodes):
                row.append([1.0 for _ in places])
                own = [math.exp(e.sequence.logprobs[t]) for t in places]
                plain += [a * a * squared_score([x, 1 - x], x) for x in own]
                weighted += plain[len(plain) - len(own) :]
                continue
            q = [bins(k.teacher, t, e.sequence.tokens[t]) for t in places]
            p = [bins(k.student, t, e.sequence.tokens[t]) for t in places]
            d = [kl(a, b) for a, b in zip(p, q, strict=True)]
            entropy = [-math.fsum(x * math.log(x) for x in b if x > 1e-14) for b in q]
            masked = [k.masked is not None and bool(k.masked[t]) for t in places]
            s = saliency(d, entropy, [int(e.sequence.turns[t]) for t in places], masked, method.segmenter)
            row.append([min(max(1 + method.gamma * x, 1.0), method.c) for x in s])
            scores = [squared_score(b, math.exp(k.student.logprobs[t])) for b, t in zip(p, places, strict=True)]
            plain += [a * a * x for x in scores]
            weighted += [a * a * w * w * x for w, x in zip(row[-1], scores, strict=True)]
        weights.append(row)
    flat = [w for row in weights for episode in row for w in episode]
    mean = math.fsum(flat) / len(flat) if flat else 1.0
    norm = math.sqrt(math.fsum(weighted) / math.fsum(plain)) if math.fsum(plain) else 1.0
    factor = {
        "weights": lambda w: w,
        "mean": lambda w: mean,
        "normalised": lambda w: w / mean,
        "norm": lambda w: norm,
        "matched": lambda w: w / norm,
    }[method.control]
    return [
        [
            {"advantages": [a * factor(w) for w in row], **reference(e, k, method.kl)}
            for e, k, a, row in zip(group.episodes, known, advantages(group), rows, strict=True)
        ]
        for group, known, rows in zip(groups, evidence, weights, strict=True)
    ]


NAIVE = {
    "GRPO": grpo,
    "DrGRPO": grpo,
    "DAPO": grpo,
    "RLOO": grpo,
    "SDAR": sdar,
    "GRPOWithOPSD": sdar,
    "AdaptiveCRINGE": cringe,
    "TokenCRINGE": cringe,
    "CRAFT": craft,
    "RLSD": rlsd,
    "SkillSD": skill_sd,
    "HSD": hsd,
    "OPSD": opsd,
    "SDPO": sdpo,
    "GRPOMixedOPSD": mixed_opsd,
    "SCGRPO": sc_grpo,
    "SGCD": sgcd,
}
