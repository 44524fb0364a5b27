"""Thorax's ResNet-50 in PyTorch: from a model file, with the same names, and the inputs of `thorax bench`."""

import json

import numpy as np
import torch
from torch import nn

BLOCKS = (3, 4, 6, 3)
MIDDLE = (64, 128, 256, 512)
HIDDEN = (256, 128, 64, 32)
FEATURES = 2048
METADATA_KEY = "thorax"
# Scale of the residual branch in a network with random weights: at 1, rounding errors grow from block to block, unlike in a trained network.
RESIDUAL = 0.25


def read_file(path):
    """The metadata of a model or body file, and its tensors by name."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()[METADATA_KEY]), {name: file.get_tensor(name) for name in file.keys()}


def write_file(path, metadata, tensors):
    from safetensors.torch import save_file

    save_file(tensors, path, {METADATA_KEY: json.dumps(metadata)})


def squares(count, side):
    """The grey images of `thorax bench`: [count, side, side], bytes."""
    number, y, x = np.ogrid[:count, :side, :side]
    return (((number + 1) * x * y // side + 3 * x + 5 * y) % 256).astype(np.uint8)


def network_input(grey, normalisation):
    """Normalises [count, side, side] bytes to [count, 3, side, side] floats as the model file specifies."""
    channels = [(grey.astype(np.float32) * np.float32(normalisation["scale"]) - np.float32(mean)) / np.float32(std)
                for mean, std in zip(normalisation["mean"], normalisation["std"])]
    return np.stack(channels, axis=1)


class Bottleneck(nn.Module):
    """Bottleneck block: convolutions 1x1, 3x3, 1x1, and a shortcut."""

    def __init__(self, channels, middle, stride, variant, epsilon, biases):
        super().__init__()
        output = 4 * middle
        first, second = (stride, 1) if variant == "resnet50" else (1, stride)
        self.conv1 = nn.Conv2d(channels, middle, 1, first, bias=biases)
        self.bn1 = nn.BatchNorm2d(middle, epsilon)
        self.conv2 = nn.Conv2d(middle, middle, 3, second, 1, bias=biases)
        self.bn2 = nn.BatchNorm2d(middle, epsilon)
        self.conv3 = nn.Conv2d(middle, output, 1, bias=biases)
        self.bn3 = nn.BatchNorm2d(output, epsilon)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if channels != output:
            around = nn.Conv2d(channels, output, 1, stride, bias=biases)
            self.downsample = nn.Sequential(around, nn.BatchNorm2d(output, epsilon))

    def forward(self, x):
        around = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + around)


class Body(nn.Module):
    """[batch, 3, side, side] to [batch, 2048]."""

    def __init__(self, variant, epsilon, biases):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=biases)
        self.bn1 = nn.BatchNorm2d(64, epsilon)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for number, (blocks, middle) in enumerate(zip(BLOCKS, MIDDLE), 1):
            stage = []
            for block in range(blocks):
                stride = 2 if block == 0 and number > 1 else 1
                stage.append(Bottleneck(channels, middle, stride, variant, epsilon, biases))
                channels = 4 * middle
            self.add_module(f"layer{number}", nn.Sequential(*stage))
        self.avgpool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.avgpool(x).flatten(1)


class Head(nn.Module):
    """[batch, 2048] to logits."""

    def __init__(self, classes, dropout):
        super().__init__()
        widths = [FEATURES, *HIDDEN, classes]
        self.norm = nn.BatchNorm1d(FEATURES)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))
        for layer in self.linear:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        x = self.dropout(self.norm(x))
        for index, layer in enumerate(self.linear):
            x = layer(x if index == 0 else torch.relu(x))
        return x


class Network(nn.Module):
    """Body and head; logits."""

    def __init__(self, variant, epsilon, classes, dropout, biases=True):
        super().__init__()
        self.body = Body(variant, epsilon, biases)
        self.head = Head(classes, dropout)

    def forward(self, x):
        return self.head(self.body(x))


def load(path, biases=True):
    """The network of a model file in inference mode, and the file's metadata.

    Without `biases` those of the convolutions go into the norms behind them, as torchvision builds the network: the same function
    with less to compute in training.
    """
    metadata, tensors = read_file(path)
    network = Network(metadata["block_variant"], metadata["batch_norm_epsilon"], len(metadata["classes"]),
                      metadata["dropout"], biases)
    set_tensors(network, tensors if biases else without_biases(tensors))
    return network.eval(), metadata


def set_tensors(module, tensors):
    """Raises an error unless the names are those of the module."""
    missing, surplus = module.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or surplus:
        raise ValueError(f"not this network's tensors: missing {missing}, surplus {surplus}")


def without_biases(tensors):
    """Merges each convolution's bias into the running mean of the norm behind it."""
    kept = dict(tensors)
    for name in tensors:
        if name.endswith(".weight") and tensors[name].ndim == 4:
            convolution = name.removesuffix(".weight")
            mean = f"{norm_behind(convolution)}.running_mean"
            kept[mean] = kept[mean] - kept.pop(f"{convolution}.bias")
    return kept


def norm_behind(convolution):
    """The name of the norm behind a convolution: `layer1.0.conv2` -> `layer1.0.bn2`, `layer1.0.downsample.0` -> `layer1.0.downsample.1`."""
    if convolution.endswith("downsample.0"):
        return convolution.removesuffix("0") + "1"
    return convolution.replace("conv", "bn")


def settle(path, variant, side):
    """Sets the norms of a model file to the statistics of the inputs, as training would.

    With the statistics that random weights begin with, activations double from block to block and every probability is 0 or 1: any
    two engines would agree on that.
    """
    metadata, tensors = read_file(path)
    metadata["block_variant"] = variant
    for name in tensors:
        if name.endswith("bn3.weight"):
            tensors[name] = RESIDUAL * tensors[name]
    write_file(path, metadata, tensors)
    network, _ = load(path)
    norms = [module for module in network.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        norm.momentum = 1.0
    network.train()
    network.head.dropout.eval()
    with torch.no_grad():
        network(torch.from_numpy(network_input(squares(16, side), metadata["normalisation"])))
    state = {name: tensor for name, tensor in network.state_dict().items() if name in tensors}
    write_file(path, metadata, state)


def without_dropout(path, target):
    """The same model file with dropout 0, so that the loss of a step does not depend on random numbers."""
    metadata, tensors = read_file(path)
    write_file(target, metadata | {"dropout": 0.0}, tensors)
