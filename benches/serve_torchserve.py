"""Thorax's ResNet-50 in PyTorch as a TorchServe handler, for serve.py."""

import io
import os

import numpy as np
import torch
from PIL import Image
from ts.torch_handler.base_handler import BaseHandler

import network

SIDE = 224


class Radiographs(BaseHandler):
    def initialize(self, context):
        folder = context.system_properties["model_dir"]
        torch.set_num_threads(int(os.environ["SERVE_THREADS"]))
        model, spec = network.load(os.path.join(folder, "model.safetensors"))
        self.normalisation = spec["normalisation"]
        self.model = model.eval().to(memory_format=torch.channels_last)
        self.initialized = True

    def preprocess(self, requests):
        files = [request.get("data") or request.get("body") for request in requests]
        grey = [Image.open(io.BytesIO(file)).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR) for file in files]
        images = network.network_input(np.stack([np.asarray(image) for image in grey]), self.normalisation)
        return torch.from_numpy(images).contiguous(memory_format=torch.channels_last)

    def inference(self, images):
        with torch.inference_mode():
            return torch.softmax(self.model(images), 1)

    def postprocess(self, probabilities):
        return [{"probabilities": row} for row in probabilities.tolist()]
