"""Files that a reader must refuse, with the reason."""

from cases import Case
from encoding import file_bytes, pixel_element, pixel_value
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

ENCAPSULATED = ["rle", "jpeg-baseline", "jpeg-extended", "jpeg-sv1", "jpeg-p14", "jls", "jls-near", "j2k", "j2k-lossy"]


def refused_files(header_of, drawn):
    """(case, bytes, reason) of each file. `header_of` makes the data set of a case and `drawn` its picture."""
    for encoding, photometric, extra, reason, change in changes():
        bits = 8 if photometric != "MONOCHROME2" or encoding == "jpeg-baseline" else 12
        base = Case(encoding, bits, False, photometric)
        ds, value = header_of(base), pixel_value(base, drawn(base))
        value, syntax = change(ds, value), getattr(ds, "syntax", None)
        element = b"" if value is None else pixel_element(base, value)
        yield Case(encoding, bits, False, photometric, f"refused-{extra}"), file_bytes(base, ds, element, syntax), reason


def changes():
    """(encoding, photometric, extra, reason, change of the data set that returns the new pixel value)."""
    for encoding in ["explicit-le", "implicit-le", "explicit-be", "deflated"]:
        yield encoding, "MONOCHROME2", "short", "Pixel Data is shorter than the frame", lambda ds, value: value[:-82]
    yield "explicit-le", "RGB", "short", "Pixel Data is shorter than the frame", lambda ds, value: value[: len(value) // 3]
    for encoding in ENCAPSULATED:
        yield encoding, "MONOCHROME2", "truncated", "the codestream is truncated", lambda ds, value: [value[0][: len(value[0]) // 4 * 2]]
        yield encoding, "MONOCHROME2", "no-fragment", "Pixel Data has no fragment", lambda ds, value: []
        yield encoding, "MONOCHROME2", "garbage", "the fragment is not a codestream", lambda ds, value: [bytes(range(256)) * 4]
    for encoding in ENCAPSULATED[1:]:
        rows = set_elements(Rows=36)
        yield encoding, "MONOCHROME2", "size", "the codestream and the header have different sizes", rows
    for encoding in ["jpeg-baseline", "jls", "j2k"]:
        grey = set_elements(SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2")
        yield encoding, "RGB", "one-sample", "the codestream has three components but the header one sample per pixel", grey
    for word in ["Rows", "Columns", "BitsAllocated"]:
        yield "explicit-le", "MONOCHROME2", f"no-{word.lower()}", f"{word} is absent", delete_element(word)
    yield "explicit-le", "MONOCHROME2", "no-pixels", "Pixel Data is absent", lambda ds, value: None
    contradiction = "Bits Stored and High Bit and Bits Allocated contradict each other"
    depths = {"stored-17": (17, 16), "stored-0": (0, 11), "high-bit-16": (12, 16), "high-bit-3": (12, 3)}
    for extra, (stored, high_bit) in depths.items():
        elements = dict(BitsStored=stored, HighBit=high_bit)
        yield "explicit-le", "MONOCHROME2", extra, contradiction, set_elements(**elements)
    for bits in (1, 32):
        elements = set_elements(BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1)
        yield "explicit-le", "MONOCHROME2", f"allocated-{bits}", "Bits Allocated is neither 8 nor 16", elements
    yield "explicit-le", "MONOCHROME2", "two-frames", "more than one frame", two_frames
    for photometric in ["HSV", "ARGB", "CMYK", "UNKNOWN", "YBR_PARTIAL_420"]:
        reason = "retired or unknown photometric interpretation"
        yield "explicit-le", "RGB", photometric.lower(), reason, set_elements(PhotometricInterpretation=photometric)
    mismatch = "photometric interpretation and samples per pixel contradict each other"
    yield "explicit-le", "MONOCHROME2", "rgb-one-sample", mismatch, set_elements(PhotometricInterpretation="RGB")
    yield "explicit-le", "RGB", "grey-three-samples", mismatch, set_elements(PhotometricInterpretation="MONOCHROME2")
    yield "explicit-le", "PALETTE COLOR", "no-palette", "the palette is absent", delete_element("RedPaletteColorLookupTableData")
    yield (
        "explicit-le",
        "PALETTE COLOR",
        "short-palette",
        "the palette is shorter than its descriptor",
        set_elements(GreenPaletteColorLookupTableData=bytes(20)),
    )
    yield "explicit-le", "MONOCHROME2", "short-lut", "the lookup table is shorter than its descriptor", short_table
    for extra, uid in [
        ("mpeg", "1.2.840.10008.1.2.4.102"),
        ("private", "1.2.826.0.1.3680043.8.498.99"),
        ("jpip", "1.2.840.10008.1.2.4.94"),
    ]:
        yield "jpeg-baseline", "MONOCHROME2", extra, "unsupported transfer syntax", transfer_syntax(uid)
    yield (
        "explicit-le",
        "MONOCHROME2",
        "ct-class",
        "the SOP class is not a radiograph",
        set_elements(SOPClassUID="1.2.840.10008.5.1.4.1.1.2"),
    )
    yield "explicit-le", "MONOCHROME2", "ct-modality", "the modality is not a radiograph", set_elements(Modality="CT")


def set_elements(**elements):
    def change(ds, value):
        for name, content in elements.items():
            setattr(ds, name, content)
        return value

    return change


def delete_element(name):
    def change(ds, value):
        delattr(ds, name)
        return value

    return change


def two_frames(ds, value):
    ds.NumberOfFrames = 2
    return value * 2


def short_table(ds, value):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 16])
    item.add_new("LUTData", "US", list(range(1000)))
    ds.VOILUTSequence = Sequence([item])
    return value


def transfer_syntax(uid):
    def change(ds, value):
        ds.syntax = uid  # An attribute of the Python object, not a DICOM element.
        return value

    return change
