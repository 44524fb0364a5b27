//! Two sweeps over each lane of channels: one that sums, and one that writes what the sums decide.
//!
//! A lane is cut into pieces of one size, whatever the team, and its sum is made of theirs in their order; so the same numbers come out
//! on any number of threads. Where there are lanes enough, a thread does both sweeps of a lane, whose pixels are then still in its
//! cache when the second begins; else the pieces are shared out.

use super::{parts, simd::Lane, team::Team};

/// Pixels of a piece.
const PIECE: usize = 2048;

/// The pieces of all lanes of `pixels` pixels each.
pub(super) fn cut(batch: &[Lane], pixels: usize) -> impl Iterator<Item = &[Lane]> {
    batch.chunks(pixels).flat_map(|lane| lane.chunks(PIECE))
}

/// The same, to write.
pub(super) fn cut_mut(batch: &mut [Lane], pixels: usize) -> impl Iterator<Item = &mut [Lane]> {
    batch.chunks_mut(pixels).flat_map(|lane| lane.chunks_mut(PIECE))
}

/// Both sweeps over the pieces of lanes of `pixels` pixels each. `sum` makes the sum of a lane's piece, `decide` a lane's outcome of
/// its sums, and `write` uses it. Gives the outcomes.
pub(super) fn sweep<P: Send, S: Send, D: Send + Sync>(
    team: &Team,
    mut pieces: Vec<P>,
    pixels: usize,
    sum: impl Fn(usize, &mut P) -> S + Sync,
    decide: impl Fn(usize, &[S]) -> D + Sync,
    write: impl Fn(&mut P, &D) + Sync,
) -> Vec<D> {
    let in_lane = pixels.div_ceil(PIECE);
    let lanes = pieces.len() / in_lane;
    if lanes >= 2 * team.threads() {
        let mut decided: Vec<Option<D>> = (0..lanes).map(|_| None).collect();
        let parts = pieces.chunks_mut(in_lane).zip(&mut decided).enumerate().collect();
        parts::each(team, parts, |(lane, (pieces, outcome)): (usize, (&mut [P], &mut Option<D>))| {
            let sums: Vec<S> = pieces.iter_mut().map(|piece| sum(lane, piece)).collect();
            let decided = outcome.insert(decide(lane, &sums));
            // Backwards: what was read last is what the cache still has.
            pieces.iter_mut().rev().for_each(|piece| write(piece, decided));
        });
        return decided.into_iter().map(|outcome| outcome.expect("each lane was swept")).collect();
    }
    let mut sums: Vec<Option<S>> = pieces.iter().map(|_| None).collect();
    let parts = pieces.iter_mut().zip(&mut sums).enumerate().collect();
    parts::each(team, parts, |(index, (piece, place)): (usize, (&mut P, &mut Option<S>))| {
        *place = Some(sum(index / in_lane, piece));
    });
    let sums: Vec<S> = sums.into_iter().map(|sum| sum.expect("each piece was summed")).collect();
    let decided: Vec<D> = sums.chunks(in_lane).enumerate().map(|(lane, sums)| decide(lane, sums)).collect();
    let parts = pieces.iter_mut().enumerate().map(|(index, piece)| (piece, &decided[index / in_lane])).collect();
    parts::each(team, parts, |(piece, decided): (&mut P, &D)| write(piece, decided));
    decided
}
