//! Writes the seeds of the fuzz targets: `cargo run --release -p thorax-fuzz --example seeds` from the root of the repository. All of them
//! are generated: there is no radiograph of a patient among them.

use std::{
    fs,
    io::{Cursor, Write},
    path::Path,
};

use dicom_core::{DataElement, PrimitiveValue, Tag, VR, value::DataSetSequence, value::PixelFragmentSequence};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{InMemDicomObject, mem::InMemElement};
use dicom_transfer_syntax_registry::{TransferSyntaxIndex, TransferSyntaxRegistry};
use flate2::{Compression, write::DeflateEncoder};
use image::{
    ExtendedColorType, ImageEncoder,
    codecs::{jpeg::JpegEncoder, png::PngEncoder},
};
use thorax::{
    dataset::phantom,
    domain::{Architecture, BlockVariant, ClassList, ModelSpec, Normalisation},
    nn::{DeviceChoice, Network},
};

const WIDTH: u16 = 48;
const HEIGHT: u16 = 40;
const PIXELS: usize = 48 * 40;
const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";

/// The same image of 12 bits, 48 x 40, in JPEG-LS, in JPEG-LS within 3, and in JPEG 2000: also fixtures of the decoders' tests.
const CODE_STREAMS: [(&str, &str, &[u8]); 3] = [
    ("jpeg-ls", uids::JPEGLS_LOSSLESS, include_bytes!("../../src/imaging/dicom/tests/pattern.jls")),
    ("jpeg-ls-near", uids::JPEGLS_NEAR_LOSSLESS, include_bytes!("../../src/imaging/dicom/tests/pattern-near.jls")),
    ("jpeg-2000", uids::JPEG2000_LOSSLESS, include_bytes!("../../src/imaging/dicom/tests/pattern.j2k")),
];

fn main() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = seeds.join(target);
        fs::create_dir_all(&folder).expect("the folder of the repository can be written");
        fs::write(folder.join(name), bytes).expect("the folder of the repository can be written");
    };
    images(&|name, bytes| write("image", name, bytes));
    dicoms(&|name, bytes| write("dicom", name, bytes));
    arrays(&|name, bytes| write("npy", name, bytes));
    label_files(&|name, bytes| write("label_file", name, bytes));
    packages(&|name, bytes| write("tfjs", name, bytes));
    models(&|name, bytes| write("safetensors", name, bytes));
}

fn images(write: &dyn Fn(&str, &[u8])) {
    for phantom in phantom::series(7, 3, 64) {
        let (grey, width, height) = (&phantom.image.pixels, phantom.image.width, phantom.image.height);
        let colours: Vec<u8> = grey.iter().flat_map(|grey| [*grey, 255 - *grey, 128]).collect();
        let sixteen: Vec<u8> = grey.iter().flat_map(|grey| u16::from(*grey).wrapping_mul(257).to_ne_bytes()).collect();
        let class = phantom.appearance.class();
        let png = |pixels: &[u8], colour| {
            let mut bytes = Vec::new();
            PngEncoder::new(&mut bytes).write_image(pixels, width, height, colour).expect("memory takes it");
            bytes
        };
        let jpeg = |pixels: &[u8], colour, quality| {
            let mut bytes = Cursor::new(Vec::new());
            let mut encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
            encoder.encode(pixels, width, height, colour).expect("memory takes it");
            bytes.into_inner()
        };
        write(&format!("{class}-grey.png"), &png(grey, ExtendedColorType::L8));
        write(&format!("{class}-grey16.png"), &png(&sixteen, ExtendedColorType::L16));
        write(&format!("{class}-colour.png"), &png(&colours, ExtendedColorType::Rgb8));
        write(&format!("{class}-grey.jpg"), &jpeg(grey, ExtendedColorType::L8, 90));
        write(&format!("{class}-colour.jpg"), &jpeg(&colours, ExtendedColorType::Rgb8, 40));
        let text = png_chunk(b"tEXt", b"Comment\0a name of a patient would be here");
        let mut with_text = png(grey, ExtendedColorType::L8);
        with_text.splice(33..33, text);
        write(&format!("{class}-text.png"), &with_text);
    }
}

/// A chunk of a PNG with its length and checksum.
fn png_chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(content);
    [&(content.len() as u32).to_be_bytes()[..], kind, content, &crc.sum().to_be_bytes()].concat()
}

fn dicoms(write: &dyn Fn(&str, &[u8])) {
    let ramp: Vec<u16> = (0..PIXELS).map(|at| (at * 37 % 4096) as u16).collect();
    let twelve = || object("MONOCHROME2", 1, 16, 12, words(tags::PIXEL_DATA, &ramp));
    let mut windowed = twelve();
    windowed.put(text(tags::WINDOW_CENTER, VR::DS, "2048"));
    windowed.put(text(tags::WINDOW_WIDTH, VR::DS, "4096"));
    for (name, uid) in [
        ("implicit", uids::IMPLICIT_VR_LITTLE_ENDIAN),
        ("explicit", uids::EXPLICIT_VR_LITTLE_ENDIAN),
        ("big-endian", BIG_ENDIAN),
        ("deflated", uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN),
    ] {
        write(&format!("{name}.dcm"), &file(uid, &windowed));
    }

    let plain = |name: &str, object: &InMemDicomObject| write(name, &file(uids::EXPLICIT_VR_LITTLE_ENDIAN, object));
    let bytes: Vec<u8> = ramp.iter().map(|value| (value >> 4) as u8).collect();
    let eight = |photometric: &str, samples: u16, bytes: &[u8]| {
        object(photometric, samples, 8, 8, DataElement::new(tags::PIXEL_DATA, VR::OB, PrimitiveValue::U8(bytes.into())))
    };
    plain("eight-bits.dcm", &eight("MONOCHROME1", 1, &bytes));
    let colours: Vec<u8> = bytes.iter().flat_map(|grey| [*grey, *grey / 2, 255 - *grey]).collect();
    plain("colour.dcm", &eight("RGB", 3, &colours));

    let mut signed = twelve();
    signed.put(number(tags::PIXEL_REPRESENTATION, 1));
    signed.put(text(tags::RESCALE_SLOPE, VR::DS, "2.5"));
    signed.put(text(tags::RESCALE_INTERCEPT, VR::DS, "-1024"));
    signed.put(number(tags::PIXEL_PADDING_VALUE, 0));
    plain("signed-rescaled.dcm", &signed);

    let table: Vec<u16> = (0..4096u32).map(|at| (at * at / 257) as u16).collect();
    let item = InMemDicomObject::from_element_iter([
        DataElement::new(tags::LUT_DESCRIPTOR, VR::US, PrimitiveValue::U16([4096, 0, 16].as_slice().into())),
        words(tags::LUT_DATA, &table),
    ]);
    for (name, tag) in [("voi-lut.dcm", tags::VOILUT_SEQUENCE), ("modality-lut.dcm", tags::MODALITY_LUT_SEQUENCE)] {
        let mut object = twelve();
        object.put(DataElement::new(tag, VR::SQ, DataSetSequence::from(vec![item.clone()])));
        plain(name, &object);
    }

    let packed = |name: &str, uid: &str, allocated: u16, stored: u16, data: Vec<u8>| {
        let pixels = PixelFragmentSequence::new_fragments(vec![data]);
        let object = object("MONOCHROME2", 1, allocated, stored, DataElement::new(tags::PIXEL_DATA, VR::OB, pixels));
        write(&format!("{name}.dcm"), &file(uid, &object));
    };
    for (name, uid, data) in CODE_STREAMS {
        packed(name, uid, 16, 12, data.to_vec());
    }
    packed("rle", uids::RLE_LOSSLESS, 8, 8, run_lengths(&bytes));
    let mut jpeg = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, 80);
    encoder.encode(&bytes, WIDTH.into(), HEIGHT.into(), ExtendedColorType::L8).expect("memory takes it");
    packed("jpeg", uids::JPEG_BASELINE8_BIT, 8, 8, jpeg);
}

/// One segment of PackBits.
fn run_lengths(bytes: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    for same in bytes.chunk_by(|a, b| a == b) {
        for run in same.chunks(128) {
            match run {
                [one] => segment.extend([0, *one]),
                _ => segment.extend([(257 - run.len()) as u8, run[0]]),
            }
        }
    }
    let mut header = vec![0; 64];
    (header[0], header[4]) = (1, 64);
    [header, segment].concat()
}

/// A radiograph of `samples` of `allocated` bits, `stored` of them used.
fn object(photometric: &str, samples: u16, allocated: u16, stored: u16, pixels: InMemElement) -> InMemDicomObject {
    InMemDicomObject::from_element_iter([
        text(tags::SOP_CLASS_UID, VR::UI, uids::COMPUTED_RADIOGRAPHY_IMAGE_STORAGE),
        text(tags::SOP_INSTANCE_UID, VR::UI, "1.2.826.0.1.3680043.8.498.1"),
        text(tags::MODALITY, VR::CS, "CR"),
        text(tags::PATIENT_ID, VR::LO, "generated"),
        text(tags::PATIENT_AGE, VR::AS, "061Y"),
        text(tags::VIEW_POSITION, VR::CS, "PA"),
        number(tags::SAMPLES_PER_PIXEL, samples),
        text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, photometric),
        number(tags::PLANAR_CONFIGURATION, 0),
        number(tags::ROWS, HEIGHT),
        number(tags::COLUMNS, WIDTH),
        number(tags::BITS_ALLOCATED, allocated),
        number(tags::BITS_STORED, stored),
        number(tags::HIGH_BIT, stored - 1),
        number(tags::PIXEL_REPRESENTATION, 0),
        pixels,
    ])
}

fn text(tag: Tag, vr: VR, value: &str) -> InMemElement {
    DataElement::new(tag, vr, value)
}

fn number(tag: Tag, value: u16) -> InMemElement {
    DataElement::new(tag, VR::US, PrimitiveValue::from(value))
}

fn words(tag: Tag, values: &[u16]) -> InMemElement {
    DataElement::new(tag, VR::OW, PrimitiveValue::U16(values.into()))
}

/// A file with preamble, and the transfer syntax as its only meta information.
fn file(uid: &str, object: &InMemDicomObject) -> Vec<u8> {
    let elements = match uid {
        uids::IMPLICIT_VR_LITTLE_ENDIAN | BIG_ENDIAN => uid,
        _ => uids::EXPLICIT_VR_LITTLE_ENDIAN,
    };
    let syntax = TransferSyntaxRegistry.get(elements).expect("a syntax of the standard");
    let mut data_set = Vec::new();
    object.write_dataset_with_ts(&mut data_set, syntax).expect("memory takes it");
    if uid == uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN {
        let mut deflater = DeflateEncoder::new(Vec::new(), Compression::fast());
        deflater.write_all(&data_set).expect("memory takes it");
        data_set = deflater.finish().expect("memory takes it");
    }
    let padded = format!("{uid}{}", if uid.len() % 2 == 1 { "\0" } else { "" });
    let meta = [&[2, 0, 0x10, 0, b'U', b'I'][..], &(padded.len() as u16).to_le_bytes(), padded.as_bytes()].concat();
    [&[0; 128][..], b"DICM", &meta, &data_set].concat()
}

fn arrays(write: &dyn Fn(&str, &[u8])) {
    let array = |version: u8, descr: &str, shape: &str, content: &[u8]| {
        let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let length = text.len() as u32;
        let length = if version == 1 { (length as u16).to_le_bytes().to_vec() } else { length.to_le_bytes().to_vec() };
        [b"\x93NUMPY", &[version, 0][..], &length, text.as_bytes(), content].concat()
    };
    let greys: Vec<u8> = (0..2 * 32 * 32u32).map(|at| (at % 251) as u8).collect();
    let floats: Vec<u8> = greys.iter().flat_map(|grey| (f32::from(*grey) / 255.0).to_le_bytes()).collect();
    write("greys.npy", &array(1, "|u1", "(2, 32, 32, 1)", &greys));
    write("greys-flat.npy", &array(2, "|u1", "(2, 32, 32)", &greys));
    write("floats.npy", &array(1, "<f4", "(2, 32, 32, 1)", &floats));
    let colours: Vec<u8> = greys.iter().flat_map(|grey| [*grey, *grey, 255 - *grey]).collect();
    write("colours.npy", &array(3, "|u1", "(2, 32, 32, 3)", &colours));
    write("labels.npy", &array(1, "<i8", "(3,)", &[0i64, 1, 2].map(i64::to_le_bytes).concat()));
    write("small-labels.npy", &array(1, "|u1", "(3, 1)", &[0, 1, 2]));
    let names: Vec<u8> = ["normal", "COVID-19", "pneumonia"]
        .iter()
        .flat_map(|name| name.chars().map(u32::from).chain(std::iter::repeat(0)).take(9).collect::<Vec<_>>())
        .flat_map(u32::to_le_bytes)
        .collect();
    write("names.npy", &array(1, "<U9", "(3,)", &names));
    write("objects.npy", &array(1, "|O", "(1,)", b"\x80\x03]."));
}

fn label_files(write: &dyn Fn(&str, &[u8])) {
    let rows =
        "COVID 1 COVID(1).png COVID-19 sirm\np2 b.png normal\np2 folder/a.jpg normal an archive\n- d.png pneumonia x\n";
    write("rows.txt", rows.as_bytes());
    write("byte-order-mark.txt", format!("\u{feff}{}", rows.replace('\n', "\r\n")).as_bytes());
    write("wrong.txt", b"p1 ../a.png normal\n\nnormal\np3 C:a.png covid-19\n  p4\ta.png  pneumonia  normal a.png \n");
}

fn packages(write: &dyn Fn(&str, &[u8])) {
    let layers = r#"[{"class_name": "Conv2D", "config": {"name": "res3a_branch2a", "strides": [2, 2]}},
        {"class_name": "Conv2D", "config": {"name": "res3a_branch2b", "strides": [1, 1]}},
        {"class_name": "BatchNormalization", "config": {"name": "bn_conv1", "epsilon": 0.001}}]"#;
    let package = |weights: &str, shard: &[u8]| {
        let groups = format!(r#"[{{"paths": ["group1-shard1of1.bin"], "weights": [{weights}]}}]"#);
        let topology = format!(r#"{{"model_config": {{"config": {{"layers": {layers}}}}}}}"#);
        let json = format!(r#"{{"modelTopology": {topology}, "weightsManifest": {groups}}}"#);
        [json.as_bytes(), &[0xff], shard].concat()
    };
    let kernel = r#"{"name": "conv1/kernel", "shape": [2, 2, 1, 2], "dtype": "float32"}"#;
    let norm = r#"{"name": "bn2a_branch2a/gamma", "shape": [4], "dtype": "float32"}"#;
    let dense = r#"{"name": "fc1000/kernel", "shape": [2, 3], "dtype": "float32"}"#;
    let quantized = r#"{"name": "conv1/kernel", "shape": [2], "dtype": "float32", "quantization": {"dtype": "uint8"}}"#;
    let floats = |count: u16| (0..count).flat_map(|n| (f32::from(n) / 8.0).to_le_bytes()).collect::<Vec<u8>>();
    write("weights", &package(&[kernel, norm, dense].join(", "), &floats(8 + 4 + 6)));
    write("quantized", &package(quantized, &[1, 2]));
    write("cut-off", &package(kernel, &floats(3)));
}

fn models(write: &dyn Fn(&str, &[u8])) {
    let spec = ModelSpec {
        architecture: Architecture::SimpleCnn,
        block_variant: BlockVariant::V1,
        classes: ClassList::default(),
        image_size: 32,
        normalisation: Normalisation { scale: 1.0 / 255.0, mean: [0.5; 3], std: [0.25; 3] },
        dropout: 0.5,
    };
    let cpu = DeviceChoice::Cpu.open(None).expect("a processor").0;
    let file = Network::random(&spec, 1, &cpu).to_bytes(&spec);
    let length = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    write("header-of-a-model", &file[..8 + length]);
    // Most of a model is random numbers, which compress badly and teach the fuzzer nothing.
    if file.len() <= 256 << 10 {
        write("model", &file);
    }
    let torchvision = r#"{"conv1.weight": {"dtype": "F32", "shape": [1, 1, 2, 2], "data_offsets": [0, 16]},
        "bn1.num_batches_tracked": {"dtype": "I64", "shape": [], "data_offsets": [16, 24]},
        "layer1.0.bn1.running_mean": {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]}}"#;
    write("torchvision", &[&(torchvision.len() as u64).to_le_bytes()[..], torchvision.as_bytes(), &[0; 32]].concat());
}
