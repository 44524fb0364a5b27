//! What an image looks like, in little: enough to find it again in another size, format or exposure.

/// Columns and rows of a look's plane.
pub const FINGERPRINT_SIDE: usize = 64;

/// A small plane of an image and a hash of its structure. `imaging::look` makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// One bit for each cell of a 16 x 16 grid: whether it is brighter than what surrounds it. None where the image has too little detail
    /// to be told from another.
    pub hash: Option<[u8; 32]>,
    /// [`FINGERPRINT_SIDE`] x [`FINGERPRINT_SIDE`] grey bytes, row by row.
    pub plane: Vec<u8>,
}
