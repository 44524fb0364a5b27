"""The whole server under load, over HTTP: compared with its engine alone, LitServe and TorchServe, while it trains, and at twice its capacity.
See README.md."""

import argparse
import concurrent.futures
import contextlib
import http.client
import io
import json
import os
import pathlib
import queue
import sqlite3
import statistics
import subprocess
import tempfile
import threading
import time
import uuid

from PIL import Image

import opponents
from compare import environment, machine
from opponents import Server

SIDE = 224
CLIENTS = 32
IMAGES = 64


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--thorax", default="target/release/thorax", help="path of the program")
    parser.add_argument("--radiographs", default="../shared/radiographs", help="a folder in the COVIDx layout")
    parser.add_argument("--case", choices=("throughput", "training", "reads", "overload"), required=True)
    parser.add_argument("--rounds", type=int, default=3, help="throughput: turns of each server")
    parser.add_argument("--seconds", type=float, help="duration of each turn; default: throughput 12, training and reads 60, overload 600")
    options = parser.parse_args()
    return argparse.Namespace(**vars(options), threads=os.cpu_count(), device="cpu")


def main():
    options = arguments()
    where = machine(options, ("torch", "litserve", "torchserve", "pillow") if options.case == "throughput" else ("pillow",))
    print("\n".join(f"{name}: {value}" for name, value in where.items()), end="\n\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        CASES[options.case](options, pathlib.Path(scratch), jpegs(options))


def jpegs(options):
    """Radiographs as a client would send them."""
    paths = sorted(path for path in pathlib.Path(options.radiographs).rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    images = []
    for path in paths[:: max(1, len(paths) // IMAGES)][:IMAGES]:
        encoded = io.BytesIO()
        Image.open(path).convert("L").resize((SIDE, SIDE)).save(encoded, "JPEG", quality=90)
        images.append(encoded.getvalue())
    return images


def thorax(options, folder, *flags):
    command = [options.thorax, "serve", "--data-dir", str(folder), "--listen", "127.0.0.1:0", "--log", "warn", *flags]
    server = Server(command, env=environment())
    server.address = server.process.stdout.readline().rsplit("http://", 1)[1].strip()
    return server


def ask(address, method, path, body=None, content_type="application/json"):
    connection = http.client.HTTPConnection(address, timeout=120)
    body = json.dumps(body).encode() if isinstance(body, dict) else body
    connection.request(method, path, body, {"Content-Type": content_type})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status >= 400:
        raise SystemExit(f"{method} {path}: {answer.status} {text[:500]}")
    return json.loads(text) if "json" in answer.getheader("Content-Type", "") else text


def crown(server, model):
    made = ask(server.address, "POST", "/v1/models?name=bench", model.read_bytes(), "application/octet-stream")
    ask(server.address, "PUT", "/v1/models/aliases/champion", {"model_id": made["id"]})


def export(options, scratch):
    model = scratch / "model.safetensors"
    command = [options.thorax, "bench", "--image-size", str(SIDE), "--export", str(model)]
    subprocess.run(command, capture_output=True, check=True, env=environment())
    return model


def engine_alone(options, batch, more=()):
    """Images per second of `thorax bench`."""
    command = [options.thorax, "bench", "--case", "predict", "--image-size", str(SIDE), "--batch", str(batch), "--json", *more]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout.splitlines()
    return json.loads(lines[-1])


def load(address, path, bodies, content_type, clients, seconds):
    """Runs that many clients, each with one request at a time. Returns the milliseconds of each response, and the number of responses by status."""
    times, statuses, lock = [], {}, threading.Lock()
    end = time.perf_counter() + seconds

    def client(number):
        connection = http.client.HTTPConnection(address, timeout=120)
        mine, seen = [], {}
        while time.perf_counter() < end:
            number += 1
            began = time.perf_counter()
            connection.request("POST", path, bodies[number % len(bodies)], {"Content-Type": content_type})
            answer = connection.getresponse()
            answer.read()
            mine.append((time.perf_counter() - began) * 1e3)
            seen[answer.status] = seen.get(answer.status, 0) + 1
        with lock:
            times.extend(mine)
            for status, count in seen.items():
                statuses[status] = statuses.get(status, 0) + count

    began = time.perf_counter()
    threads = [threading.Thread(target=client, args=(7 * number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"times": times, "statuses": statuses, "rate": len(times) / (time.perf_counter() - began)}


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def turns(options, model, servers, seconds):
    """Each server with many clients and with one, and the engine alone, in turns."""
    found = {}
    for _ in range(options.rounds):
        for batch in (1, 8, 32):
            found.setdefault(("engine alone", batch), []).append(engine_alone(options, batch, ["--weights", str(model)]))
        for clients in (CLIENTS, 1):
            for name, target in servers.items():
                found.setdefault((name, clients), []).append(load(*target, clients, seconds))
    return found


def throughput(options, scratch, images):
    model, seconds = export(options, scratch), options.seconds or 12
    with contextlib.ExitStack() as running:
        ours = running.enter_context(thorax(options, scratch / "data"))
        crown(ours, model)
        servers = {"Thorax": (ours.address, "/v1/predictions", images, "image/jpeg")}
        for name, opponent in opponents.of(options, model, scratch).items():
            server = running.enter_context(opponent.start())
            servers[name] = (server.address, opponent.path, [opponent.wrap(image) for image in images], opponent.content_type)
        for target in servers.values():
            load(*target, 2, 3)
        found = turns(options, model, servers, seconds)
    print("| | images/s | p50 ms | p99 ms | answers |\n| --- | --: | --: | --: | --- |")
    for (name, number), measured in found.items():
        if name == "engine alone":
            rate, median = statistics.median(t["images_per_second"] for t in measured), statistics.median(t["median_ms"] for t in measured)
            print(f"| engine alone, batch {number} | {rate:.1f} | {median:.1f} | | |")
        else:
            times = [ms for turn in measured for ms in turn["times"]]
            rate = statistics.median(turn["rate"] for turn in measured)
            statuses = {}
            for turn in measured:
                for status, count in turn["statuses"].items():
                    statuses[status] = statuses.get(status, 0) + count
            print(f"| {name}, {number} client{'s' if number > 1 else ''} | {rate:.1f} | {percentile(times, 0.5):.1f} | {percentile(times, 0.99):.1f} | {statuses} |")


def start_training(options, server):
    """Starts a run of the real network on real radiographs that lasts longer than the measurement."""
    dataset = ask(server.address, "POST", "/v1/datasets", {"name": "radiographs"})["id"]
    moved = ask(server.address, "POST", f"/v1/datasets/{dataset}/imports", {"path": "."})
    while ask(server.address, "GET", f"/v1/imports/{moved['id']}")["status"] == "running":
        time.sleep(0.2)
    plan = {"initial_weights": "random", "stages": [{"image_size": 128, "steps": [{"scope": "all", "learning_rate": 1e-4, "epochs": 1000}]}]}
    run = ask(server.address, "POST", "/v1/training-runs", {"dataset_id": dataset, "recipe": "covid-resnet", "plan": plan, "acknowledge": LEAKAGE})
    while ask(server.address, "GET", f"/v1/training-runs/{run['id']}")["progress"]["batch"] < 2:
        time.sleep(0.5)
    return run["id"]


LEAKAGE = ["patient-overlap", "duplicate-across-splits"]


def training(options, scratch, images):
    """One request at a time, idle and while a run trains."""
    model, seconds = export(options, scratch), options.seconds or 60
    with thorax(options, scratch / "data", "--import-root", options.radiographs) as server:
        crown(server, model)
        target = (server.address, "/v1/predictions", images, "image/jpeg")
        load(*target, 1, 3)
        idle = load(*target, 1, seconds / 2)
        run = start_training(options, server)
        rates = [ask(server.address, "GET", f"/v1/training-runs/{run}")["progress"]["images_per_second"]]
        time.sleep(30)
        rates.append(ask(server.address, "GET", f"/v1/training-runs/{run}")["progress"]["images_per_second"])
        paced = pace(server.address, images, 2.0, seconds)
        rates.append(ask(server.address, "GET", f"/v1/training-runs/{run}")["progress"]["images_per_second"])
        busy = load(*target, 1, seconds / 2)
        ask(server.address, "POST", f"/v1/training-runs/{run}/cancel")
    print("| | predictions | p50 ms | p99 ms |\n| --- | --: | --: | --: |")
    for name, times in (("idle, one client", idle["times"]), ("training, two a second", paced), ("training, one client without pause", busy["times"])):
        print(f"| {name} | {len(times)} | {percentile(times, 0.5):.1f} | {percentile(times, 0.99):.1f} |")
    print(f"\ntraining images/s of its epoch so far: at its start {rates[0]:.1f}, before the predictions {rates[1]:.1f}, after them {rates[2]:.1f}")


def pace(address, images, rate, seconds):
    """Sends requests at a fixed rate, independently of the responses (open loop). Returns the milliseconds of each."""
    began, times = time.perf_counter(), []
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        waiting = []
        for number in range(int(rate * seconds)):
            time.sleep(max(0.0, began + number / rate - time.perf_counter()))
            waiting.append(pool.submit(timed_post, address, images[number % len(images)]))
        for one in waiting:
            times.append(one.result())
    return times


def timed_post(address, image):
    began = time.perf_counter()
    ask(address, "POST", "/v1/predictions", image, "image/jpeg")
    return (time.perf_counter() - began) * 1e3


RUNS, PREDICTIONS = 1000, 200_000


def reads(options, scratch, images):
    """GET endpoints at 200 requests per second while a run trains, with 1,000 runs and 200,000 predictions stored."""
    model, seconds, folder = export(options, scratch), options.seconds or 60, scratch / "data"
    with thorax(options, folder, "--import-root", options.radiographs) as server:
        crown(server, model)
        for image in images[:4]:
            ask(server.address, "POST", "/v1/predictions", image, "image/jpeg")
        run = start_training(options, server)
        ask(server.address, "POST", f"/v1/training-runs/{run}/cancel")
        ask(server.address, "GET", "/v1/predictions")
    fill(folder / "thorax.sqlite")
    with thorax(options, folder, "--import-root", options.radiographs) as server:
        listed = [ask(server.address, "GET", path)["items"] for path in ("/v1/training-runs", "/v1/predictions", "/v1/datasets", "/v1/models")]
        runs, predictions, datasets, models = ([item["id"] for item in items] for items in listed)
        after = {"run": runs[-1], "prediction": predictions[-1]}
        paths = ["/v1/training-runs", f"/v1/training-runs?after={after['run']}", "/v1/predictions", f"/v1/predictions?after={after['prediction']}&limit=50",
                 f"/v1/training-runs/{runs[0]}", f"/v1/training-runs/{runs[0]}/epochs", f"/v1/training-runs/{runs[0]}/evaluations", f"/v1/predictions/{predictions[0]}",
                 "/v1/models", f"/v1/models/{models[0]}", f"/v1/models/{models[0]}/live", "/v1/datasets", f"/v1/datasets/{datasets[0]}/radiographs", "/health/ready", "/metrics"]
        body = {"dataset_id": datasets[0], "recipe": "covid-resnet", "acknowledge": LEAKAGE, "plan": {"initial_weights": "random", "stages": [
            {"image_size": 128, "steps": [{"scope": "all", "learning_rate": 1e-4, "epochs": 1000}]}]}}
        run = ask(server.address, "POST", "/v1/training-runs", body)["id"]
        while ask(server.address, "GET", f"/v1/training-runs/{run}")["progress"]["batch"] < 2:
            time.sleep(0.5)
        for path in paths:
            ask(server.address, "GET", path)
        times = paced_reads(server.address, paths, 200.0, seconds)
        shown = ask(server.address, "GET", f"/v1/training-runs/{run}")
    everything = [ms for of_path in times.values() for ms in of_path]
    print(f"{len(everything)} requests in {seconds:.0f} s; the run was {shown['status']}\n")
    print("| GET | requests | p50 ms | p99 ms |\n| --- | --: | --: | --: |")
    for path, of_path in [*times.items(), ("all", everything)]:
        shown = path
        for id in (runs[0], predictions[0], models[0], datasets[0]):
            shown = shown.replace(id, "{id}")
        print(f"| {shown.split('after=')[0] + ('after=…' if 'after=' in shown else '')} | {len(of_path)} | {percentile(of_path, 0.5):.1f} | {percentile(of_path, 0.99):.1f} |")


def fill(database):
    """Inserts copies of the existing rows under ids of earlier times."""
    connection = sqlite3.connect(database)
    columns = {table: [row[1] for row in connection.execute(f"pragma table_info({table})")] for table in ("runs", "predictions")}
    now = int(time.time() * 1000)
    with connection:
        for table, count in (("runs", RUNS), ("predictions", PREDICTIONS)):
            first = dict(zip(columns[table], connection.execute(f"select * from {table} limit 1").fetchone()))
            names, marks = ", ".join(columns[table]), ", ".join("?" for _ in columns[table])
            rows = ([{**first, "id": identifier(now - (count - n) * 100, n)}[name] for name in columns[table]] for n in range(count))
            connection.executemany(f"insert into {table} ({names}) values ({marks})", rows)
    connection.close()


def identifier(milliseconds, number):
    """A UUIDv7 with that timestamp."""
    return str(uuid.UUID(int=(milliseconds << 80) | (7 << 76) | (2 << 62) | number))


def paced_reads(address, paths, rate, seconds):
    times, work = {path: [] for path in paths}, queue.Queue()
    began = time.perf_counter()

    def reader():
        connection = http.client.HTTPConnection(address, timeout=60)
        while (item := work.get()) is not None:
            due, path = item
            time.sleep(max(0.0, due - time.perf_counter()))
            sent = time.perf_counter()
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise SystemExit(f"GET {path}: {answer.status}")
            times[path].append((time.perf_counter() - sent) * 1e3)

    readers = [threading.Thread(target=reader) for _ in range(8)]
    for number in range(int(rate * seconds)):
        work.put((began + 0.5 + number / rate, paths[number % len(paths)]))
    for _ in readers:
        work.put(None)
    for thread in readers:
        thread.start()
    for thread in readers:
        thread.join()
    return times


def overload(options, scratch, images):
    """Sends twice as many requests as the server can process, each on a connection of its own; records its memory every second."""
    model, seconds = export(options, scratch), options.seconds or 600
    with thorax(options, scratch / "data") as server:
        crown(server, model)
        target = (server.address, "/v1/predictions", images, "image/jpeg")
        load(*target, CLIENTS, 5)
        capacity = load(*target, CLIENTS, 15)["rate"]
        outcome, memory = flood(server, images, 2 * capacity, seconds)
    sent = sum(outcome.values())
    print(f"capacity {capacity:.1f} a second; sent {sent} in {seconds:.0f} s, {sent / seconds:.1f} a second")
    print(f"answers: {outcome}")
    tenth = max(1, len(memory) // 10)
    plateau, highest = statistics.median(memory[tenth : 3 * tenth]), max(memory[tenth:])
    print(f"memory, MiB: plateau {plateau:.0f} (median of the second and third tenth), highest after the first tenth {highest} ({highest / plateau:.3f}), at the end {memory[-1]}")


def flood(server, images, rate, seconds):
    outcome, lock, memory = {}, threading.Lock(), []
    began = time.perf_counter()

    def count(what):
        with lock:
            outcome[what] = outcome.get(what, 0) + 1

    def send(number):
        connection = http.client.HTTPConnection(server.address, timeout=60)
        try:
            connection.request("POST", "/v1/predictions", images[number % len(images)], {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            body = answer.read()
            good = answer.status != 200 or "prediction" in json.loads(body)
            waits = answer.status != 429 or answer.getheader("Retry-After") is not None
            count(str(answer.status) if good and waits else f"{answer.status}, incomplete")
        except (OSError, http.client.HTTPException) as error:
            count(type(error).__name__)
        finally:
            connection.close()

    def watch():
        while time.perf_counter() - began < seconds:
            memory.append(server.memory())
            time.sleep(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with concurrent.futures.ThreadPoolExecutor(256) as pool:
        for number in range(int(rate * seconds)):
            time.sleep(max(0.0, began + number / rate - time.perf_counter()))
            pool.submit(send, number)
    watcher.join()
    return outcome, memory


CASES = {"throughput": throughput, "training": training, "reads": reads, "overload": overload}

if __name__ == "__main__":
    main()
