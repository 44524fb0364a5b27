//! Perceptual fingerprints of images.

/// Side of the thumbnail of a fingerprint, in pixels.
pub const FINGERPRINT_SIDE: usize = 64;

/// Perceptual fingerprint of an image: a perceptual hash and a thumbnail. Images that differ only in size, format or exposure have
/// similar fingerprints. Computed by `imaging::fingerprint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Perceptual hash: one bit per cell of a 16 x 16 grid, set if the cell is brighter than its surroundings. None if the image has too
    /// little detail to be distinguished from others.
    pub hash: Option<[u8; 32]>,
    /// Thumbnail: [`FINGERPRINT_SIDE`] x [`FINGERPRINT_SIDE`] grey levels in row-major order.
    pub plane: Vec<u8>,
}
