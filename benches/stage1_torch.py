"""PyTorch's side of stage1.py: one stage of covid-resnet in PyTorch's fastest form, in f32.

Takes one JSON object as argument and prints one. Memory format channels_last, fused Adam, convolutions without the biases that the norms
behind them cancel, images decoded once on all cores and stored as bytes, features of the frozen body computed once.
"""

import copy
import io
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from engines import process_peak
from network import Network, network_input, read_file, set_tensors, without_biases


class Stage:
    """The plan, the images in memory, and the network."""

    def __init__(self, config):
        self.config, self.plan = config, config["plan"]
        self.side = self.plan["stages"][0]["image_size"]
        self.classes = len(config["classes"])
        self.metadata, tensors = read_file(config["body"])
        self.network = self.pretrained(tensors).to(memory_format=torch.channels_last)
        self.images = {}
        self.truth = {}
        for split, samples in config["samples"].items():
            self.images[split] = decode([path for path, _ in samples], self.side, config["threads"])
            self.truth[split] = torch.tensor([label for _, label in samples])
        self.best = (-1.0, None)

    def pretrained(self, tensors):
        network = Network(self.metadata["variant"], self.metadata["batch_norm_epsilon"], self.classes, self.plan["dropout"],
                          biases=False)
        body = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
        set_tensors(network.body, without_biases(body))
        return network

    def input(self, split, indices):
        x = network_input(self.images[split][indices], self.metadata["normalisation"])
        return torch.from_numpy(x).contiguous(memory_format=torch.channels_last)

    def train(self):
        for step in self.plan["stages"][0]["steps"]:
            (self.train_head if step["scope"] == "head" else self.train_all)(step)

    def train_head(self, step):
        """Computes the features of the body once, then trains the head on them."""
        self.network.eval()
        features = {split: self.features(split) for split in ("train", "validation")}
        self.fit(step, self.network.head, lambda split, indices: features[split][indices])

    def features(self, split):
        batches = self.batches(range(len(self.truth[split])))
        with torch.no_grad():
            return torch.cat([self.network.body(self.input(split, batch)) for batch in batches])

    def train_all(self, step):
        self.fit(step, self.network, self.input)

    def fit(self, step, trained, given):
        optimizer = torch.optim.Adam(trained.parameters(), step["learning_rate"], betas=(0.9, 0.999), eps=1e-7, fused=True)
        for _ in range(step["epochs"]):
            trained.train()
            for batch in self.batches(torch.randperm(len(self.truth["train"])).tolist(), training=True):
                optimizer.zero_grad(set_to_none=True)
                cross_entropy(trained(given("train", batch)), self.truth["train"][batch]).backward()
                optimizer.step()
            confusion = self.confusion(trained, "validation", given)
            self.offer(np.trace(confusion) / confusion.sum())

    def batches(self, order, training=False):
        size = self.plan["batch_size"]
        order = list(order)
        batches = [order[at:at + size] for at in range(0, len(order), size)]
        # Batch norm needs more than one image to compute a variance.
        return batches[:-1] if training and len(batches) > 1 and len(batches[-1]) == 1 else batches

    def confusion(self, module, split, given):
        """Confusion matrix; rows are true classes."""
        module.eval()
        counts = np.zeros((self.classes, self.classes), int)
        with torch.inference_mode():
            for batch in self.batches(range(len(self.truth[split]))):
                predicted = module(given(split, batch)).argmax(1)
                np.add.at(counts, (self.truth[split][batch].numpy(), predicted.numpy()), 1)
        return counts

    def offer(self, accuracy):
        if accuracy > self.best[0]:
            self.best = (accuracy, copy.deepcopy(self.network.state_dict()))

    def evaluate(self):
        """Evaluates the network of the best epoch on every split and saves it, as a run of Thorax does."""
        self.network.load_state_dict(self.best[1])
        torch.save(self.best[1], io.BytesIO())
        return {split: self.confusion(self.network, split, self.input).tolist() for split in self.truth}


def decode(paths, side, threads):
    """The images as bytes: [images, side, side]."""
    def square(path):
        return np.asarray(Image.open(path).convert("L").resize((side, side), Image.Resampling.BILINEAR))
    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(square, paths)))


def main():
    started = time.perf_counter()
    with open(sys.argv[1]) as file:
        config = json.load(file)
    torch.set_num_threads(config["threads"])
    torch.manual_seed(config["seed"])
    stage = Stage(config)
    loaded = time.perf_counter()
    stage.train()
    trained = time.perf_counter()
    evaluations = stage.evaluate()
    parts = {"load": loaded - started, "train": trained - loaded, "evaluate": time.perf_counter() - trained}
    print(json.dumps({"confusion": evaluations, "parts": parts, "peak_memory_bytes": process_peak()}))


if __name__ == "__main__":
    main()
