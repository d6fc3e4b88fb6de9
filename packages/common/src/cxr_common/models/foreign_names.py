"""The names and shapes that other libraries give the weights of networks in the zoo."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Renaming = tuple[str, str | Callable[[re.Match[str]], str]]


def _mobilenet_v2() -> list[Renaming]:
    # torchvision numbers the blocks through; timm counts within stages of 1, 2, 3, 4, 3, 3 and 1 blocks.
    places = [(stage, block) for stage, depth in enumerate((1, 2, 3, 4, 3, 3, 1)) for block in range(depth)]
    first = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
    other = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}
    renamings: list[Renaming] = [
        (r"^features\.0\.0\.", "conv_stem."),
        (r"^features\.0\.1\.", "bn1."),
        (r"^features\.18\.0\.", "conv_head."),
        (r"^features\.18\.1\.", "bn2."),
        (r"^classifier\.1\.", "classifier."),
    ]
    for number, (stage, block) in enumerate(places, start=1):
        for theirs, ours in (first if number == 1 else other).items():
            pattern = rf"^features\.{number}\.conv\.{re.escape(theirs)}\."
            renamings.append((pattern, f"blocks.{stage}.{block}.{ours}."))
    return renamings


def _layer(match: re.Match[str]) -> str:
    # Children 4 to 7 of a ResNet are layer1 to layer4.
    return f"layer{int(match[1]) - 3}."


def _half(match: re.Match[str]) -> int:
    # torchvision alternates stages (odd) and downsamplings (even): 1, 3, 5, 7 and 2, 4, 6.
    return int(match[1]) // 2


def _separate(match: re.Match[str]) -> str:
    # Query, key and value apart; `fused` puts them together.
    return f"blocks.{match[1]}.attn.{match[2][0]}."


_CONVNEXT_PARTS = {"0": "conv_dw", "2": "norm", "3": "mlp.fc1", "5": "mlp.fc2"}
_SWIN_PARTS = {"0": "fc1", "3": "fc2"}

RENAMINGS: dict[str, list[Renaming]] = {
    "timm": [],
    "ResNet as a sequence of children (lightly)": [
        (r"^0\.", "conv1."),
        (r"^1\.", "bn1."),
        (r"^([4-7])\.", _layer),
    ],
    "torchvision DenseNet, first release": [(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.")],
    "torchvision VGG": [
        (r"^classifier\.0\.", "pre_logits.fc1."),
        (r"^classifier\.3\.", "pre_logits.fc2."),
        (r"^classifier\.6\.", "head.fc."),
    ],
    "torchvision MobileNetV2": _mobilenet_v2(),
    "torchvision ConvNeXt": [
        (r"^features\.0\.([01])\.", r"stem.\1."),
        (r"^features\.([1357])\.(\d+)\.layer_scale$", lambda m: f"stages.{_half(m)}.blocks.{m[2]}.gamma"),
        (
            r"^features\.([1357])\.(\d+)\.block\.([0235])\.",
            lambda m: f"stages.{_half(m)}.blocks.{m[2]}.{_CONVNEXT_PARTS[m[3]]}.",
        ),
        (r"^features\.([246])\.([01])\.", lambda m: f"stages.{_half(m)}.downsample.{m[2]}."),
        (r"^classifier\.0\.", "head.norm."),
        (r"^classifier\.2\.", "head.fc."),
    ],
    "torchvision Swin": [
        (r"^features\.0\.0\.", "patch_embed.proj."),
        (r"^features\.0\.2\.", "patch_embed.norm."),
        (
            r"^features\.([1357])\.(\d+)\.mlp\.([03])\.",
            lambda m: f"layers.{_half(m)}.blocks.{m[2]}.mlp.{_SWIN_PARTS[m[3]]}.",
        ),
        (r"^features\.([1357])\.(\d+)\.", lambda m: f"layers.{_half(m)}.blocks.{m[2]}."),
        (r"^features\.([246])\.", lambda m: f"layers.{_half(m)}.downsample."),
        (r"^head\.", "head.fc."),
    ],
    "torchvision ViT": [
        (r"^class_token$", "cls_token"),
        (r"^conv_proj\.", "patch_embed.proj."),
        (r"^encoder\.pos_embedding$", "pos_embed"),
        (r"^encoder\.ln\.", "norm."),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.", r"blocks.\1.norm\2."),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_", r"blocks.\1.attn.qkv."),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.", r"blocks.\1.attn.proj."),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.", r"blocks.\1.mlp.fc1."),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.", r"blocks.\1.mlp.fc2."),
        (r"^heads\.head\.", "head."),
    ],
    "DINOv2": [
        (r"^(register|storage)_tokens$", "reg_token"),
        (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # in chunks, as it trains
    ],
    # Both as it writes files and, since its version 5, as it names modules.
    "transformers ViT and DINOv2": [
        (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
        (r"^embeddings\.register_tokens$", "reg_token"),
        (r"^embeddings\.distillation_token$", "dist_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^(?:encoder\.)?layers?\.(\d+)\.attention\.(?:attention\.)?(query|key|value|[qkv]_proj)\.", _separate),
        (r"^(?:encoder\.)?layers?\.(\d+)\.attention\.(?:output\.dense|o_proj)\.", r"blocks.\1.attn.proj."),
        (r"^(?:encoder\.)?layers?\.(\d+)\.(?:layernorm_before|norm1)\.", r"blocks.\1.norm1."),
        (r"^(?:encoder\.)?layers?\.(\d+)\.(?:layernorm_after|norm2)\.", r"blocks.\1.norm2."),
        (r"^(?:encoder\.)?layers?\.(\d+)\.(?:intermediate\.dense|mlp\.fc1)\.", r"blocks.\1.mlp.fc1."),
        (r"^(?:encoder\.)?layers?\.(\d+)\.(?:output\.dense|mlp\.fc2)\.", r"blocks.\1.mlp.fc2."),
        (r"^(?:encoder\.)?layers?\.(\d+)\.layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
        (r"^layernorm\.", "norm."),
        (r"^classifier\.", "head."),
    ],
    "transformers SigLIP and CLIP": [
        (r"^embeddings\.class_embedding$", "cls_token"),
        (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
        (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
        (r"^pre_layrnorm\.", "norm_pre."),  # as it is spelt there
        (r"^encoder\.layers\.(\d+)\.self_attn\.(q|k|v)_proj\.", _separate),
        (r"^encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"blocks.\1.attn.proj."),
        (r"^encoder\.layers\.(\d+)\.layer_norm([12])\.", r"blocks.\1.norm\2."),
        (r"^encoder\.layers\.(\d+)\.mlp\.fc([12])\.", r"blocks.\1.mlp.fc\2."),
        (r"^post_layernorm\.", "norm."),
        (r"^head\.probe$", "attn_pool.latent"),
        (r"^head\.attention\.in_proj_", "attn_pool.in_proj."),
        (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
        (r"^head\.layernorm\.", "attn_pool.norm."),
        (r"^head\.mlp\.", "attn_pool.mlp."),
    ],
    "open_clip": [
        (r"^conv1\.", "patch_embed.proj."),
        (r"^class_embedding$", "cls_token"),
        (r"^positional_embedding$", "pos_embed"),
        (r"^ln_pre\.", "norm_pre."),
        (r"^ln_post\.", "norm."),
        (r"^transformer\.resblocks\.(\d+)\.ln_([12])\.", r"blocks.\1.norm\2."),
        (r"^transformer\.resblocks\.(\d+)\.attn\.in_proj_", r"blocks.\1.attn.qkv."),
        (r"^transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"blocks.\1.attn.proj."),
        (r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"blocks.\1.mlp.fc1."),
        (r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"blocks.\1.mlp.fc2."),
        (r"^transformer\.resblocks\.(\d+)\.ls_([12])\.gamma$", r"blocks.\1.ls\2.gamma"),
    ],
}
"""Naming scheme to its (pattern, replacement) pairs, by which its names become timm's."""


def to_timm(name: str, renamings: list[Renaming]) -> str:
    """Name of a tensor in timm: the first pattern that matches decides, and a name that none matches stays.

    Args:
        name: The name in the other library, without any wrapper's prefix.
        renamings: One value of :data:`RENAMINGS`.
    """
    for pattern, replacement in renamings:
        renamed, count = re.subn(pattern, replacement, name, count=1)
        if count:
            return renamed
    return name


def fused(tensors: Mapping[str, Tensor], network: Any) -> dict[str, Tensor]:
    """Tensors of a transformer put together as timm keeps them.

    Queries, keys and values of a block become one matrix; those of an attention pool a query and a key-value matrix;
    tokens and position embeddings get the axes they lack; where timm's network does not embed the position of its
    class token, that embedding is added to the token.

    Args:
        tensors: Under the names that `to_timm` gives.
        network: The network they are for.

    Returns:
        The same tensors, or new ones under timm's names.
    """
    done, own = dict(tensors), network.state_dict()
    for name in tensors:
        stem, part, kind = name.rpartition(".attn.q.")
        trio = [f"{stem}.attn.{letter}.{kind}" for letter in "qkv"]
        if part and name not in own and all(member in done for member in trio):
            done[f"{stem}.attn.qkv.{kind}"] = torch.cat([done.pop(member) for member in trio])
    for kind in ("weight", "bias"):
        if (joint := done.pop(f"attn_pool.in_proj.{kind}", None)) is not None:
            width = len(joint) // 3
            done |= {f"attn_pool.q.{kind}": joint[:width], f"attn_pool.kv.{kind}": joint[width:]}
    for name in ("cls_token", "pos_embed"):
        if name in done and done[name].ndim < 3:
            done[name] = done[name].reshape(1, -1, done[name].shape[-1])
    positions, token = done.get("pos_embed"), done.get("cls_token")
    if positions is not None and token is not None and getattr(network, "no_embed_class", False):
        count = positions.shape[1]
        if round(count**0.5) ** 2 != count == round((count - 1) ** 0.5) ** 2 + 1:
            done |= {"cls_token": token + positions[:, :1], "pos_embed": positions[:, 1:]}
    return done
