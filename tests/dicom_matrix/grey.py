"""Right grey levels, by the formulas of the standard (see generate.py)."""

from dataclasses import dataclass

import numpy as np

CLIPPED = 0.001


@dataclass
class Table:
    """Lookup table: LUT Descriptor and LUT Data."""

    first: int
    entry_bits: int
    entries: np.ndarray

    def look_up(self, values):
        # Values are rounded half away from zero.
        index = np.floor(np.abs(values) + 0.5) * np.sign(values) - self.first
        return self.entries[np.clip(index, 0, len(self.entries) - 1).astype(int)].astype(float)

    def shares(self, values):
        declared, largest = 2**self.entry_bits - 1, self.entries.max()
        return self.look_up(values) / (largest if largest < declared / 4 else declared)


@dataclass
class Window:
    """Window Center, Window Width and VOI LUT Function (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""

    centre: float
    width: float
    function: str = "LINEAR"

    def shares(self, values):
        if self.function == "SIGMOID":
            return 1 / (1 + np.exp(-4 * (values - self.centre) / self.width))
        linear = self.function == "LINEAR"
        centre, width = (self.centre - 0.5, self.width - 1) if linear else (self.centre, self.width)
        if width == 0:
            return (values > centre).astype(float)
        return np.clip((values - centre) / width + 0.5, 0, 1)


@dataclass
class Rescale:
    slope: float
    intercept: float

    def look_up(self, values):
        return values * (self.slope or 1) + self.intercept


@dataclass
class Range:
    low: float
    high: float

    def shares(self, values):
        return np.clip((values - self.low) / (self.high - self.low), 0, 1) if self.high > self.low else np.zeros(values.shape)


def grey_levels(stored, possible, modality, voi, padding, inverted, bits):
    """Grey levels 0 to 255 of stored values. `possible` are all values that the bits stored can hold; `padding` is a range or None."""
    values = modality.look_up(stored.astype(float))
    is_padding = np.zeros(stored.shape, bool) if padding is None else (stored >= min(padding)) & (stored <= max(padding))
    if voi is None and bits <= 8:
        everything = modality.look_up(possible.astype(float))
        voi = Range(everything.min(), everything.max())
    shares = (voi or percentiles(values[~is_padding])).shares(values)
    return np.where(is_padding, 0, (1 - shares if inverted else shares) * 255)


def percentiles(values):
    """Range that leaves out 0.1 % of the values at each end: the first value whose cumulative count exceeds 0.1 %."""
    ordered = np.sort(values)
    at = int(len(ordered) * CLIPPED)
    return Range(ordered[at], ordered[len(ordered) - 1 - at])


def luma(rgb):
    """ITU-R BT.601 luma."""
    return rgb.astype(float) @ [0.299, 0.587, 0.114]


def rgb_from_ybr(ybr):
    """RGB of YBR_FULL (PS3.3 C.7.6.3.1.2), 8 bits."""
    y, cb, cr = np.moveaxis(ybr.astype(float), -1, 0) - np.array([0, 128, 128]).reshape(3, 1, 1)
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
    return np.clip(np.floor(rgb + 0.5), 0, 255)


def ybr_from_rgb(rgb):
    r, g, b = np.moveaxis(rgb.astype(float), -1, 0)
    y = luma(rgb)
    ybr = np.stack([y, (b - y) / 1.772 + 128, (r - y) / 1.402 + 128], -1)
    return np.clip(np.floor(ybr + 0.5), 0, 255).astype(int)
