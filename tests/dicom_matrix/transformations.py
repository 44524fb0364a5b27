"""Modality transformation, VOI transformation and padding of each case, as parameters and as DICOM elements."""

import numpy as np
from grey import Rescale, Table, Window
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

MAX_ENTRIES = 2**12
RESCALES = {
    "none": (1, 0),
    "rescale": (1, -1024),
    "slope-minus-10": (-10, 0),
    "slope-zero": (0, 0),
    "slope-fraction": (0.25, -200.5),
}
WINDOW_FUNCTIONS = {"linear-exact": "LINEAR_EXACT", "linear-exact-half": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
ENTRY_BITS = {"lut-12-bits": 12, "lut-8-bits-bytes": 8, "lut-8-bits-words": 8}
LARGEST_ENTRY = {"lut-narrow": 1 / 16, "lut-half": 1 / 2}


def possible_values(case):
    """All values that the bits stored can hold."""
    signed = case.signed or case.extra == "signed-codestream"
    return np.arange(2**case.bits) - (2 ** (case.bits - 1) if signed else 0)


def modality_of(case):
    if case.modality == "table":
        first, count = table_span(possible_values(case))
        return Table(first, 16, np.round(stepped(np.linspace(0, 1, count) ** 1.2) * 4095).astype(int))
    if case.modality == "slope-negative":
        return Rescale(-1, 2**case.bits - 1)
    return Rescale(*RESCALES[case.modality])


def voi_of(case):
    """The VOI transformation that a reader must use; None without one."""
    values = modality_of(case).look_up(possible_values(case).astype(float))
    low, span = values.min(), np.ptp(values)
    if case.voi == "none":
        return None
    if case.voi.startswith("lut"):
        first, count = table_span(values, case.voi)
        entry_bits = ENTRY_BITS.get(case.voi, 16)
        shades = np.linspace(0, 1, count)
        shades = stepped(shades * (1.2 - 0.2 * shades))
        shades = (1 - shades if case.voi == "lut-falling" else shades) * LARGEST_ENTRY.get(case.voi, 1)
        return Table(first, entry_bits, np.round(shades * (2**entry_bits - 1)).astype(int))
    centre, width = round(low + 0.45 * span), max(round(0.6 * span), 2)
    if case.voi == "window-text":
        return Window(float(f"{centre:+.4E}"), width)
    if case.voi in ("window-step", "linear-exact-half"):
        return Window(centre + 0.25, 1 if case.voi == "window-step" else 0.5, WINDOW_FUNCTIONS.get(case.voi, "LINEAR"))
    return Window(centre, width, WINDOW_FUNCTIONS.get(case.voi, "LINEAR"))


def stepped(shades):
    """Shares in steps of one grey level, as few different entries compress well."""
    return np.floor(shades * 255) / 255


def table_span(values, voi="lut"):
    """First mapped value and number of entries of a table for a part of the values. Values beyond it have the first or last entry."""
    low, span = values.min(), np.ptp(values)
    if voi == "lut-65536":
        return int(low), 2**16
    count = int(min(0.6 * span, MAX_ENTRIES))
    # Above the middle if possible, so that the first mapped value of 16 bits exceeds the signed range.
    start = 0 if voi == "lut-negative" else 0.6 if low >= 0 else 0.5
    return int(low + (span - count) * start), count


def signed_after_modality(case):
    """True if modality values can be negative, which makes the first value that the VOI LUT maps signed (PS3.3 C.11.2.1.1)."""
    if case.modality == "table":
        return False
    return case.signed or modality_of(case).look_up(possible_values(case).astype(float)).min() < 0


def first_mapped_fits(case):
    voi = voi_of(case)
    low, high = (-(2**15), 2**15 - 1) if signed_after_modality(case) else (0, 2**16 - 1)
    return not isinstance(voi, Table) or low <= voi.first <= high and (case.voi != "lut-negative" or voi.first < 0)


def padding_of(case):
    """Pixel Padding Value and Pixel Padding Range Limit, or None."""
    values = possible_values(case)
    value, inwards = (values[-1], -1) if case.photometric == "MONOCHROME1" else (values[0], 1)
    return {
        "padding": (value, value),
        "padding-range": (value, value + inwards * (len(values) // 32)),
        "padding-absent": (-(2**15),) * 2 if case.signed else (2**16 - 1,) * 2,
    }.get(case.extra)


def add_transformations(ds, case, big_endian):
    """Add the elements of the modality and VOI transformations and of padding to the data set."""
    modality, voi = modality_of(case), voi_of(case)
    if isinstance(modality, Table):
        ds.ModalityLUTSequence = Sequence([table_item(modality, case.signed, ModalityLUTType="US")])
    elif case.modality != "none":
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(modality.intercept), str(modality.slope), "US"
    if isinstance(voi, Table):
        ds.VOILUTSequence = Sequence([table_item(voi, signed_after_modality(case), case.voi, big_endian)])
        if case.voi == "lut-and-window":
            ds.WindowCenter, ds.WindowWidth = "10", "20"
    elif voi is not None:
        add_window(ds, case, voi)
    if case.voi.startswith("empty"):
        empty = Dataset()
        if case.voi == "empty-lut-values":
            empty.add_new("LUTDescriptor", "US", None)
            empty.add_new("LUTData", "OW", b"")
        ds.VOILUTSequence = Sequence([] if case.voi == "empty-lut-sequence" else [empty])
    if padding := padding_of(case):
        vr = "SS" if case.signed else "US"
        ds.add_new("PixelPaddingValue", vr, int(padding[0]))
        if case.extra == "padding-range":
            ds.add_new("PixelPaddingRangeLimit", vr, int(padding[1]))


def add_window(ds, case, voi):
    centre, width = str(voi.centre), str(voi.width)
    if case.voi == "window-text":
        centre, width = f" {voi.centre:+.4E} ", f" {voi.width:.2f}"
    if case.voi == "windows":
        centre, width = [centre, "40", "-10.5"], [width, "400", "1"]
    ds.WindowCenter, ds.WindowWidth = centre, width
    if case.voi == "windows":
        ds.WindowCenterWidthExplanation = ["NORMAL", "SOFT", "HARD"]
    if case.voi in WINDOW_FUNCTIONS or case.voi == "window-text":
        ds.VOILUTFunction = voi.function


def table_item(table, signed, form="lut", big_endian=False, **more):
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [len(table.entries) % 2**16, table.first, table.entry_bits])
    if form == "lut-8-bits-bytes":
        entries = table.entries.astype("u1").tobytes()
        item.add_new("LUTData", "OW", entries + bytes(len(entries) % 2))
    elif form in ("lut-words-ow", "lut-65536"):
        item.add_new("LUTData", "OW", table.entries.astype(">u2" if big_endian else "<u2").tobytes())
    else:
        item.add_new("LUTData", "US", table.entries.tolist())
    for name, value in more.items():
        setattr(item, name, value)
    return item
