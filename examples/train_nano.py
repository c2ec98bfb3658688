#!/usr/bin/env python3
"""Trains the bundled nano checkpoint: a whole V4 model, every feature on, through the reference operators.

    python examples/fetch_corpus.py corpus
    python examples/train_nano.py corpus --out nano --steps 760 --batch 4 --seed 0

Recipe (docs/v4.md, Training): Muon and AdamW, warm-up / constant / cosine, cross-entropy plus 0.3 of the MTP loss (0.1
while the rate decays), the balance rule and its small sequence loss, the indexer's own KL loss. In the last steps the
weights are rounded to FP8 and FP4 in the forward pass and updated behind it, so that the saved model is the trained
one. The last 5 % of Moby Dick is held out.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

import v4npu
from v4npu import ops
from v4npu.model import Config, Model
from v4npu.optim import Muon, split_parameters
from v4npu.reference import formats
from v4npu.reference.gate import router_scores

SHARES = {  # of the sampled tokens; Moby Dick is what the model is for
    "moby_dick": 0.40,
    "classics_prose": 0.20,
    "gutenberg_prose": 0.20,
    "sotu": 0.08,
    "kjv": 0.08,
    "classics_verse": 0.04,
}
HELD_OUT = 0.05
MTP_WEIGHTS = (0.3, 0.1)
BALANCE_STEP, BALANCE_LOSS = 0.001, 1e-4
INDEXER_LOSS = 0.2


def nano_config(vocab_size: int) -> Config:
    """Every feature of V4, small."""
    return Config.from_dict(
        {
            "architectures": ["DeepseekV4ForCausalLM"],
            "model_type": "deepseek_v4",
            "vocab_size": vocab_size,
            "hidden_size": 256,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "head_dim": 96,
            "qk_rope_head_dim": 32,
            "q_lora_rank": 128,
            "o_groups": 2,
            "o_lora_rank": 64,
            "sliding_window": 128,
            "index_n_heads": 4,
            "index_head_dim": 64,
            "index_topk": 64,
            "n_routed_experts": 7,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 128,
            "num_hash_layers": 2,
            "routed_scaling_factor": 1.5,
            "swiglu_limit": 10.0,
            "compress_ratios": [0, 0, 4, 128, 4, 128, 0],
            "rope_theta": 10000,
            "compress_rope_theta": 160000,
            "rope_scaling": {
                "type": "yarn",
                "factor": 16,
                "beta_fast": 32,
                "beta_slow": 1,
                "original_max_position_embeddings": 65536,
            },
            "max_position_embeddings": 1048576,
            "num_nextn_predict_layers": 1,
            "expert_dtype": "fp4",
        }
    )


def read_texts(folder: Path) -> tuple[dict[str, str], str]:
    """Training texts by name, and the held-out end of Moby Dick."""
    texts = {name: (folder / f"{name}.txt").read_text(encoding="utf-8") for name in SHARES}
    for name in texts.keys() - {"moby_dick"}:  # to Moby Dick's typography
        text = texts[name].replace("--", "—").replace("'", "’")
        texts[name] = re.sub(r'(^|[\s(\[—])"', r"\1“", text).replace('"', "”")
    moby = texts["moby_dick"]
    cut = round(len(moby) * (1 - HELD_OUT))
    texts["moby_dick"] = moby[:cut]
    return texts, moby[cut:]


def train_tokenizer(texts: dict[str, str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE; ids 0 and 1 begin and end a document."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    prose = [texts["moby_dick"]] * 2 + [texts["classics_prose"], texts["gutenberg_prose"]]
    tokenizer.train_from_iterator((line for text in prose for line in text.splitlines(keepends=True)), trainer)
    return tokenizer


def initialise(model: Model, seed: int) -> None:
    """Random weights: linears keep the scale, outputs start small, streams start nearly separate."""
    generator = torch.Generator().manual_seed(seed)
    m = model.config.hc_mult
    for name, p in model.named_parameters():
        value = torch.randn(p.shape, generator=generator) if p.is_floating_point() else torch.empty(p.shape)
        if name.endswith("norm.weight"):
            value = torch.ones(p.shape)
        elif name.endswith("_scale"):
            value = torch.full(p.shape, 0.02)
        elif name.endswith("hc_head_base"):
            value = 0.02 * value - 1.1  # sigmoid: a quarter of each stream
        elif name.endswith("_base"):
            value = 0.02 * value
            value[:m] -= 1.1
            value[2 * m :] += 3 * torch.eye(m).flatten()
        elif name.endswith(("attn_sink", ".ape", "gate.bias")):
            value = torch.zeros(p.shape)
        elif name.endswith("tid2eid"):
            shuffled = torch.rand(p.shape[0], model.config.n_routed_experts, generator=generator).argsort(-1)
            value = shuffled[:, : p.shape[1]]
        elif name == "embed.weight":
            value = 0.5 * value
        elif name == "head.weight":
            value = 0.02 * value
        else:
            value = value * p.shape[-1] ** -0.5 * (0.3 if name.endswith(("wo_b.weight", "w2.weight")) else 1.0)
        if ".experts." in name and ".shared_experts." not in name:
            path, _, matrix = name.removesuffix(".weight").rpartition(".")
            for e in range(p.shape[0]):
                model.install(f"{path}.{e}.{matrix}.weight", value[e])
        else:
            model.install(name, value)


def is_fp4(name: str) -> bool:
    return ".experts." in name


def is_fp8(name: str) -> bool:
    linears = (".wq_a.", ".wq_b.", ".wo_a.", ".wo_b.", ".shared_experts.", "e_proj.", "h_proj.", ".attn.wkv.")
    return any(part in name for part in linears)


class Rounded:
    """Within it, the forward pass sees the weights as they will be saved; the optimiser sees the full ones."""

    def __init__(self, model: Model, active: bool) -> None:
        self.named = [(n, p) for n, p in model.named_parameters() if active and (is_fp4(n) or is_fp8(n))]

    def __enter__(self) -> None:
        self.full = [p.data for _, p in self.named]
        for name, p in self.named:
            if is_fp4(name):
                p.data = formats.dequantise_fp4(*formats.quantise_weight_fp4(p.data))
            else:
                p.data = formats.dequantise_fp8(*formats.quantise_weight_fp8(p.data))

    def __exit__(self, *args: object) -> None:
        for (_, p), full in zip(self.named, self.full, strict=True):
            p.data = full


class Sampler:
    """Windows of the training texts, drawn by share."""

    def __init__(self, tokenizer: Tokenizer, texts: dict[str, str], seed: int) -> None:
        self.names = list(SHARES)
        self.ids = {n: torch.tensor(tokenizer.encode(texts[n]).ids) for n in self.names}
        self.generator = torch.Generator().manual_seed(seed)

    def batch(self, batch: int, length: int) -> Tensor:
        """int64 [batch, length]."""
        shares = torch.tensor([SHARES[n] for n in self.names])
        rows = []
        for pick in torch.multinomial(shares, batch, replacement=True, generator=self.generator).tolist():
            ids = self.ids[self.names[pick]]
            at = int(torch.randint(len(ids) - length, (1,), generator=self.generator))
            rows.append(ids[at : at + length])
        return torch.stack(rows)


def auxiliary_losses(model: Model, seen: dict[str, Tensor], batch: int, length: int) -> tuple[Tensor, Tensor]:
    """(indexer KL, sequence balance), each a mean over its layers."""
    kl, balance = [], []
    cu = torch.arange(0, batch * length + 1, length, dtype=torch.int32)
    zero = torch.zeros(batch, dtype=torch.int32)
    experts = model.config.n_routed_experts
    for i, layer in enumerate([*model.layers, *model.mtp]):
        scope = f"layers.{i}" if i < len(model.layers) else "mtp.0"
        attn, gate = layer.attn, layer.ffn.gate
        if attn.indexer is not None:
            keys = seen[f"{scope}.index_keys"]
            table = torch.arange(batch, dtype=torch.int32).unsqueeze(1)
            scores = ops.indexer_scores(
                seen[f"{scope}.index_query"],
                seen[f"{scope}.index_weights"],
                keys,
                table,
                cu,
                zero,
                attn.ratio,
                False,
            )
            with torch.no_grad():
                q = seen[f"{scope}.query"].unflatten(0, (batch, length))
                entries = seen[f"{scope}.entries"]
                hidden = (scores == -math.inf).unflatten(0, (batch, length)).unsqueeze(2)
                p = (torch.einsum("bthd,bnd->bthn", q, entries) * attn.scale).masked_fill(hidden, -1e30).softmax(-1)
                target = p.mean(2).flatten(0, 1)
            rows = (scores > -math.inf).any(-1)
            log_p = scores[rows].log_softmax(-1)
            t = target[rows]
            kl.append((t * (t.clamp_min(1e-9).log() - log_p.clamp_min(-1e4))).sum(-1).mean())
        if gate.bias is not None:
            s = router_scores(seen[f"{scope}.gate_input"], gate.weight)
            share = (s / s.sum(-1, keepdim=True)).unflatten(0, (batch, length)).mean(1)
            picked = one_hot(seen[f"{scope}.expert_indices"].long(), experts).sum(1).float()
            f = picked.unflatten(0, (batch, length)).mean(1) * experts / model.config.num_experts_per_tok
            balance.append((f * share).sum(-1).mean())
            load = picked.sum(0)
            gate.bias.data += BALANCE_STEP * torch.sign(load.mean() - load)
    return torch.stack(kl).mean(), torch.stack(balance).mean()


def losses(model: Model, ids: Tensor, mtp_weight: float) -> tuple[Tensor, dict[str, float]]:
    """The training loss of ids [batch, length + 2] and its parts."""
    seen: dict[str, Tensor] = {}
    x = ids[:, :-2]
    batch, length = x.shape
    streams = model.streams(x, trace=seen.__setitem__)
    main = cross_entropy(model.logits(streams).flatten(0, 1), ids[:, 1:-1].flatten())
    drafted, _ = model.draft(streams, ids[:, 1:-1].contiguous(), trace=seen.__setitem__)
    mtp = cross_entropy(drafted.flatten(0, 1), ids[:, 2:].flatten())
    kl, balance = auxiliary_losses(model, seen, batch, length)
    total = main + mtp_weight * mtp + INDEXER_LOSS * kl + BALANCE_LOSS * balance
    parts = {"loss": main, "mtp": mtp, "indexer_kl": kl, "balance": balance}
    return total, {name: float(value.detach()) for name, value in parts.items()}


def rate(step: int, steps: int, warmup: int) -> float:
    """Warm-up, constant, cosine to a tenth over the last half."""
    if step < warmup:
        return (step + 1) / warmup
    decay = max(0.0, (step / steps - 0.5) / 0.5)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * decay))


def save(model: Model, tokenizer: Tokenizer, out: Path) -> None:
    """Official layout: FP8 attention and shared experts, FP4 experts, the rest bfloat16 or float32."""
    tensors: dict[str, Tensor] = {}

    def put(name: str, quantised: tuple[Tensor, Tensor]) -> None:
        tensors[name], tensors[name.removesuffix("weight") + "scale"] = quantised

    for name, p in model.named_parameters():
        value = p.detach()
        if is_fp4(name):
            path, _, matrix = name.removesuffix(".weight").rpartition(".")
            for e in range(value.shape[0]):
                put(f"{path}.{e}.{matrix}.weight", formats.quantise_weight_fp4(value[e]))
        elif is_fp8(name):
            put(name, formats.quantise_weight_fp8(value))
        elif name.endswith(".weight"):
            tensors[name] = value.bfloat16()
        else:
            tensors[name] = value
    v4npu.checkpoint.save(out, model.config, tensors)
    tokenizer.save(str(out / "tokenizer.json"))


def held_out_bits(model: Model, ids: Tensor, nbytes: int, length: int = 512) -> float:
    """Bits per byte over consecutive windows of `length` tokens, each half of context and half scored."""
    total, half = 0.0, length // 2
    with torch.inference_mode():
        for at in range(0, len(ids) - 1, half):
            first = max(0, at - half)
            window = ids[first : at + half + 1]
            logits = model(window[:-1].unsqueeze(0))[0, at - first :]
            total += float(cross_entropy(logits, window[at - first + 1 :], reduction="sum"))
    return total / math.log(2) / nbytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder that fetch_corpus.py filled")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512, help="tokens per sequence")
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=0.006)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    texts, held_out = read_texts(args.corpus)
    tokenizer = train_tokenizer(texts, args.vocab)
    held_ids = torch.tensor(tokenizer.encode(held_out).ids)
    sampler = Sampler(tokenizer, texts, args.seed)
    model = Model(nano_config(tokenizer.get_vocab_size()), numerics="exact", dtype=torch.float32)
    initialise(model, args.seed)
    muon_params, adamw_params = split_parameters(model)
    adamw = torch.optim.AdamW(adamw_params, lr=args.lr, betas=(0.9, 0.95), eps=1e-20, weight_decay=0.1)
    optimisers = (Muon(muon_params, lr=args.lr), adamw)
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.time()
    with open(args.out / "loss.csv", "w", newline="") as log:
        rows = csv.writer(log)
        rows.writerow(["step", "seconds", "rate", "loss", "mtp", "indexer_kl", "balance"])
        for step in range(args.steps):
            factor = rate(step, args.steps, warmup=max(1, args.steps // 20))
            for optimiser in optimisers:
                optimiser.zero_grad(set_to_none=True)
                for group in optimiser.param_groups:
                    group["lr"] = args.lr * factor
            with Rounded(model, step >= args.steps * 0.7):
                total, parts = losses(
                    model,
                    sampler.batch(args.batch, args.length + 2),
                    MTP_WEIGHTS[factor < 1 and step > args.steps // 2],
                )
                total.backward()
            torch.nn.utils.clip_grad_norm_(adamw_params, 1.0)
            for optimiser in optimisers:
                optimiser.step()
            row = [
                step,
                round(time.time() - began, 1),
                round(factor, 4),
                *(round(v, 4) for v in parts.values()),
            ]
            rows.writerow(row)
            log.flush()
            if step % 10 == 0 or step == args.steps - 1:
                print(*row, flush=True)
            if step % 100 == 99 or step == args.steps - 1:
                save(model, tokenizer, args.out / "checkpoint")
    with Rounded(model, True):
        bits = held_out_bits(model, held_ids, len(held_out.encode()))
    print(f"held-out bits per byte (float32, rounded weights): {bits:.4f}")


if __name__ == "__main__":
    main()
