"""LitServe with Thorax's ResNet-50 in PyTorch, for serve.py: model file, port, workers, batch."""

import base64
import io
import os
import sys

import litserve
import numpy as np
import torch
from PIL import Image

import network

SIDE = 224


class Radiographs(litserve.LitAPI):
    def __init__(self, path, threads, batch):
        super().__init__(max_batch_size=batch, batch_timeout=0.002)
        self.path, self.threads = path, threads

    def setup(self, device):
        torch.set_num_threads(self.threads)
        model, spec = network.load(self.path)
        self.normalisation = spec["normalisation"]
        self.model = model.eval().to(memory_format=torch.channels_last)

    def decode_request(self, request):
        image = Image.open(io.BytesIO(base64.b64decode(request["image"]))).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        return torch.from_numpy(network.network_input(np.asarray(image)[None], self.normalisation))[0]

    def predict(self, images):
        single = images.dim() == 3 if isinstance(images, torch.Tensor) else False
        batch = images[None] if single else torch.stack(list(images))
        with torch.inference_mode():
            found = torch.softmax(self.model(batch.contiguous(memory_format=torch.channels_last)), 1)
        return found[0] if single else found

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    path, port, workers, batch = sys.argv[1], *map(int, sys.argv[2:])
    api = Radiographs(path, max(1, os.cpu_count() // workers), batch)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, timeout=120)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error")
