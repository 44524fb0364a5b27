//! Pixels out of each codec. RLE and lossless JPEG are encoded here; JPEG-LS and JPEG 2000 were, as said beside them.

use dicom_core::value::PixelFragmentSequence;
use image::{ExtendedColorType, codecs::jpeg::JpegEncoder};

use super::*;

/// pyjpegls 1.5.1: `encode_array(p)` of [`pattern`].
const JPEG_LS: &str = "ffd8fff7000b0c0028003001011100ffda000801010000000093d3d3d352d251d3c00007da5d268f45c3c1bfbd00f49edddcdbdad9d8d7\
    80376aea69e968e86867c012143433f3f3b3b3b3600cb9997e5cb86ed8a9426e5c922241f79d71c606da65961861c385d75d6739cdf06b\
    5ad6b18ddbb1cb18c6318b5b66cb5ad6b5adb60b5ad6b528a955294a5294d70a66666628519c332aaaaa9326aaaaaaa530aaaaaaa4892a\
    aaaaa93c2aab6d11229ba49249102092492258492493efa492491c5555e796caaaaebaaaa90c5555c71fff47fdb6aaff69a7ff31ff165f\
    fb8ff96551ff430ffcc7fc30ff5e3fe18537fdd77fd63fdd77fce7fbaea4ff5967fce7fe73fe33ff1ca2ff739ff19ff5aff7cffad50000\
    000000895a82726252423222802f21207ef9ebc764f81d3970ddb35684e371324448107df26c1e79d75c71c262b5b2872b6db6eb56db6d\
    be5b6db75ab6db6df2dfff2d7f7fff718fff76cfff78c7ff7b67ff7c63f3ff7f8c7fff367fff463fff5b3fff631f5fff7c63ff7ee7ff7c\
    63ff7ee7ff7c63e3ff7f6b7fff5cff7f6b7ffee7fb5bb7fdadff39fed6ff4dfed6e9ff35bfe6ff35bfe6ff35b97fdadff37fb5bfe6ff35\
    b97fdac000000002a269e9a96928e8aa1010d07ffdf7e7ba780000ff6bcc000000006c8608208334104104210b5a184210842108538f2f\
    fbe5084219a108421085290c00000e6db69a69a64940ba0bde60bd9659609706186186175c90ac5c9dc2318c6318d37f0deca318c73463\
    18c631a523846318c6318d36eececa3199bd33333334a4dd333333334d7b33e533337a6666666949ba6666666d14aac7cadb6f5b6db694\
    b75b6db6e27515f2b6dbd6db6dca5b2db6db712a6af95b6deb6dbf94f9ff7fc4692be5ff3dff7f29f3ff7f8840000000060425e5e56565\
    6564c01392b2b2b2b2b27272600c39150e5ff7bfff653e7fff729fff6f7fff2cff7f7bff7d67afff7d67ff7bdfff6b3fff5eff7f59e800\
    00000049620410421084081111111100032c49249041249248091c92aa08281ca2222222b22222222f44444445644444445e8892495935\
    2492495924924ad24924aa924aab5555556aaaaaaaaaaad55755feb7faaebfeabfd6ff2aff2dfeab8ffaaff5bfd57fadfeab8ffaaff5bf\
    d57fadfeab80ffd9";

/// pyjpegls 1.5.1: `encode_array(p, lossy_error=3)`.
const NEAR: &str = "ffd8fff7000b0c0028003001011100ffda0008010100030000b795ed2b4a4005e4cba69a69a6e004a7a679ef7bd4004e596b5aceb3002d\
    3ace73ace6007673c5b1dc8eec5bb1b9b92f16644446c76db6dbe76db4dd86c26c9224e422cb4ab2d244d77244d2db0b4b29dd5b1a5a97\
    72cb656c4955775492b65294bb9229554dd7fb598ae6579d4ae66ef21595377fd9fd13fadfe89ebfa27ff7f44ffefe8deeff49fd6ff46b\
    ff2ff25ddff6ff292bf6ff73fed6efe8d7feff4895f6ff4891dfe6ff3ffb7ff7fda804718a53148e09290a42108dc391c8eee530eeccec\
    c4d22226445304e62ff6ff2ffdbffbfe692ff93fdabf93fdff4d6e3fdbfdff5bfd7fa4a7fa4ff5fe93fd9fd6a77f49feff56ff3ff6a7fd\
    3fdffb1febfd6a67fb7fb7fb7f87fca99fd6ff1feb7feff5d9fe400000000097195a52b4ea094fa53ff90017fd000000000597d3efeb53\
    3faadbfeedf19fcb7039326c9942225e60564d93536db6532ca45fafc6f8579bfaebfd5ecedfff56a57fbd19e2ff7e56cbfb7b1f7dff2e\
    bfadc844955ffc15ff7cad5fed6ad0ae37eb762bf6b57dff7ebafebc000000002e339c671980188ce338ce33003b1e62f7fcad5febfdff\
    2fff7ceeaffbff7fa57fff6e002e1564a842af807ca52989fb82dbf931c5fd5fff7abfbff75ff7f8dfefff7ead5ff7ff7fbfdffbabf9df\
    effdff7feccbfabfdff57f7feabfeff7feff5ff4b8ffd9";

/// pylibjpeg-openjpeg 2.6.0: `encode_array(p, bits_stored=12, photometric_interpretation=2, codec_format=0)`.
const JPEG_2000: &str = "ff4fff5100290000000000300000002800000000000000000000003000000028000000000000000000010b0101ff52000c000000010005\
    04040001ff5c00134060686870686870686870686870686870ff640025000143726561746564206279204f70656e4a5045472076657273\
    696f6e20322e352e32ff90000a0000000002a60001ff93cfe41c0909a500a1c7dfc1f981c0fc00e01f68100ba3840ae659004fc3f60e8f\
    e42a0fd824102e20cb8e25fd5a29415cabaf7f109d4093babea63e087f0b729fdbd64c705e83c7f2530fd8860fd86824db403f9c144577\
    9ae769f5e38cea411a685982480637c95f1d6aede11b9dbf4b86a786622d8909bb1f969be917423998931c401c40b1680a49d3dd1d5aff\
    09b34a67471830c8296af724d7a1166542b13322fca39610bb79c7a73ba162ec11e270d11fc3f66f87ecb503f3274b1ee82cafecd827a8\
    4ef86ef8c879c81d9680784dd3e60688280ba20bf6d84ea77d03b5be7eab524f498e851a6044059d186236079d37f995def96c0267a906\
    6d8034fb3abcbd1b8e25f5784e983c3945492128c91f345601b6988cb0f6d60ff5db02e5c8f0dead331b6b0a768b6f617ffc9d81777c42\
    ff13f858d5f0fc924d38d9b2fac5155df9af155fca522d6078e5ae2609fd7cdf650054aff5c2a9810a581f28a8da64c0ae980bf27cc405\
    18b9f171e0b34e483c1aa450c3c1107c158438d704119ba61528bf73871f269f00690621d8a4025218f9aaa5f64b0fa5c4cf3838b3a727\
    d530008123741dae6ffd5fc3f6648fe59a07e632a2318dea29fd6fc9895ba115b1429e34639d8968d6ef2c311dcef5eb5797cdb47a346d\
    eab9977c686e1208eed1ef910b3a0f75b090741df6d932f770c18483cfc5edbc0b3a2caf3e8d9479a8af65b72a4588c288f321d458f994\
    3b9a440b6d34b0c41c0fc193696cb8f2090eb61af127380ad12f1b2ca6ca2f46827e4ed4d997f5013883b82dad0fc757817a61ee9e2caa\
    4460680c8b7e5a008e6e03fb749748380f21da04027098d2088b51400000008e03ff514a764c62d6a1d40000003eb1641000c3bc054000\
    0001ac131285136f91bb36ae9901a05f19c6a565613f74711b1cc5ffd9";

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

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn fragments(fragments: Vec<Vec<u8>>) -> InMemElement {
    DataElement::new(tags::PIXEL_DATA, VR::OB, PixelFragmentSequence::new_fragments(fragments))
}

/// The stored values of a packed image of twelve bits.
fn unpacked(uid: &str, data: Vec<Vec<u8>>) -> Result<Vec<u16>, ImageError> {
    let bytes = file(uid, &object("MONOCHROME2", 1, 16, 12, fragments(data)));
    let (syntax, data_set) = syntax::open(&bytes, &LIMITS)?;
    frame::values(&Header::read(&data_set, &syntax)?, &syntax)
}

/// Segments of runs and literals, the most significant byte first.
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

/// Process 14, first-order prediction from the left, with a code of five bits for each size of a difference.
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
    let (mut held, mut count) = (0u64, 0);
    for (at, value) in values.iter().enumerate() {
        let predicted = match at {
            0 => 1 << 11,
            _ if at % usize::from(WIDTH) == 0 => i32::from(values[at - usize::from(WIDTH)]),
            _ => i32::from(values[at - 1]),
        };
        let difference = i32::from(*value) - predicted;
        let size = 32 - difference.unsigned_abs().leading_zeros();
        let bits = if difference < 0 { difference + (1 << size) - 1 } else { difference };
        held = (held << 5 | u64::from(size)) << size | bits as u64;
        count += 5 + size;
        while count >= 8 {
            count -= 8;
            jpeg.push((held >> count) as u8);
            if jpeg.last() == Some(&0xff) {
                jpeg.push(0);
            }
        }
    }
    jpeg.push(((held << (8 - count)) as u8) | (0xff >> count));
    [jpeg, vec![0xff, 0xd9]].concat()
}

#[test]
fn lossless_codecs_give_every_value_back() {
    let high_and_low = [8, 0].map(|shift| pattern().iter().map(|value| (value >> shift) as u8).collect());
    let packed = [
        (uids::RLE_LOSSLESS, rle(&high_and_low)),
        (uids::JPEG_LOSSLESS, lossless_jpeg(&pattern())),
        (uids::JPEG_LOSSLESS_SV1, lossless_jpeg(&pattern())),
        (uids::JPEGLS_LOSSLESS, bytes_of(JPEG_LS)),
        (uids::JPEG2000_LOSSLESS, bytes_of(JPEG_2000)),
    ];
    for (uid, data) in packed {
        assert_eq!(unpacked(uid, vec![data]).unwrap(), pattern(), "{uid}");
    }
}

#[test]
fn near_lossless_jpeg_ls_stays_as_near_as_it_promises() {
    let values = unpacked(uids::JPEGLS_NEAR_LOSSLESS, vec![bytes_of(NEAR)]).unwrap();
    assert!(values.iter().zip(pattern()).all(|(value, original)| value.abs_diff(original) <= 3));
    assert_ne!(values, pattern());
}

#[test]
fn a_frame_may_be_in_several_fragments() {
    let mut data = bytes_of(JPEG_2000);
    let rest = data.split_off(400);
    assert_eq!(unpacked(uids::JPEG2000_LOSSLESS, vec![data, rest]).unwrap(), pattern());
}

#[test]
fn baseline_jpeg_grey_and_colour() {
    let grey: Vec<u8> = (0..PIXELS).map(|at| (at % 48 * 4) as u8).collect();
    let close =
        |photometric: &str, samples: u16, colour: ExtendedColorType, pixels: &[u8], wanted: &dyn Fn(usize) -> u8| {
            let mut jpeg = Vec::new();
            let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, 95);
            encoder.encode(pixels, WIDTH.into(), HEIGHT.into(), colour).unwrap();
            let object = object(photometric, samples, 8, 8, fragments(vec![jpeg]));
            let image = decode(&file(uids::JPEG_BASELINE8_BIT, &object), &LIMITS).unwrap().1;
            let off = (0..PIXELS).map(|at| image.pixels[at].abs_diff(wanted(at))).max();
            assert!(off <= Some(3), "{photometric}: {off:?}");
        };
    close("MONOCHROME2", 1, ExtendedColorType::L8, &grey, &|at| grey[at]);
    close("MONOCHROME1", 1, ExtendedColorType::L8, &grey, &|at| 255 - grey[at]);
    close("YBR_FULL_422", 3, ExtendedColorType::Rgb8, &[10, 200, 30].repeat(PIXELS), &|_| 124);
}

#[test]
fn packed_data_that_is_cut_off_or_of_another_size_is_refused() {
    let high_and_low = [8, 0].map(|shift| pattern().iter().map(|value| (value >> shift) as u8).collect());
    let packed = [
        (uids::RLE_LOSSLESS, rle(&high_and_low)),
        (uids::JPEG_LOSSLESS_SV1, lossless_jpeg(&pattern())),
        (uids::JPEGLS_LOSSLESS, bytes_of(JPEG_LS)),
    ];
    for (uid, data) in packed {
        for length in (0..data.len() - 8).step_by(53) {
            let refused = unpacked(uid, vec![data[..length].to_vec()]);
            assert!(matches!(refused, Err(ImageError::Undecodable(_))), "{uid} of {length} bytes");
        }
        let mut wide = object("MONOCHROME2", 1, 16, 12, fragments(vec![data]));
        wide.put(words(tags::COLUMNS, 96));
        assert!(matches!(read(&file(uid, &wide), &LIMITS), Err(ImageError::Undecodable(_))), "{uid}");
    }
    let mut huge = bytes_of(JPEG_2000);
    let size = huge.windows(2).position(|pair| pair == [0xff, 0x51]).unwrap();
    huge[size + 6..size + 14].fill(0x7f);
    assert!(unpacked(uids::JPEG2000_LOSSLESS, vec![huge]).is_err());
    assert!(unpacked(uids::MPEG2MPML, vec![vec![0; 64]]).unwrap_err().to_string().contains("is not read"));
}

#[test]
fn damaged_packed_data_never_panics() {
    for (uid, data) in [
        (uids::JPEGLS_LOSSLESS, bytes_of(JPEG_LS)),
        (uids::JPEGLS_NEAR_LOSSLESS, bytes_of(NEAR)),
        (uids::JPEG2000_LOSSLESS, bytes_of(JPEG_2000)),
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
