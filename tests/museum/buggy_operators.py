"""Operators as they were wrong elsewhere: each function takes the right wrapper of v4npu.ops and gives a wrong one."""

import torch

from v4npu import ops
from v4npu.reference.rope import rope_frequencies
from v4npu.reference.sequences import sequences


def positions_of(cu, start):
    return torch.cat([torch.arange(s, s + hi - lo) for _, lo, hi, s in sequences(cu, start)])


def scaled(x, factor, dims):
    return torch.cat((x[..., :-dims], x[..., -dims:] * factor), -1)


def without_the_newest_entry(topk):
    """s < t // r instead of s < (t + 1) // r."""

    def buggy(*args):
        picks, ratio = topk(*args), args[6]
        newest = ((positions_of(args[4], args[5]) + 1) // ratio - 1).where(
            (positions_of(args[4], args[5]) + 1) % ratio == 0, -2
        )
        return picks.masked_fill(picks == newest.unsqueeze(1), -1)

    return buggy


def hca_without_the_newest_entry(_):
    def buggy(q, window_kv, window_table, kv, table, cu, start, sink, scale, window, ratio, *tail):
        seen = positions_of(cu, start) // ratio
        entry = torch.arange(max(1, int(seen.max())), dtype=torch.int32)
        picks = torch.where(entry < seen.unsqueeze(1), entry, -1).int()
        where = (cu, start, sink, scale, window, *tail)
        return ops.csa_attention(q, window_kv, window_table, kv, table, picks, *where)

    return buggy


def without_a_causal_mask(_):
    def buggy(q, weights, keys, table, cu, start, ratio, topk, official):
        out = torch.full((len(q), topk), -1, dtype=torch.int32)
        for b, lo, hi, at in sequences(cu, start):
            known = keys[table[b].long()].flatten(0, 1)[: (at + hi - lo) // ratio]
            scores = (torch.einsum("thd,nd->thn", q[lo:hi], known).relu() * weights[lo:hi, :, None]).sum(1)
            picks = scores.topk(min(topk, len(known))).indices
            out[lo:hi, : picks.shape[1]] = picks.int()
        return out

    return buggy


def nan_leaves_picks_unset(topk):
    """A selection by comparison finds nothing above NaN and leaves what was in its output."""
    return lambda q, *args: topk(q, *args).masked_fill(q.isnan().flatten(1).any(1, keepdim=True), 0x7FC00000)


def shifted_tail(compressor):
    """The windows of a prompt of 3 tokens modulo 4 counted from its end: the tail is pooled into the last entry."""

    def buggy(kv, score, ape, norm, freqs, cu, start, state, slots, ratio, overlap, *rest):
        if overlap:
            kv, score = kv.clone(), score.clone()
            for _, lo, hi, at in sequences(cu, start):
                if (at + hi - lo) % ratio == ratio - 1 and hi - lo > ratio:
                    kv[lo:hi], score[lo:hi] = kv[lo:hi].roll(-1, 0), score[lo:hi].roll(-1, 0)
        return compressor(kv, score, ape, norm, freqs, cu, start, state, slots, ratio, overlap, *rest)

    return buggy


def open_window_dropped(compressor):
    """What the chunk before left of its last window is not carried over."""

    def buggy(*args):
        if args[7] is not None and len(args[0]) > 1:
            rows = args[7][args[8].long()]  # the states are a view of all memory: only these are touched
            rows[:, 0], rows[:, 1] = 0, -torch.inf
            args[7][args[8].long()] = rows
        return compressor(*args)

    return buggy


def decode_rows_not_saved(compressor):
    def buggy(*args):
        if args[7] is not None and len(args[0]) == len(args[6]):
            used = args[8].long()
            before = args[7][used]
            entries = compressor(*args)
            args[7][used] = before
            return entries
        return compressor(*args)

    return buggy


def stale_overlap_rows(compressor):
    """Entry 0 also pools what the last request left in the rows of the window before."""

    def buggy(*args):
        entries, (kv, score, ape, norm, _, cu, start, state, slots, ratio, overlap, eps) = (
            compressor(*args),
            args[:12],
        )
        first = 0
        for b, lo, hi, at in sequences(cu, start):
            if overlap and state is not None and at == 0 and hi - lo >= ratio:
                stale = state[int(slots[b])][:, -ratio:].clone()
                half, bad = stale.shape[2] // 2, ~stale.isfinite().all(0).all(-1)
                stale[0, bad], stale[1, bad] = 0, -torch.inf
                rows = torch.cat((stale[0, :, :half], kv[lo : lo + ratio, half:]))
                weights = torch.cat((stale[1, :, :half], (score[lo : lo + ratio] + ape)[:, half:])).softmax(0)
                entries[first] = ops.rms_norm((weights * rows).sum(0).to(entries.dtype), norm, eps)
                args[15].view(torch.float64)[int(args[16][first]) // args[15].shape[1], 0] = entries[first]
            first += (at + hi - lo) // ratio - at // ratio
        return entries

    return buggy


def entries_at(position):
    """Entries rotated at another position than their window's first token, of calls without a cache."""

    def make(compressor):
        def buggy(*args):
            entries, ratio = compressor(*args), args[9]
            per = [(at + hi - lo) // ratio - at // ratio for _, lo, hi, at in sequences(args[5], args[6])]
            index = torch.cat([torch.arange(n) for n in per])
            return ops.rope(entries, position(index, ratio) - index * ratio, args[4])

        return buggy

    return make


def attention_factor(qkv_prepare):
    """YaRN's generic 0.1 ln(factor) + 1 on the rotated dims of compressed layers."""

    def buggy(*args):
        q, kv = qkv_prepare(*args)
        dims = 2 * len(args[4])
        if torch.equal(args[4].float(), rope_frequencies(dims, 10000.0)):
            return q, kv
        return scaled(q, 1.277, dims), scaled(kv, 1.277, dims)

    return buggy


def no_head_norm(qkv_prepare):
    def buggy(q, *args):
        out, kv = qkv_prepare(q, *args)
        return out * (q.float().square().mean(-1, keepdim=True) + args[4]).sqrt().to(q.dtype), kv

    return buggy


def rounded_everywhere(qkv_prepare):
    def buggy(*args):
        q, kv = qkv_prepare(*args[:6], False, *args[7:])
        codes, scale = ops.act_quant(kv, 32)
        return q, (codes.float() * torch.exp2(scale.view(torch.uint8).float() - 127).repeat_interleave(32, -1)).to(kv)

    return buggy


def bf16_sine(_):
    def buggy(x, positions, freqs, inverse=False):
        angle = (positions.float().unsqueeze(-1) * freqs).view(len(positions), *[1] * (x.dim() - 2), -1)
        cos, sin = angle.cos().bfloat16().float(), angle.sin().bfloat16().float() * (-1 if inverse else 1)
        still = x.shape[-1] - 2 * len(freqs)
        even, odd = x[..., still::2].float(), x[..., still + 1 :: 2].float()
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)
        return torch.cat((x[..., :still], turned.to(x.dtype)), -1)

    return buggy


def gate_is_clamped_below(swiglu):
    return lambda gate, up, weights, limit: swiglu(gate.clamp(min=-limit) if limit else gate, up, weights, limit)


def weight_after_the_experts(moe_experts):
    def buggy(x, picks, weights, *rest):
        one = torch.ones_like(weights[:, :1])
        *stored, shared = rest
        parts = [moe_experts(x, picks[:, k : k + 1].contiguous(), one, *stored, None) for k in range(picks.shape[1])]
        routed = sum(part * weights[:, k : k + 1] for k, part in enumerate(parts))
        return routed if shared is None else (routed + shared).to(x.dtype)

    return buggy


def swapped_nibbles(moe_experts):
    def swap(w):
        byte = w.view(torch.uint8)
        return ((byte >> 4) | (byte << 4)).view(torch.int8) if w.dtype == torch.int8 else w

    return lambda *args: moe_experts(*[swap(a) if i in (3, 5, 7) else a for i, a in enumerate(args)])


def ties_to_the_larger_expert(gate):
    def buggy(x, weight, bias, topk, scale):
        picks, weights = gate(x, weight.flip(0), None if bias is None else bias.flip(0), topk, scale)
        return len(weight) - 1 - picks, weights

    return buggy


def bias_in_the_weights(gate):
    def buggy(x, weight, bias, topk, scale):
        picks, _ = gate(x, weight, bias, topk, scale)
        scores = torch.nn.functional.softplus(x.float() @ weight.float().T).sqrt() + bias
        share = scores.gather(1, picks.long())
        return picks, share / share.sum(-1, keepdim=True) * scale

    return buggy


def ends_with_rows(hc_pre):
    def buggy(*args):
        y, post, comb = hc_pre(*args)
        return y, post, comb / (comb.sum(-1, keepdim=True) + args[5])

    return buggy


def post_without_two(hc_pre):
    return lambda *args: tuple(part / 2 if i == 1 else part for i, part in enumerate(hc_pre(*args)))


def floor_of_fp8(fp4_act_quant):
    def buggy(x, block_size=32):
        codes, scale = fp4_act_quant(x, block_size)
        return codes, scale.view(torch.uint8).clamp(min=127 - 15).view(torch.float8_e8m0fnu)

    return buggy
