"""Hooks of schemathesis (tests/schemathesis/schemathesis.toml): what random data alone does not reach.

1. Three of four valid requests name something that exists, and files are often images and models. Otherwise most operations would answer
   404 or 415, and no other response would be compared with the document.
2. An Idempotency-Key is sent once. Random data repeats keys, and a key that was used for another request is 422
   (tests/it/http_idempotency.rs).
3. What the other requests need is kept: the data set, the training runs and the champion of the demo.

$THORAX is the URL of the server, $API_KEY its key.
"""

import json
import os
import re
import time
import urllib.request
import uuid
from random import Random

import schemathesis
from hypothesis import strategies as st
from schemathesis.core.file_samples import FILE_SAMPLES
from schemathesis.core.parameters import ParameterLocation

random = Random(0)
sent_keys = set()


def call(method, path, body=None, media_type="application/json"):
    """The body of a response; JSON is parsed."""
    headers = {"Content-Type": media_type}
    if key := os.environ.get("API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    request = urllib.request.Request(os.environ["THORAX"] + path, data, headers, method=method)
    with urllib.request.urlopen(request) as response:
        content = response.read()
        return json.loads(content) if response.headers.get_content_type() == "application/json" else content


def first(path):
    return call("GET", path)["items"][0]["id"]


def prepare():
    """Identifiers by the path that takes them, for as long as one lives; an image; and a model file."""
    dataset, model, run = first("/v1/datasets"), first("/v1/models"), first("/v1/training-runs")
    radiograph = first(f"/v1/datasets/{dataset}/radiographs")
    image = call("GET", f"/v1/radiographs/{radiograph}/image?size=64")
    job = call("POST", "/v1/prediction-jobs", {"dataset_id": dataset})["id"]
    # Neither run trains: it is paused or cancelled while the worker is about to start it.
    paused, cancelled = (call("POST", f"/v1/training-runs/{run}/repeat")["id"] for _ in range(2))
    call("POST", f"/v1/training-runs/{cancelled}/cancel")
    call("POST", f"/v1/training-runs/{paused}/pause")
    while call("GET", f"/v1/prediction-jobs/{job}")["status"] in ("queued", "running"):
        time.sleep(0.2)
    found = {
        "/v1/datasets/{id}": dataset,
        "/v1/evaluations/{id}": first(f"/v1/models/{model}/evaluations"),
        "/v1/imports/{id}": call("POST", f"/v1/datasets/{dataset}/imports", {"path": "."})["id"],
        "/v1/models/{id}": model,
        "/v1/prediction-jobs/{id}": job,
        "/v1/predictions/{id}": call("POST", "/v1/predictions?explain=true", image, "image/png")["id"],
        "/v1/radiographs/{id}": radiograph,
        "/v1/training-runs/{id}": run,
        "/v1/training-runs/{id}/cancel": cancelled,
        "/v1/training-runs/{id}/pause": paused,
    }
    return found, image, call("GET", f"/v1/models/{model}/weights")


existing, image, model_file = prepare()
samples = [image, image, image, model_file, *FILE_SAMPLES.values()]
schemathesis.openapi.format("binary", st.one_of(st.sampled_from(samples), st.binary()))
for media_type in ("image/png", "image/jpeg"):
    schemathesis.openapi.media_type(media_type, st.sampled_from(samples))


def is_positive(case, location):
    component = case.meta.components.get(location) if case.meta else None
    return component is not None and component.mode.is_positive


@schemathesis.hook
def before_call(context, case, kwargs):
    name_existing(case)
    key = (case.headers or {}).get("Idempotency-Key")
    # Spaces around a key do not belong to it, and the quotes of a structured field neither.
    if isinstance(key, str) and key.strip(' "') in sent_keys and is_positive(case, ParameterLocation.HEADER):
        key = case.headers["Idempotency-Key"] = str(uuid.UUID(int=random.getrandbits(128)))
    sent_keys.add(str(key).strip(' "'))


def name_existing(case):
    path, resource = case.operation.path, "/".join(case.operation.path.split("/")[:4])
    target = existing.get(path) or existing.get(resource)
    if case.method == "DELETE":
        if case.path_parameters.get("id") in existing.values():
            case.path_parameters["id"] = str(uuid.UUID(int=random.getrandbits(128)))
        return
    # The first two train, and an export or a job reads all images.
    often = 0.03 if path.endswith(("/repeat", "/resume")) else 0.2 if path.endswith(("/exports/{name}", "-jobs")) else 0.75
    if path.startswith("/v2/") and is_positive(case, ParameterLocation.PATH) and random.random() < often:
        values = {"name": "champion", "version": existing["/v1/models/{id}"]}
        case.path_parameters.update({name: values[name] for name in case.path_parameters})
    if target and is_positive(case, ParameterLocation.PATH) and random.random() < often:
        case.path_parameters["id"] = target
    if path.endswith("/exports/{name}"):
        # Hundreds of arrays of up to 1024 pixels a side would be gigabytes.
        case.path_parameters["name"] = re.sub(r"_[0-9]{3,4}[.]npy$", "_64.npy", str(case.path_parameters["name"]))
    if is_positive(case, ParameterLocation.QUERY) and case.query and random.random() < 0.75:
        if "radiograph" in case.query:
            case.query["radiograph"] = existing["/v1/radiographs/{id}"]
        if path == "/v1/training-runs/compare":
            runs = [name for kind, name in existing.items() if kind.startswith("/v1/training-runs/")]
            case.query["ids"] = ",".join(random.sample(runs, 2))
    if is_positive(case, ParameterLocation.BODY) and isinstance(case.body, dict) and random.random() < often:
        # Not the data set of a training run: a random plan could train for days.
        if path == "/v1/prediction-jobs" and "dataset_id" in case.body:
            case.body["dataset_id"] = existing["/v1/datasets/{id}"]
        if path == "/v1/models/aliases/{alias}" and "model_id" in case.body:
            case.body["model_id"] = existing["/v1/models/{id}"]


@schemathesis.hook
def after_call(context, case, response):
    if case.operation.path.endswith("/unload") and response.status_code == 200:
        call("POST", "/v2/repository/models/champion/load")
