"""The servers that serve.py compares Thorax with: how to start each, and how to send it a radiograph."""

import base64
import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Callable

from compare import environment

HERE = pathlib.Path(__file__).parent


class Server:
    """A server process, terminated at the end of the block."""

    def __init__(self, command, **more):
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "start_new_session": True}
        self.process = subprocess.Popen(command, **settings | more)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # also ends workers that outlive their server

    def memory(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) // 1024


@dataclasses.dataclass
class Opponent:
    """A server that can be started, and the format of its requests."""

    start: Callable[[], Server]
    path: str
    wrap: Callable[[bytes], bytes]
    content_type: str


def of(options, model, scratch):
    """Each server in two forms: one worker with all threads and batches of 8, and one worker per core."""
    forms = {"batches of 8": (1, 8), "a worker a core": (options.threads, 1)}
    archive, found = archived(model, scratch), {}
    for name, form in forms.items():
        found[f"LitServe, {name}"] = Opponent(lambda form=form: litserve(model, *form), "/predict", in_base64, "application/json")
        found[f"TorchServe, {name}"] = Opponent(
            lambda form=form: torchserve(archive, scratch, *form), "/predictions/radiographs", bytes, "image/jpeg")
    return found


def in_base64(image):
    return json.dumps({"image": base64.b64encode(image).decode()}).encode()


def litserve(model, workers, batch):
    port = 18000 + workers * 100 + batch
    server = Server([sys.executable, str(HERE / "serve_litserve.py"), str(model), str(port), str(workers), str(batch)], env=environment())
    return when_healthy(server, port, "/health")


def archived(model, scratch):
    """The folder with TorchServe's archive of the network and its handler."""
    store = scratch / "torchserve"
    store.mkdir()
    weights = shutil.copy(model, store / "model.safetensors")
    command = [beside_python("torch-model-archiver"), "--model-name", "radiographs", "--version", "1.0", "--export-path", str(store),
               "--handler", str(HERE / "serve_torchserve.py"), "--extra-files", f"{weights},{HERE / 'network.py'}"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return store


def torchserve(store, scratch, workers, batch):
    port = 19000 + workers * 100 + batch
    settings = scratch / f"torchserve-{workers}-{batch}"
    settings.mkdir()
    model = {"1.0": {"defaultVersion": True, "marName": "radiographs.mar", "minWorkers": workers, "maxWorkers": workers,
                     "batchSize": batch, "maxBatchDelay": 2, "responseTimeout": 120}}
    (settings / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{port}\nmanagement_address=http://127.0.0.1:{port + 2000}\n"
        f"metrics_address=http://127.0.0.1:{port + 4000}\ngrpc_inference_port={port + 6000}\ngrpc_management_port={port + 8000}\n"
        f"initial_worker_port={port + 10000}\ndisable_system_metrics=true\nload_models=all\nmodel_store={store}\n"
        f"models={json.dumps({'radiographs': model})}\n")
    command = [beside_python("torchserve"), "--start", "--foreground", "--ncs", "--disable-token-auth", "--ts-config", str(settings / "config.properties")]
    threads = str(max(1, os.cpu_count() // workers))
    # Only one instance can run per folder of temporary files.
    folders = {name: str(settings) for name in ("LOG_LOCATION", "METRICS_LOCATION", "TMPDIR", "TEMP")}
    # It logs a lot, and blocks when the pipe is full.
    server = Server(command, env=environment() | folders | {"SERVE_THREADS": threads}, cwd=settings, stdout=subprocess.DEVNULL)
    return when_healthy(server, port, "/ping")


def beside_python(program):
    """Path of a program that a package of this Python environment installed."""
    return str(pathlib.Path(sys.executable).with_name(program))


def when_healthy(server, port, path):
    server.address = f"127.0.0.1:{port}"
    for _ in range(1200):
        if is_healthy(server.address, path):
            return server
        time.sleep(0.1)
    raise SystemExit(f"{server.process.args[0]} does not start")


def is_healthy(address, path):
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        # TorchServe returns 200 with another status before its workers are ready.
        return answer.status == 200 and (b"status" not in body or b'"Healthy"' in body)
    except OSError:
        return False
    finally:
        connection.close()
