//! Decoding of encapsulated pixel data with each codec. RLE and lossless JPEG are encoded by the tests; the JPEG-LS and JPEG 2000
//! streams were made with the tools named at each constant.

use dicom_core::value::PixelFragmentSequence;
use jpeg_encoder::{ColorType, Encoder};

use super::*;

/// pyjpegls 1.5.1: `encode_array(p)` of [`pattern`].
const JPEG_LS: &[u8] = include_bytes!("pattern.jls");

/// pyjpegls 1.5.1: `encode_array(p, lossy_error=3)`.
const NEAR: &[u8] = include_bytes!("pattern-near.jls");

/// pylibjpeg-openjpeg 2.6.0: `encode_array(p, bits_stored=12, photometric_interpretation=2, codec_format=0)`.
const JPEG_2000: &[u8] = include_bytes!("pattern.j2k");

/// In NumPy: `p = minimum(x*40 + y*25 + (x//9)%2*600 + (y//11)%3*150, 4095); p[20:30, 10:30] = 1000`.
fn pattern() -> Vec<u16> {
    let value = |at: usize| {
        let (x, y) = (at % 48, at / 48);
        if (20..30).contains(&y) && (10..30).contains(&x) {
            return 1000;
        }
        (x * 40 + y * 25 + x / 9 % 2 * 600 + y / 11 % 3 * 150).min(4095) as u16
    };
    (0..PIXELS).map(value).collect()
}

fn fragments(fragments: Vec<Vec<u8>>) -> InMemElement {
    DataElement::new(tags::PIXEL_DATA, VR::OB, PixelFragmentSequence::new_fragments(fragments))
}

/// The stored values of an encapsulated 12-bit image.
fn decoded_values(uid: &str, data: Vec<Vec<u8>>) -> Result<Vec<u16>, ImageError> {
    let bytes = file(uid, &object("MONOCHROME2", 1, 16, 12, fragments(data)));
    let (header, syntax) = Header::read(&DicomFile::parse(&bytes)?, &LIMITS)?;
    Ok(frame::stored_values(&header, &syntax)?.values)
}

/// RLE Lossless: one PackBits segment per byte plane, most significant byte first.
fn rle(planes: &[Vec<u8>]) -> Vec<u8> {
    let mut segments = Vec::new();
    for plane in planes {
        let mut segment = Vec::new();
        for same in plane.chunk_by(|a, b| a == b) {
            for run in same.chunks(128) {
                match run {
                    [one] => segment.extend([0, *one]),
                    _ => segment.extend([(257 - run.len()) as u8, run[0]]),
                }
            }
        }
        segment.resize(segment.len().next_multiple_of(2), 0x80);
        segments.push(segment);
    }
    let mut header = vec![planes.len() as u32];
    let mut at = 64;
    for segment in &segments {
        header.push(at);
        at += segment.len() as u32;
    }
    header.resize(16, 0);
    [header.into_iter().flat_map(u32::to_le_bytes).collect(), segments.concat()].concat()
}

/// Lossless JPEG (process 14, selection value 1) with a 5-bit Huffman code for each difference category.
fn lossless_jpeg(values: &[u16]) -> Vec<u8> {
    let codes: Vec<u8> = (0..17).collect();
    let mut counts = [0u8; 16];
    counts[4] = 17;
    let (height, width) = (HEIGHT.to_be_bytes(), WIDTH.to_be_bytes());
    let mut jpeg = [
        &[0xff, 0xd8, 0xff, 0xc3, 0, 11, 12, height[0], height[1], width[0], width[1], 1, 1, 0x11, 0][..],
        &[0xff, 0xc4, 0, 36, 0],
        &counts,
        &codes,
        &[0xff, 0xda, 0, 8, 1, 1, 0, 1, 0, 0],
    ]
    .concat();
    let (mut buffer, mut count) = (0u64, 0);
    for (at, value) in values.iter().enumerate() {
        let predicted = match at {
            0 => 1 << 11,
            _ if at % usize::from(WIDTH) == 0 => i32::from(values[at - usize::from(WIDTH)]),
            _ => i32::from(values[at - 1]),
        };
        let difference = i32::from(*value) - predicted;
        let size = 32 - difference.unsigned_abs().leading_zeros();
        let bits = if difference < 0 { difference + (1 << size) - 1 } else { difference };
        buffer = (buffer << 5 | u64::from(size)) << size | bits as u64;
        count += 5 + size;
        while count >= 8 {
            count -= 8;
            jpeg.push((buffer >> count) as u8);
            if jpeg.last() == Some(&0xff) {
                jpeg.push(0);
            }
        }
    }
    jpeg.push(((buffer << (8 - count)) as u8) | (0xff >> count));
    [jpeg, vec![0xff, 0xd9]].concat()
}

#[test]
fn lossless_codecs_reproduce_every_value() {
    let high_and_low = [8, 0].map(|shift| pattern().iter().map(|value| (value >> shift) as u8).collect());
    let packed = [
        (uids::RLE_LOSSLESS, rle(&high_and_low)),
        (uids::JPEG_LOSSLESS, lossless_jpeg(&pattern())),
        (uids::JPEG_LOSSLESS_SV1, lossless_jpeg(&pattern())),
        (uids::JPEGLS_LOSSLESS, JPEG_LS.to_vec()),
        (uids::JPEG2000_LOSSLESS, JPEG_2000.to_vec()),
    ];
    for (uid, data) in packed {
        assert_eq!(decoded_values(uid, vec![data]).unwrap(), pattern(), "{uid}");
    }
}

#[test]
fn near_lossless_jpeg_ls_stays_within_its_error_bound() {
    let values = decoded_values(uids::JPEGLS_NEAR_LOSSLESS, vec![NEAR.to_vec()]).unwrap();
    assert!(values.iter().zip(pattern()).all(|(value, original)| value.abs_diff(original) <= 3));
    assert_ne!(values, pattern());
}

#[test]
fn fragments_of_a_frame_are_concatenated() {
    let mut data = JPEG_2000.to_vec();
    let rest = data.split_off(400);
    assert_eq!(decoded_values(uids::JPEG2000_LOSSLESS, vec![data, rest]).unwrap(), pattern());
}

#[test]
fn baseline_jpeg_in_grey_and_colour_is_decoded() {
    let grey: Vec<u8> = (0..PIXELS).map(|at| (at % 48 * 4) as u8).collect();
    let close = |photometric: &str, samples: u16, colour: ColorType, pixels: &[u8], expected: &dyn Fn(usize) -> u8| {
        let mut jpeg = Vec::new();
        Encoder::new(&mut jpeg, 95).encode(pixels, WIDTH, HEIGHT, colour).unwrap();
        let object = object(photometric, samples, 8, 8, fragments(vec![jpeg]));
        let image = decode(&file(uids::JPEG_BASELINE8_BIT, &object), &LIMITS).unwrap().1;
        let off = (0..PIXELS).map(|at| image.pixels[at].abs_diff(expected(at))).max();
        assert!(off <= Some(3), "{photometric}: {off:?}");
    };
    close("MONOCHROME2", 1, ColorType::Luma, &grey, &|at| grey[at]);
    close("MONOCHROME1", 1, ColorType::Luma, &grey, &|at| 255 - grey[at]);
    close("YBR_FULL_422", 3, ColorType::Rgb, &[10, 200, 30].repeat(PIXELS), &|_| 124);
}

#[test]
fn truncated_and_mismatched_pixel_data_is_rejected() {
    let high_and_low = [8, 0].map(|shift| pattern().iter().map(|value| (value >> shift) as u8).collect());
    let packed = [
        (uids::RLE_LOSSLESS, rle(&high_and_low)),
        (uids::JPEG_LOSSLESS_SV1, lossless_jpeg(&pattern())),
        (uids::JPEGLS_LOSSLESS, JPEG_LS.to_vec()),
    ];
    for (uid, data) in packed {
        for length in (0..data.len() - 8).step_by(53) {
            let refused = decoded_values(uid, vec![data[..length].to_vec()]);
            assert!(matches!(refused, Err(ImageError::Undecodable(_))), "{uid} of {length} bytes");
        }
        let mut wide = object("MONOCHROME2", 1, 16, 12, fragments(vec![data]));
        wide.put(words(tags::COLUMNS, 96));
        assert!(matches!(read(&file(uid, &wide), &LIMITS), Err(ImageError::Undecodable(_))), "{uid}");
    }
    let mut huge = JPEG_2000.to_vec();
    let size = huge.windows(2).position(|pair| pair == [0xff, 0x51]).unwrap();
    huge[size + 6..size + 14].fill(0x7f);
    assert!(decoded_values(uids::JPEG2000_LOSSLESS, vec![huge]).is_err());
    assert!(decoded_values(uids::MPEG2MPML, vec![vec![0; 64]]).unwrap_err().to_string().contains("is not supported"));
}

#[test]
fn corrupt_pixel_data_never_panics() {
    for (uid, data) in [
        (uids::JPEGLS_LOSSLESS, JPEG_LS.to_vec()),
        (uids::JPEGLS_NEAR_LOSSLESS, NEAR.to_vec()),
        (uids::JPEG2000_LOSSLESS, JPEG_2000.to_vec()),
        (uids::JPEG_LOSSLESS, lossless_jpeg(&pattern())),
    ] {
        for at in 0..data.len() {
            let mut damaged = data.clone();
            damaged[at] ^= 0x55;
            let object = object("MONOCHROME2", 1, 16, 12, fragments(vec![damaged]));
            if let Ok(radiograph) = read(&file(uid, &object), &LIMITS) {
                assert_eq!(radiograph.plane.len(), PIXELS);
            }
        }
    }
}
