#!/usr/bin/env python3
"""Generate a matrix of small DICOM files with the grey levels that a reader must return.

Outputs, in tests/fixtures:
  dicom-matrix.tar.gz  drawn pictures of 41 x 33 pixels (columns x rows; 40 x 33 with YBR_FULL_422) with invented headers
  dicom-matrix.csv     one row per file: file, encoding, bits_stored, signed, photometric, voi, extra, tolerance, expected, reason

`expected` holds the 8-bit grey levels of 64 probe pixels as hexadecimal digits. Probe i is pixel floor(i * (pixels - 1) / 63) in row-major
order. `refused` means instead that a reader must refuse the file, for the reason in the last column. `tolerance` is the largest allowed
difference in grey levels: 1 for lossless pixel data (rounding), 2 or 3 for lossy pixel data (decoders round differently).

The right grey level is, by DICOM PS3.3 C.7.6.3.1.2, C.11.1 and C.11.2 and PS3.5 section 8:
  1. The stored value: of the picture that was encoded, or as decoded by the reference decoder if the encoding is lossy. If the sign of a
     JPEG 2000 codestream and Pixel Representation disagree: a signed codestream is signed (PS3.5 8.2.4, the codestream controls the
     decompression), and the bits of an unsigned codestream are two's complement.
  2. The modality value: by the modality LUT, or rescale slope (0 counts as absent, 1) and intercept.
  3. A share from 0 to 1: by the VOI LUT, else the first window, else the full range of possible values (at most 8 bits stored), else the
     range between percentiles 0.1 and 99.9 of the values that are not padding. VOI LUT entries are divided by the maximum of the declared
     bits per entry, or by the largest entry if that is less than a quarter of this maximum (tables of some Agfa devices).
  4. Grey levels 0 to 255: MONOCHROME1 inverted, padding pixels black.
  Colour is converted to RGB from the colour space that Photometric Interpretation declares (PS3.5 8.2.1), whatever markers and component
  identifiers the codestream has. The grey level is the ITU-R BT.601 luma. Windows do not apply to colour (PS3.3 C.11.2.1.2).

Each value has two sources: the formulas in grey.py, applied to the drawn picture, and pydicom's pixel_array, apply_modality_lut,
apply_voi_lut and apply_color_lut, applied to the file. `pydicom_differs` lists where pydicom is not right, and why.

Usage: generate.py writes the outputs. generate.py --check regenerates them, compares and exits with code 1 on a difference. Compressed
bytes depend on the versions of the encoders: install requirements.txt first.
"""

import csv
import io
import struct
import sys
import tempfile
import warnings
import zlib
from collections import Counter
from pathlib import Path

import grey
import imagecodecs
import numpy as np
from cases import LOSSLESS, LUTS, Case, colour_cases, grey_cases, similar_first
from encoding import TRANSFER_SYNTAXES, file_bytes, jpeg, pixel_element, pixel_value
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from refused import refused_files
from transformations import add_transformations, modality_of, padding_of, possible_values, signed_after_modality, voi_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from matrix import FIXTURES, compare, write_archive  # noqa: E402

COLUMNS = ["file", "encoding", "bits_stored", "signed", "photometric", "voi", "extra", "tolerance", "expected", "reason"]
SIZE = (33, 41)  # rows, columns
PROBES = 64
COMPUTED_RADIOGRAPHY, SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.7"


def main():
    warnings.simplefilter("ignore")  # pydicom warns of the oddities that the files have on purpose.
    if sys.argv[1:] == ["--check"]:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            sys.exit(compare(Path(folder), "dicom-matrix"))
    if sys.argv[1:]:
        sys.exit("usage: generate.py [--check]")
    write(FIXTURES)


def write(folder):
    """Write the archive and the table to the folder."""
    members, rows, compared = {}, [], Counter()
    cases = sorted(grey_cases(), key=similar_first) + sorted(colour_cases(), key=similar_first)
    for case in cases:
        data, levels = file_and_levels(case)
        compared[compare_with_pydicom(case, data, levels)] += 1
        members[case.name] = data
        rows.append(row(case, tolerance(case), probes(levels)))
    for case, data, levels in lying_files():
        members[case.name] = data
        rows.append(row(case, tolerance(case), probes(levels)))
    for case, data, reason in refused_files(header, draw):
        members[case.name] = data
        rows.append(row(case, 0, "refused", reason))
    assert len(rows) == len(members), "two files have the same name"
    assert not any("," in str(cell) for cells in rows for cell in cells), "a comma would need quotes"
    with open(folder / "dicom-matrix.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    write_archive(folder / "dicom-matrix.tar.gz", members)
    print(f"{len(rows)} files, {(folder / 'dicom-matrix.tar.gz').stat().st_size} bytes")
    for outcome, count in compared.most_common():
        print(f"{count:5} {outcome}")


def row(case, allowed, expected, reason=""):
    properties = [case.name, case.encoding, case.bits, int(case.signed), case.photometric, case.transformations, case.extra]
    return [*properties, allowed, expected, reason]


def probes(levels):
    """Hexadecimal grey levels of the probe pixels."""
    levels = np.floor(levels.ravel() + 0.5).astype(int)
    return bytes(int(levels[i * (levels.size - 1) // (PROBES - 1)]) for i in range(PROBES)).hex()


def tolerance(case):
    """Decoders of lossy codestreams may differ by one stored value, which a window, a table or chroma upsampling amplifies."""
    if case.encoding in LOSSLESS or case.encoding == "jls-near":
        return 1
    return 2 if case.transformations == "none" and case.photometric != "YBR_FULL_422" else 3


# Pictures


def draw(case):
    """The picture of a case, as samples [rows, columns(, 3)]."""
    if case.photometric.startswith("MONOCHROME"):
        return draw_grey(case)
    if case.photometric == "PALETTE COLOR":
        return np.round(shades(SIZE) * (palette_size(case) + 20)).astype(int)
    columns = 40 if case.photometric == "YBR_FULL_422" else SIZE[1]
    first, second = shades((SIZE[0], columns)), shades((SIZE[0], columns))[::-1]
    rgb = np.stack([first, second, 0.5 + 0.5 * (second - first)], -1) * 0.8 + 0.1
    if case.bits > 8:
        return np.round(rgb * (2**case.bits - 1)).astype(int)
    rgb = np.round(rgb * 255).astype(int)
    if not case.photometric.startswith("YBR_FULL"):
        return rgb
    ybr = grey.ybr_from_rgb(rgb)
    if case.photometric == "YBR_FULL_422":
        ybr[:, 1::2, 1:] = ybr[:, ::2, 1:]
    return ybr


def shades(size):
    """A smooth ramp with a disc and a little texture, 0 to 1."""
    y, x = np.mgrid[: size[0], : size[1]]
    ramp = 0.55 * x / (size[1] - 1) + 0.2 * y / (size[0] - 1)
    disc = 0.22 * ((x - 17) ** 2 + (y - 14) ** 2 < 80)
    texture = 0.03 * ((37 * x + 91 * y + 13 * x * y) % 17) / 16
    return np.round((ramp + disc + texture) * 200) / 200  # Few different values compress well.


def draw_grey(case):
    """The grey picture, with a margin at both ends of the range; lossless ones have the extreme values in two corners."""
    values = possible_values(case)
    samples = values[np.round((0.04 + 0.92 * shades(SIZE)) * (len(values) - 1)).astype(int)]
    if case.encoding in LOSSLESS:
        samples[0, 0], samples[-1, -1] = values[0], values[-1]
    if case.extra in ("padding", "padding-range"):
        samples[:, :3] = np.resize(padding_of(case), (SIZE[0], 3))
    return samples


# Headers


def header(case):
    """The data set without pixel data. Names and UIDs are invented."""
    ds = Dataset()
    colour = not case.photometric.startswith("MONOCHROME")
    ds.SOPClassUID = SECONDARY_CAPTURE if colour else COMPUTED_RADIOGRAPHY
    ds.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{zlib.crc32(case.name.encode())}"
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "CR", "CHEST", "PA"
    ds.PatientName, ds.PatientID = "Drawn^Picture", "MATRIX"
    ds.SamplesPerPixel = 3 if colour and case.photometric != "PALETTE COLOR" else 1
    ds.PhotometricInterpretation = case.photometric
    if ds.SamplesPerPixel == 3:
        ds.PlanarConfiguration = int(case.extra == "planar-1")
    ds.Rows, ds.Columns = SIZE[0], 40 if case.photometric == "YBR_FULL_422" else SIZE[1]
    ds.BitsAllocated, ds.BitsStored = case.allocated, case.bits
    ds.HighBit = 15 if case.extra == "high-bit" else case.bits - 1
    ds.PixelRepresentation = int(case.signed)
    if case.extra == "ignored-window":
        ds.WindowCenter, ds.WindowWidth = "40", "80"
    if case.photometric == "PALETTE COLOR":
        add_palette(ds, case)
    elif not colour:
        add_transformations(ds, case, case.encoding == "explicit-be")
    return ds


def palette_size(case):
    return 200 if case.bits == 8 else 1000


def palette(case):
    """The entries [count, 3] of the palette, their bits and the first mapped value. Pixels beyond have the first or last entry."""
    t = np.linspace(0, 1, palette_size(case))
    bits = 16 if case.extra in ("entries-16-bits", "first-10") else 8
    entries = np.round(np.stack([t, 1 - t, (2 * t - 1) ** 2], -1) * (2**bits - 1)).astype(int)
    return entries, bits, 10 if case.extra == "first-10" else 0


def add_palette(ds, case):
    entries, bits, first = palette(case)
    words = ">u2" if case.encoding == "explicit-be" else "<u2"
    for name, channel in zip(["Red", "Green", "Blue"], entries.T, strict=True):
        ds.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [len(channel), first, bits])
        data = channel.astype("u1" if case.extra == "entries-8-bits" else words).tobytes()
        ds.add_new(f"{name}PaletteColorLookupTableData", "OW", data)


# Files and their right values


def file_and_levels(case):
    """The file of a case and its right grey levels, 0 to 255."""
    samples = draw(case)
    data = file_bytes(case, header(case), pixel_element(case, pixel_value(case, samples)))
    if case.encoding not in LOSSLESS:
        samples = decoded(case, samples, data)
    if case.photometric == "PALETTE COLOR":
        entries, bits, first = palette(case)
        return data, grey.luma(entries[np.clip(samples - first, 0, len(entries) - 1)] * 255 / (2**bits - 1))
    if not case.photometric.startswith("MONOCHROME"):
        return data, colour_levels(case, samples)
    inverted = case.photometric == "MONOCHROME1"
    return data, grey.grey_levels(samples, possible_values(case), modality_of(case), voi_of(case), padding_of(case), inverted, case.bits)


def decoded(case, samples, data):
    """The samples of a lossy codestream, without conversion of colours. They must be near the drawn ones."""
    if case.encoding.startswith("jpeg"):
        # From the codestream before its markers and component identifiers were changed, so that they cannot matter.
        code = jpeg(case, samples.astype("u1" if case.bits == 8 else "u2"), case.bits)
        space = None if samples.ndim == 2 else "rgb" if case.photometric == "RGB" else "ycbcr"
        result = imagecodecs.jpeg8_decode(code, colorspace=space, outcolorspace=space)
    else:
        result = pixel_array(dcmread(io.BytesIO(data)), raw=True)
    assert np.abs(result.astype(int) - samples).mean() < 0.02 * 2**case.bits and result.max() < 2**case.bits, case.name
    return result


def colour_levels(case, samples):
    rgb = grey.rgb_from_ybr(samples) if case.photometric.startswith("YBR_FULL") else samples.astype(float) * 255 / (2**case.bits - 1)
    return grey.luma(rgb)


def lying_files():
    """Files whose elements have another encoding than the transfer syntax says, as the first elements show."""
    for says, true in [("explicit-le", "implicit-le"), ("implicit-le", "explicit-le")]:
        case = Case(true, 12, False, voi="window", extra=f"says-{says}")
        element = pixel_element(case, pixel_value(case, draw(case)))
        yield case, file_bytes(case, header(case), element, TRANSFER_SYNTAXES[says]), file_and_levels(case)[1]


# Comparison with pydicom

# Extras of which pydicom decodes other pixels than those drawn.
PYDICOM_PIXELS_DIFFER = ["high-bit", "signed-codestream", "interleave-none"]


def pydicom_differs(case):
    """Why pydicom's value is not the right one, or None."""
    is_table = case.voi in LUTS
    reasons = {
        "High Bit above Bits Stored - 1 is ignored": case.extra == "high-bit",
        "the sign of a JPEG 2000 codestream is ignored if Pixel Representation is 0": case.extra == "signed-codestream",
        "component-interleaved JPEG-LS is read as sample-interleaved": case.extra == "interleave-none",
        "8-bit lossless JPEG with 16 bits allocated is an error": case.extra == "allocated-16" and case.encoding.startswith("jpeg"),
        "slope 0 is applied": case.modality == "slope-zero",
        "LUT entries of one byte are not supported": case.voi == "lut-8-bits-bytes",
        "the index into a table of 8-bit entries overflows": case.voi == "lut-8-bits-words",
        "the index into a table overflows for values far above it": is_table and case.modality == "slope-minus-10" and case.bits > 12,
        "the index into a table overflows for signed pixels": case.signed and case.bits == case.allocated
        and (is_table or case.modality == "table"),
        "first mapped value in implicit VR: sign by Pixel Representation before the modality LUT": case.encoding == "implicit-le"
        and is_table and signed_after_modality(case) and not case.signed,
        "palettes of a big-endian file are read as little-endian": case.photometric == "PALETTE COLOR"
        and case.encoding == "explicit-be",
        "an empty LUT descriptor in implicit VR is an error": case.encoding == "implicit-le" and case.voi == "empty-lut-values",
    }  # fmt: skip
    return next((reason for reason, holds in reasons.items() if holds), None)


def compare_with_pydicom(case, data, levels):
    """Compare the levels with pydicom's, and return the outcome in words."""
    reason = pydicom_differs(case)
    try:
        difference = np.abs(pydicom_levels(case, dcmread(io.BytesIO(data))) - levels).max()
    except (TypeError, ValueError, struct.error):
        if reason is None:
            raise
        difference = np.inf
    # pydicom truncates a fraction before it looks it up in a table, which may be one step away.
    allowed = 2 if case.modality == "slope-fraction" and case.voi in LUTS else tolerance(case)
    if difference <= allowed + 1e-6:  # The formulas round differently.
        return "equal to pydicom"
    assert reason, f"{case.name} differs from pydicom by {difference} grey levels"
    return f"pydicom is wrong: {reason}"


def pydicom_levels(case, ds):
    """Grey levels by pydicom."""
    stored = pixel_array(ds, raw=True)
    if case.encoding in LOSSLESS and case.extra not in PYDICOM_PIXELS_DIFFER and not np.array_equal(stored, draw(case)):
        sys.exit(f"{case.name}: the decoded picture is not the drawn one")
    if case.photometric == "PALETTE COLOR":
        colours = apply_color_lut(stored, ds)
        return grey.luma(colours * 255.0 / (2 ** ds.RedPaletteColorLookupTableDescriptor[2] - 1))
    if not case.photometric.startswith("MONOCHROME"):
        return colour_levels(case, stored)
    values = apply_modality_lut(stored, ds)
    voi, padding = voi_of(case), padding_of(case)
    is_padding = np.zeros(stored.shape, bool) if padding is None else (stored >= min(padding)) & (stored <= max(padding))
    if voi is None and case.bits <= 8:
        ends = apply_modality_lut(possible_values(case).astype("i2"), ds)
        shares = grey.Range(ends.min(), ends.max()).shares(values)
    elif voi is None:
        shares = grey.percentiles(values[~is_padding].astype(float)).shares(values.astype(float))
    elif isinstance(voi, grey.Table):
        largest = 2**voi.entry_bits - 1
        shares = apply_voi_lut(values, ds) / (voi.entries.max() if case.voi == "lut-narrow" else largest)
    else:
        # pydicom maps a window to the range of the stored values after the modality transformation.
        ends = modality_of(case).look_up(possible_values(case)[[0, -1]]) if case.modality != "table" else [0, 2**16 - 1]
        shares = (apply_voi_lut(values, ds) - ends[0]) / (ends[1] - ends[0])
    return np.where(is_padding, 0, (1 - shares if case.photometric == "MONOCHROME1" else shares) * 255)


if __name__ == "__main__":
    main()
