"""Compares `thorax bench` with ONNX Runtime, OpenVINO and PyTorch: the same network on the same inputs, in turns, each engine in a process of
its own. Nothing is timed before their results agree. See README.md."""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version

import numpy as np
import torch

import network

AGREEMENT = 1e-4  # maximum absolute difference of a probability, and relative difference of the first step's loss
PAUSE_SECONDS = 0.2  # lets the threads of the previous engine go to sleep
CPU_PREDICT = ("contiguous", "channels_last")
CPU_TRAIN = ("contiguous, Adam", "channels_last, Adam", "channels_last, foreach Adam", "channels_last, fused Adam",
             "channels_last, fused Adam, no biases", "channels_last, fused Adam, no biases, bf16")
GPU_PREDICT = ("contiguous", "contiguous, TF32", "channels_last, TF32", "channels_last, f16", "channels_last, bf16")
GPU_TRAIN = ("contiguous, fused Adam", "contiguous, fused Adam, TF32", "channels_last, fused Adam, TF32",
             "channels_last, fused Adam, no biases, TF32", "channels_last, fused Adam, no biases, f16",
             "channels_last, fused Adam, no biases, bf16")
# May have been set for another machine.
NOT_FOR_CHILDREN = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


def arguments():
    numbers = lambda text: [int(part) for part in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--thorax", default="target/release/thorax", help="path of the program")
    parser.add_argument("--case", choices=("predict", "train", "all"), default="all")
    parser.add_argument("--image-size", type=numbers, help="default: predict 224; train 128,224,229")
    parser.add_argument("--batch", type=numbers, help="default: predict 1,8,32; train 32 up to 128 pixels, above that 8")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads per engine on the CPU")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="gpu: Vulkan for Thorax, CUDA for PyTorch")
    parser.add_argument("--weights", help="a Thorax model file of a ResNet-50; without one the weights are random")
    parser.add_argument("--variant", choices=("resnet50", "resnet50-v1.5"), default="resnet50", help="block variant for random weights")
    parser.add_argument("--rounds", type=int, help="turns of each engine; default: predict 10, train 4")
    parser.add_argument("--runs", type=int, help="measured runs per turn; default: predict 3, train 5")
    parser.add_argument("--forms", help="run only the PyTorch forms whose name contains this text")
    parser.add_argument("--json", help="write all results, including the time of each run, to this file")
    return parser.parse_args()


def main():
    options = arguments()
    where = machine(options)
    print("\n".join(f"{name}: {value}" for name, value in where.items()), end="\n\n", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for work, side, batch in cases(options):
            measured = Comparison(options, scratch, work, side, batch).measure()
            print(table(measured), flush=True)
            rows += measured
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({"machine": where, "measurements": rows}, indent=1))


def machine(options, packages=("torch", "onnxruntime", "openvino")):
    program = subprocess.run([options.thorax, "--version"], check=True, capture_output=True, text=True).stdout.split()[-1]
    found = {
        "measured on": time.strftime("%Y-%m-%d %H:%M"),
        "processor": processor(),
        "threads": options.threads,
        "load before": round(os.getloadavg()[0], 2),
        "versions": ", ".join([f"thorax {program}"] + [f"{name} {version(name)}" for name in packages]),
    }
    if options.device == "gpu":
        found["GPU"] = torch.cuda.get_device_name()
    return found


def processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (FileNotFoundError, StopIteration):
        return platform.processor()


def has_tiles():
    """True if the processor has AMX tiles for bfloat16."""
    try:
        return "amx_bf16" in pathlib.Path("/proc/cpuinfo").read_text()
    except FileNotFoundError:
        return False


def cases(options):
    """The defaults of `thorax bench`."""
    for work in ("predict", "train") if options.case == "all" else (options.case,):
        for side in options.image_size or ([224] if work == "predict" else [128, 224, 229]):
            usual = [1, 8, 32] if work == "predict" else [32] if side <= 128 else [8]
            for batch in options.batch or usual:
                yield work, side, batch


class Comparison:
    """One case, run by all engines."""

    def __init__(self, options, scratch, work, side, batch):
        self.options, self.scratch, self.work, self.side, self.batch = options, scratch, work, side, batch
        self.rounds = options.rounds or (10 if work == "predict" else 4)
        self.runs = options.runs or (3 if work == "predict" else 5)
        self.torch_device = "cuda" if options.device == "gpu" else "cpu"
        self.model = self.model_file()
        self.ours = self.forms()
        self.input = str(scratch / "input.npy")
        metadata, _ = network.read_file(self.model)
        np.save(self.input, network.network_input(network.squares(batch, side), metadata["normalisation"]))

    def model_file(self):
        if self.options.weights:
            return self.options.weights
        path = str(self.scratch / "model.safetensors")
        command = [self.options.thorax, "bench", "--device", "cpu", "--image-size", str(self.side), "--export", path]
        subprocess.run(command, check=True, env=environment())
        network.settle(path, self.options.variant, self.side)
        return path

    def measure(self):
        # Every engine gets `rounds` turns, so that a slow phase of the machine affects all of them.
        engines = self.start()
        try:
            self.check(engines)
            samples = {name: [] for name in [*self.ours, *engines]}
            peaks = {}
            for _ in range(self.rounds):
                for name in samples:
                    time.sleep(PAUSE_SECONDS)
                    device = self.ours.get(name)
                    answer = self.thorax(self.model, self.runs, device) if device else engines[name].measure(self.runs)
                    samples[name] += answer["samples_ms"]
                    peaks[name] = max(peaks.get(name) or 0, answer["peak_memory_bytes"] or 0) or None
        finally:
            for engine in engines.values():
                engine.end()
        return self.rows(samples, peaks)

    def start(self):
        forms = {("predict", "cpu"): CPU_PREDICT, ("train", "cpu"): CPU_TRAIN,
                 ("predict", "gpu"): GPU_PREDICT, ("train", "gpu"): GPU_TRAIN}[self.work, self.options.device]
        forms = [form for form in forms if (self.options.forms or "") in form]
        engines = {}
        if self.work == "predict" and self.options.device == "cpu":
            onnx = self.export()
            engines |= {"ONNX Runtime": self.worker("onnxruntime", onnx=onnx),
                        "OpenVINO": self.worker("openvino", onnx=onnx, precision="f32")}
            if has_tiles():
                engines["OpenVINO, bf16"] = self.worker("openvino", onnx=onnx, precision="bf16")
        for form in forms:
            engines[f"PyTorch {form}"] = self.worker(f"torch_{self.work}", model=self.model, form=form)
        return engines

    def worker(self, engine, **config):
        return Worker(config | {"engine": engine, "threads": self.options.threads, "input": self.input,
                                "torch_device": self.torch_device})

    def export(self):
        """Exports the network for this batch size as ONNX; the exporter folds the norms."""
        path = str(self.scratch / "model.onnx")
        model, _ = network.load(self.model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, but the newer exporter needs another package
            torch.onnx.export(model, (torch.from_numpy(np.load(self.input)),), path, opset_version=17, dynamo=False,
                              input_names=["input"], output_names=["logits"])
        return path

    def forms(self):
        """Thorax's forms and their devices: the default, and where that is not f32, also f32 and bf16."""
        if self.options.device == "gpu":
            return {"Thorax": "vulkan"}
        found = self.thorax(self.model, 1, "cpu")["precision"]
        if found == "f32":
            return {"Thorax": "cpu"}
        return {f"Thorax, {found}": "cpu", "Thorax": "cpu:f32", "Thorax, bf16": "cpu:bf16"}

    def thorax(self, model, runs, device):
        """Runs Thorax in a process of its own, with warm-up."""
        options = self.options
        threads = [] if options.device == "gpu" else ["--threads", str(options.threads)]
        command = [options.thorax, "bench", "--case", self.work, "--image-size", str(self.side), "--batch", str(self.batch),
                   "--runs", str(runs), "--weights", model, "--json", "--details", "--device", device, *threads]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment()).stdout)

    def check(self, engines):
        """Aborts the comparison if an engine's results differ."""
        if self.work == "predict":
            self.check_probabilities(engines)
        else:
            self.check_losses()

    def check_probabilities(self, engines):
        for ours, device in self.ours.items():
            expected = np.array(self.thorax(self.model, 1, device)["probabilities"])
            for name, engine in engines.items():
                difference = np.abs(np.array(engine.outcome["probabilities"]) - expected).max()
                print(f"{self}: {name} differs from {ours} by {difference:.1e} at most")
                if agrees(name) and agrees(ours) and not difference <= AGREEMENT:
                    sys.exit(f"{name} does not agree with {ours}: no times are given")
        if expected.max(axis=1).min() > 0.999:
            print(f"{self}: all probabilities are near 0 or 1, so that the agreement says little")

    def check_losses(self):
        """Compares the losses of the first steps without dropout, whose random numbers differ between engines."""
        model = str(self.scratch / "without-dropout.safetensors")
        network.without_dropout(self.model, model)
        ours = {name: self.thorax(model, 1, device)["losses"] for name, device in self.ours.items()}
        worker = self.worker("torch_train", model=model, form="contiguous, Adam")
        theirs = worker.outcome["losses"]
        worker.end()
        for name, losses in ours.items():
            print(f"{self}: losses of the first steps: {name} {losses[:2]}, PyTorch {theirs[:2]}")
            if agrees(name) and not abs(losses[0] - theirs[0]) <= AGREEMENT * theirs[0]:
                sys.exit(f"PyTorch does not agree with {name}: no times are given")

    def rows(self, samples, peaks):
        ours = {name: statistics.median(times) for name, times in samples.items() if name.startswith("Thorax")}
        common = {"case": self.work, "image_size": self.side, "batch": self.batch}
        return [common | row(name, times, self.batch, peaks[name], ours) for name, times in samples.items()]

    def __str__(self):
        return f"{self.work} {self.batch} x {self.side} px"


def row(name, times, batch, peak, ours):
    median = statistics.median(times)
    return {
        "engine": name,
        "precision": precision(name),
        "runs": len(times),
        "median_ms": median,
        "p99_ms": sorted(times)[-(len(times) // 100) - 1],
        "images_per_second": batch * len(times) / sum(times) * 1e3,
        "peak_memory_bytes": peak,
        "over_this": {name: ours / median for name, ours in ours.items()},
        "samples_ms": times,
    }


def precision(name):
    """Precision of a form: the last word of its name if it is below f32."""
    return next((word for word in ("TF32", "f16", "bf16", "bf16x3") if name.endswith(f", {word}")), "f32")


def agrees(name):
    """True if a form's results must agree with f32 to 1e-4."""
    return precision(name) in ("f32", "bf16x3")


class Worker:
    """A process of engines.py, ready to run."""

    def __init__(self, config):
        script = pathlib.Path(__file__).with_name("engines.py")
        command = [sys.executable, "-W", "ignore", str(script), json.dumps(config)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())
        self.outcome = self.answer()

    def measure(self, runs):
        print(runs, file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args[-1]} ended with {self.process.wait()}")
        return json.loads(line)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def environment():
    return {name: value for name, value in os.environ.items() if name not in NOT_FOR_CHILDREN}


def table(rows):
    first = rows[0]
    lines = [
        f"\n{first['case']}, {first['batch']} x {first['image_size']} px, {first['runs']} runs each\n",
        " | ".join(["| engine | precision | median ms | p99 ms | images/s | peak MiB", *(f"{name}'s time / this one's"
                   for name in first["over_this"])]) + " |",
        "| --- | --- | --: | --: | --: | --: |" + " --: |" * len(first["over_this"]),
    ]
    for row in rows:
        peak = "" if row["peak_memory_bytes"] is None else row["peak_memory_bytes"] >> 20
        ratios = " | ".join(f"{ratio:.2f}" for ratio in row["over_this"].values())
        lines.append(f"| {row['engine']} | {row['precision']} | {row['median_ms']:.1f} | {row['p99_ms']:.1f} "
                     f"| {row['images_per_second']:.1f} | {peak} | {ratios} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
