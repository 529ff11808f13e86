"""Loading and saving policies in the released layout: ``config.json``, sharded safetensors, and their index."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from envfarm.core.durable import sync
from envfarm.core.errors import Reason, TrainerError

from . import fp8
from .config import MiMoConfig, read_config, to_hub
from .layout import is_fp8, released_layout
from .model import MiMo

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SHARD_BYTES = 4 << 30


def save_policy(policy: MiMo, folder: Path, *, quantised: bool = False, shard_bytes: int = SHARD_BYTES) -> None:
    """Write ``folder`` anew, all or nothing. ``quantised`` gives FP8 weights with scales, as released; otherwise each
    tensor keeps its type, so that loading gives back the same bits. Raises ``TrainerError`` (disk_full,
    checkpoint_unwritable)."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _write(policy, staging / "new", quantised, shard_bytes)
            _swap(staging / "new", folder, staging / "old")
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        full = "No space left" in str(error)
        raise TrainerError(
            f"The policy cannot be saved to {folder}: {'the disk is full' if full else error}.",
            reason=Reason.disk_full if full else Reason.checkpoint_unwritable,
            phase="save",
            remedy="Make room, or choose another folder.",
        ) from error


def load_policy(folder: Path, *, dtype: torch.dtype | None = None) -> MiMo:
    """A policy from a checkpoint folder. FP8 weights are dequantised, to ``dtype`` or bfloat16; other floating tensors
    keep their type unless ``dtype`` is given (the router stays in fp32 always).

    Raises ``ConfigError`` for a shape that cannot be built and ``TrainerError`` (checkpoint_missing,
    checkpoint_corrupt, checkpoint_mismatch) for everything else, one sentence each.
    """
    config = read_config(folder)
    expected = released_layout(config, quantised=False)
    state: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    for name, tensor in _tensors(folder):
        if name.endswith(fp8.SCALE):
            scales[name] = tensor
        elif name in expected:
            state[name] = tensor
        else:
            raise _mismatch(folder, f"it holds {name}, which a policy of its configuration has not")
    for name in expected:
        if name not in state:
            raise _mismatch(folder, f"it lacks {name}")
        state[name] = _as_wanted(folder, name, state[name], scales.pop(name + fp8.SCALE, None), expected[name], dtype)
    if scales:
        raise _mismatch(folder, f"{next(iter(scales))} belongs to no FP8 weight")
    with torch.device("meta"):
        policy = MiMo(config)
    policy.load_state_dict(state, assign=True)
    return policy


def _swap(new: Path, folder: Path, old: Path) -> None:
    """Put ``new`` at ``folder``; what was there goes to ``old``, and back where ``new`` cannot be placed."""
    if not folder.exists():
        new.rename(folder)
        return
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:  # cleanup: the caller removes what is staged, the old one with it
        old.rename(folder)
        raise


def _write(policy: MiMo, folder: Path, quantised: bool, shard_bytes: int) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(_described(policy.config, quantised), indent=2) + "\n", "utf-8")
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_bytes
    for name, tensor in _stored(policy.state_dict(), quantised):
        size = tensor.numel() * tensor.element_size()
        if size > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = tensor.contiguous()
        room -= size
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else SINGLE
        save_file(shard, folder / file, metadata={"format": "pt"})
        sync(folder / file)
        places |= dict.fromkeys(shard, file)
    total = sum(tensor.numel() * tensor.element_size() for shard in shards for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", "utf-8")
    sync(folder / INDEX)


def _stored(state: Mapping[str, Tensor], quantised: bool) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in state.items():
        if quantised and is_fp8(name, tuple(tensor.shape)):
            weight, scale = fp8.quantise(tensor)
            yield name, weight
            yield name + fp8.SCALE, scale
        else:
            yield name, tensor.detach().cpu()


def _described(config: MiMoConfig, quantised: bool) -> dict[str, object]:
    values = to_hub(config)
    if not quantised:
        values.pop("quantization_config", None)
        return values
    ignored = [f"model.layers.{index}.self_attn.o_proj" for index in range(config.num_hidden_layers)]
    ignored += [f"model.mtp.layers.{index}.self_attn.o_proj" for index in range(config.num_nextn_predict_layers)]
    values["quantization_config"] = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [fp8.BLOCK, fp8.BLOCK],
        "ignored_layers": ignored,
    }
    return values


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file, names in _shards(folder).items():
        try:
            with safe_open(folder / file, framework="pt") as shard:
                held = set(shard.keys())
                for name in sorted(names or held):
                    if name not in held:
                        raise _corrupt(folder, f"{file} lacks {name}, which the index places there")
                    yield name, shard.get_tensor(name)
        except FileNotFoundError as error:
            raise _missing(folder, f"{file}, which its index names, is not there") from error
        except (OSError, SafetensorError) as error:
            raise _corrupt(folder, f"{file} cannot be read ({error})") from error


def _shards(folder: Path) -> dict[str, list[str]]:
    """File -> names it shall hold; an empty list stands for all."""
    if not (folder / INDEX).is_file():
        if (folder / SINGLE).is_file():
            return {SINGLE: []}
        raise _missing(folder, f"there is neither {INDEX} nor {SINGLE}")
    try:
        places = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"]
        shards: dict[str, list[str]] = {}
        for name, file in places.items():
            if Path(file).name != file:
                raise ValueError(f"{file!r} is no file name")
            shards.setdefault(file, []).append(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _corrupt(folder, f"{INDEX} cannot be read ({error})") from error
    return shards


def _as_wanted(
    folder: Path,
    name: str,
    tensor: Tensor,
    scale: Tensor | None,
    spec: tuple[tuple[int, ...], torch.dtype],
    dtype: torch.dtype | None,
) -> Tensor:
    shape, released = spec
    if tuple(tensor.shape) != shape:
        raise _mismatch(folder, f"{name} has shape {tuple(tensor.shape)}, its configuration says {shape}")
    if tensor.dtype is fp8.DTYPE:
        if scale is None:
            raise _corrupt(folder, f"{name} is in FP8 and has no scale")
        try:
            return fp8.dequantise(tensor, scale, dtype or torch.bfloat16)
        except ValueError as error:
            raise _mismatch(folder, f"{name}: {error}") from error
    if scale is not None:
        raise _corrupt(folder, f"{name} has a scale and is not in FP8")
    if released is torch.float32:
        return tensor.float()
    return tensor if dtype is None else tensor.to(dtype)


def _missing(folder: Path, why: str) -> TrainerError:
    return _error(folder, why, Reason.checkpoint_missing, "Give a folder that holds a whole checkpoint.")


def _corrupt(folder: Path, why: str) -> TrainerError:
    return _error(folder, why, Reason.checkpoint_corrupt, "Copy it again, or take an earlier one.")


def _mismatch(folder: Path, why: str) -> TrainerError:
    return _error(folder, why, Reason.checkpoint_mismatch, "Weights and config.json must belong together.")


def _error(folder: Path, why: str, reason: Reason, remedy: str) -> TrainerError:
    return TrainerError(f"The checkpoint {folder} cannot be loaded: {why}.", reason=reason, phase="load", remedy=remedy)
