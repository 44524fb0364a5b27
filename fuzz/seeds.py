"""Writes the seeds of the fuzz targets to fuzz/seeds. All of them are generated: none is of a patient.

pip install numpy==2.4.6 pillow==13.0.0 pydicom==3.0.2, then `python fuzz/seeds.py` from the root of the repository.
"""
import io
import json
import struct
from pathlib import Path

import numpy
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit,
    JPEGLSLossless, JPEGLSNearLossless, RLELossless,
)

ROOT = Path(__file__).resolve().parent
CODE_STREAMS = ROOT.parent / "src/imaging/dicom/tests"
HEIGHT, WIDTH = 40, 48


def write(target, name, content):
    folder = ROOT / "seeds" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def chest():
    """Two dark lungs beside a bright spine."""
    y, x = numpy.mgrid[-1:1:64j, -1:1:64j]
    lungs = sum(numpy.exp(-(((x - side) / 0.25) ** 2 + (y / 0.6) ** 2)) for side in (-0.45, 0.45))
    return (200 - 150 * lungs - 40 * (abs(x) > 0.9)).clip(0, 255).astype("uint8")


def encoder_settings():
    """Width, height, quality, sampling factors, options, restart interval, and bytes of the picture: see `jpeg.rs`."""
    picture = bytes((i * 7 + i * i // 5) % 251 for i in range(200))
    settings = {"grey": (0, 0, 0), "colour-420": (3, 1, 0), "progressive-422": (1, 3, 2), "optimised-440": (2, 5, 1)}
    for name, values in settings.items():
        write("jpeg", name, bytes([29, 15, 40, *values]) + picture)


def images():
    grey = chest()
    colour = numpy.stack([grey, 255 - grey, grey // 2], axis=-1)
    sixteen = grey.astype("uint16") * 257

    def save(name, array, kind, **options):
        file = io.BytesIO()
        image = array if isinstance(array, Image.Image) else Image.fromarray(array)
        image.save(file, kind, **options)
        write("image", name, file.getvalue())

    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a name would be here")
    save("grey.png", grey, "PNG")
    save("grey16.png", sixteen, "PNG")
    save("bit.png", Image.fromarray(grey).convert("1"), "PNG")
    save("palette.png", Image.fromarray(colour).quantize(16), "PNG")
    save("colour.png", colour, "PNG")
    save("alpha.png", numpy.dstack([colour, grey]), "PNG")
    save("text.png", grey, "PNG", pnginfo=text)
    save("grey.jpg", grey, "JPEG", quality=85)
    save("colour.jpg", colour, "JPEG", quality=50)
    save("progressive.jpg", grey, "JPEG", progressive=True)
    save("comment.jpg", grey, "JPEG", comment=b"a name would be here", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")


def radiograph(stored=12, photometric="MONOCHROME2", samples=1):
    data = Dataset()
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    data.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    data.Modality, data.PatientID, data.PatientAge, data.ViewPosition = "CR", "generated", "061Y", "PA"
    data.SamplesPerPixel, data.PhotometricInterpretation = samples, photometric
    if samples == 3:
        data.PlanarConfiguration = 0
    data.Rows, data.Columns = HEIGHT, WIDTH
    data.BitsAllocated, data.BitsStored, data.HighBit = 8 if stored <= 8 else 16, stored, stored - 1
    data.PixelRepresentation = 0
    return data


def dicoms():
    ramp = (numpy.arange(HEIGHT * WIDTH) * 37 % 4096).astype("<u2")
    eight = (ramp >> 4).astype("uint8")

    def save(name, data, syntax, pixels, encapsulated=False):
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = syntax
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.PixelData = encapsulate([pixels]) if encapsulated else pixels
        data["PixelData"].VR = "OB" if encapsulated or data.BitsAllocated == 8 else "OW"
        file = io.BytesIO()
        data.save_as(file, enforce_file_format=True)
        write("dicom", name + ".dcm", file.getvalue())

    for name, syntax in [
        ("implicit", ImplicitVRLittleEndian), ("explicit", ExplicitVRLittleEndian), ("deflated", DeflatedExplicitVRLittleEndian),
        ("big-endian", ExplicitVRBigEndian),
    ]:
        data = radiograph()
        data.WindowCenter, data.WindowWidth = "2048", "4096"
        values = ramp.byteswap() if syntax == ExplicitVRBigEndian else ramp
        save(name, data, syntax, values.tobytes())

    save("eight-bits", radiograph(8, "MONOCHROME1"), ExplicitVRLittleEndian, eight.tobytes())
    save("colour", radiograph(8, "RGB", 3), ExplicitVRLittleEndian, numpy.stack([eight, eight // 2, 255 - eight], -1).tobytes())
    signed = radiograph()
    signed.PixelRepresentation, signed.RescaleSlope, signed.RescaleIntercept, signed.RescaleType = 1, "2.5", "-1024", "US"
    save("signed-rescaled", signed, ExplicitVRLittleEndian, ramp.tobytes())
    for name, keyword in [("voi-lut", "VOILUTSequence"), ("modality-lut", "ModalityLUTSequence")]:
        table = Dataset()
        table.add_new("LUTDescriptor", "US", [4096, 0, 16])
        if keyword == "ModalityLUTSequence":
            table.ModalityLUTType = "US"
        table.add_new("LUTData", "OW", (numpy.arange(4096, dtype="u4") ** 2 // 257).astype("<u2").tobytes())
        data = radiograph()
        setattr(data, keyword, Sequence([table]))
        save(name, data, ExplicitVRLittleEndian, ramp.tobytes())

    for name, syntax, file in [
        ("jpeg-ls", JPEGLSLossless, "pattern.jls"), ("jpeg-ls-near", JPEGLSNearLossless, "pattern-near.jls"),
        ("jpeg-2000", JPEG2000Lossless, "pattern.j2k"),
    ]:
        save(name, radiograph(), syntax, (CODE_STREAMS / file).read_bytes(), encapsulated=True)
    jpeg = io.BytesIO()
    Image.fromarray(eight.reshape(HEIGHT, WIDTH)).save(jpeg, "JPEG", quality=80)
    save("jpeg", radiograph(8), JPEGBaseline8Bit, jpeg.getvalue(), encapsulated=True)
    # One segment of literals (PackBits): a length less one, and as many bytes.
    literals = b"".join(bytes([len(part) - 1]) + part for part in (eight.tobytes()[at:at + 128] for at in range(0, eight.size, 128)))
    save("rle", radiograph(8), RLELossless, struct.pack("<16I", 1, 64, *[0] * 14) + literals, encapsulated=True)


def arrays():
    def save(name, array, version=None):
        file = io.BytesIO()
        numpy.lib.format.write_array(file, array, version=version, allow_pickle=True)
        write("npy", name + ".npy", file.getvalue())

    greys = numpy.arange(2 * 32 * 32, dtype="u4").reshape(2, 32, 32, 1).astype("uint8")
    save("greys", greys)
    save("greys-flat", greys[..., 0], (2, 0))
    save("floats", (greys / 255).astype("float32"))
    save("colours", numpy.repeat(greys, 3, -1), (3, 0))
    save("labels", numpy.array([0, 1, 2]))
    save("small-labels", numpy.array([[0], [1], [2]], "uint8"))
    save("names", numpy.array(["normal", "COVID-19", "pneumonia"]))
    save("objects", numpy.array([{}], dtype=object))


def label_files():
    rows = "COVID 1 COVID(1).png COVID-19 sirm\np2 b.png normal\np2 folder/a.jpg normal an archive\n- d.png pneumonia x\n"
    write("label_file", "rows.txt", rows.encode())
    write("label_file", "byte-order-mark.txt", ("\ufeff" + rows.replace("\n", "\r\n")).encode())
    wrong = "p1 ../a.png normal\n\nnormal\np3 C:a.png covid-19\n  p4\ta.png  pneumonia  normal a.png \n"
    write("label_file", "wrong.txt", wrong.encode())


def packages():
    layers = [
        {"class_name": "Conv2D", "config": {"name": "res3a_branch2a", "strides": [2, 2]}},
        {"class_name": "Conv2D", "config": {"name": "res3a_branch2b", "strides": [1, 1]}},
        {"class_name": "BatchNormalization", "config": {"name": "bn_conv1", "epsilon": 0.001}},
    ]

    def save(name, weights, shard):
        groups = [{"paths": ["group1-shard1of1.bin"], "weights": weights}]
        model = {"modelTopology": {"model_config": {"config": {"layers": layers}}}, "weightsManifest": groups}
        write("tfjs", name, json.dumps(model).encode() + b"\xff" + shard)

    def weight(name, *shape, **more):
        return {"name": name, "shape": shape, "dtype": "float32", **more}

    kernel = weight("conv1/kernel", 2, 2, 1, 2)
    floats = numpy.linspace(-1, 1, 18, dtype="<f4").tobytes()
    save("weights", [kernel, weight("bn2a_branch2a/gamma", 4), weight("fc1000/kernel", 2, 3)], floats)
    save("quantized", [weight("conv1/kernel", 2, quantization={"dtype": "uint8"})], b"\1\2")
    save("cut-off", [kernel], floats[:10])


def models():
    def save(name, shapes, metadata=None):
        header, end = ({"__metadata__": metadata} if metadata else {}), 0
        for tensor, (dtype, shape) in shapes.items():
            size = int(numpy.prod(shape)) * {"F32": 4, "I64": 8}[dtype]
            header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
            end += size
        text = json.dumps(header).encode()
        content = numpy.linspace(-1, 1, end // 4, dtype="<f4").tobytes() if end <= 1 << 16 else b""
        write("safetensors", name, struct.pack("<Q", len(text)) + text + content)

    def spec(side):
        return {"thorax": json.dumps({
            "architecture": "simple-cnn", "block_variant": "resnet50", "classes": ["normal", "pneumonia", "COVID-19"], "image_size": side,
            "normalisation": {"scale": 0.003921569, "mean": [0.0] * 3, "std": [1.0] * 3}, "dropout": 0.5, "batch_norm_epsilon": 0.00001,
        })}

    # The names and shapes of the small network at 32 pixels; its 1.7 MB of weights are more than a seed may have.
    shapes = {
        "body.conv.0.bias": [32], "body.conv.0.weight": [32, 3, 3, 3], "body.conv.1.bias": [32], "body.conv.1.weight": [32, 32, 3, 3],
        "body.conv.2.bias": [64], "body.conv.2.weight": [64, 32, 3, 3], "head.linear.0.bias": [128], "head.linear.0.weight": [128, 3136],
        "head.linear.1.bias": [3], "head.linear.1.weight": [3, 128],
    }
    save("header-of-a-model", {name: ("F32", shape) for name, shape in shapes.items()}, spec(32))
    save("tensors-missing", {"body.conv.0.bias": ("F32", [32]), "head.linear.1.bias": ("F32", [3])}, spec(32))
    save("torchvision", {
        "conv1.weight": ("F32", [1, 1, 2, 2]), "bn1.num_batches_tracked": ("I64", []), "layer1.0.bn1.running_mean": ("F32", [2]),
    })


encoder_settings()
images()
dicoms()
arrays()
label_files()
packages()
models()
