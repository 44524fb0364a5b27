"""Import speed: `thorax import` compared with a Pillow loop with the same number of threads that does the same to each file (read it, compute its
SHA-256, decode it to grey, shrink it to 64 x 64, write it durably under its hash, insert a row with the small plane into SQLite).
See README.md."""

import argparse
import concurrent.futures
import hashlib
import itertools
import os
import pathlib
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import time

from PIL import Image

from compare import machine

SUFFIXES = {".png", ".jpg", ".jpeg"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--thorax", default="target/release/thorax", help="the program")
    parser.add_argument("--radiographs", default="../shared/radiographs", help="a folder in the COVIDx layout")
    parser.add_argument("--originals", default="../shared/originals", help="a folder of files as collections publish them")
    parser.add_argument("--rounds", type=int, default=5, help="times each is run, in turns")
    options = parser.parse_args()
    return argparse.Namespace(**vars(options), threads=os.cpu_count(), device="cpu")


def main():
    options = arguments()
    where = machine(options, ("pillow",))
    print("\n".join(f"{name}: {value}" for name, value in where.items()), end="\n\n", flush=True)
    print("| folder | files | Thorax, images/s | Pillow, images/s | Thorax's rate / Pillow's |\n| --- | --: | --: | --: | --: |")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for name in ("radiographs", "originals"):
            folder = class_folders(pathlib.Path(getattr(options, name)), scratch / name)
            print(row(name, folder, options, scratch), flush=True)


def class_folders(source, target):
    """The folder itself if it has split files; else one whose files all stand in a folder of one class."""
    if (source / "train_split.txt").exists():
        return source
    shutil.copytree(source, target / "normal", ignore=lambda _, names: [n for n in names if pathlib.Path(n).suffix.lower() not in SUFFIXES])
    return target


def row(name, folder, options, scratch):
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    for path in files:
        path.read_bytes()  # Neither is to wait for the disk.
    times = {"thorax": [], "pillow": []}
    for number in range(options.rounds):
        times["thorax"].append(thorax(options, folder, len(files), scratch / f"thorax-{name}-{number}"))
        times["pillow"].append(pillow(files, options.threads, scratch / f"pillow-{name}-{number}"))
    ours, theirs = (len(files) / statistics.median(times[engine]) for engine in ("thorax", "pillow"))
    return f"| `{name}` | {len(files)} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} |"


def thorax(options, folder, count, data):
    """The whole process: start, images, rows. The data folder is there: one of the images has been imported into another data set."""
    one = next(path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES)
    first = data.with_name(f"{data.name}-first") / "normal"
    first.mkdir(parents=True)
    shutil.copy(one, first)
    run_import(options, first.parent, "first", data)
    began = time.perf_counter()
    ended = run_import(options, folder, "images", data)
    seconds = time.perf_counter() - began
    stored = sum(path.is_file() for path in (data / "blobs").rglob("*"))
    if stored != count:
        raise SystemExit(f"{stored} images stored of {count}:\n{ended.stdout}{ended.stderr}")
    # Removed with the rest at the end: a file system that has just removed files is slow at making new ones.
    return seconds


def run_import(options, folder, dataset, data):
    return subprocess.run(
        [options.thorax, "import", "--data-dir", str(data), "--dataset", dataset, str(folder)],
        capture_output=True, text=True, check=True,
    )


def pillow(files, threads, target):
    """The loop alone, without the start of Python; folders and table are there."""
    for first in range(256):
        (target / f"{first:02x}").mkdir(parents=True)
    database = sqlite3.connect(target / "radiographs.sqlite")
    database.executescript("pragma journal_mode = wal; pragma synchronous = full; create table radiographs (sha256 primary key, name, plane)")
    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        rows = pool.map(lambda path: keep(path, target), files)
        while batch := list(itertools.islice(rows, 64)):
            with database:
                database.executemany("insert or ignore into radiographs values (?, ?, ?)", batch)
    seconds = time.perf_counter() - began
    database.close()
    return seconds


def keep(path, target):
    content = path.read_bytes()
    name = hashlib.sha256(content).hexdigest()
    with Image.open(path) as image:
        plane = image.convert("L").resize((64, 64), Image.Resampling.BILINEAR).tobytes()
    folder = target / name[:2]
    draft = folder / f"{name}.partial"
    with open(draft, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(folder / name)
    opened = os.open(folder, os.O_RDONLY)
    os.fsync(opened)
    os.close(opened)
    return name, path.name, plane


if __name__ == "__main__":
    main()
