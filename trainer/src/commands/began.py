"""The generator and the discriminator of an exported BEGAN in PyTorch; needs nothing but torch.

    generator, discriminator = load("the exported folder")
    images = generator(torch.rand(16, generator.latent) * 2 - 1)   # [16,3,size,size], about -1 to 1
    again = discriminator(images)                                  # D is an autoencoder
"""
import json
import pathlib

import torch
from torch.nn.functional import conv2d, elu, interpolate, linear


def read(path):
    """The tensors of a safetensors file by name, and its metadata."""
    raw = pathlib.Path(path).read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    about = header.pop("__metadata__", {})
    part = lambda at: torch.frombuffer(bytearray(raw[start + at[0]:start + at[1]]), dtype=torch.float32)
    return {name: part(told["data_offsets"]).view(told["shape"]) for name, told in header.items()}, about


class Network(torch.nn.Module):
    def __init__(self, tensors, prefix, model, carry):
        super().__init__()
        self.size, self.filters, self.latent, self.carry = model["size"], model["filters"], model["latent"], carry
        self.scales = (self.size // 8).bit_length() - 1
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                self.register_parameter(name[len(prefix):].replace(".", "_"), torch.nn.Parameter(tensor))

    def apply_layer(self, name, x, layer=conv2d, **how):
        return layer(x, getattr(self, name + "_weight"), getattr(self, name + "_bias"), **how)

    def conv(self, name, x, stride=1):
        return elu(self.apply_layer(name, x, padding=1, stride=stride))

    def carried(self, x, y):
        return self.carry * x + (1 - self.carry) * y

    def decode(self, z, at=""):
        twice = lambda x: interpolate(x, scale_factor=2, mode="nearest")
        skip = x = self.apply_layer(at + "cube", z, linear).view(-1, self.filters, 8, 8)
        for i in range(self.scales):
            x = self.conv(f"{at}scale{i}_conv", x if i == 0 else torch.cat([x, skip], 1))
            x, skip = twice(x), twice(skip)
            x = self.carried(x, self.conv(f"{at}scale{i}_refine", x))
        return self.apply_layer(at + "image", x, padding=1)


class Generator(Network):
    def forward(self, z):
        return self.decode(z)


class Discriminator(Network):
    def encode(self, x):
        x = self.conv("encoder_input", x)
        for i in range(self.scales):
            x = self.carried(x, self.conv(f"encoder_scale{i}_conv", x))
            x = self.conv(f"encoder_scale{i}_down", x, stride=2)
        return self.apply_layer("encoder_latent", x.flatten(1), linear)

    def forward(self, x):
        return self.decode(self.encode(x), "decoder_")


def load(folder):
    folder = pathlib.Path(folder)
    about = json.loads((folder / "model.json").read_text())
    tensors, _ = read(folder / "weights.safetensors")
    args = about["model"], about["carry"]
    return Generator(tensors, "generator.", *args).eval(), Discriminator(tensors, "discriminator.", *args).eval()
