//! Things that belong together, found pair by pair.

/// Groups of the numbers from 0: each is alone until it is joined with others.
#[derive(Clone, Debug)]
pub struct DisjointSet {
    /// Leads to the first of its group.
    leader: Vec<usize>,
}

impl DisjointSet {
    /// So many numbers, each alone.
    pub fn new(count: usize) -> Self {
        Self { leader: (0..count).collect() }
    }

    /// The lowest number of the group.
    pub fn find(&mut self, mut at: usize) -> usize {
        while self.leader[at] != at {
            self.leader[at] = self.leader[self.leader[at]];
            at = self.leader[at];
        }
        at
    }

    /// Makes one group of the two.
    pub fn union(&mut self, one: usize, other: usize) {
        let (one, other) = (self.find(one), self.find(other));
        self.leader[one.max(other)] = one.min(other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_joined_through_others_has_the_same_first() {
        let mut groups = DisjointSet::new(6);
        for (one, other) in [(4, 2), (5, 4), (1, 3), (2, 2)] {
            groups.union(one, other);
        }
        let first: Vec<usize> = (0..6).map(|at| groups.find(at)).collect();
        assert_eq!(first, [0, 1, 2, 1, 2, 2]);
    }
}
