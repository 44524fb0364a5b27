//! Disjoint-set (union-find) data structure.

/// Partition of the numbers `0..count` into disjoint sets, built by unions. The representative of a set is its smallest member.
#[derive(Clone, Debug)]
pub struct DisjointSet {
    /// Parent of each number; representatives are their own parent.
    parent: Vec<usize>,
}

impl DisjointSet {
    /// The partition of `0..count` into sets of one.
    pub fn new(count: usize) -> Self {
        Self { parent: (0..count).collect() }
    }

    /// The representative of the set that contains `at`, with path halving.
    pub fn find(&mut self, mut at: usize) -> usize {
        while self.parent[at] != at {
            self.parent[at] = self.parent[self.parent[at]];
            at = self.parent[at];
        }
        at
    }

    /// Unites the sets of the two numbers.
    pub fn union(&mut self, one: usize, other: usize) {
        let (one, other) = (self.find(one), self.find(other));
        self.parent[one.max(other)] = one.min(other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_united_sets_share_the_smallest_as_representative() {
        let mut sets = DisjointSet::new(6);
        for (one, other) in [(4, 2), (5, 4), (1, 3), (2, 2)] {
            sets.union(one, other);
        }
        let representatives: Vec<usize> = (0..6).map(|at| sets.find(at)).collect();
        assert_eq!(representatives, [0, 1, 2, 1, 2, 2]);
    }
}
