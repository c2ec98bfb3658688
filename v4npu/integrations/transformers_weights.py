"""What v4npu computes with of a loaded transformers DeepSeek-V4 model: its own tensors, and a watch over all of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from v4npu.checkpoint_names import check_tensors, layout, official_name, split_fused
from v4npu.integrations.transformers import is_replaced
from v4npu.model import Config, Model
from v4npu.model.attention import layer_frequencies
from v4npu.model.install import adopt

DTYPES = (torch.bfloat16, torch.float32, torch.float64)
WHO = "v4npu.enable: hf_model"
NEAR = 2**-7  # RoPE frequencies of a model that was in bfloat16 stay rounded to it


class Held(NamedTuple):
    """Where transformers keeps a tensor that the v4npu model uses."""

    where: dict[str, Any]
    name: str
    tensor: Tensor
    pointer: int
    version: int = -1  # of what was copied
    copied: tuple[Tensor, Tensor] | None = None  # from where, and the copy

    def unchanged(self) -> bool:
        held = self.where.get(self.name)
        return (
            held is self.tensor
            and held.data_ptr() == self.pointer
            and (self.version < 0 or held._version == self.version)
        )

    def agrees(self) -> bool:
        """Whether a copy says what it was copied from; versions do not tell of fused optimizers, nor of `.data`."""
        return self.copied is None or torch.equal(self.copied[0].to(self.copied[1].dtype), self.copied[1])


class Shared(NamedTuple):
    """A v4npu model over the tensors of a transformers model, and what both are made of."""

    model: Model
    held: list[Held]
    slots: list[tuple[dict[str, Any], str, Any]]  # children and tensors of modules, and places where there are none
    sizes: list[tuple[dict[str, Any], int]]
    forwards: list[tuple[nn.Module, Any]]

    def current(self, exactly: bool) -> bool:
        """Whether transformers' model is what it was; `exactly` compares copied weights too."""
        return (
            all(where.get(name) is value for where, name, value in self.slots)
            and all(len(where) == size for where, size in self.sizes)
            and all(vars(module).get("forward") is forward for module, forward in self.forwards)
            and all(held.unchanged() for held in self.held)
            and not (exactly and not all(held.agrees() for held in self.held))
        )


def share(hf_model: Any, base: Any, enabled: bool) -> Shared:
    """The v4npu model of hf_model, where the forward of `base` is going to be or, once enabled, has been replaced."""
    stored: dict[str, Held] = {}
    slots, sizes, forwards = list[Any](), list[Any](), list[Any]()
    for path, module in hf_model.named_modules(remove_duplicate=False):
        for where in (module._modules, module._parameters, module._buffers):
            slots += [(where, name, value) for name, value in where.items()]
            sizes.append((where, len(where)))
        for where in (module._parameters, module._buffers):
            for leaf, tensor in where.items():
                if tensor is not None and leaf not in module._non_persistent_buffers_set:
                    stored[f"{path}.{leaf}" if path else leaf] = Held(where, leaf, tensor, tensor.data_ptr())
        if path == "lm_head" or (module is base and enabled) or (module is hf_model and module is not base):
            continue  # whose forwards are called
        _check_module(path, module, hf_model.config)
        if module is not base:
            forwards.append((module, vars(module).get("forward")))
    for name, held in stored.items():
        if held.tensor.dtype not in (*DTYPES, torch.int64, torch.int32):
            raise NotImplementedError(
                f"{WHO} must be in bfloat16, float32 or float64, {name} is {held.tensor.dtype};"
                " v4npu.load reads the quantised checkpoint itself"
            )
    devices = sorted({str(held.tensor.device) for held in stored.values()})
    if len(devices) != 1 or devices == ["meta"]:
        raise ValueError(f"{WHO} must lie on one device, lies on {', '.join(devices)}")
    model, used = _adopt_all(hf_model, stored, torch.device(devices[0]))
    return Shared(model, used + _check_rotary(base.rotary_emb, model.config), slots, sizes, forwards)


def _check_module(path: str, module: nn.Module, config: Any) -> None:
    """Raises ValueError where a module computes something else than transformers' code."""
    if is_replaced(module) or not str(type(module).forward.__module__).startswith(("torch.nn.", "transformers.")):
        raise ValueError(f"{WHO}: {path or 'the model'} has a forward that is not transformers' own")
    if path.endswith(".act_fn") and type(module) is not type(ACT2FN[config.hidden_act]):
        raise ValueError(f"{WHO}: {path} must be what config.hidden_act names, got {type(module).__name__}")


def _check_rotary(rotary: Any, config: Config) -> list[Held]:
    """The frequencies of RoPE that layers use; raises NotImplementedError where v4npu's are others."""
    used = list[Held]()
    for ratio in {min(ratio, 1) for ratio in config.compress_ratios}:
        label = "compress" if ratio else "main"
        name, wanted = f"{label}_inv_freq", layer_frequencies(config, ratio)
        theirs, scaling = getattr(rotary, name), getattr(rotary, f"{label}_attention_scaling")
        got = theirs.detach().float().cpu()
        if got.shape != wanted.shape or not torch.allclose(got, wanted, rtol=NEAR, atol=0) or scaling != 1:
            raise NotImplementedError(
                f"{WHO}.config: rope_parameters give {name} [{len(got)}] scaled by {scaling}, others than"
                f" qk_rope_head_dim {config.qk_rope_head_dim}, rope_theta and YaRN without a factor for attention do"
            )
        version = -1 if theirs.is_inference() else theirs._version
        used.append(Held(rotary._buffers, name, theirs, theirs.data_ptr(), version))
    return used


def _adopt_all(hf_model: Any, stored: dict[str, Held], device: torch.device) -> tuple[Model, list[Held]]:
    values = hf_model.config.to_dict()
    values.pop("architectures", None)
    if values.get("swiglu_limit") == 0:
        raise NotImplementedError(f"{WHO}.config: swiglu_limit 0 means no limit here, and zeros to transformers")
    try:
        config = Config.from_dict(values).without_mtp()
    except (ValueError, NotImplementedError) as error:
        raise type(error)(f"{WHO}.config: {error}") from None
    specs, found = layout(config), {}
    headless = not hasattr(hf_model, "lm_head")
    if headless:
        del specs["head.weight"]
    pieces: list[tuple[str, Held, Tensor]] = []
    for stored_name, held in stored.items():
        name, tensor = official_name(stored_name), held.tensor.detach()
        if name is None:
            continue
        parts = split_fused(name, tuple(tensor.shape), config)
        if parts is None:
            found[name] = (tensor.dtype, tuple(tensor.shape))
            pieces.append((name, held, tensor))
        for official, part in parts or ():
            found[official] = (tensor.dtype, (part.stop - part.start, tensor.shape[2]))
            if part.expert == 0:  # of all experts at once
                pieces.append((official.replace(".experts.0.", ".experts."), held, tensor[:, part.start : part.stop]))
    check_tensors(WHO, specs, found)
    dtype = next(tensor.dtype for name, _, tensor in pieces if name == "embed.weight")
    model = Model(config, numerics="exact", dtype=dtype, device=device)
    if headless:
        del model.head
    used = []
    for name, held, tensor in pieces:
        own = adopt(model, name, tensor)
        if own.dtype == tensor.dtype:
            used.append(held)
        else:
            version = -1 if held.tensor.is_inference() else held.tensor._version
            used.append(held._replace(version=version, copied=(tensor, own)))
    return model.requires_grad_(False), used  # theirs keep what they want: with gradients it is they who run
