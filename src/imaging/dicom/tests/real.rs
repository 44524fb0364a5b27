//! Comparison of real files with pydicom 3.0.2 with pylibjpeg 2.1.0 (libjpeg 2.5.0, openjpeg 2.6.0) and pyjpegls 1.5.1.
//!
//! `v = apply_voi_lut(apply_modality_lut(d.pixel_array, d), d) / (2**d.BitsStored - 1) * 255`, `255 - v` for MONOCHROME1; RGB through
//! Pillow's `convert("L")`. `points` are `round(v)` at eighths of rows and columns, `grid` the means of 4 x 4 blocks.

use super::*;

struct Expected {
    file: &'static str,
    size: (u32, u32),
    mean: f64,
    points: [u8; 8],
    grid: [f64; 16],
}

const POSITIONS: [(usize, usize); 8] = [(1, 1), (2, 5), (3, 3), (4, 4), (4, 6), (5, 2), (6, 7), (7, 3)];

#[rustfmt::skip]
const EXPECTED: [Expected; 9] = [
    Expected {
        file: "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm",
        size: (1024, 1024),
        mean: 160.40,
        points: [175, 118, 80, 208, 113, 124, 164, 231],
        grid: [123.4, 137.1, 143.6, 125.9, 182.8, 121.2, 143.6, 183.8, 152.3, 159.3, 195.4, 160.4, 155.6, 226.6, 216.3, 139.3],
    },
    Expected {
        file: "COVID-19_DAI000247.dcm",
        size: (867, 772),
        mean: 132.67,
        points: [127, 67, 77, 185, 60, 52, 48, 204],
        grid: [105.2, 111.8, 105.8, 93.1, 150.4, 100.8, 108.9, 144.2, 110.5, 114.0, 155.2, 107.1, 147.3, 204.2, 206.0, 158.1],
    },
    Expected {
        file: "CR-MONO1-10-chest_nopreamble.dcm",
        size: (440, 440),
        mean: 139.38,
        points: [154, 105, 123, 193, 98, 95, 155, 195],
        grid: [143.7, 136.8, 131.2, 133.0, 139.1, 130.4, 115.9, 152.5, 122.0, 146.0, 147.1, 121.3, 135.8, 197.8, 178.6, 98.7],
    },
    Expected {
        file: "Fake_MONOHR1.dcm",
        size: (1024, 1024),
        mean: 94.60,
        points: [80, 137, 175, 47, 142, 131, 91, 24],
        grid: [131.6, 117.9, 111.4, 129.1, 72.2, 133.8, 111.4, 71.2, 102.7, 95.7, 59.6, 94.6, 99.4, 28.4, 38.7, 115.7],
    },
    Expected {
        file: "Normal_DAI000118.dcm",
        size: (1024, 1024),
        mean: 160.41,
        points: [137, 129, 44, 210, 129, 130, 202, 237],
        grid: [70.0, 87.9, 139.0, 97.1, 168.0, 82.5, 149.9, 156.0, 185.7, 159.2, 214.7, 195.9, 163.2, 234.9, 237.7, 225.0],
    },
    Expected {
        file: "Pneumonia_DAI000036.dcm",
        size: (1024, 1024),
        mean: 156.43,
        points: [121, 108, 139, 172, 171, 150, 170, 221],
        grid: [104.0, 146.8, 100.9, 79.6, 149.7, 137.7, 131.3, 176.9, 164.3, 176.3, 181.4, 160.1, 188.5, 216.9, 215.5, 173.0],
    },
    Expected {
        file: "RG1_J2KI.dcm",
        size: (1841, 1955),
        mean: 192.17,
        points: [195, 129, 156, 227, 150, 207, 184, 231],
        grid: [161.0, 178.6, 170.4, 157.7, 191.4, 174.7, 165.3, 192.7, 201.3, 205.3, 205.3, 194.9, 218.3, 227.5, 222.2, 207.9],
    },
    Expected {
        file: "RG1_JLSN.dcm",
        size: (1841, 1955),
        mean: 192.17,
        points: [194, 128, 156, 226, 151, 207, 183, 231],
        grid: [161.0, 178.6, 170.4, 157.7, 191.4, 174.7, 165.3, 192.7, 201.3, 205.3, 205.3, 194.9, 218.3, 227.5, 222.2, 207.9],
    },
    Expected {
        file: "RG1_UNCI.dcm",
        size: (1841, 1955),
        mean: 192.17,
        points: [195, 129, 156, 227, 150, 207, 184, 231],
        grid: [161.0, 178.6, 170.4, 157.7, 191.4, 174.7, 165.3, 192.7, 201.3, 205.3, 205.3, 194.9, 218.3, 227.5, 222.2, 207.9],
    },
];

/// Maximum difference in grey levels; lossy decoders may round differently.
fn tolerance(file: &str) -> u8 {
    let lossy = ["1.2.276", "Fake_MONOHR1", "RG1_J2KI", "RG1_JLSN"].iter().any(|name| file.starts_with(name));
    if lossy { 3 } else { 1 }
}

#[test]
fn real_files_agree_with_pydicom() {
    let Some(folder) = crate::fixtures::shared_folder("dicom") else { return };
    for Expected { file, size, mean, points, grid } in EXPECTED {
        let bytes = std::fs::read(folder.join(file)).unwrap();
        let (format, image) = decode(&bytes, &Limits { max_pixels: 50_000_000 }).unwrap();
        assert_eq!((format, image.width, image.height), (Format::Dicom, size.0, size.1), "{file}");
        let (width, height) = (image.width as usize, image.height as usize);
        let within = f64::from(tolerance(file));
        for ((row, column), expected) in POSITIONS.into_iter().zip(points) {
            let grey = image.pixels[height * row / 8 * width + width * column / 8];
            assert!(f64::from(grey.abs_diff(expected)) <= within, "{file} at {row}, {column}: {grey}, not {expected}");
        }
        let block = |rows: std::ops::Range<usize>, columns: std::ops::Range<usize>| {
            let count = rows.len() * columns.len();
            let greys = rows.flat_map(|row| &image.pixels[row * width + columns.start..row * width + columns.end]);
            greys.map(|grey| f64::from(*grey)).sum::<f64>() / count as f64
        };
        assert!((block(0..height, 0..width) - mean).abs() < 0.6, "{file}: {}", block(0..height, 0..width));
        for (index, expected) in grid.into_iter().enumerate() {
            let (row, column) = (index / 4, index % 4);
            let rows = height * row / 4..height * (row + 1) / 4;
            let found = block(rows, width * column / 4..width * (column + 1) / 4);
            assert!((found - expected).abs() < 0.6, "{file}, block {row}, {column}: {found}, not {expected}");
        }
    }
}

#[test]
fn only_a_wrong_photometric_interpretation_is_flagged_as_negative() {
    let Some(folder) = crate::fixtures::shared_folder("dicom") else { return };
    for Expected { file, .. } in EXPECTED {
        let bytes = std::fs::read(folder.join(file)).unwrap();
        let flags = examine(&bytes, &Limits { max_pixels: 50_000_000 }).unwrap().flags;
        println!("{file}: {flags:?}");
        assert_eq!(flags.contains(&QualityFlag::PhotographicNegative), file == "Fake_MONOHR1.dcm", "{file}: {flags:?}");
    }
}

/// Public bug reports: each pair is the same image, or has the mean grey level that the report's correction gives.
#[test]
fn files_of_public_bug_reports_have_the_right_pixels() {
    let Some(folder) = crate::fixtures::shared_folder("reports/dicom") else { return };
    let examined = |file: &str| {
        let bytes = std::fs::read(folder.join(format!("{file}.dcm"))).unwrap();
        examine(&bytes, &Limits { max_pixels: 50_000_000 }).unwrap_or_else(|error| panic!("{file}: {error}"))
    };
    let same = |a: &str, b: &str, within: u8| {
        let [a_pixels, b_pixels] = [a, b].map(|file| examined(file).image.pixels);
        let difference = a_pixels.iter().zip(&b_pixels).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(difference <= Some(within), "{a} and {b} differ by {difference:?}");
    };
    same("j2k-signed12", "native-signed12", 1);
    same("jls-signed12", "native-signed12", 1);
    same("j2k-unsigned-stream-says-signed", "native-signed12", 1);
    same("rle-ybr", "plain-ybr", 0);
    same("says-explicit-is-implicit", "body-TORAX", 0);
    same("un-undefined", "body-TORAX", 0);
    same("empty-both", "body-TORAX", 0);
    same("odd-length", "body-TORAX", 0);
    same("ext12", "body-TORAX", 3);
    same("voi-negative-first", "body-TORAX", 1);
    same("native16-unsigned-window", "body-TORAX", 1);
    same("rgb-123", "rle-rgb", 6);
    same("modality-DR", "body-TORAX", 0);
    for (file, flag, flagged) in [
        ("agfa-narrow", QualityFlag::NarrowRange, true),
        ("says-explicit-is-implicit", QualityFlag::HeaderMismatch, true),
        ("body-TORAX", QualityFlag::OtherBodyPart, false),
        ("body-ABDOMEN", QualityFlag::OtherBodyPart, true),
    ] {
        assert_eq!(examined(file).flags.contains(&flag), flagged, "{file}: {flag:?}");
    }
    let agfa = examined("agfa-narrow").image.pixels;
    let mean = agfa.iter().map(|grey| f64::from(*grey)).sum::<f64>() / agfa.len() as f64;
    assert!((mean - 149.0).abs() < 1.0, "{mean}");
}
