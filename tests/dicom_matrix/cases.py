"""Selection of the combinations in the matrix.

Complete for grey pictures: encoding, bits stored and sign, without and with a window; modality and VOI transformation, of signed 12-bit
and unsigned 16-bit pixels; tables for signed 8-bit pixels, and in implicit VR, which does not tell the sign of the first mapped value;
encoding and `extra`. Each other pair of properties occurs in at least one file (pairwise selection). Colour pictures are listed.
"""

import itertools
from dataclasses import dataclass, fields

import numpy as np
from transformations import first_mapped_fits

NATIVE = ["explicit-le", "implicit-le", "explicit-be", "deflated"]
LOSSLESS = [*NATIVE, "rle", "jpeg-sv1", "jpeg-p14", "jls", "j2k"]
LOSSY = ["jpeg-baseline", "jpeg-extended", "jls-near", "j2k-lossy"]
BITS = [8, 9, 10, 11, 12, 13, 14, 15, 16]
MODALITIES = ["none", "rescale", "slope-negative", "slope-minus-10", "slope-zero", "slope-fraction", "table"]
WINDOWS = ["window", "windows", "window-text", "window-step", "linear-exact", "linear-exact-half", "sigmoid"]
LUTS = ["lut", "lut-words-ow", "lut-12-bits", "lut-8-bits-bytes", "lut-8-bits-words", "lut-falling", "lut-negative", "lut-narrow",
        "lut-half", "lut-and-window", "lut-65536"]  # fmt: skip
EMPTY_LUTS = ["empty-lut-sequence", "empty-lut-item", "empty-lut-values"]
VOIS = ["none", *WINDOWS, *LUTS, *EMPTY_LUTS]
EXTRAS = ["none", "padding", "padding-range", "padding-absent", "overlay", "sign-extended", "high-bit", "allocated-16", "precision-16",
          "odd-length", "bytes-in-words", "trailing", "trailing-element", "fragments", "fragments-empty-table", "empty-table", "jp2-boxes",
          "unsigned-codestream", "signed-codestream"]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Properties of one file."""

    encoding: str
    bits: int
    signed: bool
    photometric: str = "MONOCHROME2"
    extra: str = "none"
    modality: str = "none"
    voi: str = "none"

    @property
    def allocated(self):
        return 16 if self.bits > 8 or self.extra == "allocated-16" else 8

    @property
    def transformations(self):
        return self.voi if self.modality == "none" else f"{self.modality}+{self.voi}"

    @property
    def name(self):
        words = [self.encoding, f"{self.bits:02}{'s' if self.signed else 'u'}", self.photometric.lower().replace(" color", "")]
        return "-".join([*words, *(word for word in [self.extra, self.modality, self.voi] if word != "none")]) + ".dcm"


def is_native(case):
    return case.encoding in NATIVE


def similar_first(case):
    """Sort key that puts files with the same pixel bytes together, which compress well."""
    group = "native" if is_native(case) and case.encoding != "deflated" else case.encoding
    return group, case.bits, case.signed, case.photometric, case.extra, case.name


def is_valid(case):
    """True if the standard allows this grey-scale combination and its right value is unambiguous."""
    return encoding_holds_bits(case) and extra_fits(case) and transformations_fit(case)


def encoding_holds_bits(case):
    if case.encoding == "jpeg-baseline":
        return case.bits == 8 and not case.signed
    if case.encoding == "jpeg-extended":
        # The codestream has 8 or 12 bits. Overshoot of fewer bits in 12 stays within the bits stored because the pictures keep a margin.
        return case.bits in (8, 10, 12) and not case.signed
    if case.encoding == "deflated":
        return case.bits in (8, 16)  # As explicit-le after inflation; see `transformations_fit`.
    # Two's complement wraps around at zero, which near-lossless coding does not allow.
    return case.encoding != "jls-near" or not case.signed


def extra_fits(case):
    lossless, encapsulated = case.encoding in LOSSLESS, not is_native(case)
    whole_words = (is_native(case) or case.encoding == "rle") and 8 < case.bits < 16
    return {
        "none": True,
        "padding": lossless,
        "padding-range": lossless,
        "padding-absent": lossless and 8 < case.bits < 16,
        "overlay": whole_words,
        "sign-extended": whole_words and case.signed,
        "high-bit": whole_words,
        "allocated-16": lossless and case.bits == 8,
        "precision-16": case.encoding in ("jpeg-sv1", "jls", "j2k") and 8 < case.bits < 16 and not case.signed,
        "odd-length": encapsulated or case.bits == 8,
        "bytes-in-words": case.encoding in ("explicit-le", "explicit-be") and case.bits == 8,
        "trailing": True,
        "trailing-element": True,
        "fragments": encapsulated and case.encoding != "rle",
        "fragments-empty-table": encapsulated and case.encoding != "rle",
        "empty-table": encapsulated,
        "jp2-boxes": case.encoding in ("j2k", "j2k-lossy"),
        "unsigned-codestream": case.encoding == "j2k" and case.signed,
        # Elements in the header would be unsigned, so keep to those whose sign does not matter.
        "signed-codestream": case.encoding == "j2k" and not case.signed and case.modality == "none"
        and case.voi in ("none", "window", "sigmoid"),
    }[case.extra]  # fmt: skip


def transformations_fit(case):
    if case.encoding in LOSSY and (case.voi in ("window-step", "linear-exact-half") or case.modality == "slope-minus-10"):
        return False  # A lossy difference of one stored value could become several grey levels.
    if case.encoding in LOSSY and case.modality == "table" and case.voi != "none":
        return False  # The same: two steep functions in sequence.
    if case.voi == "lut-65536" and (case.bits < 16 or case.modality != "none" or case.encoding not in NATIVE[:3]):
        return False
    if case.encoding == "deflated" and (case.modality == "table" or case.voi in LUTS):
        return False  # As explicit-le after inflation; these files do not compress further.
    if case.modality == "slope-fraction" and case.bits < 12 and case.voi in LUTS:
        return False  # The standard does not say how to round fractions before a table, which would matter.
    if case.voi == "lut-8-bits-bytes" and case.encoding == "explicit-be":
        return False  # Writers disagree on the order of bytes within the words of a big-endian file.
    return first_mapped_fits(case)


def grey_cases():
    """Grey-scale files."""
    grid = [
        Case(encoding, bits, signed, voi=voi)
        for encoding, bits, signed, voi in itertools.product([*LOSSLESS, *LOSSY], BITS, [False, True], ["none", "window"])
    ]
    transformations = [
        Case("explicit-le", bits, signed, modality=modality, voi=voi)
        for (bits, signed), modality, voi in itertools.product(
            [(12, True), (16, False)], ["none", "rescale", "slope-negative", "slope-fraction", "table"], VOIS
        )
    ]
    tables = [
        Case(encoding, bits, signed, modality=modality, voi=voi)
        for (encoding, bits, signed, modality), voi in itertools.product(
            [("implicit-le", 12, False, "none"), ("implicit-le", 12, False, "rescale"), ("explicit-le", 8, True, "none")],
            [*LUTS, *EMPTY_LUTS],
        )
    ]
    extras = [
        Case(encoding, bits, signed, photometric, extra=extra)
        for encoding, (bits, signed), photometric, extra in itertools.product(
            [*LOSSLESS, *LOSSY], [(8, False), (12, True)], ["MONOCHROME1"], EXTRAS
        )
    ]
    cases = {case for case in [*grid, *transformations, *tables, *extras] if is_valid(case)}
    return cases | set(pairwise(cases))


def pairwise(chosen):
    """Cases for each valid pair of properties that the chosen cases lack, by greedy random completion."""
    values = dict(encoding=[*LOSSLESS, *LOSSY], bits=BITS, signed=[False, True], photometric=["MONOCHROME1", "MONOCHROME2"],
                  extra=EXTRAS, modality=MODALITIES, voi=VOIS)  # fmt: skip
    random = np.random.RandomState(1)  # The stream of this generator is frozen.
    covered = set().union(*map(pairs_of, chosen))
    for (one, ones), (two, twos) in itertools.combinations(values.items(), 2):
        for pair in itertools.product(ones, twos):
            if ((one, pair[0]), (two, pair[1])) in covered:
                continue
            candidates = []
            for _ in range(400):
                properties = {name: choices[random.randint(len(choices))] for name, choices in values.items()}
                case = Case(**properties | {one: pair[0], two: pair[1]})
                if is_valid(case):
                    candidates.append(case)
                if len(candidates) == 20:
                    break
            if candidates:
                best = max(candidates, key=lambda case: len(pairs_of(case) - covered))
                covered |= pairs_of(best)
                yield best


def pairs_of(case):
    return set(itertools.combinations([(item.name, getattr(case, item.name)) for item in fields(case)], 2))


def colour_cases():
    """Colour files. `extra` says how the colour is encoded."""
    return {Case(encoding, bits, False, photometric, extra) for encoding, bits, photometric, extra in colours()}


def colours():
    packings = ["none", "trailing", "trailing-element", "odd-length"]
    fragments = ["empty-table", "fragments", "fragments-empty-table"]
    planes = ["planar-0", "planar-1"]
    for encoding in NATIVE:
        yield from itertools.product([encoding], [8], ["RGB", "YBR_FULL"], [*planes, *packings])
        yield from itertools.product([encoding], [8], ["YBR_FULL_422"], packings[:3])
        yield from itertools.product([encoding], [12, 16] if encoding != "deflated" else [16], ["RGB"], planes)
        yield (encoding, 8, "RGB", "ignored-window")
    yield from itertools.product(["rle"], [8], ["RGB", "YBR_FULL"], [*planes, *packings, "empty-table"])
    for encoding in ["jpeg-sv1", "jpeg-p14", "jls", "j2k"]:
        yield from itertools.product([encoding], [8], ["RGB", "YBR_FULL"], [*packings, *fragments])
    yield from itertools.product(["rle", "jls", "j2k"], [12, 16], ["RGB"], ["none"])
    yield from itertools.product(["jls"], [8], ["RGB", "YBR_FULL"], ["interleave-none", "interleave-line"])
    yield ("jls-near", 8, "RGB", "none")
    yield from itertools.product(["j2k"], [8], ["YBR_RCT", "RGB"], ["component-transform", "jp2-boxes"])
    yield from itertools.product(["j2k-lossy"], [8], ["YBR_ICT", "RGB"], ["component-transform", "jp2-boxes"])
    yield ("j2k-lossy", 8, "RGB", "none")
    markers = [f"{marker}-{ids}" for marker in ["plain", "jfif", "adobe"] for ids in ["ids-123", "ids-012", "ids-rgb"]]
    sampled = [f"{sampling}-{marker}" for sampling in ["444", "422", "420"] for marker in markers]
    markers_of = {
        # JFIF streams are never RGB, and components called R, G and B are never YCbCr: no agreed right value.
        "RGB": [marker for marker in markers if not marker.startswith("jfif")],
        "YBR_FULL": [marker for marker in markers if marker != "plain-ids-rgb"],
    }
    for photometric, markers in markers_of.items():
        yield from itertools.product(["jpeg-baseline"], [8], [photometric], markers)
        yield from itertools.product(["jpeg-extended"], [8], [photometric], markers[::4])
    sampled = [case for case in sampled if case != "444-plain-ids-rgb"]
    yield from itertools.product(["jpeg-baseline"], [8], ["YBR_FULL_422"], sampled)
    yield from itertools.product(["jpeg-extended"], [8], ["YBR_FULL_422"], sampled[::4])
    yield from itertools.product(["jpeg-baseline"], [8], ["RGB", "YBR_FULL_422"], [*packings, *fragments])
    palettes = ["entries-8-bits", "entries-16-bits", "entries-8-bits-in-words", "first-10"]
    for encoding in LOSSLESS:
        # Big-endian words of two entries: see `transformations_fit`.
        yield from itertools.product([encoding], [8], ["PALETTE COLOR"], palettes[encoding == "explicit-be" :])
    yield from itertools.product(LOSSLESS, [10], ["PALETTE COLOR"], palettes[1:2] + palettes[3:])
