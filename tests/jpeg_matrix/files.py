"""The files of the JPEG matrix, by kind: name, file and drawn picture; of the files to be refused: name, file and reason."""

import functools
import io
import re

import imagecodecs
import numpy as np
from codestream import (
    APP0,
    COM,
    EOI,
    FRAME_HEADERS,
    SOS,
    adobe,
    chunks,
    cjpeg,
    decode,
    exif,
    jfif,
    jpegtran,
    marker,
    segment,
    with_ids,
    with_markers,
)
from PIL import Image

SIZE = (47, 61)  # rows, columns
SIZES = [(32, 32), (35, 33), (70, 41)]
SAMPLINGS = {"444": "1x1", "422": "2x1", "420": "2x2", "440": "1x2", "411": "4x1"}
ODD_SAMPLINGS = {"all-2x1": "2x1,2x1,2x1", "mixed": "2x2,2x1,1x2"}
SCANS = {"interleaved": "", "separate": "0; 1; 2;", "luma-first": "0; 1 2;", "luma-last": "2; 1; 0;"}
# Spectral selection without successive approximation, and the DC coefficients of each component in a scan of their own.
SPECTRAL = "0: 0-0, 0, 0; 1: 0-0, 0, 0; 2: 0-0, 0, 0; 1: 1-63, 0, 0; 0: 1-9, 0, 0; 2: 1-63, 0, 0; 0: 10-63, 0, 0;"


# Pictures


def shades(size):
    """A smooth ramp with a disc and a little texture, 0 to 1."""
    y, x = np.mgrid[: size[0], : size[1]]
    ramp = 0.5 * x / (size[1] - 1) + 0.2 * y / (size[0] - 1)
    disc = 0.25 * ((x - size[1] * 0.4) ** 2 + (y - size[0] * 0.4) ** 2 < 80)
    texture = 0.05 * ((x // 3 + 2 * (y // 4)) % 3) / 2
    return ramp + disc + texture


def draw_grey(size=SIZE):
    return np.round(40 + 170 * shades(size)).astype("u1")


def draw_colour(size=SIZE):
    """The grey picture, reddish at the top and bluish at the bottom."""
    tint = np.linspace(1, -1, size[0])[:, None] * np.ones(size)
    return np.clip(np.round(draw_grey(size)[..., None] + np.stack([30 * tint, 10 - 10 * tint, -30 * tint], -1)), 8, 247).astype("u1")


# Kinds of files: name, file and drawn picture


def baseline():
    for size in [SIZE, *SIZES]:
        drawn = draw_colour(size)
        for sampling, factors in SAMPLINGS.items():
            for scans in ("interleaved", "separate"):
                yield f"baseline-{scans}-{sampling}-{extent(size)}", cjpeg(drawn, SCANS[scans], "-sample", factors), drawn
    drawn = draw_colour()
    for sampling, factors in ODD_SAMPLINGS.items():
        for scans in ("interleaved", "separate"):
            yield f"baseline-{scans}-{sampling}", cjpeg(drawn, SCANS[scans], "-sample", factors), drawn
    for sampling, factors in SAMPLINGS.items():
        for scans in ("luma-first", "luma-last"):
            yield f"baseline-{scans}-{sampling}", cjpeg(drawn, SCANS[scans], "-sample", factors), drawn
        yield f"baseline-optimised-{sampling}", cjpeg(drawn, "", "-sample", factors, "-optimize"), drawn
        for scans in ("interleaved", "separate"):
            for restart in ("1B", "3B", "1"):
                name = f"baseline-{scans}-{sampling}-restart-{interval(restart)}"
                yield name, cjpeg(drawn, SCANS[scans], "-sample", factors, "-restart", restart), drawn


def progressive():
    drawn = draw_colour()
    for sampling, factors in (SAMPLINGS | ODD_SAMPLINGS).items():
        for script, scans in [("progressive", ""), ("progressive-spectral", SPECTRAL)]:
            options = ["-progressive", "-sample", factors]
            yield f"{script}-{sampling}", cjpeg(drawn, scans, *options), drawn
            for restart in ("2B", "1"):
                yield f"{script}-{sampling}-restart-{interval(restart)}", cjpeg(drawn, scans, *options, "-restart", restart), drawn
    for size in SIZES:
        for sampling in ("444", "420"):
            data = cjpeg(draw_colour(size), "", "-progressive", "-sample", SAMPLINGS[sampling])
            yield f"progressive-{sampling}-{extent(size)}", data, draw_colour(size)


def grey():
    """One component, whose sampling factors must not matter (ITU-T T.81 A.2.2)."""
    kinds = {"baseline": [], "progressive": ["-progressive"], "restart": ["-restart", "3B"], "optimised": ["-optimize"]}
    for factors in ("1x1", "2x1", "1x2", "2x2", "4x1"):
        for kind, options in kinds.items():
            data = cjpeg(draw_grey(), "", "-grayscale", "-sample", factors, *options)
            assert segment(data, FRAME_HEADERS)[11] == int(factors[0]) * 16 + int(factors[2]), "cjpeg ignored the sampling factors"
            yield f"grey-{factors}-{kind}", data, draw_grey()


def colour_spaces():
    drawn = draw_colour()
    kinds = {"interleaved": ("", []), "separate": (SCANS["separate"], []), "progressive": ("", ["-progressive"])}
    markers = {"none": [], "jfif": [jfif()], "adobe-0": [adobe(0)], "adobe-1": [adobe(1)], "jfif-adobe-1": [jfif(), adobe(1)]}
    for ids in (b"\0\1\2", b"\1\2\3", b"RGB"):
        ids_name = "rgb" if ids == b"RGB" else "".join(map(str, ids))
        for present, segments in markers.items():
            is_rgb = present == "adobe-0" or (present == "none" and ids == b"RGB")
            for kind, (scans, options) in kinds.items():
                data = cjpeg(drawn, scans, *options, *(["-rgb"] if is_rgb else ["-sample", "2x2"]))
                data = with_ids(with_markers(data, segments), ids)
                yield f"{'rgb' if is_rgb else 'ycbcr'}-ids-{ids_name}-{present}-{kind}", data, drawn


def four_components():
    """CMYK and YCCK as Adobe writes them: inverted, with an Adobe marker."""
    black = np.round(np.linspace(0, 80, SIZE[1]) * np.ones(SIZE)).astype("u1")
    cmyk = np.dstack([255 - draw_colour(), black])
    drawn = np.asarray(Image.fromarray(cmyk, "CMYK").convert("RGB"))
    ycck = np.dstack([np.asarray(Image.fromarray(255 - draw_colour()).convert("YCbCr")), 255 - black])
    encode = functools.partial(imagecodecs.jpeg8_encode, level=85, colorspace="cmyk")
    for name, data in [
        ("cmyk-444", encode(255 - cmyk, outcolorspace="cmyk")),
        ("ycck-420", encode(255 - cmyk, outcolorspace="ycck")),
        # The encoder subsamples YCCK always: encode it as CMYK and set the transform of the Adobe marker to YCCK.
        ("ycck-444", with_ids(with_markers(encode(ycck, outcolorspace="cmyk"), [adobe(2)]), b"\1\2\3\4")),
    ]:
        assert segment(data, [APP0 + 14])[15] == (2 if name.startswith("ycck") else 0), "wrong transform in the Adobe marker"
        assert segment(data, FRAME_HEADERS)[11] == (0x22 if name.endswith("420") else 0x11), "wrong sampling factors"
        yield f"{name}-interleaved", data, drawn
        yield f"{name}-separate", jpegtran(data, "0; 1; 2; 3;"), drawn
        yield f"{name}-progressive", jpegtran(data, "", "-progressive"), drawn
        yield f"{name}-restart", jpegtran(data, "", "-restart", "1B"), drawn


def orientations():
    """EXIF orientations. The values 0 and 9 are not defined and must be ignored."""
    drawn = draw_colour()
    for orientation in range(10):
        data = cjpeg(stored(drawn, orientation), "", "-sample", "2x2")
        yield f"orientation-{orientation}-big-endian", with_markers(data, [jfif(), exif(orientation)]), drawn
        yield f"orientation-{orientation}-little-endian", with_markers(data, [exif(orientation, "<")]), drawn
    data = cjpeg(stored(draw_grey(), 6), "", "-grayscale", "-progressive")
    yield "orientation-6-grey-progressive", with_markers(data, [exif(6)]), draw_grey()


def stored(drawn, orientation):
    """The picture that the orientation turns into the drawn one."""
    transposed = drawn.swapaxes(0, 1)
    turned = {2: drawn[:, ::-1], 3: drawn[::-1, ::-1], 4: drawn[::-1], 5: transposed, 7: transposed[::-1, ::-1]}
    return (turned | {6: np.rot90(drawn), 8: np.rot90(drawn, -1)}).get(orientation, drawn)


def several_pictures():
    """Only the first picture counts. The other one is the negative, and smaller."""
    drawn, negative = draw_colour(), 255 - draw_colour((24, 32))
    data, other = cjpeg(drawn, "", "-sample", "2x2"), cjpeg(negative, "")
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, "MPO", quality=85, save_all=True, append_images=[Image.fromarray(negative)])
    yield "multi-picture", file.getvalue(), drawn
    yield "second-picture", data + with_markers(other, [exif(6)]), drawn
    yield "thumbnail", with_markers(data, [exif(1, ">", other)]), drawn
    data = with_markers(cjpeg(stored(drawn, 8), SCANS["separate"], "-sample", "2x2"), [exif(8, "<", other)])
    yield "thumbnail-orientation-8", data, drawn


def between_segments():
    """Bytes after the end, fill bytes before markers, comments and application segments."""
    drawn = draw_colour()
    data = cjpeg(drawn, SCANS["separate"], "-sample", "2x2", "-restart", "3B")
    endings = {"zero": b"\0", "zeros": bytes(4096), "text": b"\r\nend of file\r\n", "markers": bytes.fromhex("ffd8ffdaffd9ff")}
    for name, trailing in endings.items():
        yield f"trailing-{name}", data + trailing, drawn
    yield "fill-segments", b"".join([chunks(data)[0], *(b"\xff\xff\xff" + chunk for chunk in chunks(data)[1:])]), drawn
    yield "fill-restart-markers", re.sub(rb"(?=\xff[\xd0-\xd7])", b"\xff\xff", data), drawn
    comments = [marker(COM, text) for text in (b"drawn", b"", bytes.fromhex("ffd9ffda") * 9)]
    yield "comments", with_markers(data, [jfif(), *comments]), drawn
    unknown = [marker(APP0 + n, b"unknown\0" + bytes.fromhex("ffd8ffd9") * n) for n in range(1, 16)]
    yield "unknown-segments", with_markers(data, [jfif(), *unknown]), drawn
    yield "empty-segments", with_markers(data, [marker(APP0 + n, b"") for n in range(16)]), drawn
    yield "jfif-extension", with_markers(data, [jfif(), marker(APP0, b"JFXX\0\x13\1\1\0\0\0")]), drawn
    xmp = marker(APP0 + 1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    yield "xmp", with_markers(data, [jfif(), xmp]), drawn


def refused():
    """Name, file and reason."""
    colour = draw_colour()
    for name, data, drawn in [
        ("arithmetic", cjpeg(colour, "", "-arithmetic", "-sample", "2x2"), colour),
        ("arithmetic-grey", cjpeg(draw_grey(), "", "-arithmetic", "-grayscale"), draw_grey()),
        ("arithmetic-progressive", cjpeg(colour, "", "-arithmetic", "-progressive"), colour),
    ]:
        decode(name, data, drawn)
        yield name, data, "arithmetic coding"
    for name, picture in [("12-bit-grey", draw_grey()), ("12-bit-colour", colour)]:
        data = imagecodecs.jpeg8_encode(picture.astype("u2") * 16, level=85, bitspersample=12)
        assert segment(data, FRAME_HEADERS)[4] == 12 and np.abs(imagecodecs.jpeg8_decode(data) / 16 - picture).mean() < 4
        yield name, data, "12 bits per sample"
    interleaved, separate = cjpeg(colour, "", "-sample", "2x2"), cjpeg(colour, SCANS["separate"], "-sample", "2x2")
    yield "truncated-interleaved", truncated(interleaved, 0), "truncated scan"
    for scan in range(3):
        yield f"truncated-separate-scan-{scan}", truncated(separate, scan), "truncated scan"
    yield "truncated-grey", truncated(cjpeg(draw_grey(), "", "-grayscale"), 0), "truncated scan"
    for scan in (0, -1):
        name = "first" if scan == 0 else "last"
        yield f"truncated-progressive-{name}-scan", truncated(cjpeg(colour, "", "-progressive"), scan), "truncated scan"
    yield "truncated-header", interleaved[: interleaved.index(bytes([0xFF, SOS])) + 5], "truncated header"
    for name, data in [("baseline", separate), ("progressive", cjpeg(colour, SPECTRAL, "-progressive"))]:
        for component in (1, 3):
            kept = [chunk for chunk in chunks(data) if chunk[1] != SOS or chunk[5] != component]
            yield f"{name}-without-component-{component}", b"".join(kept), f"no scan for component {component}"
    yield "without-frame-header", b"".join(chunk for chunk in chunks(interleaved) if chunk[1] not in FRAME_HEADERS), "no frame header"
    yield "without-scan", b"".join(chunk for chunk in chunks(interleaved) if chunk[1] != SOS), "no scan"


def truncated(data, scan):
    """The file up to the middle of a scan."""
    segments = chunks(data)
    at = [i for i, chunk in enumerate(segments) if chunk[1] == SOS][scan]
    return b"".join(segments[:at]) + segments[at][: len(segments[at]) // 2]


def extent(size):
    return f"{size[1]}x{size[0]}"


def interval(restart):
    """The name of cjpeg's restart interval: in MCUs, or in rows of MCUs."""
    return f"{restart[:-1]}-mcu" if restart.endswith("B") else f"{restart}-row"
