"""Our networks in PyTorch, channels_last; parameters are named as ours, `weight` standing for `kernel` and `scale`.

A strided 3x3 convolution pads both sides, as PyTorch does without a copy; ours pads the end alone. The work is the same.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CNN = (1, 2, 2)
RESNET = (1, 1, 2, 4, 8)


def rows(x: Tensor) -> Tensor:
    """(b, c, h, w) as (b, h * w * c): a view of a channels_last tensor, in our order."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1)


def conv(channels: int, features: int, side: int = 3, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the resolution at stride 1."""
    return nn.Conv2d(channels, features, side, stride, side // 2, bias=bias)


def relu(x: Tensor) -> Tensor:
    """In place: no operation before a ReLU here needs its own output for its gradient."""
    return F.relu(x, inplace=True)


def mean(x: Tensor, axes: tuple[int, ...], keepdim: bool = False) -> Tensor:
    """The mean, divided where it is small: the gradient of PyTorch's own divides a tensor of x's size."""
    return x.sum(axes, keepdim=keepdim) / math.prod(x.shape[axis] for axis in axes)


def peak(x: Tensor, axis: int) -> Tensor:
    """The maximum; ``amax`` would count ties in its gradient, which costs another pass (here only zeros tie, behind a ReLU)."""
    return x.max(axis).values


def fold(x: Tensor, factor: int = 2) -> Tensor:
    """``space_to_depth``, in our order of channels."""
    b, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(b, h // factor, factor, w // factor, factor, c).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // factor, w // factor, c * factor**2).permute(0, 3, 1, 2)


def unfold(x: Tensor, factor: int = 2) -> Tensor:
    """``depth_to_space``, in our order of channels."""
    b, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(b, h, w, factor, factor, c // factor**2).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(b, factor * h, factor * w, c // factor**2).permute(0, 3, 1, 2)


class CnnBlock(nn.Module):
    """conv3x3, batch normalisation, maximum pooling, ReLU."""

    def __init__(self, channels: int, features: int, pool: bool = True):
        super().__init__()
        self.conv, self.norm, self.pool = conv(channels, features), nn.BatchNorm2d(features), pool

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block."""
        x = self.norm(self.conv(x))
        return relu(F.max_pool2d(x, 2) if self.pool else x)


class ResnetStage(nn.Module):
    """Two basic blocks."""

    def __init__(self, channels: int, features: int, stride: int):
        super().__init__()
        self.projects = stride > 1 or channels != features
        for index in range(2):
            first, step = (channels, stride) if index == 0 else (features, 1)
            if index == 0 and self.projects:
                self.add_module("block_0_short", conv(channels, features, 1, stride, bias=False))
                self.add_module("block_0_short_norm", nn.BatchNorm2d(features))
            self.add_module(f"block_{index}_first", conv(first, features, 3, step, bias=False))
            self.add_module(f"block_{index}_first_norm", nn.BatchNorm2d(features))
            self.add_module(f"block_{index}_second", conv(features, features, bias=False))
            self.add_module(f"block_{index}_second_norm", nn.BatchNorm2d(features))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the stage."""
        for index in range(2):
            short = self._normed(x, "block_0_short") if index == 0 and self.projects else x
            x = relu(self._normed(x, f"block_{index}_first"))
            x = relu(short + self._normed(x, f"block_{index}_second"))
        return x

    def _normed(self, x: Tensor, name: str) -> Tensor:
        return self.get_submodule(f"{name}_norm")(self.get_submodule(name)(x))


def block(backbone: str, index: int, width: int, pool: bool = True) -> nn.Module:
    """Block ``index`` of a backbone."""
    table = CNN if backbone == "cnn" else RESNET
    channels, features = (table[index - 1] * width if index else 3), table[index] * width
    if backbone == "cnn" or index == 0:
        return CnnBlock(channels, features, pool and backbone == "cnn")
    return ResnetStage(channels, features, 2 if index > 1 and pool else 1)


class Edge(nn.Sequential):
    """The plain split's client."""

    def __init__(self, width: int, backbone: str, depth: int = 2):
        super().__init__()
        for index in range(depth):
            self.add_module(f"block_{index}", block(backbone, index, width))


class Cloud(nn.Module):
    """The provider's network; ``side`` is z's, ``channels`` and ``expansion`` the funnel's."""

    def __init__(
        self,
        classes: int,
        width: int,
        backbone: str,
        side: int,
        depth: int = 2,
        channels: int = 0,
        expansion: int | None = None,
    ):
        super().__init__()
        table = CNN if backbone == "cnn" else RESNET
        self.expansion = None if expansion is None else Expansion(channels, expansion)
        self.backbone, self.blocks = backbone, range(depth, len(table))
        first = expansion or 0
        for index in self.blocks:
            even = side % 2 == 0
            part = block(backbone, index, width, even)
            if index == depth and first:
                _rewire(part, first)
            self.add_module(f"block_{index}", part)
            halves = even and (backbone == "cnn" or index > 1)
            side //= 2 if halves else 1
        features = table[-1] * width
        self.classifier = nn.Linear(features if backbone == "resnet" else features * side**2, classes)

    def forward(self, z: Tensor) -> Tensor:
        """Classifies features."""
        if self.expansion is not None:
            z = self.expansion(z)
        for index in self.blocks:
            z = self.get_submodule(f"block_{index}")(z)
        return self.classifier(mean(z, (2, 3)) if self.backbone == "resnet" else rows(z))


def _rewire(part: nn.Module, channels: int) -> None:
    """Gives a block's first convolutions another number of channels in."""
    names = ("conv",) if isinstance(part, CnnBlock) else ("block_0_first", "block_0_short")
    for name in names:
        old = part.get_submodule(name)
        assert isinstance(old, nn.Conv2d)
        new = conv(channels, old.out_channels, old.kernel_size[0], old.stride[0], old.bias is not None)
        part.add_module(name, new)


class Expansion(nn.Module):
    """The funnel cloud's channel expansion."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.first, self.second = conv(channels, features), conv(features, features)
        self.norm, self.triplet = nn.BatchNorm2d(features), Triplet()

    def forward(self, z: Tensor) -> Tensor:
        """Expands the channels."""
        return self.triplet(relu(self.norm(self.second(self.first(z)))))


class Excite(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze, self.excite = (
            nn.Linear(channels, hidden, bias=False),
            nn.Linear(hidden, channels, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scales each channel."""
        gate = torch.sigmoid(self.excite(relu(self.squeeze(mean(x, (2, 3))))))
        return x * gate[:, :, None, None]


class CBAM(Excite):
    """Gates per channel, then per position."""

    def __init__(self, channels: int, reduction: int):
        super().__init__(channels, reduction)
        self.spatial = conv(2, 1, 7, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scales channels, then positions."""
        seen = (mean(x, (2, 3)), F.adaptive_max_pool2d(x, 1)[:, :, 0, 0])
        gates = [self.excite(relu(self.squeeze(pooled))) for pooled in seen]
        x = x * torch.sigmoid(gates[0] + gates[1])[:, :, None, None]
        pooled = torch.stack([mean(x, (1,)), peak(x, 1)], 1)
        return x * torch.sigmoid(self.spatial(pooled))


class Triplet(nn.Module):
    """Triplet attention."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("height", "width", "channels"):
            self.add_module(f"{name}_conv", conv(2, 1, 7, bias=False))
            self.add_module(f"{name}_norm", nn.BatchNorm2d(1))

    def forward(self, x: Tensor) -> Tensor:
        """Averages the three branches."""
        last, gates = x.permute(0, 2, 3, 1), []
        for axis, name in ((1, "height"), (2, "width"), (3, "channels")):
            y = torch.stack([peak(last, axis), mean(last, (axis,))], -1).permute(0, 3, 1, 2)
            y = self.get_submodule(f"{name}_norm")(self.get_submodule(f"{name}_conv")(y))
            # Gates are smaller than what they scale, so that they are what is divided.
            gates.append((torch.sigmoid(y[:, 0]) / 3).unsqueeze(axis))
        return (last * (gates[0] + gates[1]).add_(gates[2])).permute(0, 3, 1, 2)


class Sift(nn.Module):
    """The funnel's neck."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.narrow, self.first = conv(channels, features, 1), conv(features, features)
        self.mix, self.second, self.third = (
            conv(features, features, 1),
            conv(features, features),
            conv(features, features, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Narrows and mixes the channels."""
        x = F.silu(self.first(self.narrow(x)))
        return relu(self.third(self.second(self.mix(x))))


class CnnFunnel(nn.Module):
    """The cnn funnel."""

    def __init__(self, width: int, channels: int = 12, bottleneck: int = 16):
        super().__init__()
        self.stem, self.stem_channels, self.stem_triplet = CnnBlock(3, width), Excite(width, 32), Triplet()
        self.bottleneck, self.bottleneck_norm = conv(width, bottleneck, 1), nn.BatchNorm2d(bottleneck)
        self.sift, self.channels, self.cbam = Sift(bottleneck, channels), Excite(channels, 4), CBAM(channels, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Encodes images."""
        x = self.stem_triplet(self.stem_channels(self.stem(x)))
        x = relu(F.max_pool2d(self.bottleneck_norm(self.bottleneck(x)), 2))
        return self.cbam(self.channels(self.sift(x)))


class ResnetFunnel(nn.Module):
    """The resnet funnel."""

    def __init__(self, width: int, channels: int = 12, bottleneck: int = 32):
        super().__init__()
        self.stem, self.stem_channels, self.stem_triplet = CnnBlock(3, width, False), Excite(width, 16), Triplet()
        self.down, self.down_norm = conv(width, 2 * width, 3, 2), nn.BatchNorm2d(2 * width)
        self.body = CnnBlock(2 * width, 2 * width, False)
        self.body_channels, self.body_triplet = Excite(2 * width, 32), Triplet()
        self.bottleneck, self.bottleneck_norm = conv(2 * width, bottleneck, 1), nn.BatchNorm2d(bottleneck)
        self.sift, self.channels, self.cbam = Sift(bottleneck, channels), Excite(channels, 3), CBAM(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Encodes images."""
        x = self.stem_triplet(self.stem_channels(self.stem(x)))
        x = self.body(relu(self.down_norm(self.down(x))))
        x = self.body_triplet(self.body_channels(x))
        x = relu(self.bottleneck_norm(self.bottleneck(x)))
        return self.cbam(self.channels(self.sift(x)))


class _Layer(nn.Module):
    """conv3x3, batch normalisation, ReLU."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.conv, self.norm = conv(channels, features), nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.norm(self.conv(x)))


class _Unet(nn.Module):
    """The injector's network on folded pixels."""

    def __init__(self, features: int = 32):
        super().__init__()
        self.down_0, self.down_1 = _Layer(12, features), _Layer(features, features)
        self.bottom = _Layer(features, features)
        self.up_1 = _Layer(features, 2 * features)
        self.up_0 = _Layer(features // 2 + features, 2 * features)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down_0(x)
        second = self.down_1(F.max_pool2d(first, 2))
        x = self.bottom(F.max_pool2d(second, 2))
        x = torch.cat([unfold(self.up_1(x)), second], 1)
        return torch.cat([unfold(self.up_0(x)), first], 1)


class Injector(nn.Module):
    """Additive noise tailored to the image; ``noisy=False`` sends the mean."""

    def __init__(self, noisy: bool = True, least: float = 1e-3, most: float = 10.0):
        super().__init__()
        self.noisy, self.least, self.most = noisy, least, most
        self.network, self.shift, self.rho = _Unet(), nn.Linear(48, 12), nn.Linear(48, 12)
        for start, value in (
            (self.shift.weight, 0.0),
            (self.shift.bias, 0.0),
            (self.rho.weight, 0.0),
            (self.rho.bias, -6.0),
        ):
            nn.init.constant_(start, value)
        self.draw: Callable[[Tensor], Tensor] = torch.randn_like

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is sent, and the noise's stddev."""
        features = self.network(fold(x)).permute(0, 2, 3, 1)
        centre = (x + torch.tanh(unfold(self.shift(features).permute(0, 3, 1, 2)))).clamp(0, 1)
        if not self.noisy:
            return centre, None
        rho = unfold(self.rho(features).permute(0, 3, 1, 2))
        stddev = self.least + (self.most - self.least) * torch.sigmoid(rho)
        z = (centre + stddev * self.draw(centre)).clamp(-4 * self.most, 1 + 4 * self.most)
        return z, stddev


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with flax's epsilon."""
    return nn.GroupNorm(math.gcd(8, channels), channels, eps=1e-6)


class Raise(nn.Module):
    """Doublings to the image's resolution; a sigmoid at the end."""

    def __init__(self, channels: int, times: int):
        super().__init__()
        self.between = times - 1
        for index in range(self.between):
            features = max(channels // 2, min(16, channels))
            self.add_module(f"Conv_{index}", conv(channels, 4 * features))
            self.add_module(f"GroupNorm_{index}", group_norm(features))
            channels = features
        self.pixels = conv(channels, 12)

    def forward(self, x: Tensor) -> Tensor:
        """Images."""
        for index in range(self.between):
            x = unfold(self.get_submodule(f"Conv_{index}")(x))
            x = relu(self.get_submodule(f"GroupNorm_{index}")(x))
        return torch.sigmoid(unfold(self.pixels(x)))


class MirrorDecoder(nn.Module):
    """The edge in reverse, on z folded to a quarter of the image's sides where it is finer."""

    def __init__(self, channels: int, side: int, image: int, width: int):
        super().__init__()
        self.factor = max(1, 4 * side // image)
        times = (image * self.factor // side).bit_length() - 1
        self.first, self.GroupNorm_0 = conv(channels * self.factor**2, 2 * width), group_norm(2 * width)
        self._Raise_0 = Raise(2 * width, times)

    def forward(self, z: Tensor) -> Tensor:
        """Images from features."""
        z = fold(z, self.factor) if self.factor > 1 else z
        return self._Raise_0(relu(self.GroupNorm_0(self.first(z))))


class Block(nn.Module):
    """Two normalised convolutions beside their input."""

    def __init__(self, width: int):
        super().__init__()
        for index in range(2):
            self.add_module(f"Conv_{index}", conv(width, width, bias=False))
            self.add_module(f"BatchNorm_{index}", nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block."""
        y = relu(self.get_submodule("BatchNorm_0")(self.get_submodule("Conv_0")(x)))
        return relu(x + self.get_submodule("BatchNorm_1")(self.get_submodule("Conv_1")(y)))


class DecoderReader(nn.Module):
    """Residual blocks at z's resolution, which is a quarter of the image's; then every position paints its square."""

    def __init__(self, channels: int, width: int, blocks: int):
        super().__init__()
        self.Conv_0, self.BatchNorm_0 = conv(channels, width, bias=False), nn.BatchNorm2d(width)
        for index in range(blocks):
            self.add_module(f"Block_{index}", Block(width))
        self.blocks, self.pixels = blocks, conv(width, 48)

    def forward(self, z: Tensor) -> Tensor:
        """Images from features."""
        x = relu(self.BatchNorm_0(self.Conv_0(z)))
        for index in range(self.blocks):
            x = self.get_submodule(f"Block_{index}")(x)
        return torch.sigmoid(unfold(self.pixels(x), 4))


class ConvClassifier(nn.Module):
    """Convolution blocks and a small perceptron."""

    def __init__(self, channels: int, side: int, classes: int, width: int):
        super().__init__()
        self.pools: list[bool] = []
        for index in range(4):
            if index >= 2 and side <= 4:
                break
            features = width * min(2, index + 1)
            self.add_module(f"Conv_{index}", conv(channels, features))
            self.add_module(f"GroupNorm_{index}", group_norm(features))
            self.pools.append(side % 2 == 0 and side > 2)
            channels, side = features, side // 2 if self.pools[-1] else side
        self.hidden, self.classifier = nn.Linear(channels * side**2, 2 * width), nn.Linear(2 * width, classes)

    def forward(self, z: Tensor) -> Tensor:
        """Logits from features."""
        for index, pool in enumerate(self.pools):
            z = self.get_submodule(f"GroupNorm_{index}")(self.get_submodule(f"Conv_{index}")(z))
            z = relu(F.max_pool2d(z, 2) if pool else z)
        return self.classifier(relu(self.hidden(rows(z))))


class _Net(nn.Module):
    """Two smooth layers beside a linear path."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.Dense_1, self.Dense_0 = nn.Linear(size, width), nn.Linear(width, width)
        self.Dense_2 = nn.Linear(size + width, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(self.Dense_0(F.silu(self.Dense_1(x))))
        return self.Dense_2(torch.cat([x, hidden], -1))


class Critic(nn.Module):
    """Scores every pair in one product."""

    def __init__(self, of_x: int, of_z: int, width: int):
        super().__init__()
        self.left, self.right, self.width = _Net(of_x, width), _Net(of_z, width), width
        for start in self.right.Dense_2.parameters():
            nn.init.zeros_(start)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Scores (b, c)."""
        return self.left(x) @ self.right(z).T / math.sqrt(self.width)
