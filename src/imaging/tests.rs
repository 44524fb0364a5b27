//! Decoding of generated images in every pixel format that data sets use, and of malicious files.

use std::io::Write;

use flate2::{Compression, Crc, write::ZlibEncoder};
use jpeg_encoder::{ColorType, Encoder};

use super::*;
use crate::domain::{GreyRange, QualityFlag};

const LIMITS: Limits = Limits { max_pixels: 1_000_000 };

/// PNG colour types.
const GREY: u8 = 0;
const RGB: u8 = 2;
const PALETTE: u8 = 3;
const GREY_ALPHA: u8 = 4;
const RGBA: u8 = 6;

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(data);
    [&(data.len() as u32).to_be_bytes(), &kind[..], data, &crc.sum().to_be_bytes()].concat()
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn ihdr(width: u32, height: u32, depth: u8, colour: u8) -> Vec<u8> {
    chunk(b"IHDR", &[&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, colour, 0, 0, 0]].concat())
}

/// A PNG of 40 x 40 equal pixels of `pixel` bytes.
fn png(depth: u8, colour: u8, pixel: &[u8], extra: &[u8]) -> Vec<u8> {
    let row = [&[0][..], &pixel.repeat(40)].concat();
    let data = chunk(b"IDAT", &zlib(&row.repeat(40)));
    [b"\x89PNG\r\n\x1a\n", &ihdr(40, 40, depth, colour)[..], extra, &data, &chunk(b"IEND", &[])].concat()
}

fn jpeg(width: u16, height: u16, colour: ColorType, pixels: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes, 95).encode(pixels, width, height, colour).unwrap();
    bytes
}

/// 40 x 60, black above, white below.
fn portrait() -> GreyImage {
    let pixels = (0..60 * 40).map(|at| if at < 30 * 40 { 0 } else { 255 }).collect();
    GreyImage { width: 40, height: 60, pixels }
}

fn decoded(bytes: &[u8]) -> GreyImage {
    decode(bytes, &LIMITS).unwrap().1
}

fn only_grey(bytes: &[u8]) -> u8 {
    let image = decoded(bytes);
    assert_eq!((image.width, image.height, image.pixels.len()), (40, 40, 1600));
    assert!(image.pixels.iter().all(|pixel| *pixel == image.pixels[0]));
    image.pixels[0]
}

fn error_of(bytes: &[u8]) -> String {
    match decode(bytes, &LIMITS) {
        Err(ImageError::Undecodable(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_png_pixel_format_is_converted_to_grey() {
    // The luma of (10, 200, 30) is 124 in Pillow 13 too; 31,736 / 257 = 123.49, 31,737 / 257 = 123.49.
    assert_eq!(only_grey(&png(8, GREY, &[77], &[])), 77);
    assert_eq!(only_grey(&png(8, RGB, &[10, 200, 30], &[])), 124);
    assert_eq!(only_grey(&png(8, RGBA, &[10, 200, 30, 255], &[])), 124);
    assert_eq!(only_grey(&png(8, PALETTE, &[1], &chunk(b"PLTE", &[0, 0, 0, 10, 200, 30]))), 124);
    assert_eq!(only_grey(&png(16, RGB, &[10, 10, 200, 200, 30, 30], &[])), 124);
    assert_eq!(only_grey(&png(16, RGBA, &[10, 10, 200, 200, 30, 30, 255, 255], &[])), 124);
}

#[test]
fn sixteen_bits_become_eight_by_rounding() {
    let grey = |value: u16| only_grey(&png(16, GREY, &value.to_be_bytes(), &[]));
    assert_eq!([0, 128, 129, 257, 32_767, 65_406, 65_407, 65_535].map(grey), [0, 0, 1, 1, 127, 254, 255, 255]);
}

#[test]
fn one_bit_png_is_decoded() {
    let rows = [[0u8].as_slice(), &[0xff; 5]].concat().repeat(40);
    let parts = [ihdr(40, 40, 1, GREY), chunk(b"IDAT", &zlib(&rows)), chunk(b"IEND", &[])].concat();
    assert_eq!(only_grey(&[b"\x89PNG\r\n\x1a\n", &parts[..]].concat()), 255);
}

#[test]
fn transparent_pixels_are_composited_over_black() {
    assert_eq!(only_grey(&png(8, GREY_ALPHA, &[200, 255], &[])), 200);
    assert_eq!(only_grey(&png(8, GREY_ALPHA, &[200, 128], &[])), 100);
    assert_eq!(only_grey(&png(8, RGBA, &[255, 255, 255, 0], &[])), 0);
    assert_eq!(only_grey(&png(16, GREY_ALPHA, &[200, 200, 128, 128], &[])), 100);
}

#[test]
fn luma_agrees_with_pillow() {
    let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [1, 2, 3], [254, 255, 253]];
    assert_eq!(colours.map(|colour| only_grey(&png(8, RGB, &colour, &[]))), [76, 150, 29, 2, 254]);
}

#[test]
fn grey_and_colour_jpeg_are_decoded() {
    let close = |bytes: &[u8], grey: u8| {
        let image = decoded(bytes);
        assert!(image.pixels.iter().all(|pixel| pixel.abs_diff(grey) <= 2), "{:?}", &image.pixels[..4]);
    };
    close(&jpeg(40, 40, ColorType::Luma, &[90; 1600]), 90);
    close(&jpeg(40, 40, ColorType::Rgb, &[10, 200, 30].repeat(1600)), 124);
}

#[test]
fn cmyk_jpeg_is_decoded() {
    // Pillow 13: Image.new("CMYK", (32, 32), (0, 0, 0, 102)).save(…, "JPEG"), where 40 % of black ink are grey 153.
    let text = "ffd8ffee000e41646f626500640000000000ffdb0043000302020302020303030304030304050805050404050a070706080c0a0c\
                0c0b0a0b0b0d0e12100d0e110e0b0b1016101113141515150c0f171816141812141514ffc000140800200020044311004d11005911\
                004b1100ffc400160001010100000000000000000000000000000907ffc40014100100000000000000000000000000000000ffda00\
                0e0443004d0059004b00003f00aa6aa6aa6d0c000000000000000000000000000001ffd9";
    let bytes: Vec<u8> =
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect();
    let image = decoded(&bytes);
    assert!(image.pixels.iter().all(|pixel| pixel.abs_diff(153) <= 2), "{:?}", &image.pixels[..4]);
}

#[test]
fn exif_orientation_is_applied() {
    let portrait = portrait();
    let plain = jpeg(40, 60, ColorType::Luma, &portrait.pixels);
    let rotated_by_90 = b"\xff\xe1\x00\x22Exif\0\0MM\x00\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let image = decoded(&[&plain[..2], rotated_by_90, &plain[2..]].concat());
    assert_eq!((image.width, image.height), (60, 40));
    // The upper half is now on the right.
    assert!(image.pixels[0] > 250 && image.pixels[59] < 5, "{} {}", image.pixels[0], image.pixels[59]);
}

#[test]
fn the_format_is_detected_from_the_content() {
    let (format, _) = decode(&encode_png(&portrait()), &LIMITS).unwrap();
    assert_eq!((format, format.as_str(), format.media_type()), (Format::Png, "png", "image/png"));
    let (format, _) = decode(&jpeg(40, 40, ColorType::Luma, &[0; 1600]), &LIMITS).unwrap();
    assert_eq!((format, format.as_str(), format.media_type()), (Format::Jpeg, "jpeg", "image/jpeg"));
}

#[test]
fn an_encoded_png_decodes_to_the_same_image() {
    let pixels = (0..50 * 40).map(|at| (at * 7 % 256) as u8).collect();
    let image = GreyImage { width: 50, height: 40, pixels };
    assert_eq!(decoded(&encode_png(&image)), image);
}

#[test]
fn text_and_empty_files_are_unsupported() {
    for bytes in [&b"patient,finding\n1,normal\n"[..], b"", b"\x89PN", b"GIF89a\x40\x00\x40\x00", b"%PDF-1.7"] {
        assert!(matches!(decode(bytes, &LIMITS), Err(ImageError::UnsupportedType)), "{bytes:?}");
    }
}

#[test]
fn images_over_the_pixel_limit_are_rejected_before_decoding() {
    for (width, height) in [(60_000, 60_000), (u32::MAX, u32::MAX), (1, u32::MAX), (1_000_001, 1)] {
        let bomb = [b"\x89PNG\r\n\x1a\n", &ihdr(width, height, 16, RGBA)[..]].concat();
        let refused = decode(&bomb, &LIMITS);
        assert!(matches!(refused, Err(ImageError::TooManyPixels { max_pixels: 1_000_000, .. })), "{refused:?}");
    }
    let mut bomb = jpeg(40, 40, ColorType::Luma, &[0; 1600]);
    let frame = bomb.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    bomb[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
    let refused = decode(&bomb, &LIMITS);
    assert!(matches!(refused, Err(ImageError::TooManyPixels { width: 65_535, height: 65_535, .. })), "{refused:?}");
}

#[test]
fn decompression_bombs_in_profiles_and_texts_use_bounded_memory() {
    let bomb = zlib(&vec![0; 64 << 20]);
    for (kind, start) in [(b"iCCP", &b"profile\0\0"[..]), (b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\x01\0\0\0")]
    {
        let bytes = png(8, GREY, &[77], &chunk(kind, &[start, &bomb].concat()));
        // Skipped or rejected, but not decompressed.
        match decode(&bytes, &LIMITS) {
            Ok((_, image)) => assert_eq!(image.pixels[0], 77),
            Err(error) => assert!(matches!(error, ImageError::Undecodable(_)), "{error:?}"),
        }
    }
}

#[test]
fn surplus_rows_of_a_decompression_bomb_are_ignored() {
    let parts = [ihdr(40, 40, 8, GREY), chunk(b"IDAT", &zlib(&vec![0; 64 << 20])), chunk(b"IEND", &[])].concat();
    let image = decoded(&[b"\x89PNG\r\n\x1a\n", &parts[..]].concat());
    assert_eq!(image.pixels.len(), 1600);
}

#[test]
fn truncated_files_are_rejected() {
    let pixels: Vec<u8> = (0..64 * 64).map(|at| (at * at % 251) as u8).collect();
    let png = encode_png(&GreyImage { width: 64, height: 64, pixels: pixels.clone() });
    let jpeg = jpeg(64, 64, ColorType::Luma, &pixels);
    for (name, whole) in [("PNG", &png), ("JPEG", &jpeg)] {
        // A PNG is complete after IDAT; the empty end chunk of 12 bytes adds nothing.
        let needed = if name == "PNG" { whole.len() - 16 } else { whole.len() };
        for length in (8..needed).step_by(37).chain([needed - 1]) {
            let refused = decode(&whole[..length], &LIMITS);
            assert!(matches!(refused, Err(ImageError::Undecodable(_))), "{name} of {length} bytes: {refused:?}");
        }
    }
}

/// Changes a byte of a chunk's content and repairs the CRC-32, so that only the checksum within the content can tell.
fn with_changed_content(png: &[u8], kind: &[u8; 4], change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut changed = png[..8].to_vec();
    for part in png::chunks(png) {
        let mut content = part.content.to_vec();
        if part.kind == *kind {
            change(&mut content);
        }
        changed.extend(png::chunk(&part.kind, &content));
    }
    changed
}

#[test]
fn a_png_with_a_wrong_checksum_is_rejected_in_plain_words() {
    let whole = encode_png(&pattern(64, 48));
    assert!(decode(&with_changed_content(&whole, b"IDAT", |_| ()), &LIMITS).is_ok());
    // The last four bytes of the compressed data are the Adler-32 of the pixels.
    for back in 1..=4 {
        let wrong_pixels = with_changed_content(&whole, b"IDAT", |content| {
            let at = content.len() - back;
            content[at] ^= 1;
        });
        let why = error_of(&wrong_pixels);
        assert!(why.ends_with("the PNG is damaged: the checksum of its pixels (Adler-32) does not match"), "{why}");
    }
    // The same, with the compressed data in several chunks, and interlaced in rows of one chunk each.
    let split: Vec<u8> = png::chunks(&whole)
        .flat_map(|part| match &part.kind {
            b"IDAT" => part.content.chunks(100).flat_map(|piece| png::chunk(b"IDAT", piece)).collect(),
            _ => part.whole.to_vec(),
        })
        .collect();
    let mut split = [&whole[..8], &split].concat();
    assert!(decode(&split, &LIMITS).is_ok());
    let end = split.len() - 12;
    let last = split.len() - 12 - 4 - 1;
    split[last] ^= 1;
    let length = png::chunks(&split).filter(|part| part.kind == *b"IDAT").last().unwrap().content.len();
    let repaired = png::chunk(b"IDAT", &split[end - 4 - length..end - 4]);
    split.splice(end - 12 - length..end, repaired);
    assert!(error_of(&split).contains("Adler-32"), "{}", error_of(&split));
    // The checksum of the chunk, before the twelve bytes of the last one.
    let mut wrong_chunk = whole.clone();
    wrong_chunk[whole.len() - 13] ^= 1;
    let why = error_of(&wrong_chunk);
    assert!(why.ends_with("the PNG is damaged: a checksum (CRC-32) does not match"), "{why}");
    // A byte of the compressed data.
    let mut wrong_data = whole.clone();
    wrong_data[60] ^= 1;
    assert!(error_of(&wrong_data).contains("the PNG is damaged"));
}

#[test]
fn damaged_files_are_described_without_the_terms_of_the_decoder() {
    let pixels: Vec<u8> = (0..64 * 64).map(|at| (at * at % 251) as u8).collect();
    let png = encode_png(&GreyImage { width: 64, height: 64, pixels: pixels.clone() });
    let jpeg = jpeg(64, 64, ColorType::Luma, &pixels);
    for whole in [png, jpeg] {
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            let Err(ImageError::Undecodable(why)) = decode(&damaged, &LIMITS) else { continue };
            let foreign = ["Corrupt", "corrupt", "ChunkType", "expected 0x", "huffman", "invalid JPEG", "IoError"];
            assert!(!foreign.iter().any(|word| why.contains(word)), "byte {at}: {why}");
        }
    }
}

#[test]
fn a_phantom_is_recognised_by_its_mark_which_its_stored_file_keeps() {
    let image = phantom::generate(phantom::Appearance::Normal, 3, 64);
    let marked = phantom::encode_png(&image);
    let examined = examine(&marked, &LIMITS).unwrap();
    assert!(examined.synthetic);
    assert_eq!(examined.image, image, "the mark changes no pixel");
    let (_, stored) = examined.deidentified(&marked).unwrap();
    assert_eq!(stored, marked);
    let plain = encode_png(&image);
    assert!(!examine(&plain, &LIMITS).unwrap().synthetic);
    // Another text under the same keyword is no mark, and is not stored.
    let other = [&plain[..33], &png::chunk(b"tEXt", b"Thorax\0synthetic Jane Doe"), &plain[33..]].concat();
    let examined = examine(&other, &LIMITS).unwrap();
    assert!(!examined.synthetic);
    assert_eq!(examined.deidentified(&other).unwrap().1, plain);
}

#[test]
fn corrupt_files_never_panic() {
    let pixels: Vec<u8> = (0..64 * 64).map(|at| (at * at % 251) as u8).collect();
    let png = encode_png(&GreyImage { width: 64, height: 64, pixels: pixels.clone() });
    let jpeg = jpeg(64, 64, ColorType::Luma, &pixels);
    for whole in [png, jpeg] {
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            if let Ok((_, image)) = decode(&damaged, &LIMITS) {
                assert_eq!(image.pixels.len() as u32, image.width * image.height);
            }
        }
    }
}

#[test]
fn images_below_the_minimum_side_are_rejected() {
    let sized = |width, height| encode_png(&GreyImage { width, height, pixels: vec![0; (width * height) as usize] });
    assert!(error_of(&sized(31, 400)).contains("at least 32 pixels (got 31 x 400)"));
    assert!(error_of(&sized(400, 31)).contains("at least 32"));
    assert!(decode(&sized(32, 32), &LIMITS).is_ok());
}

fn pattern(width: u32, height: u32) -> GreyImage {
    let value = |x: u32, y: u32| ((x * 7 + y * 13 + (x * y) % 31 * 3) % 256) as u8;
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| value(x, y))).collect();
    GreyImage { width, height, pixels }
}

#[test]
fn resizing_agrees_with_pillow() {
    // Pillow 13: the pattern above as mode L, resize((12, 12), BILINEAR) and resize((48, 48), BILINEAR).
    let smaller: [u8; 144] = [
        90, 153, 167, 98, 91, 125, 169, 140, 109, 103, 153, 184, 158, 157, 100, 83, 132, 175, 142, 85, 107, 159, 167,
        119, 141, 88, 91, 138, 165, 118, 87, 110, 164, 157, 101, 83, 87, 100, 151, 167, 120, 81, 124, 167, 153, 90, 98,
        140, 111, 158, 164, 104, 88, 133, 176, 144, 89, 106, 155, 176, 173, 152, 86, 82, 140, 180, 133, 70, 113, 164,
        164, 131, 160, 97, 95, 145, 163, 125, 87, 114, 158, 151, 113, 91, 88, 106, 157, 171, 107, 84, 132, 173, 141,
        82, 104, 146, 118, 165, 155, 95, 93, 141, 178, 149, 86, 113, 165, 177, 167, 150, 86, 94, 146, 168, 117, 88,
        120, 169, 153, 98, 130, 83, 106, 154, 164, 106, 85, 126, 171, 146, 85, 90, 88, 107, 165, 187, 98, 84, 136, 165,
        131, 85, 107, 150,
    ];
    let diagonal_of_larger: [u8; 48] = [
        0, 12, 30, 52, 76, 103, 133, 166, 181, 149, 191, 203, 192, 175, 116, 48, 24, 23, 11, 79, 79, 95, 119, 119, 137,
        174, 133, 163, 184, 213, 127, 135, 227, 126, 26, 12, 60, 86, 80, 78, 78, 82, 89, 119, 191, 148, 146, 163,
    ];
    let reduced = resize_square(&pattern(97, 61), 12);
    assert_eq!((reduced.width, reduced.height), (12, 12));
    assert!(reduced.pixels.iter().zip(smaller).all(|(ours, theirs)| ours.abs_diff(theirs) <= 1));
    let enlarged = resize_square(&pattern(33, 35), 48);
    assert!((0..48).all(|at| enlarged.pixels[at * 49].abs_diff(diagonal_of_larger[at]) <= 1));
}

#[test]
fn a_square_of_the_target_size_is_unchanged() {
    assert_eq!(resize_square(&pattern(64, 64), 64), pattern(64, 64));
}

/// If this fails because decoding or resizing returns different pixels, raise [`PREPROCESSING_VERSION`] and update both values. Otherwise
/// training would use stale cached images.
#[test]
fn pixels_match_the_preprocessing_version() {
    let colours: Vec<u8> = (0..97 * 61 * 3).map(|at| (at * 11 % 251) as u8).collect();
    let files = [encode_png(&pattern(97, 61)), jpeg(97, 61, ColorType::Rgb, &colours)];
    let squares: Vec<u8> = files
        .iter()
        .flat_map(|file| [40, 128].map(|side| resize_square(&decoded(file), side).pixels))
        .flatten()
        .collect();
    assert_eq!(
        (PREPROCESSING_VERSION, crate::domain::Sha256::of(&squares).as_str()),
        (2, "2c3fdeab934012a5208fe0938605924cab7edadf1d86518f14a90ab44087b277")
    );
}

fn real_images(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let is_image =
        |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "png" || end == "jpg" || end == "jpeg");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(is_image).collect();
    assert!(!files.is_empty(), "{} has no images", folder.display());
    files.sort();
    files
}

const LARGE: Limits = Limits { max_pixels: 100_000_000 };

#[test]
fn metadata_removal_keeps_the_pixels_of_real_files() {
    let Some(folder) = crate::fixtures::shared_folder("originals") else { return };
    for path in real_images(&folder) {
        let bytes = std::fs::read(&path).unwrap();
        let examined = examine(&bytes, &LARGE).unwrap();
        let (format, stored) = examined.deidentified(&bytes).unwrap();
        assert_eq!(format, examined.format);
        assert!(decode(&stored, &LARGE).unwrap().1 == examined.image, "{}", path.display());
        assert_eq!(examined.deidentified(&stored).unwrap().1, stored, "{}: stripping is idempotent", path.display());
    }
}

#[test]
fn negatives_are_detected_with_few_false_positives() {
    let Some(folder) = crate::fixtures::shared_folder("radiographs") else { return };
    let files = ["train", "test"].map(|split| real_images(&folder.join(split))).concat();
    let (mut false_positives, mut detected, mut texts) = (0, 0, 0);
    for path in &files {
        let ExaminedImage { mut image, flags, .. } = examine(&std::fs::read(path).unwrap(), &LARGE).unwrap();
        false_positives += u32::from(flags.contains(&QualityFlag::PhotographicNegative));
        texts += u32::from(flags.contains(&QualityFlag::TextNearBorder));
        image.pixels.iter_mut().for_each(|grey| *grey = 255 - *grey);
        detected += u32::from(quality_flags(&image).contains(&QualityFlag::PhotographicNegative));
    }
    println!(
        "{} images: {false_positives} false positives, {detected} inverted images detected, {texts} with text",
        files.len()
    );
    assert!(false_positives * 200 <= files.len() as u32 && detected * 100 >= files.len() as u32 * 98);
}

/// Public bug reports of JPEG and PNG decoders: each pair is the same image.
#[test]
fn files_of_public_bug_reports_are_the_right_picture() {
    let Some(folder) = crate::fixtures::shared_folder("reports") else { return };
    let examined = |file: &str| {
        let bytes = std::fs::read(folder.join(file)).unwrap();
        let examined = examine(&bytes, &Limits { max_pixels: 50_000_000 }).unwrap();
        // The stored file and the displayed file decode to the pixels that the network classifies.
        let (_, stored) = examined.deidentified(&bytes).unwrap();
        assert_eq!(decode(&stored, &Limits { max_pixels: 50_000_000 }).unwrap().1, examined.image, "{file}");
        examined
    };
    let same = |a: &str, b: &str, within: u8| {
        let [a_pixels, b_pixels] = [a, b].map(|file| examined(file).image.pixels);
        let difference = a_pixels.iter().zip(&b_pixels).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(difference <= Some(within), "{a} and {b} differ by {difference:?}");
    };
    same("jpeg/nonint-420.jpg", "jpeg/int-420.jpg", 2);
    same("png/twelve-in-sixteen-sbit.png", "png/full-sixteen.png", 1);
    let flagged = |file: &str| examined(file).flags.contains(&QualityFlag::NarrowRange);
    assert!(flagged("png/twelve-in-sixteen.png"));
    let GreyRange { high, .. } = examined("png/twelve-in-sixteen.png").grey_range;
    assert!(high <= 16, "12 bits of 16 are at most grey level 16 of 255, not {high}");
    assert!(!flagged("png/twelve-in-sixteen-sbit.png") && !flagged("png/full-sixteen.png"));
}

/// The standard stores significant bits in the high bits of a sample; low bits are scaled, and stored so that viewers show the same image.
#[test]
fn low_significant_bits_of_a_png_are_scaled() {
    let grey = |value: u16, bits: u8| {
        let file = png(16, GREY, &value.to_be_bytes(), &chunk(b"sBIT", &[bits]));
        let examined = examine(&file, &LIMITS).unwrap();
        let (format, stored) = examined.deidentified(&file).unwrap();
        assert_eq!((format, decode(&stored, &LIMITS).unwrap().1), (Format::Png, examined.image));
        (only_grey(&file), stored.windows(4).any(|name| name == b"sBIT") || stored[24] == 16)
    };
    assert_eq!(grey(4095, 12), (255, false));
    assert_eq!(grey(2048, 12), (128, false));
    // More than 12 bits: the samples are already scaled, and the file is stored as it is.
    assert_eq!(grey(0x8000, 12), (128, true));
    assert_eq!(grey(4095, 16), (16, true));
}

#[test]
fn transparent_and_ink_images_are_stored_as_their_decoded_pixels() {
    let transparent = png(8, GREY_ALPHA, &[200, 128], &[]);
    let mut inks = Vec::new();
    let cmyk: Vec<u8> = (0..40 * 40).flat_map(|at| [at as u8, 30, (at / 7) as u8, 90]).collect();
    Encoder::new(&mut inks, 95).encode(&cmyk, 40, 40, ColorType::Cmyk).unwrap();
    for file in [transparent, inks] {
        let examined = examine(&file, &LIMITS).unwrap();
        let (format, stored) = examined.deidentified(&file).unwrap();
        assert_eq!((format, &stored[24..26]), (Format::Png, &[8, 0][..]), "8-bit grey PNG");
        assert_eq!(decode(&stored, &LIMITS).unwrap().1, examined.image);
    }
}

#[test]
fn a_narrow_range_of_grey_levels_is_flagged() {
    let flagged = |darkest: u8, brightest: u8| {
        let pixels = (0..1600).map(|at| if at % 2 == 0 { darkest } else { brightest }).collect();
        quality_flags(&GreyImage { width: 40, height: 40, pixels }).contains(&QualityFlag::NarrowRange)
    };
    assert!(flagged(0, 63) && flagged(100, 100) && flagged(200, 255));
    assert!(!flagged(0, 64) && !flagged(50, 200));
}
