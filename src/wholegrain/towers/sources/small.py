"""The from-scratch preset ``small``: a little Vision Transformer and a little reader that train on a CPU in minutes.

Image: a timm Vision Transformer whose patches come from a convolutional stem (Xiao et al., "Early convolutions help transformers
see better", NeurIPS 2021) or from plain patch projection; mean over the normalised patches, or a class token. Text: a pre-norm
transformer encoder with learned positions; mean over real tokens, or causal with the last token, as in CLIP.

Both read-outs are taken after the last LayerNorm, so with ``pool="mean"`` the pooled vector *is* the mean of the patches (and of
the tokens): SPARC's head then starts exactly from the plain model.

Speed, forward and backward, float32, batch 128, defaults: about 100 images/s per core of a shared AVX2 server (140 with
``stem="patch"``), and about as many image-text pairs/s at 16 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from wholegrain.data.preprocess import Preprocess
from wholegrain.errors import UserError
from wholegrain.text.tokenizer import Tokenizer
from wholegrain.towers.base import NOTHING, RawText, TextTower, masked_mean, real_tokens
from wholegrain.towers.bounds import build_bounded, memory_limit
from wholegrain.towers.heads.base import PlainHead, Widths
from wholegrain.towers.model import Model
from wholegrain.towers.sources.timm import TimmImageTower

HALF = (0.5, 0.5, 0.5)
_CHOICES = (("reader", ("gru", "transformer")), ("places", ("moments", "added")))
_MOST = {
    "image_size": 4096, "patch": 4096, "image_width": 2**14, "text_width": 2**14, "width": 2**14, "image_layers": 200, "text_layers": 200,
    "heads": 256, "context": 2**13, "sight": 4096,
}  # fmt: skip


@dataclass(frozen=True)
class SmallConfig:
    """Sizes of the preset.

    Attributes:
        image_size: side of the square input in pixels.
        patch: side of a patch in pixels; a power of two for the convolutional stem.
        image_width, image_layers, heads: of the Vision Transformer; ``heads`` of the text tower, too.
        stem: ``conv`` or ``patch``.
        text_width, text_layers, context: of the text tower; ``context`` is the longest row, start and end tokens included.
        width: D, shared.
        pool: of the image tower, ``mean`` or ``class``.
        text_pool: of the transformer: ``mean`` (every token sees every other) or ``last`` (causal).
        reader: the text tower, ``gru`` or ``transformer``.
        places: ``added`` is the Vision Transformer's own positions alone, ``moments`` multiplies the patches by place, too
            (:class:`PlaceMoments`, with ``pool=mean``; a class token has no place). V of the image tower is then three image widths.
        sight: how many patches far a patch attends in each layer, in all directions; 0 is the whole picture. A patch that sees the
            whole picture need not stay where its thing is: the mean over patches does not care. One with a short sight has to.
    """

    image_size: int = 64
    patch: int = 8
    image_width: int = 128
    image_layers: int = 4
    heads: int = 4
    stem: Literal["conv", "patch"] = "conv"
    text_width: int = 128
    text_layers: int = 3
    context: int = 32
    width: int = 128
    pool: Literal["mean", "class"] = "mean"
    text_pool: Literal["mean", "last"] = "mean"
    reader: Literal["gru", "transformer"] = "gru"
    places: Literal["moments", "added"] = "moments"
    sight: int = 1

    def __post_init__(self) -> None:
        for name, allowed in (
            ("stem", ("conv", "patch")),
            ("pool", ("mean", "class")),
            ("text_pool", ("mean", "last")),
            *_CHOICES,
        ):
            if getattr(self, name) not in allowed:
                raise UserError(f"small: {name} is {getattr(self, name)!r}; use {' or '.join(allowed)}")
        for name, most in _MOST.items():
            least = 0 if name == "sight" else 4 if name == "context" else 1
            if not least <= getattr(self, name) <= most:
                raise UserError(f"small: {name} is {getattr(self, name):,}; it must be from {least} to {most:,}")
        if self.image_size % self.patch or self.image_width % self.heads or self.text_width % self.heads:
            raise UserError("small: image_size must be a multiple of patch, and both tower widths of heads; change one of them")
        if self.stem == "conv" and (self.patch < 2 or self.patch & (self.patch - 1)):
            raise UserError(f"small: patch is {self.patch}; for the convolutional stem it must be a power of two")


class ConvStem(nn.Module):
    """3x3 convolutions of stride 2 with GroupNorm and GELU until one cell is one patch, then 1x1 to the tower's width.

    Has the face of timm's ``PatchEmbed``. GroupNorm in place of the paper's BatchNorm: no statistics across images or processes.
    """

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int, bias: bool = True, **_: object) -> None:
        super().__init__()
        side = img_size // patch_size
        self.grid_size = (side, side)
        self.num_patches = side * side
        halvings = patch_size.bit_length() - 1
        layers: list[nn.Module] = []
        channels = in_chans
        for step in range(halvings):
            wider = max(16, embed_dim >> (halvings - 1 - step)) // 8 * 8
            layers += [nn.Conv2d(channels, wider, 3, stride=2, padding=1, bias=False), nn.GroupNorm(8, wider), nn.GELU()]
            channels = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, embed_dim, 1, bias=bias))

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, P, V]``, row-major."""
        return self.layers(pixels_BCHW).flatten(2).transpose(1, 2)


class PlaceMoments(nn.Module):
    """Writes each patch three times: as it is, times its place across, times its place down, so that *what* and *where* enter the mean
    as a product.

    The mean of patches that only add a place knows which things and which places there are, not which thing is where. The mean of these
    is the zeroth and the first moments of every feature over the picture. Places have zero mean and unit variance. Tokens before the
    patches (branches) have no place: they are written three times unchanged.
    """

    places_P3: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        ones_P = torch.ones(side * side)
        ramp = torch.linspace(-1, 1, side, device=ones_P.device)  # said, since transformers may have taken linspace out of `with torch.device`
        ramp = ramp / ramp.square().mean().sqrt()
        places_P3 = torch.stack([ones_P, ramp.repeat(side), ramp.repeat_interleave(side)], 1)
        self.register_buffer("places_P3", places_P3, persistent=False)

    def forward(self, x_BSV: Tensor) -> Tensor:
        """``[B, S, V]``, of which the last P tokens are patches, to ``[B, S, 3 V]``."""
        first = x_BSV.shape[1] - len(self.places_P3)
        patches = (x_BSV[:, first:, None] * self.places_P3[:, :, None].to(x_BSV.dtype)).flatten(2)
        return torch.cat([x_BSV[:, :first].repeat(1, 1, 3), patches], 1) if first else patches


class SmallImageTower(TimmImageTower):
    """The preset's image tower."""

    def __init__(self, config: SmallConfig) -> None:
        net = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch,
            num_classes=0,
            global_pool="avg" if config.pool == "mean" else "token",
            class_token=config.pool == "class",
            embed_dim=config.image_width,
            depth=config.image_layers,
            num_heads=config.heads,
            fc_norm=False,  # normalise patches, then pool
            embed_layer=ConvStem if config.stem == "conv" else PatchEmbed,
        )
        moments = config.places == "moments" and config.pool == "mean"
        if moments:
            net.norm = nn.Sequential(net.norm, PlaceMoments(config.image_size // config.patch))
        super().__init__(net, {"kind": "small", "small": asdict(config)})
        self.width = config.image_width * (3 if moments else 1)
        if config.sight:
            prefix = net.num_prefix_tokens
            self.register_buffer(
                "near_SS", local_mask(config.image_size // config.patch, config.sight, prefix), persistent=False
            )


def local_mask(side: int, reach: int, prefix: int = 0) -> Tensor:
    """Additive attention mask ``[S, S]``, 0 or -inf: a patch sees patches at most ``reach`` rows and columns away.

    The ``prefix`` tokens before the patches (a class token) see everything and are seen by all.
    """
    at_P2 = torch.stack([torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)], 1)
    far_PP = (at_P2[:, None] - at_P2).abs().amax(-1) > reach
    mask_SS = torch.zeros(prefix + side * side, prefix + side * side)
    mask_SS[prefix:, prefix:].masked_fill_(far_PP, -torch.inf)
    return mask_SS


def small_text_tower(config: SmallConfig, vocab_size: int) -> SmallTextTower | RecurrentTextTower:
    """The preset's text tower, as ``config.reader`` says."""
    return (RecurrentTextTower if config.reader == "gru" else SmallTextTower)(config, vocab_size)


class RecurrentTextTower(TextTower):
    """Reads a text from both ends, and takes what each word *is* times what its context makes of it: ``[N, L]`` rows to ``[N, V]``.

    A token's vector is ``value(word) * gate(context)``, with a linear value of the word's embedding alone and a linear gate of a
    bidirectional GRU's state there; the text is their mean. So "cup" to the left and "cup" to the right are the same value under
    different gates, and what the gate learns on one noun holds for all: the reader's side of :class:`PlaceMoments`. The gates start
    near one, where a text is its bag of words. V is three text widths.
    """

    true_length = True  # packed rows: padding is never read

    def __init__(self, config: SmallConfig, vocab_size: int) -> None:
        super().__init__()
        self._config = {"kind": "small", "small": asdict(config), "vocab_size": vocab_size}
        words, self.context_length = config.text_width, config.context
        self.width = 3 * words
        self.embedding = nn.Embedding(vocab_size, words)
        self.reader = nn.GRU(words, words // 2, config.text_layers, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(words)
        self.value = nn.Linear(words, self.width, bias=False)
        self.gate = nn.Linear(words, self.width)
        nn.init.normal_(self.value.weight, std=words**-0.5)
        nn.init.normal_(self.gate.weight, std=0.1 * words**-0.5)
        nn.init.ones_(self.gate.bias)

    def forward(self, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = NOTHING) -> RawText:
        """See :class:`TextTower`."""
        packed = pack_padded_sequence(tokens_NL, length_N.cpu(), batch_first=True, enforce_sorted=False)
        known_U, word_T = packed.data.unique(return_inverse=True)  # what hangs on the word alone is computed once a word
        words_UE = self.embedding(known_U)
        read_TV = read_packed(self.reader, packed._replace(data=words_UE.index_select(0, word_T)))
        x_TV = self.value(words_UE).index_select(0, word_T) * self.gate(self.norm(read_TV))
        rows_NL = torch.arange(len(tokens_NL), device=tokens_NL.device)[:, None].expand_as(tokens_NL)
        row_T = pack_padded_sequence(rows_NL, length_N.cpu(), batch_first=True, enforce_sorted=False).data
        exact = torch.promote_types(x_TV.dtype, torch.float32)
        sum_NV = x_TV.new_zeros(len(tokens_NL), self.width, dtype=exact).index_add(0, row_T, x_TV.to(exact))
        tokens_NLV = None
        if "tokens" in needs:
            tokens_NLV, _ = pad_packed_sequence(packed._replace(data=x_TV), batch_first=True, total_length=tokens_NL.shape[1])
        return RawText(sum_NV / length_N[:, None], tokens_NLV, real_tokens(length_N, tokens_NL.shape[1]))

    def set_context(self, context: int, resample: Callable[[Tensor], Tensor]) -> None:
        """There is no table of positions."""
        self.context_length = context
        self._config = {**self._config, "small": {**self._config["small"], "context": context}}

    def stages(self) -> list[nn.Module]:
        """The reader and its gated read-out, as one stage."""
        return [nn.ModuleList([self.reader, self.norm, self.value, self.gate])]

    def transformer_blocks(self) -> list[nn.Module]:
        """None."""
        return []


def read_packed(reader: nn.GRU, packed: PackedSequence) -> Tensor:
    """``reader(packed)[0].data`` of a bidirectional GRU, ``[T, V]``.

    On a CPU it is computed cell by cell, the same to rounding in about half of the time: the module's backward pass there writes and adds a whole
    ``[T, 3 E]`` of zeros for every place of every layer, where that of a split is one concatenation.
    """
    if packed.data.device.type != "cpu":
        return reader(packed)[0].data
    x_TV, texts = packed.data, packed.batch_sizes.tolist()
    forth = range(len(texts))
    for layer in range(reader.num_layers):
        ways = []
        for suffix, order in (("", forth), ("_reverse", forth[::-1])):
            weights = [getattr(reader, f"{name}_l{layer}{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            ways.append(_read_one_way(x_TV.split(texts), order, weights))
        x_TV = torch.cat(ways, 1)
    return x_TV


def _read_one_way(places: Sequence[Tensor], order: Sequence[int], weights: Sequence[Tensor]) -> Tensor:
    """One layer's states ``[T, E]`` in one direction; a text's state is zero before its first (or after its last) token."""
    start = places[order[0]]
    state, states = start.new_zeros(len(start), weights[1].shape[1]), list(places)
    for place in order:
        more = len(places[place]) - len(state)
        state = torch.cat([state, state.new_zeros(more, state.shape[1])]) if more > 0 else state[: len(places[place])]
        states[place] = state = torch.gru_cell(places[place], state, *weights)
    return torch.cat(states)


class SmallTextTower(TextTower):
    """The preset's text tower: ``[N, L]`` rows at their true length to ``[N, V]`` (and ``[N, L, V]``)."""

    true_length = True  # by its masks; tests check it

    def __init__(self, config: SmallConfig, vocab_size: int) -> None:
        super().__init__()
        self._config = {"kind": "small", "small": asdict(config), "vocab_size": vocab_size}
        self.width, self.context_length = config.text_width, config.context
        self.causal = config.text_pool == "last"
        self.embedding = nn.Embedding(vocab_size, self.width)
        self.positions_LV = nn.Parameter(torch.randn(config.context, self.width) * 0.01)
        nn.init.normal_(self.embedding.weight, std=0.02)
        # a list of layers: nn.TransformerEncoder would start all of them as copies of one
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                self.width, config.heads, 4 * self.width, 0.0, nn.functional.gelu, batch_first=True, norm_first=True
            )
            for _ in range(config.text_layers)
        )
        self.norm = nn.LayerNorm(self.width)

    def forward(self, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = NOTHING) -> RawText:
        """See :class:`TextTower`."""
        L = tokens_NL.shape[1]
        mask_NL = real_tokens(length_N, L)
        x = self.embedding(tokens_NL) + self.positions_LV[:L]
        if self.causal:  # padding stands at the end, where no real token looks
            causal_LL = nn.Transformer.generate_square_subsequent_mask(L, x.device, x.dtype)
            masks: dict[str, object] = {"src_mask": causal_LL, "is_causal": True}
        else:
            masks = {"src_key_padding_mask": ~mask_NL}
        for block in self.blocks:
            x = block(x, **masks)
        x = self.norm(x)
        if self.causal:
            pooled = x[torch.arange(len(x), device=x.device), length_N - 1]
        else:
            pooled = masked_mean(x, mask_NL)
        return RawText(pooled, x if "tokens" in needs else None, mask_NL)

    def set_context(self, context: int, resample: Callable[[Tensor], Tensor]) -> None:
        """Another table of positions."""
        self.positions_LV = nn.Parameter(resample(self.positions_LV))
        self.context_length = context
        self._config = {**self._config, "small": {**self._config["small"], "context": context}}

    def stages(self) -> list[nn.Module]:
        """The blocks; the last LayerNorm belongs to the last."""
        return [*self.blocks[:-1], nn.ModuleList([self.blocks[-1], self.norm])]


def small_model(config: SmallConfig, tokenizer: Tokenizer) -> Model:
    """A fresh model of the preset, for this tokeniser's vocabulary; weights come from torch's global random state.

    Raises:
        UserError: the tokeniser gives rows longer than ``config.context``.

    Example:
        >>> from wholegrain.text.trained import train_tokenizer
        >>> model = small_model(SmallConfig(image_layers=1, text_layers=1), train_tokenizer(["a red cup"], 100, 32))
        >>> model.encode_images(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).pooled_BD.shape
        torch.Size([2, 128])
    """
    if tokenizer.context_length > config.context:
        raise UserError(
            f"the tokeniser gives {tokenizer.context_length} tokens and the model reads {config.context}; make the two the same"
        )

    def build() -> tuple[SmallImageTower, SmallTextTower | RecurrentTextTower]:
        return SmallImageTower(config), small_text_tower(config, tokenizer.vocab_size)

    image, text = build_bounded(build, memory_limit(), "small", "choose smaller sizes")
    preprocess = Preprocess(size=config.image_size, resize="squash", mean=HALF, std=HALF)
    return Model(image, text, PlainHead(Widths(image.width, text.width, config.width)), preprocess, tokenizer)


def at_image_size(model: Model, image_size: int) -> Model:
    """A copy of a model of the preset that reads pictures of another size: the same patches, positions interpolated bicubically.

    What was learned on small crops goes on learning on whole pictures.

    Raises:
        UserError: the model's image tower is not the preset's, has a class token, or ``image_size`` is no multiple of its patch.
    """
    tower = model.image_tower
    if not isinstance(tower, SmallImageTower) or model.head.kind != "plain" or model.bias is not None:
        raise UserError(
            "only models of the preset small with a plain head can change their picture size; start from one of those"
        )
    config = replace(SmallConfig(**tower.config()["small"]), image_size=image_size)
    if config.pool == "class":
        raise UserError("a model with a class token cannot change its picture size here; use pool=mean")
    resized = small_model(config, model.tokenizer)
    side = image_size // config.patch
    state = {
        name: _on_grid(values, side) if name.endswith("pos_embed") else values for name, values in model.state_dict().items()
    }
    resized.load_state_dict(state)
    return resized


def _on_grid(values: Tensor, side: int) -> Tensor:
    """Values per patch, ``[..., P, V]``, interpolated to another square grid."""
    flat = values.reshape(1, -1, values.shape[-1])
    return resample_abs_pos_embed(flat, new_size=[side, side], num_prefix_tokens=0).reshape(*values.shape[:-2], side * side, -1)
