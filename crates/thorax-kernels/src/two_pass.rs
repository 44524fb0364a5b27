//! Two passes over each channel block: a reduction, and an elementwise pass that uses its result.
//!
//! A block is cut into pieces of a fixed size, and their sums are combined in order. So the result does not depend on
//! the number of threads. If there are enough blocks, one thread does both passes of a block, whose pixels then still
//! are in its cache; otherwise the pieces are distributed.

use super::{parallel, simd::ChannelBlock, team::Team};

/// Pixels of a piece.
const PIECE: usize = 2048;

/// Pieces of all blocks of `pixels` pixels each.
pub(super) fn pieces(batch: &[ChannelBlock], pixels: usize) -> impl Iterator<Item = &[ChannelBlock]> {
    batch.chunks(pixels).flat_map(|block| block.chunks(PIECE))
}

/// Mutable pieces of all blocks.
pub(super) fn pieces_mut(batch: &mut [ChannelBlock], pixels: usize) -> impl Iterator<Item = &mut [ChannelBlock]> {
    batch.chunks_mut(pixels).flat_map(|block| block.chunks_mut(PIECE))
}

/// Runs both passes over the pieces of blocks of `pixels` pixels each. `sum` reduces a piece, `decide` combines the
/// sums of a block, and `write` uses the result. Returns the results of all blocks.
pub(super) fn two_pass<P: Send, S: Send, D: Send + Sync>(
    team: &Team,
    mut pieces: Vec<P>,
    pixels: usize,
    sum: impl Fn(usize, &mut P) -> S + Sync,
    decide: impl Fn(usize, &[S]) -> D + Sync,
    write: impl Fn(&mut P, &D) + Sync,
) -> Vec<D> {
    let per_block = pixels.div_ceil(PIECE);
    let blocks = pieces.len() / per_block;
    if blocks >= 2 * team.threads() {
        let mut decided: Vec<Option<D>> = (0..blocks).map(|_| None).collect();
        let parts = pieces.chunks_mut(per_block).zip(&mut decided).enumerate().collect();
        parallel::for_each(team, parts, |(block, (pieces, outcome)): (usize, (&mut [P], &mut Option<D>))| {
            let sums: Vec<S> = pieces.iter_mut().map(|piece| sum(block, piece)).collect();
            let decided = outcome.insert(decide(block, &sums));
            // In reverse order: the last pieces are still in the cache.
            pieces.iter_mut().rev().for_each(|piece| write(piece, decided));
        });
        return decided.into_iter().map(|outcome| outcome.expect("every block is processed")).collect();
    }
    let mut sums: Vec<Option<S>> = pieces.iter().map(|_| None).collect();
    let parts = pieces.iter_mut().zip(&mut sums).enumerate().collect();
    parallel::for_each(team, parts, |(index, (piece, place)): (usize, (&mut P, &mut Option<S>))| {
        *place = Some(sum(index / per_block, piece));
    });
    let sums: Vec<S> = sums.into_iter().map(|sum| sum.expect("every piece is processed")).collect();
    let decided: Vec<D> = sums.chunks(per_block).enumerate().map(|(block, sums)| decide(block, sums)).collect();
    let parts = pieces.iter_mut().enumerate().map(|(index, piece)| (piece, &decided[index / per_block])).collect();
    parallel::for_each(team, parts, |(piece, decided): (&mut P, &D)| write(piece, decided));
    decided
}
