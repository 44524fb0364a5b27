#!/usr/bin/env bash
# Runs the commands of README.md and docs/: every block marked `sh`, page by page, with small generated data in a scratch folder.
# Blocks marked `sh offline` run first, while no server runs. docs/getting-started.md has its own script, tests/tour.sh.
# Needs `thorax` on the path. Arguments: pages to run instead of all.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
pages=("$@")
# docs/datasets.md comes last: it changes the data set, and then a run cannot be repeated.
[ ${#pages[@]} -gt 0 ] || pages=(README.md docs/training.md docs/prediction.md docs/kserve.md docs/operations.md docs/data-audit.md
  docs/covidx.md docs/dicom.md docs/benchmarks.md docs/datasets.md)

scratch=$(mktemp -d)
server=
end() {
  local code=$?
  trap - EXIT
  [ -z "$server" ] || { kill -TERM "$server" && wait "$server" || code=1; }
  if [ "$code" -eq 0 ]; then rm -rf "$scratch"; else echo "docs: FAILED; the files are in $scratch"; fi
  exit "$code"
}
trap end EXIT
cd "$scratch"
mkdir -p import folder
export THORAX_LISTEN=127.0.0.1:0 THORAX_IMPORT_ROOT=import THORAX_DEVICE=cpu THORAX_LOG=warn

# blocks PAGE INFO: the blocks of a page with that info string.
blocks() {
  awk -v fence="\`\`\`$2" '$0 == "```" { inside = 0 } inside { print } $0 == fence { inside = 1 }' "$root/$1"
}

# run_page PAGE INFO: runs them in one shell, in which a failing request or command ends the script.
run_page() {
  local commands
  commands=$(blocks "$1" "$2")
  [ -n "$commands" ] || return 0
  echo "docs: $1"
  { cat preamble.sh; printf '%s\n' "$commands"; } > page.sh
  bash page.sh > page.log 2>&1 || { cat page.log; echo "docs: a command of $1 failed, see above"; return 1; }
  count=$((count + $(grep -c . <<< "$commands")))
}
count=0

# What the pages take for granted: images, folders and an archive by these names.
thorax phantoms --out radiographs --count 30 --side 64 --seed 7 > /dev/null
thorax phantoms --out others --count 6 --side 64 --seed 8 > /dev/null
mkdir -p import/more/normal class-folders/normal class-folders/COVID-19
for image in others/train/*normal*; do cp "$image" "import/more/normal/more-${image##*/}"; done
cp radiographs/train/*normal* class-folders/normal
cp radiographs/train/*COVID-19* class-folders/COVID-19
thorax import --dataset mine radiographs > /dev/null
thorax import --dataset chest radiographs > /dev/null
images=(radiographs/test/*.png)
cp "${images[0]}" radiograph.png
cp "${images[0]}" first.png
cp "${images[1]}" second.png
cp "${images[@]}" folder
tar --create --gzip --file radiographs.tar.gz folder
cat > preamble.sh <<'PREAMBLE'
set -euxo pipefail
curl() { command curl --silent --show-error --fail-with-body "$@"; }
PREAMBLE
for page in "${pages[@]}"; do run_page "$page" "sh offline"; done

thorax serve > server.out 2> server.err &
server=$!
for _ in $(seq 300); do
  THORAX=$(sed -n 's/^thorax is ready at \(http:.*[0-9]\)\/\{0,1\}$/\1/p' server.out)
  [ -z "$THORAX" ] || break
  kill -0 "$server" 2> /dev/null || { cat server.err; exit 1; }
  sleep 0.1
done

# Two runs on a data set, so that there are models to serve, compare and exchange.
api() { curl --silent --show-error --fail-with-body "$THORAX$1" "${@:2}"; }
thorax import --dataset docs radiographs > /dev/null
dataset=$(api /v1/datasets | jq -r '.items[] | select(.name == "docs") | .id')
train() {
  local plan='{"stages": [{"image_size": 64, "steps": [{"scope": "all", "learning_rate": 1e-3, "epochs": 1}]}]}'
  local run
  run=$(api /v1/training-runs --json "{\"dataset_id\": \"$dataset\", \"recipe\": \"simple-cnn\", \"seed\": $1, \"plan\": $plan}" | jq -r .id)
  for _ in $(seq 600); do
    case $(api "/v1/training-runs/$run" | jq -r .status) in
      succeeded) echo "$run"; return ;;
      failed | cancelled) break ;;
    esac
    sleep 0.1
  done
  echo "docs: the run $run did not succeed" >&2
  return 1
}
first=$(train 1)
second=$(train 2)
model_of() { api /v1/models | jq -r --arg run "$1" '.items[] | select(.run_id == $run) | .id'; }
{
  printf '%s=%q\n' THORAX "$THORAX" dataset "$dataset" run "$first" first "$first" second "$second" \
    model "$(model_of "$first")" challenger "$(model_of "$second")"
} >> preamble.sh
for page in "${pages[@]}"; do run_page "$page" sh; done
echo "docs: $count lines of commands passed"
