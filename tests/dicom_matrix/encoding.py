"""DICOM files: elements, pixel data in each transfer syntax, and the codestreams of compressed frames."""

import struct

import imagecodecs
import jpeg_ls
import numpy as np
from cases import is_native
from openjpeg import utils as openjpeg
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info

TRANSFER_SYNTAXES = {
    "implicit-le": "1.2.840.10008.1.2",
    "explicit-le": "1.2.840.10008.1.2.1",
    "deflated": "1.2.840.10008.1.2.1.99",
    "explicit-be": "1.2.840.10008.1.2.2",
    "jpeg-baseline": "1.2.840.10008.1.2.4.50",
    "jpeg-extended": "1.2.840.10008.1.2.4.51",
    "jpeg-p14": "1.2.840.10008.1.2.4.57",
    "jpeg-sv1": "1.2.840.10008.1.2.4.70",
    "jls": "1.2.840.10008.1.2.4.80",
    "jls-near": "1.2.840.10008.1.2.4.81",
    "j2k": "1.2.840.10008.1.2.4.90",
    "j2k-lossy": "1.2.840.10008.1.2.4.91",
    "rle": "1.2.840.10008.1.2.5",
}
UNDEFINED_LENGTH = 0xFFFFFFFF
QUALITY = 95
NEAR = 2
ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
COMPONENT_IDS = {"ids-012": b"\x00\x01\x02", "ids-rgb": b"RGB"}


def file_bytes(case, ds, pixel_element, syntax=None, elements=None):
    """A DICOM file of the data set and its pixel data element. `syntax` and `elements` differ from the encoding in files that lie."""
    elements = elements or case.encoding
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = syntax or TRANSFER_SYNTAXES[case.encoding]
    meta.ImplementationClassUID = "1.2.826.0.1.3680043.8.498.1"
    head, body = DicomBytesIO(), DicomBytesIO()
    head.is_little_endian, head.is_implicit_VR = True, False
    write_file_meta_info(head, meta)
    body.is_little_endian, body.is_implicit_VR = elements != "explicit-be", elements == "implicit-le"
    write_dataset(body, ds)
    data_set = body.getvalue() + pixel_element
    if elements == "deflated":
        # Without the header and the checksum of zlib. Python's own zlib is not of a pinned version.
        data_set = imagecodecs.zlib_encode(data_set, level=9)[2:-4]
        data_set += bytes(len(data_set) % 2)
    return bytes(128) + b"DICM" + head.getvalue() + data_set


def pixel_element(case, value, elements=None):
    """Pixel Data of a native frame (bytes) or of fragments of a compressed one (list), and Data Set Trailing Padding if the case has it."""
    elements = elements or case.encoding
    if isinstance(value, list):
        offsets = b"" if case.extra.endswith("empty-table") else bytes(4)
        data = b"".join(item(fragment) for fragment in [offsets, *value]) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        element = element_head(elements, 0x7FE0, 0x0010, b"OB", UNDEFINED_LENGTH) + data
    else:
        vr = b"OW" if case.allocated == 16 or case.extra == "bytes-in-words" else b"OB"
        element = element_head(elements, 0x7FE0, 0x0010, vr, len(value)) + value
    if case.extra == "trailing-element":
        element += element_head(elements, 0xFFFC, 0xFFFC, b"OB", 64) + bytes(64)
    return element


def item(fragment):
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(fragment)) + fragment


def element_head(elements, group, element, vr, length):
    order = ">" if elements == "explicit-be" else "<"
    if elements == "implicit-le":
        return struct.pack("<HHL", group, element, length)
    return struct.pack(order + "HH2sHL", group, element, vr, 0, length)


def pixel_value(case, samples):
    """Value of Pixel Data: bytes of a native frame, or the fragments of a compressed one. `samples` is [rows, columns(, 3)]."""
    frame = native_frame(case, samples) if is_native(case) else codestream(case, samples)
    odd = len(frame) % 2 == 1
    if case.extra == "trailing":
        frame += b"\xff" * 16 if is_native(case) else bytes(16)
    if case.extra == "odd-length":
        frame += b"" if odd else bytes(not is_native(case))
    elif len(frame) % 2 == 1:
        frame += b"\x00"
    if case.extra == "bytes-in-words" and case.encoding == "explicit-be":
        frame = np.frombuffer(frame, "<u2").byteswap().tobytes()
    if is_native(case):
        return frame
    if not case.extra.startswith("fragments"):
        return [frame]
    third = len(frame) // 6 * 2
    return [frame[:third], frame[third : 2 * third], frame[2 * third :]]


def stored_bits(case, samples):
    """The samples as unsigned words of Bits Allocated, with the bits outside Bits Stored that the case wants."""
    bits = samples & (2**case.bits - 1)
    if case.extra == "high-bit":
        return bits << (16 - case.bits)
    if case.extra == "sign-extended":
        return samples & 0xFFFF
    if case.extra == "overlay":
        return bits | (np.arange(samples.size).reshape(samples.shape) % 7 << case.bits) & 0xFFFF
    return bits


def native_frame(case, samples):
    if case.photometric == "YBR_FULL_422":
        # Y1 Y2 Cb Cr for each two pixels (PS3.3 C.7.6.3.1.2).
        samples = np.stack([samples[:, ::2, 0], samples[:, 1::2, 0], samples[:, ::2, 1], samples[:, ::2, 2]], -1)
    elif case.extra == "planar-1":
        samples = np.moveaxis(samples, -1, 0)
    words = ">u2" if case.encoding == "explicit-be" else "<u2"
    return stored_bits(case, samples).astype(words if case.allocated == 16 else "u1").tobytes()


def codestream(case, samples):
    """The compressed frame."""
    if case.encoding == "rle":
        return rle(case, stored_bits(case, samples))
    if case.encoding.startswith("j2k"):
        return jpeg_2000(case, samples)
    bits = stored_bits(case, samples).astype("u1" if case.bits <= 8 else "u2")
    precision = 16 if case.extra == "precision-16" else case.bits
    if case.encoding.startswith("jls"):
        return jpeg_ls_codestream(case, bits, precision)
    return relabelled(case, jpeg(case, bits, precision))


def rle(case, bits):
    """RLE segments: for each sample the high byte of all pixels, then the low byte (PS3.5 annex G)."""
    planes = np.moveaxis(bits, -1, 0) if bits.ndim == 3 else bits[None]
    segments = []
    for plane in planes:
        for shift in range(case.allocated - 8, -1, -8):
            rows = (plane >> shift & 0xFF).astype("u1")
            segment = b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in rows)
            segments.append(segment + bytes(len(segment) % 2))
    offsets = np.cumsum([64, *map(len, segments[:-1])])
    return struct.pack("<L", len(segments)) + offsets.astype("<u4").tobytes().ljust(60, b"\x00") + b"".join(segments)


def jpeg(case, bits, precision):
    """JPEG by libjpeg-turbo. Components are coded as they are, without conversion of colours."""
    colour = {} if bits.ndim == 2 else dict(colorspace="rgb", outcolorspace="rgb")
    if case.encoding in ("jpeg-sv1", "jpeg-p14"):
        predictor = 1 if case.encoding == "jpeg-sv1" else 2 + case.bits % 6
        return imagecodecs.jpeg8_encode(bits, lossless=True, predictor=predictor, bitspersample=precision, **colour)
    if precision > 8:
        return imagecodecs.jpeg8_encode(bits, level=QUALITY, bitspersample=12)
    if case.photometric.startswith("YBR"):
        sampling = case.extra[:3] if case.extra[:3] in ("444", "422", "420") else "422" if case.photometric.endswith("422") else "444"
        colour = dict(colorspace="ycbcr", outcolorspace="ycbcr", subsampling=sampling)
    code = imagecodecs.jpeg8_encode(bits, level=QUALITY, **colour)
    return code.replace(b"\xff\xc0", b"\xff\xc1", 1) if case.encoding == "jpeg-extended" else code


def relabelled(case, code):
    """The JPEG with the markers and component identifiers of the case. By default a colour JPEG has no marker and ids 1, 2, 3."""
    if case.photometric not in ("RGB", "YBR_FULL", "YBR_FULL_422"):
        return code
    ids = next((ids for word, ids in COMPONENT_IDS.items() if case.extra.endswith(word)), b"\x01\x02\x03")
    markers = b""
    if "jfif" in case.extra:
        markers = JFIF
    if "adobe" in case.extra:
        markers = ADOBE + (b"\x00" if case.photometric == "RGB" else b"\x01")
    out, at = b"\xff\xd8" + markers, 2
    while True:
        kind, length = code[at + 1], struct.unpack(">H", code[at + 2 : at + 4])[0]
        segment = bytearray(code[at : at + 2 + length])
        if kind in (0xC0, 0xC1, 0xC3):
            segment[10::3] = ids
        if kind == 0xDA:
            segment[5:11:2] = ids
            return out + bytes(segment) + code[at + 2 + length :]
        if kind not in (0xE0, 0xEE):
            out += segment
        at += 2 + length


def jpeg_ls_codestream(case, bits, precision):
    interleave = 0 if bits.ndim == 2 else {"interleave-none": 0, "interleave-line": 1}.get(case.extra, 2)
    if case.extra == "interleave-none":
        bits = np.moveaxis(bits, -1, 0)
    return bytes(
        jpeg_ls.encode_pixel_data(
            bits.tobytes(),
            lossy_error=NEAR if case.encoding == "jls-near" else 0,
            rows=bits.shape[-2] if case.extra == "interleave-none" else bits.shape[0],
            columns=bits.shape[-1] if case.extra == "interleave-none" else bits.shape[1],
            samples_per_pixel=bits.ndim * 2 - 3,
            bits_stored=precision,
            interleave_mode=interleave,
        )
    )


def jpeg_2000(case, samples):
    """JPEG 2000 by OpenJPEG, with a component transform (RCT or ICT) if the case wants it."""
    signed = (case.signed or case.extra == "signed-codestream") and case.extra != "unsigned-codestream"
    if not signed:
        samples = stored_bits(case, samples)
    transform = case.photometric in ("YBR_RCT", "YBR_ICT") or case.extra == "component-transform"
    lossy = case.encoding == "j2k-lossy"
    return openjpeg.encode_array(
        samples.astype(("i" if signed else "u") + ("1" if case.bits <= 8 else "2")),
        bits_stored=16 if case.extra == "precision-16" else case.bits,
        photometric_interpretation=1 if samples.ndim == 3 else 2,
        use_mct=transform,
        codec_format=1 if case.extra == "jp2-boxes" else 0,
        **(dict(compression_ratios=[4]) if lossy else {}),
    )
