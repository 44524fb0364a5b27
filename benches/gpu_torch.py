"""Thorax's ResNet-50 in PyTorch on a GPU: predictions and training steps as `thorax bench` times them, one CSV row each.

Needs PyTorch with CUDA or ROCm, and NumPy. `gpu.sh` runs it.
"""

import argparse
import statistics
import time

import torch

from network import Network, network_input, squares

NORMALISATION = {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CLASSES = 3
# Fastest last: what a user of PyTorch gets without, with some and with all of its options.
FORMS = ("f32", "TF32", "TF32 channels_last", "TF32 channels_last compiled", "f16 channels_last", "f16 channels_last compiled")


def timed(run, device, runs):
    """Seconds before the first run, and milliseconds of each run."""
    began = time.perf_counter()
    for _ in range(3):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    warm_up = time.perf_counter() - began
    samples = []
    for _ in range(runs):
        began = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        samples.append((time.perf_counter() - began) * 1e3)
    return warm_up, sorted(samples)


def measure(case, side, batch, form, device, runs):
    torch.manual_seed(1)
    words = form.split()
    tf32 = "TF32" in words
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    layout = torch.channels_last if "channels_last" in words else torch.contiguous_format
    half = torch.autocast(device, torch.float16 if device == "cuda" else torch.bfloat16, enabled="f16" in words)
    model = Network("resnet50", 1e-5, CLASSES, 0.5).to(device, memory_format=layout)
    images = torch.from_numpy(network_input(squares(batch, side), NORMALISATION))
    labels = torch.arange(batch) % CLASSES
    if case == "predict":
        model.eval()
        function = torch.compile(model) if "compiled" in words else model

        def run():
            with torch.inference_mode(), half:
                logits = function(images.to(device, memory_format=layout))
            return torch.softmax(logits.float(), 1).cpu()
    else:
        model.train()
        optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=device == "cuda")
        function = torch.compile(model) if "compiled" in words else model
        scaler = torch.amp.GradScaler(device, enabled="f16" in words and device == "cuda")

        def run():
            with half:
                logits = function(images.to(device, memory_format=layout))
            loss = torch.nn.functional.cross_entropy(logits.float(), labels.to(device))
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            return logits.detach().float().cpu()

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    warm_up, samples = timed(run, device, runs)
    peak = torch.cuda.max_memory_reserved() >> 20 if device == "cuda" else ""
    median = statistics.median(samples)
    p99 = samples[-(-99 * len(samples) // 100) - 1]
    rate = batch * len(samples) / sum(samples) * 1e3
    return f"PyTorch {torch.__version__} {form},{case},{side},{batch},{median:.3f},{p99:.3f},{rate:.1f},{warm_up:.1f},{peak}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", metavar="CASE:SIDE:BATCH", help="for example predict:224:8")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--runs", type=int, default=30)
    args = parser.parse_args()
    for text in args.cases:
        case, side, batch = text.split(":")
        for form in args.forms.split(","):
            try:
                print(measure(case, int(side), int(batch), form, args.device, args.runs), flush=True)
            except torch.cuda.OutOfMemoryError:
                print(f"PyTorch {torch.__version__} {form},{case},{side},{batch},,,,,out of memory", flush=True)


if __name__ == "__main__":
    main()
