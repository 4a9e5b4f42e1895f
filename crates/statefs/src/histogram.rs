//! [`Histogram`]: how often a number was how large.

/// Counts numbers by their size, in powers of two. It does not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    max: u64,
}

/// Up to 2^31, and one for all that is more.
const BUCKETS: usize = 32;

impl Histogram {
    pub(crate) fn record(&mut self, number: u64) {
        if let Some(bucket) = self.buckets.get_mut(bucket_of(number)) {
            *bucket = bucket.saturating_add(1);
        }
        self.max = self.max.max(number);
    }

    /// How many numbers were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The greatest of them; 0, if there was none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// A number that at least `percent` of those counted do not exceed, no more than twice too great; 0, if there was none.
    #[must_use]
    pub fn percentile(&self, percent: u8) -> u64 {
        let wanted = self.count().saturating_mul(u64::from(percent.min(100))).div_ceil(100).max(1);
        let mut seen = 0_u64;
        for (upper, count) in self.buckets() {
            seen = seen.saturating_add(count);
            if seen >= wanted {
                return upper.min(self.max);
            }
        }
        self.max
    }

    /// The buckets in use: the greatest number that falls into it, and how many did.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let upper = |bucket: usize| match bucket {
            0 => 0,
            _ if bucket == BUCKETS - 1 => u64::MAX,
            bucket => (1_u64 << bucket) - 1,
        };
        self.buckets
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(move |(b, count)| (upper(b), *count))
    }
}

/// 0; 1; 2 and 3; 4 to 7; ...
fn bucket_of(number: u64) -> usize {
    usize::try_from(u64::BITS - number.leading_zeros()).map_or(BUCKETS - 1, |bits| bits.min(BUCKETS - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn numbers_are_counted_by_powers_of_two() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.count(), histogram.max(), histogram.percentile(50)), (0, 0, 0));
        for number in [0, 1, 2, 3, 4, 7, 8, u64::MAX] {
            histogram.record(number);
        }
        let buckets: Vec<_> = histogram.buckets().collect();
        assert_eq!(buckets, [(0, 1), (1, 1), (3, 2), (7, 2), (15, 1), (u64::MAX, 1)]);
        assert_eq!((histogram.count(), histogram.max()), (8, u64::MAX));
        assert_eq!([0, 25, 50, 75, 100].map(|p| histogram.percentile(p)), [0, 1, 3, 7, u64::MAX]);
    }

    #[test]
    fn a_percentile_is_never_more_than_the_greatest() {
        let mut histogram = Histogram::default();
        histogram.record(5);
        assert_eq!(histogram.percentile(99), 5);
    }
}
