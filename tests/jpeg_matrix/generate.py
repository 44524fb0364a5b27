#!/usr/bin/env python3
"""Generate a matrix of small JPEG files with the grey levels that a reader must return.

Outputs, in tests/fixtures:
  jpeg-matrix.tar.gz  drawn pictures, most of 61 x 47 pixels (columns x rows)
  jpeg-matrix.csv     one row per file: file, expected, reason

`expected` holds the 8-bit grey levels of 64 probe pixels as hexadecimal digits. Probe i is pixel floor(i * (pixels - 1) / 63) in row-major
order of the picture after the EXIF orientation. Readers may differ by 2 grey levels, because decoders round differently. `refused` means
instead that a reader must refuse the file, for the reason in the last column.

The right grey level is the ITU-R BT.601 luma, by Pillow, of the picture that libjpeg-turbo decodes. CMYK is converted to RGB first, by
Pillow. The decoded picture must be near the drawn one, so that an encoder's or decoder's mistake does not become an expected value. Colours
are moderately saturated: no decoder has to clip them, thus the method of chroma upsampling does not change the grey level. For the same
reason, a wrong value of Cb or Cr alone does not show in the grey level.

The colour space of three components is, as in libjpeg-turbo: YCbCr with a JFIF marker; else by the transform of the Adobe marker; else RGB
if the component identifiers are the letters R, G and B; else YCbCr.

Usage: generate.py writes the outputs. generate.py --check regenerates them, compares and exits with code 1 on a difference. Compressed
bytes depend on the versions of the encoders: see requirements.txt.
"""

import csv
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from codestream import decode
from files import baseline, between_segments, colour_spaces, four_components, grey, orientations, progressive, refused, several_pictures

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from matrix import FIXTURES, compare, write_archive  # noqa: E402

CODEC_VERSION = "libjpeg-turbo version 2.1.5"
PROBES = 64


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit("usage: generate.py [--check]")
    for command in ("cjpeg", "jpegtran"):
        version = subprocess.run([command, "-version"], capture_output=True, text=True, check=True).stderr
        if not version.startswith(CODEC_VERSION):
            sys.exit(f"{command} must be of {CODEC_VERSION} (got {version.strip()})")
    if not sys.argv[1:]:
        sys.exit(write(FIXTURES))
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        sys.exit(compare(Path(folder), "jpeg-matrix"))


def write(folder):
    """Write the archive and the table to the folder."""
    files, rows, counts = {}, [], Counter()
    for kind in (baseline, progressive, grey, colour_spaces, four_components, orientations, several_pictures, between_segments):
        for name, data, drawn in kind():
            assert name not in files, f"two files have the name {name}"
            files[name] = data
            rows.append([f"{name}.jpg", probes(decode(name, data, drawn)), ""])
            counts[kind.__name__] += 1
    for name, data, reason in refused():
        files[name] = data
        rows.append([f"{name}.jpg", "refused", reason])
        counts["refused"] += 1
    with open(folder / "jpeg-matrix.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["file", "expected", "reason"], *rows])
    write_archive(folder / "jpeg-matrix.tar.gz", {f"{name}.jpg": data for name, data in files.items()})
    print(f"{len(rows)} files, {(folder / 'jpeg-matrix.tar.gz').stat().st_size} bytes")
    for kind, count in counts.items():
        print(f"{count:5} {kind}")


def probes(levels):
    """Hexadecimal grey levels of the probe pixels."""
    return bytes(int(levels.flat[i * (levels.size - 1) // (PROBES - 1)]) for i in range(PROBES)).hex()


if __name__ == "__main__":
    main()
