"""Writes charls.bin: JPEG-LS streams that CharLS encodes, each with the SHA-256 of what CharLS decodes from it.

pip install numpy==2.4.6 pyjpegls==1.5.1, then `python charls.py` in this folder. The tests of the JPEG-LS decoder compare themselves with it.

An entry: width, height and length of the stream as u32, the stream, the SHA-256 of the decoded samples as u16; all little endian.
"""
import hashlib
import struct

import jpeg_ls
import numpy

SIZES = [(20, 18), (2, 200), (200, 2), (33, 17), (48, 40), (31, 29)]
BITS = [2, 7, 8, 10, 12, 16]
NEAR = [0, 1, 2, 5]

random = numpy.random.default_rng(2)


def flat(x, y, top):
    """Large regions of one value: run mode."""
    return (x // 11 + y // 7) % 3 * (top // 3)


def smooth(x, y, top):
    return (x * 7 + y * 5) % (top + 1)


def noisy(x, y, top):
    return random.integers(0, top + 1, x.shape)


def grainy(x, y, top):
    return numpy.clip(top // 2 + x + random.integers(-3, 4, x.shape), 0, top)


with open("charls.bin", "wb") as file:
    count = 0
    for number, (width, height) in enumerate(SIZES):
        for bits in BITS:
            top = 2**bits - 1
            pattern = [flat, smooth, noisy, grainy][count % 4]
            near = NEAR[count // 4 % 4] if top > 20 else 0
            y, x = numpy.mgrid[:height, :width]
            image = pattern(x, y, top).astype("uint8" if bits <= 8 else "uint16")
            image[-1, -1] = top  # CharLS takes the bits per sample from the largest value.
            stream = bytes(jpeg_ls.encode_array(image, lossy_error=near))
            decoded = jpeg_ls.decode(numpy.frombuffer(stream, "uint8")).astype("<u2")
            assert decoded.shape == image.shape
            assert numpy.abs(decoded.astype(int) - image.astype(int)).max() <= near
            file.write(struct.pack("<III", width, height, len(stream)) + stream)
            file.write(hashlib.sha256(decoded.tobytes()).digest())
            count += 1
    print(count, "streams")
