"""Runs a loaded transformers DeepSeek-V4 model on v4npu, in place."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from v4npu import ops
from v4npu.model import Model

ENABLED = "_v4npu_forward"  # an attribute of a DeepseekV4Model, whose forward may be wrapped later
FLAGS = ("output_hidden_states", "output_attentions", "output_router_logits")


def enable(hf_model: Any) -> Any:
    """Lets v4npu compute what a loaded transformers DeepSeek-V4 model computes.

    The object stays what it is: `model(...)` and `model.generate(...)` with everything that transformers builds on them
    (sampling, beams, assisted decoding, loss, `logits_to_keep`, chunked prefill), its configuration, weights and output
    types. Only the forwards of its DeepseekV4Model and, if it is a plain nn.Linear, lm_head are others, of these
    instances alone.

    Numerics are exact: in float32 the logits equal those of transformers but for the order of sums. Memory grows with
    tokens, not with their square; weights are the model's own and take no second place, except mHC weights, sinks and
    biases that it keeps in bfloat16. Padding on either side is right: each sequence gets what it gets alone, the
    hidden state at padding is that of the token before it, and `position_ids` may or may not count it.

    past_key_values: None, an empty DynamicCache, or what a call returned. It can be cropped to any length, reordered,
    selected, and copied with copy.deepcopy, which shares memory; `past_key_values.layers[0].cache` is the v4npu cache.

    transformers' own forward still runs, and cannot go on with past_key_values of v4npu's (a ValueError), where
    gradients are recorded and weights want them (with a warning unless the model is in training mode: use
    torch.no_grad or torch.inference_mode), for hidden states, attentions and router logits, inputs_embeds, dropout,
    is_causal=False and packed sequences by cu_seq_lens, and whenever past_key_values are what such a call returned.
    Hooks on modules inside the model are not called; modules inside it with a forward that is not transformers' own are
    refused. Assisted decoding is refused where transformers' own forward runs, which cannot step back.

    Enable last: after quantisers, adapters and `to`. What is changed or moved later is noticed, and taken over by the
    next call or refused by it; what was changed through `.data` or by a fused optimizer, by the next one that begins
    with no tokens in past_key_values.

    Args:
        hf_model: a DeepseekV4ForCausalLM or DeepseekV4Model, all of it on one device, in bfloat16, float32 or float64.

    Returns:
        hf_model. Enabling it twice changes nothing.

    Raises:
        ImportError: transformers is not installed, or too old for DeepSeek-V4.
        TypeError: hf_model is something else.
        ValueError: it holds more or less than DeepSeek-V4's weights (adapters), has forwards that are not transformers'
            own, or lies on several devices.
        NotImplementedError: quantised or float16 weights, or a configuration that this build does not run.
        Whatever is raised, hf_model is as it was.
    """
    base = _base(hf_model, "v4npu.enable")
    enabled = _forward_of(base)
    if enabled is not None and enabled.owner is hf_model:
        return hf_model
    forward = Forward(hf_model, base, enabled)
    if enabled is not None:  # the DeepseekV4Model by itself and now in another object, or the other way round
        enabled.undo("v4npu.enable")
    forward.replace(base, ENABLED, forward)
    forward.replace(base, "forward", forward)
    if hf_model is not base:
        if type(hf_model.lm_head).forward is nn.Linear.forward and not is_replaced(hf_model.lm_head):
            forward.replace(hf_model.lm_head, "forward", Head(hf_model.lm_head))
        forward.replace(hf_model, "_is_stateful", False)  # stepping back is what assisted decoding needs
    return hf_model


def disable(hf_model: Any) -> Any:
    """Undoes `enable`: the same attributes, and the same logits bit for bit, as before it.

    past_key_values that v4npu filled cannot be used any more. Disabling a model that is not enabled changes nothing.

    Args:
        hf_model: a DeepseekV4ForCausalLM or DeepseekV4Model.

    Returns:
        hf_model.

    Raises:
        ImportError: transformers is not installed, or too old for DeepSeek-V4.
        TypeError: hf_model is something else.
        ValueError: what `enable` replaced has been replaced or wrapped since; hf_model is as it was.
    """
    if (enabled := _forward_of(_base(hf_model, "v4npu.disable"))) is not None:
        enabled.undo("v4npu.disable")
    return hf_model


def _base(hf_model: Any, who: str) -> nn.Module:
    """The DeepseekV4Model of or in hf_model."""
    try:
        from transformers.models.deepseek_v4 import DeepseekV4ForCausalLM, DeepseekV4Model
    except ImportError as error:
        raise ImportError(
            f"{who}: hf_model must be a DeepSeek-V4 model of transformers 5.23 or later, which cannot be imported:"
            f" {error} (pip install 'v4npu[transformers]')"
        ) from None
    if not isinstance(hf_model, (DeepseekV4ForCausalLM, DeepseekV4Model)):
        raise TypeError(
            f"{who}: hf_model must be a transformers DeepseekV4ForCausalLM or DeepseekV4Model, got"
            f" {type(hf_model).__module__}.{type(hf_model).__name__}"
        )
    return hf_model.model if isinstance(hf_model, DeepseekV4ForCausalLM) else hf_model


def is_replaced(module: nn.Module) -> bool:
    """Whether a module has a forward of its own; accelerate's, which puts things where they are, does not count."""
    return "forward" in vars(module) and not hasattr(module, "_hf_hook")


def _forward_of(base: nn.Module) -> Forward | None:
    return vars(base).get(ENABLED)


class Head:
    """lm_head.forward of an enabled model, with the same dtypes."""

    def __init__(self, module: nn.Linear) -> None:
        self.module, self.theirs = module, module.forward

    def __call__(self, input: Tensor) -> Tensor:
        weight = self.module.weight
        wanted = torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)
        if wanted or weight.dtype != input.dtype or weight.device != input.device:
            return self.theirs(input)
        rows = input.reshape(-1, input.shape[-1])
        return ops.linear(rows, weight, input.dtype).unflatten(0, input.shape[:-1])


class Forward:
    """DeepseekV4Model.forward of one enabled instance."""

    def __init__(self, owner: Any, base: Any, enabled: Forward | None) -> None:
        self.owner, self.base = owner, base
        self.theirs: Callable[..., Any] = base.forward if enabled is None else enabled.theirs
        self._replaced: list[tuple[Any, str, Any, list[Any]]] = []
        self._warned = False
        self._build(enabled is not None)

    def replace(self, target: Any, name: str, value: Any) -> None:
        """Sets an attribute of an instance, until `undo`."""
        self._replaced.append((target, name, value, [vars(target)[name]] if name in vars(target) else []))
        setattr(target, name, value)

    def undo(self, who: str) -> None:
        for target, name, value, _ in self._replaced:
            if vars(target).get(name) is not value:
                raise ValueError(
                    f"{who}: hf_model has got another {type(target).__name__}.{name} since v4npu.enable; take"
                    " that away first"
                )
        while self._replaced:
            target, name, _, before = self._replaced.pop()
            if before:
                setattr(target, name, before[0])
            else:
                delattr(target, name)

    def _build(self, enabled: bool) -> None:
        from v4npu.integrations.transformers_weights import share

        self._shared = share(self.owner, self.base, enabled)

    @property
    def model(self) -> Model:
        return self._shared.model

    def _current(self, exactly: bool) -> Model:
        """The v4npu model, made anew if the weights of transformers' have been exchanged, moved or converted."""
        if not self._shared.current(exactly):
            self._build(enabled=True)
        return self.model

    def __call__(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        from transformers.modeling_outputs import MoeModelOutputWithPast

        from v4npu.integrations.transformers_cache import (
            check_not_cropped,
            close_state,
            left_to_theirs,
            mark,
            open_state,
            state_of,
        )

        config = self.base.config
        if reason := self._why_theirs(inputs_embeds, kwargs) or left_to_theirs(past_key_values):
            if state_of(past_key_values) is not None:
                raise ValueError(
                    f"v4npu.enable: {reason} is left to transformers' own forward, which cannot go on with the"
                    " past_key_values that v4npu filled"
                )
            check_not_cropped(past_key_values, reason)
            if reason == "recording gradients" and not (self.base.training or self._warned):
                self._warned = True
                warnings.warn(
                    "v4npu.enable: gradients are recorded, so transformers' own forward runs; call the model under"
                    " torch.no_grad() or torch.inference_mode() for v4npu's",
                    RuntimeWarning,
                    stacklevel=2,
                )
            out = self.theirs(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                **kwargs,
            )
            return mark(out)
        if input_ids is None:
            raise ValueError("input_ids or inputs_embeds must be given")
        ids = input_ids if input_ids.is_floating_point() else input_ids.long()
        state = open_state(past_key_values)
        hidden = state.compute(self._current(state.cache is None), ids, attention_mask, position_ids)
        if past_key_values is not None or (config.use_cache if use_cache is None else use_cache):
            past_key_values = close_state(past_key_values, state)
        out = MoeModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)
        return out if kwargs.get("return_dict", config.return_dict) is not False else out.to_tuple()

    def _why_theirs(self, inputs_embeds: Tensor | None, kwargs: dict[str, Any]) -> str:
        """What of this call only transformers' own forward does; empty if nothing."""
        config = self.base.config
        for flag in FLAGS:
            if kwargs.get(flag, getattr(config, flag, False)):
                return flag
        if inputs_embeds is not None:
            return "inputs_embeds"
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.base.parameters()):
            return "recording gradients"
        if self.base.training and config.attention_dropout:
            return "attention_dropout"
        if kwargs.get("is_causal", getattr(config, "is_causal", None)) is False:
            return "is_causal=False"
        return "cu_seq_lens_q" if kwargs.get("cu_seq_lens_q") is not None else ""
