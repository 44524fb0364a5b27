#!/usr/bin/env python3
"""Generate predictions with the scores that scikit-learn computes from them, as tests/fixtures/scores.json.

Each case has `images`, rows of [true class, patient or null, probabilities in 1,024ths], and `expected`, the scores by their place in the
response. A score is null where Thorax calls it undefined. The predicted class is the first one with the highest probability.

Usage: generate.py writes the file. generate.py --check generates it again and exits with code 1 if it differs from the committed one.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
from sklearn import metrics

FILE = Path(__file__).resolve().parent.parent / "fixtures" / "scores.json"
UNITS = 1024


def draw(seed, count, classes=3, patients=None, truths=None, units=UNITS, skill=2.0, never=()):
    """Images of random classes and patients. Probabilities are multiples of 1 / units; those of the classes in `never` are 0."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        truth = int(rng.choice(truths if truths is not None else classes))
        scores = rng.normal(size=classes)
        scores[truth] += skill
        scores[list(never)] = -np.inf
        shares = np.exp(scores - scores.max())
        shares = np.floor(shares / shares.sum() * units).astype(int) * (UNITS // units)
        shares[int(np.argmax(shares))] += UNITS - shares.sum()
        patient = None if patients is None or rng.random() < 0.1 else int(rng.integers(patients))
        rows.append([truth, patient, [int(share) for share in shares]])
    return rows


CASES = {
    "random": draw(1, 90, patients=40),
    "ties": draw(2, 80, patients=30, units=4, skill=1.0),
    "two classes": draw(3, 60, classes=2, patients=20),
    "five classes": draw(4, 150, classes=5, patients=60, skill=0.7),
    "a class without images": draw(5, 50, patients=20, truths=[0, 2]),
    "images of one class": draw(6, 30, patients=12, truths=[1]),
    "a class that is never predicted": draw(7, 60, patients=25, never=[2]),
    "one patient": draw(8, 25, patients=1),
    "no patients": draw(9, 70),
    "no error": draw(10, 40, patients=15, skill=12.0),
    "one image": draw(11, 1),
}


def binary_area(function, truth, probability):
    return float(function(truth, probability)) if 0 < truth.sum() < len(truth) else None


def average(values, weights):
    """Mean, or None where a value is None or nothing is counted."""
    counted = [(value, weight) for value, weight in zip(values, weights) if weight > 0]
    if not counted or any(value is None for value, _ in counted):
        return None
    return float(np.average([value for value, _ in counted], weights=[weight for _, weight in counted]))


def expected(rows):
    truth = np.array([row[0] for row in rows])
    probability = np.array([row[2] for row in rows]) / UNITS
    classes = probability.shape[1]
    predicted = probability.argmax(axis=1)
    labels = list(range(classes))
    one_hot = np.eye(classes)[truth]
    support = one_hot.sum(axis=0)
    present = [label for label in labels if support[label] > 0]
    confusion = metrics.multilabel_confusion_matrix(truth, predicted, labels=labels)
    roc = [binary_area(metrics.roc_auc_score, one_hot[:, label], probability[:, label]) for label in labels]
    pr = [binary_area(metrics.average_precision_score, one_hot[:, label], probability[:, label]) for label in labels]
    scores = {
        "accuracy": metrics.accuracy_score(truth, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, predicted),
        "mcc": metrics.matthews_corrcoef(truth, predicted) if len(present) > 1 and len(set(predicted)) > 1 else None,
        "brier": float(np.mean(np.sum((probability - one_hot) ** 2, axis=1))),
        "log_loss": metrics.log_loss(truth, probability, labels=labels),
    }
    for name in ("micro", "macro", "weighted"):
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(truth, predicted, labels=present, average=name, zero_division=0)
        if name == "micro":
            precision = recall = f1 = scores["accuracy"]
            areas = [binary_area(function, one_hot.ravel(), probability.ravel()) for function in (metrics.roc_auc_score, metrics.average_precision_score)]
        else:
            weights = support if name == "weighted" else (support > 0).astype(float)
            areas = [average(values, weights) for values in (roc, pr)]
        for score, value in zip(("precision", "recall", "f1", "roc_auc", "pr_auc"), [precision, recall, f1, *areas]):
            scores[f"{name}.{score}"] = None if value is None else float(value)
    for label in labels:
        (tn, fp), (fn, tp) = confusion[label]
        one = {
            "precision": metrics.precision_score(truth, predicted, labels=[label], average=None)[0] if tp + fp else None,
            "recall": metrics.recall_score(truth, predicted, labels=[label], average=None)[0] if tp + fn else None,
            "specificity": metrics.recall_score(truth != label, predicted != label) if tn + fp else None,
            "npv": metrics.precision_score(truth != label, predicted != label) if tn + fn else None,
            "f1": metrics.f1_score(truth, predicted, labels=[label], average=None)[0] if tp + fn else None,
            "mcc": metrics.matthews_corrcoef(truth == label, predicted == label) if min(tp + fn, tn + fp, tp + fp, tn + fn) else None,
            "roc_auc": roc[label],
            "pr_auc": pr[label],
            "brier": metrics.brier_score_loss(one_hot[:, label], probability[:, label], labels=[0, 1]),
        }
        scores |= {f"per_class.{label}.{name}": None if value is None else float(value) for name, value in one.items()}
    return {name: None if value is None else float(value) for name, value in scores.items()}


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit("usage: generate.py [--check]")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes without images, which the cases have on purpose
        cases = {name: {"images": rows, "expected": expected(rows)} for name, rows in CASES.items()}
    text = "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items()) + "\n}\n"
    if sys.argv[1:] == ["--check"]:
        if FILE.read_text() != text:
            sys.exit(f"differs: {FILE.name}")
    else:
        FILE.write_text(text)


if __name__ == "__main__":
    main()
