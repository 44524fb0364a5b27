"""Encoders, the reference decoder, and changes of marker segments."""

import io
import re
import struct
import subprocess
import tempfile

import numpy as np
from PIL import Image, ImageOps

EOI, SOS, COM, APP0 = 0xD9, 0xDA, 0xFE, 0xE0
FRAME_HEADERS = [0xC0, 0xC1, 0xC2, 0xC9]  # baseline, extended sequential, progressive, arithmetic


# Encoders and decoder


def cjpeg(picture, scans, *options):
    kind = b"P6" if picture.ndim == 3 else b"P5"
    return run("cjpeg", kind + b" %d %d 255\n" % picture.shape[1::-1] + picture.tobytes(), scans, "-quality", "85", *options)


def jpegtran(data, scans, *options):
    return run("jpegtran", data, scans, "-copy", "all", *options)


def run(command, stdin, scans, *options):
    """Run a command of libjpeg-turbo, with a scan script unless it is empty."""
    with tempfile.NamedTemporaryFile("w") as script:
        script.write(scans)
        script.flush()
        options = [*options, "-scans", script.name] if scans else options
        return subprocess.run([command, *options], input=stdin, capture_output=True, check=True).stdout


def decode(name, data, drawn):
    """The grey levels [rows, columns] by libjpeg-turbo. The picture, in colour and in grey, must be near the drawn one."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    levels = np.asarray(picture.convert("L"))
    for decoded, right, limit in [
        (levels, np.asarray(Image.fromarray(drawn).convert("L")), 2.5),
        (np.asarray(picture.convert("RGB")), np.asarray(Image.fromarray(drawn).convert("RGB")), 4),
    ]:
        assert decoded.shape == right.shape, f"{name}: {decoded.shape} instead of {right.shape}"
        difference = np.abs(decoded.astype(int) - right).mean()
        assert difference < limit, f"{name} differs from the drawn picture by {difference:.2f} grey levels on average"
    return levels


# Marker segments


def chunks(data):
    """The marker segments of a file without fill bytes, each scan header with its entropy-coded data."""
    result, start = [data[:2]], 2
    while data[start + 1] != EOI:
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        if data[start + 1] == SOS:
            end = re.compile(rb"\xff[^\x00\xd0-\xd7]").search(data, end).start()
        result.append(data[start:end])
        start = end
    return [*result, data[start:]]


def segment(data, markers):
    return next(chunk for chunk in chunks(data) if chunk[1] in markers)


def with_markers(data, segments):
    """Replace the application segments."""
    return b"".join([data[:2], *segments, *(chunk for chunk in chunks(data)[1:] if not APP0 <= chunk[1] <= APP0 + 15)])


def with_ids(data, ids):
    """Replace the component identifiers in the frame header and the scan headers."""
    result = [bytearray(chunk) for chunk in chunks(data)]
    frame = next(chunk for chunk in result if chunk[1] in FRAME_HEADERS)
    new = dict(zip(frame[10::3], ids, strict=True))
    frame[10::3] = ids
    for scan in (chunk for chunk in result if chunk[1] == SOS):
        for i in range(scan[4]):
            scan[5 + 2 * i] = new[scan[5 + 2 * i]]
    return b"".join(result)


def marker(code, payload):
    return struct.pack(">BBH", 0xFF, code, len(payload) + 2) + payload


def jfif():
    return marker(APP0, b"JFIF\0\1\1\0\0\1\0\1\0\0")


def adobe(transform):
    return marker(APP0 + 14, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


def exif(orientation, order=">", thumbnail=b""):
    """EXIF with an orientation and perhaps a thumbnail, whose directory has orientation 3, which must be ignored."""

    def directory(entries, following):
        fields = [struct.pack(order + "HHI", tag, 3, 1) + struct.pack(order + "HH", value, 0) for tag, value in entries]
        return struct.pack(order + "H", len(fields)) + b"".join(fields) + struct.pack(order + "I", following)

    # The header has 8 bytes, a directory of one entry 18 bytes, of four entries 54 bytes.
    tiff = struct.pack(order + "2sHI", b"MM" if order == ">" else b"II", 42, 8) + directory([(0x112, orientation)], 26 if thumbnail else 0)
    if thumbnail:
        tiff += directory([(0x103, 6), (0x112, 3), (0x201, 80), (0x202, len(thumbnail))], 0) + thumbnail
    return marker(APP0 + 1, b"Exif\0\0" + tiff)
