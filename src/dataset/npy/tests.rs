//! Header format, compatibility with NumPy, and rejection of malicious files.

use proptest::{collection::vec, prelude::*, sample::select};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::fixtures::numpy;

fn with_header(text: &str, data: u64) -> Result<Header, NpyError> {
    let bytes = [b"\x93NUMPY\x01\x00".as_slice(), &(text.len() as u16).to_le_bytes(), text.as_bytes()].concat();
    Header::read(bytes.as_slice(), bytes.len() as u64 + data)
}

fn error_of(text: &str, data: u64) -> String {
    with_header(text, data).expect_err(text).to_string()
}

#[test]
fn the_header_is_written_byte_for_byte() {
    let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 128, 128, 3), }";
    let expected = [b"\x93NUMPY\x01\x00\x76\x00".as_slice(), format!("{text:<117}\n").as_bytes()].concat();
    assert_eq!(expected.len(), 128);
    assert_eq!(header(Element::Float32, &[2, 128, 128, 3]), expected);
}

#[test]
fn written_headers_are_read_back() {
    for element in [Element::Float32, UINT8, INT64, Element::Signed(1), Element::Unsigned(4), Element::Text(9)] {
        for shape in [vec![], vec![0], vec![5], vec![2, 32, 32, 3]] {
            let bytes = header(element, &shape);
            let data = shape.iter().product::<u64>() * element.bytes();
            let read = Header::read(bytes.as_slice(), bytes.len() as u64 + data).unwrap();
            assert_eq!(read, Header { element, shape, length: bytes.len() as u64 });
        }
    }
}

#[test]
fn equivalent_spellings_of_a_header_are_accepted() {
    let expected = Some((Element::Float32, vec![2, 3]));
    for text in [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n",
        "{\"shape\":(2,3,),\"descr\":\"<f4\",\"fortran_order\":False}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L)}",
    ] {
        assert_eq!(with_header(text, 24).ok().map(|header| (header.element, header.shape)), expected, "{text}");
    }
    for version in [2, 3] {
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";
        let bytes = [b"\x93NUMPY".as_slice(), &[version, 0], &(text.len() as u32).to_le_bytes(), text.as_bytes()];
        let bytes = bytes.concat();
        assert_eq!(Header::read(bytes.as_slice(), bytes.len() as u64 + 24).unwrap().shape, [2, 3]);
    }
}

#[test]
fn errors_name_the_unsupported_feature() {
    let with = |descr: &str| format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (2,), }}");
    for (descr, why) in [
        ("'|O'", "pickled"),
        ("'>f4'", "big endian"),
        ("'<f8'", "float32"),
        ("'<c8'", "float32"),
        ("'<U256'", "255"),
        ("'<i+8'", "float32"),
        ("[('a', '<f4')]", "several fields"),
        ("''", "unknown type"),
        ("'ä'", "unknown type"),
    ] {
        assert!(error_of(&with(descr), 16).contains(why), "{descr}");
    }
    let fortran = "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), }";
    assert!(error_of(fortran, 16).contains("Fortran"));
    for (text, why) in [
        ("{'descr': '<f4', 'shape': (2,), }", "fortran_order"),
        ("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", "twice"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "number"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} import os", "follows"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}", "axes"),
        ("{'descr': '<f4", "unterminated"),
        ("", "expected"),
    ] {
        assert!(error_of(text, 8).contains(why), "{text}: {}", error_of(text, 8));
    }
}

#[test]
fn a_length_mismatch_is_rejected_before_memory_is_allocated() {
    let with = |shape: &str| format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    for (shape, data) in [
        ("(3,)", 11),
        ("(3,)", 13),
        ("(1000000000000,)", 4),
        ("(18446744073709551615,)", 4),
        ("(4294967296, 4294967296, 4294967296)", 4),
    ] {
        assert!(matches!(with_header(&with(shape), data), Err(NpyError::Length { .. })), "{shape}");
    }
    assert!(matches!(with_header(&with("(18446744073709551616,)"), 4), Err(NpyError::Header(_))));
    let long = [b"\x93NUMPY\x02\x00".as_slice(), &u32::MAX.to_le_bytes()].concat();
    assert!(matches!(Header::read(long.as_slice(), u64::MAX), Err(NpyError::Header(_))));
}

#[test]
fn corrupt_headers_never_panic() {
    let good = header(Element::Float32, &[2, 128, 128, 3]);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..50_000 {
        let mut bytes = good.clone();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        bytes.truncate(random.random_range(0..=bytes.len()));
        let _ = Header::read(bytes.as_slice(), random.random_range(0..1_000_000));
    }
    for length in 0..good.len() {
        assert!(Header::read(&good[..length], length as u64).is_err(), "{length}");
    }
}

#[test]
fn numpy_reads_written_arrays() {
    let folder = tempfile::tempdir().unwrap();
    for (element, shape, expected) in [
        (Element::Float32, vec![2, 32, 32, 3], "float32 (2, 32, 32, 3) 0.0"),
        (UINT8, vec![5, 32, 32, 1], "uint8 (5, 32, 32, 1) 0"),
        (INT64, vec![7], "int64 (7,) 0"),
        (INT64, vec![0], "int64 (0,) 0"),
    ] {
        let path = folder.path().join("array.npy");
        let length = shape.iter().product::<u64>() * element.bytes();
        std::fs::write(&path, [header(element, &shape), vec![0; length as usize]].concat()).unwrap();
        let script = "import numpy, sys; a = numpy.load(sys.argv[1]); print(a.dtype, a.shape, a.sum())";
        let Some(output) = numpy(script, &[&path]) else { return };
        assert_eq!(output.trim(), expected);
    }
}

#[test]
fn arrays_written_by_numpy_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let script = "\
import numpy, sys
folder = sys.argv[1] + '/'
numpy.save(folder + 'floats.npy', numpy.zeros((2, 4, 4, 3), 'float32'))
numpy.save(folder + 'bytes.npy', numpy.zeros((2, 4, 4, 1), 'uint8'))
numpy.save(folder + 'texts.npy', numpy.array(['normal', 'COVID-19']))
numpy.save(folder + 'numbers.npy', numpy.array([0, 2]))
numpy.save(folder + 'objects.npy', numpy.array([{}, []], dtype=object))
numpy.save(folder + 'fortran.npy', numpy.asfortranarray(numpy.zeros((2, 3), 'float32')))
";
    let Some(_) = numpy(script, &[folder.path()]) else { return };
    let read = |name: &str| {
        let file = std::fs::File::open(folder.path().join(name)).unwrap();
        let length = file.metadata().unwrap().len();
        Header::read(file, length).map(|header| (header.element, header.shape)).map_err(|error| error.to_string())
    };
    assert_eq!(read("floats.npy"), Ok((Element::Float32, vec![2, 4, 4, 3])));
    assert_eq!(read("bytes.npy"), Ok((UINT8, vec![2, 4, 4, 1])));
    assert_eq!(read("texts.npy"), Ok((Element::Text(8), vec![2])));
    assert_eq!(read("numbers.npy"), Ok((INT64, vec![2])));
    assert!(read("objects.npy").unwrap_err().contains("pickled"));
    assert!(read("fortran.npy").unwrap_err().contains("Fortran"));
}

fn element() -> impl Strategy<Value = Element> {
    let bytes = || select(vec![1u8, 2, 4, 8]);
    prop_oneof![
        Just(Element::Float32),
        bytes().prop_map(Element::Unsigned),
        bytes().prop_map(Element::Signed),
        (1..=255u32).prop_map(Element::Text),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_written_header_is_read_back(element in element(), shape in vec(0..500u64, 0..=5)) {
        let bytes = header(element, &shape);
        prop_assert_eq!(bytes.len() % 64, 0);
        let length = bytes.len() as u64;
        let file_length = length + shape.iter().product::<u64>() * element.bytes();
        let read = Header::read(bytes.as_slice(), file_length);
        prop_assert_eq!(read.map_err(|error| error.to_string()), Ok(Header { element, shape, length }));
    }

    #[test]
    fn any_bytes_after_the_magic_are_a_header_or_an_error(bytes in vec(any::<u8>(), 0..200), version in 1..4u8) {
        let bytes = [MAGIC.as_slice(), &[version, 0], &bytes].concat();
        // Only must not panic.
        drop(Header::read(bytes.as_slice(), bytes.len() as u64));
    }
}
