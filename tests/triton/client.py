"""Tests the Open Inference Protocol endpoints of a running server with NVIDIA's tritonclient from PyPI.

    python client.py http://127.0.0.1:8080 radiograph.png another.png

The server must have a champion. Prints `N passed, M failed` and exits with 1 on failure. Sends THORAX_ADMIN_KEY if it is set.
"""

import json
import os
import sys
import traceback
import urllib.request
from pathlib import Path

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

address, *paths = sys.argv[1:]
files = [Path(path).read_bytes() for path in paths]
assert len(files) >= 2, "pass at least two radiographs"
key = os.environ.get("THORAX_ADMIN_KEY")
HEADERS = {"Authorization": f"Bearer {key}"} if key else {}
client = InferenceServerClient(address.removeprefix("http://"), concurrency=4, network_timeout=120.0)


def plain(image):
    """Response of POST /v1/predictions for one image."""
    headers = {"Content-Type": "image/png", **HEADERS}
    request = urllib.request.Request(f"{address}/v1/predictions", data=image, headers=headers)
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def tensor(name, datatype, values, binary=True):
    sent = InferInput(name, list(values.shape), datatype)
    sent.set_data_from_numpy(values, binary_data=binary)
    return sent


def infer(sent, **more):
    # Pass a copy: the client modifies the headers.
    return client.infer("champion", [sent], headers=dict(HEADERS), **more)


def refused(work, words):
    try:
        work()
    except InferenceServerException as error:
        assert words in error.message(), error.message()
        return error.status()
    raise AssertionError(f"not refused: {words}")


def health():
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("champion", headers=dict(HEADERS))
    assert not client.is_model_ready("unknown", headers=dict(HEADERS))


def metadata():
    server = client.get_server_metadata(headers=dict(HEADERS))
    assert server["name"] == "thorax" and "binary_tensor_data" in server["extensions"], server
    model = client.get_model_metadata("champion", headers=dict(HEADERS))
    assert [each["name"] for each in model["inputs"]] == ["image", "uint8", "fp32"], model
    [version] = model["versions"]
    assert client.get_model_metadata("champion", version, headers=dict(HEADERS)) == model
    assert client.is_model_ready("champion", version, headers=dict(HEADERS))


def a_batch_gives_the_same_probabilities_as_single_requests():
    result = infer(tensor("image", "BYTES", np.array(files, dtype=np.object_)), request_id="batch")
    expected = [plain(image) for image in files]
    response = result.get_response()
    assert response["id"] == "batch" and response["model_version"] == expected[0]["model"]["id"], response
    classes = response["parameters"]["classes"].split(",")
    rows = np.array([[one["probabilities"][name] for name in classes] for one in expected], dtype=np.float32)
    np.testing.assert_allclose(result.as_numpy("probabilities"), rows, atol=1e-5)
    names = [name.decode() for name in result.as_numpy("prediction")]
    assert names == [one["prediction"] for one in expected], names
    assert len(result.as_numpy("prediction_id")) == len(files)


def pixel_tensors_agree_across_layouts_datatypes_and_encodings():
    generator = np.random.default_rng(1)
    grey = generator.integers(0, 256, (2, 1, 96, 80), dtype=np.uint8)
    expected = infer(tensor("uint8", "UINT8", grey)).as_numpy("probabilities")
    assert expected.shape == (2, expected.shape[1]) and np.allclose(expected.sum(axis=1), 1.0, atol=1e-4)
    last = np.moveaxis(grey, 1, 3)
    colour = np.repeat(grey, 3, axis=1)
    variants = [("uint8", "UINT8", np.ascontiguousarray(values)) for values in (last, colour, np.moveaxis(colour, 1, 3))]
    variants += [("fp32", "FP32", np.ascontiguousarray(values, dtype=np.float32)) for values in (grey, last, colour)]
    for variant in variants:
        for binary in (True, False):
            found = infer(tensor(*variant, binary=binary)).as_numpy("probabilities")
            np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=f"{variant[0]} {variant[2].shape} {binary}")


def only_requested_outputs_are_returned():
    sent = tensor("image", "BYTES", np.array(files[:1], dtype=np.object_))
    for binary in (True, False):
        requested = [InferRequestedOutput("prediction", binary_data=binary), InferRequestedOutput("probabilities", binary_data=binary)]
        result = infer(sent, outputs=requested)
        assert [each["name"] for each in result.get_response()["outputs"]] == ["prediction", "probabilities"]
        assert result.as_numpy("prediction_id") is None and result.as_numpy("probabilities").shape[0] == 1
        assert result.as_numpy("prediction").shape == (1,)


def concurrent_requests_all_succeed():
    sent = tensor("image", "BYTES", np.array(files[:1], dtype=np.object_))
    pending = [client.async_infer("champion", [sent], headers=dict(HEADERS)) for _ in range(8)]
    rows = [each.get_result().as_numpy("probabilities") for each in pending]
    for row in rows[1:]:
        np.testing.assert_allclose(row, rows[0], atol=1e-5)


def errors_follow_the_protocol():
    bad = tensor("image", "BYTES", np.array([b"no image"], dtype=np.object_))
    assert refused(lambda: infer(bad), "PNG") == "415"
    small = tensor("uint8", "UINT8", np.zeros((1, 1, 8, 8), dtype=np.uint8))
    assert refused(lambda: infer(small), "at least") == "422"
    good = tensor("image", "BYTES", np.array(files[:1], dtype=np.object_))
    assert refused(lambda: infer(good, outputs=[InferRequestedOutput("logits")]), "unknown output") == "400"
    assert refused(lambda: infer(good, outputs=[InferRequestedOutput("prediction", class_count=2)]), "classification") == "400"
    assert refused(lambda: infer(good, request_compression_algorithm="deflate"), "gzip") == "415"
    assert refused(lambda: client.get_model_metadata("unknown", headers=dict(HEADERS)), "model") == "404"
    assert infer(good, request_compression_algorithm="gzip").as_numpy("probabilities") is not None
    assert infer(good, response_compression_algorithm="gzip").as_numpy("probabilities") is not None


def models_can_be_listed_unloaded_and_loaded():
    index = client.get_model_repository_index(headers=dict(HEADERS))
    [champion] = [each for each in index if each["name"] == "champion"]
    assert champion["state"] == "READY", champion
    client.unload_model("champion", headers=dict(HEADERS))
    assert not client.is_server_ready() and not client.is_model_ready("champion", headers=dict(HEADERS))
    sent = tensor("image", "BYTES", np.array(files[:1], dtype=np.object_))
    assert refused(lambda: infer(sent), "not loaded") == "409"
    client.load_model(champion["version"], headers=dict(HEADERS))
    assert client.is_server_ready() and infer(sent).as_numpy("prediction").shape == (1,)
    assert refused(lambda: client.load_model("champion", headers=dict(HEADERS), config="{}"), "config") == "400"


CHECKS = [
    health,
    metadata,
    a_batch_gives_the_same_probabilities_as_single_requests,
    pixel_tensors_agree_across_layouts_datatypes_and_encodings,
    only_requested_outputs_are_returned,
    concurrent_requests_all_succeed,
    errors_follow_the_protocol,
    models_can_be_listed_unloaded_and_loaded,
]
failed = 0
for check in CHECKS:
    try:
        check()
        print(f"ok      {check.__name__.replace('_', ' ')}")
    except Exception:  # noqa: BLE001
        failed += 1
        print(f"FAILED  {check.__name__.replace('_', ' ')}")
        traceback.print_exc()
print(f"\n{len(CHECKS) - failed} passed, {failed} failed")
sys.exit(failed > 0)
