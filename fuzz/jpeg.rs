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

/// Maximum difference in grey levels: the decoders upsample chroma differently, which shows where colours are clipped.
const TOLERANCE: u8 = 3;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&[width, height, quality, sampling, options, restart], picture)) = bytes.split_first_chunk::<6>() else {
        return;
    };
    if picture.is_empty() {
        return;
    }
    let (width, height) = (32 + u16::from(width % 64), 32 + u16::from(height % 64));
    let colour = if options & 1 == 0 { ColorType::Luma } else { ColorType::Rgb };
    let sampling = SAMPLINGS[usize::from(sampling) % SAMPLINGS.len()];
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, 50 + quality % 51);
    encoder.set_sampling_factor(sampling);
    encoder.set_progressive(options & 2 != 0);
    encoder.set_optimized_huffman_tables(options & 4 != 0);
    encoder.set_restart_interval(u16::from(restart % 8));
    let samples = usize::from(width) * usize::from(height) * if options & 1 == 0 { 1 } else { 3 };
    // Colours of little saturation, so that few are clipped.
    let pixels: Vec<u8> = picture.iter().cycle().take(samples).map(|byte| 96 + byte % 64).collect();
    encoder.encode(&pixels, width, height, colour).expect("the parameters are valid");

    let (_, image) = thorax::imaging::decode(&file, &LIMITS).expect("what an encoder writes decodes");
    let settings = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::RGB);
    let other = JpegDecoder::new_with_options(ZCursor::new(&file), settings).decode().expect("it decodes");
    let greys = other.as_chunks::<3>().0.iter().map(|&[r, g, b]| thorax::imaging::luma(r, g, b));
    let difference = greys.zip(&image.pixels).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(difference <= Some(TOLERANCE), "{width} x {height}, options {options}, {sampling:?}: {difference:?}");
});
