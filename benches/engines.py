"""One engine in a process of its own, so that no other engine's threads, caches or memory are in its figures.

compare.py starts it with one JSON object as argument and talks to it line by line: it writes its results when it is ready, then for each
number N that it reads the times of N runs and its peak memory.
"""

import json
import os
import sys
import time

import numpy as np

LEARNING_RATE = 1e-3  # of the recipe covid-resnet, as are the optimizer's settings:
ADAM = {"lr": LEARNING_RATE, "betas": (0.9, 0.999), "eps": 1e-7}
WARM_UP_PREDICT, WARM_UP_TRAIN = 3, 2


def main():
    config = json.loads(sys.argv[1])
    # Libraries print to stdout, which is reserved for the protocol.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run, outcome, peak = ENGINES[config["engine"]](config)
    print(json.dumps(outcome), file=answers, flush=True)
    for line in sys.stdin:
        run()  # warm up after the turns of the other engines
        print(json.dumps({"samples_ms": [timed(run) for _ in range(int(line))], "peak_memory_bytes": peak()}),
              file=answers, flush=True)


def timed(run):
    started = time.perf_counter()
    run()
    return (time.perf_counter() - started) * 1e3


def process_peak():
    """Peak resident memory of this process in bytes; None if the system does not report it."""
    try:
        with open("/proc/self/status") as status:
            kibibytes = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
    except FileNotFoundError:
        return None
    return int(kibibytes) * 1024


def softmax(logits):
    shifted = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True))
    return (shifted / shifted.sum(axis=1, keepdims=True)).tolist()


def predicting(run):
    for _ in range(WARM_UP_PREDICT):
        logits = run()
    return run, {"probabilities": softmax(logits)}, process_peak


def onnxruntime(config):
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads = config["threads"]
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(config["onnx"], options, providers=["CPUExecutionProvider"])
    x = np.load(config["input"])
    return predicting(lambda: session.run(None, {"input": x})[0])


def openvino(config):
    from openvino import Core
    properties = {"INFERENCE_PRECISION_HINT": config["precision"], "INFERENCE_NUM_THREADS": config["threads"], "PERFORMANCE_HINT": "LATENCY"}
    model = Core().compile_model(config["onnx"], "CPU", properties)
    x = np.load(config["input"])
    return predicting(lambda: model([x])[0])


def torch_forms(config):
    """PyTorch configured by the words of the form: device, memory format, TF32 and autocast."""
    import torch
    words, device = config["form"].replace(",", "").split(), config["torch_device"]
    torch.set_num_threads(config["threads"])
    half = {"f16": torch.float16, "bf16": torch.bfloat16}.get(words[-1])
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = half is not None or "TF32" in words
        torch.backends.cudnn.benchmark = True
    memory_format = torch.channels_last if "channels_last" in words else torch.contiguous_format
    return torch, device, memory_format, torch.autocast(device, half or torch.bfloat16, enabled=half is not None)


def wait_for(torch, device):
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def torch_peak(torch, device):
    return torch.cuda.max_memory_reserved if device == "cuda" else process_peak


def torch_predict(config):
    from network import load
    torch, device, memory_format, autocast = torch_forms(config)
    network, _ = load(config["model"])
    network = network.to(device, memory_format=memory_format)
    x = torch.from_numpy(np.load(config["input"])).to(device, memory_format=memory_format)

    def run():
        with torch.inference_mode(), autocast:
            return network(x).float().cpu().numpy()

    return predicting(run)[:2] + (torch_peak(torch, device),)


def adam(torch, parameters, form):
    kind = next((kind for kind in ("fused", "foreach") if kind in form), None)
    return torch.optim.Adam(parameters, **ADAM, **({kind: True} if kind else {"foreach": False, "fused": False}))


def torch_train(config):
    """One training step: forward, mean cross-entropy, backward, Adam. The loss is read afterwards."""
    from network import load
    torch, device, memory_format, autocast = torch_forms(config)
    torch.manual_seed(1)
    network, metadata = load(config["model"], biases="no biases" not in config["form"])
    network = network.train().to(device, memory_format=memory_format)
    optimizer = adam(torch, network.parameters(), config["form"])
    scaler = torch.amp.GradScaler(device, enabled=config["form"].endswith(", f16"))
    x = torch.from_numpy(np.load(config["input"])).to(device, memory_format=memory_format)
    truth = (torch.arange(len(x)) % len(metadata["classes"])).to(device)
    wait = wait_for(torch, device)

    def run():
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = torch.nn.functional.cross_entropy(network(x), truth)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        wait()
        return loss.item()

    losses = [run() for _ in range(WARM_UP_TRAIN)]
    return run, {"losses": losses}, torch_peak(torch, device)


ENGINES = {"onnxruntime": onnxruntime, "openvino": openvino, "torch_predict": torch_predict, "torch_train": torch_train}

if __name__ == "__main__":
    main()
