"""Uses the Python client that openapi-python-client generated from openapi/openapi.json.

    PYTHONPATH=GENERATED python client.py http://127.0.0.1:8080 radiograph.png

The server must have a data set, a training run and a champion. Sends THORAX_ADMIN_KEY if it is set.
"""

import io
import os
import sys
import uuid

from thorax_client import AuthenticatedClient
from thorax_client.api.datasets import create_dataset, list_datasets, upload_radiographs
from thorax_client.api.predictions import create_prediction, get_prediction
from thorax_client.api.training import get_training_run, list_training_runs
from thorax_client.models import NewDataset, PredictionBatch, PredictionForm, PredictionResponse, Problem, UploadForm
from thorax_client.types import File

address, path = sys.argv[1:]
client = AuthenticatedClient(base_url=address, token=os.environ.get("THORAX_ADMIN_KEY", "none"), timeout=60)
with open(path, "rb") as file:
    image = file.read()


def a_file(name="radiograph.png"):
    return File(payload=io.BytesIO(image), file_name=name, mime_type="image/png")


datasets = list_datasets.sync(client=client, limit=10)
assert datasets.items and datasets.items[0].classes, datasets

runs = list_training_runs.sync(client=client)
run = get_training_run.sync(runs.items[0].id, client=client)
assert run.status == "succeeded" and run.plan.stages, run

raw = create_prediction.sync(client=client, body=a_file())
assert isinstance(raw, PredictionResponse), raw
one = create_prediction.sync(client=client, body=PredictionForm(file=[a_file()]))
assert one.prediction == raw.prediction and one.prediction in one.probabilities.additional_properties, one
assert get_prediction.sync(one.id, client=client).prediction == one.prediction
batch = create_prediction.sync(client=client, body=PredictionForm(file=[a_file("a.png"), a_file("b.png")]))
assert isinstance(batch, PredictionBatch) and [item.file_name for item in batch.items] == ["a.png", "b.png"], batch

key = str(uuid.uuid4())
created = [create_dataset.sync(client=client, body=NewDataset(name=f"client {key}"), idempotency_key=key) for _ in range(2)]
assert created[0].id == created[1].id, created
conflict = create_dataset.sync(client=client, body=NewDataset(name=f"client {key}"))
assert isinstance(conflict, Problem) and conflict.status == 409 and conflict.detail, conflict
stored = upload_radiographs.sync(created[0].id, client=client, body=UploadForm(file=[a_file()], label="normal"))
assert stored.items[0].status == "created", stored
print("the generated Python client works")
