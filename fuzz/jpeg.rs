//! JPEG files of arbitrary parameters, decoded by Thorax and by zune-jpeg: the grey levels agree.
#![no_main]

use bounds::LIMITS;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

/// Sampling factors of the luma component. The encoder writes the last two in a scan for each component.
const SAMPLINGS: [SamplingFactor; 6] = [
    SamplingFactor::F_1_1,
    SamplingFactor::F_2_1,
    SamplingFactor::F_1_2,
    SamplingFactor::F_2_2,
    SamplingFactor::F_4_1,
    SamplingFactor::F_4_2,
];

/// Number of [`SAMPLINGS`] that zune-jpeg is compared with: it returns stripes for subsampled components in separate scans.
const INTERLEAVED: usize = 4;

/// Maximum difference in grey levels: the decoders round differently.
const TOLERANCE: u8 = 3;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&[width, height, quality, sampling, options, restart], levels)) = bytes.split_first_chunk::<6>() else {
        return;
    };
    if levels.is_empty() {
        return;
    }
    let (width, height) = (32 + u16::from(width % 64), 32 + u16::from(height % 64));
    let (colour, channels) = if options & 1 == 0 { (ColorType::Luma, 1) } else { (ColorType::Rgb, 3) };
    let sampling = usize::from(sampling) % SAMPLINGS.len();
    // Colours of little saturation, so that few are clipped.
    let samples = usize::from(width) * usize::from(height) * channels;
    let pixels: Vec<u8> = levels.iter().cycle().take(samples).map(|byte| 96 + byte % 64).collect();
    let encode = |progressive, optimised, restart| {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, 50 + quality % 51);
        encoder.set_sampling_factor(SAMPLINGS[sampling]);
        encoder.set_progressive(progressive);
        encoder.set_optimized_huffman_tables(optimised);
        // The encoder fails on restart intervals with optimised tables.
        encoder.set_restart_interval(if optimised { 0 } else { restart });
        encoder.encode(&pixels, width, height, colour).expect("the parameters are valid");
        file
    };
    let decode = |file: &[u8]| thorax::imaging::decode(file, &LIMITS).expect("what an encoder writes decodes").1.pixels;

    let plain = encode(false, false, 0);
    let greys = decode(&plain);
    // The same coefficients in other scans are the same image.
    let varied = encode(options & 2 != 0, options & 4 != 0, u16::from(restart % 8));
    assert!(decode(&varied) == greys, "{width} x {height}, options {options}, {:?}", SAMPLINGS[sampling]);
    if sampling < INTERLEAVED {
        let settings = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::RGB);
        let other = JpegDecoder::new_with_options(ZCursor::new(&plain), settings).decode().expect("it decodes");
        let other = other.as_chunks::<3>().0.iter().map(|&[r, g, b]| thorax::imaging::luma(r, g, b));
        let difference = other.zip(&greys).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(difference <= Some(TOLERANCE), "{width} x {height}, {:?}: {difference:?}", SAMPLINGS[sampling]);
    }
});
