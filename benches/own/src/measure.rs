//! Alternating slices: A B, B A, A B, … so that a machine that becomes slower does so for both.

use std::io;
use std::time::{Duration, Instant};

/// How many short operations are measured in a row before the other contender has its turn. (Of long ones, one.)
pub(crate) const SLICE: u32 = 5;

/// One side of a comparison.
pub(crate) struct Contender<'a> {
    /// One operation, of the given number; this is what is timed.
    pub(crate) run: Box<dyn FnMut(u64) -> io::Result<()> + 'a>,
    /// After each slice, not timed: removes what the operations left.
    pub(crate) tidy: Box<dyn FnMut() -> io::Result<()> + 'a>,
    /// How many operations a slice has.
    slice: u32,
}

impl<'a> Contender<'a> {
    /// One that leaves nothing.
    pub(crate) fn new(run: impl FnMut(u64) -> io::Result<()> + 'a) -> Self {
        Self { run: Box::new(run), tidy: Box::new(|| Ok(())), slice: SLICE }
    }

    /// The same, one operation a slice: for those that take long enough by themselves.
    pub(crate) fn one_by_one(mut self) -> Self {
        self.slice = 1;
        self
    }

    /// The same, with something to remove after each slice.
    pub(crate) fn tidied(mut self, tidy: impl FnMut() -> io::Result<()> + 'a) -> Self {
        self.tidy = Box::new(tidy);
        self
    }
}

/// How long operations took.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    sorted: Vec<Duration>,
    slice_medians: Vec<Duration>,
}

impl Samples {
    fn add_slice(&mut self, mut slice: Vec<Duration>) {
        slice.sort_unstable();
        self.slice_medians.push(quantile(&slice, 50));
        self.sorted.extend(slice);
        self.sorted.sort_unstable();
    }

    pub(crate) fn median(&self) -> Duration {
        quantile(&self.sorted, 50)
    }

    pub(crate) fn p99(&self) -> Duration {
        quantile(&self.sorted, 99)
    }

    /// The quartiles of `self / other`, slice by slice: how steady a ratio of medians is.
    pub(crate) fn ratio_quartiles(&self, other: &Self) -> (f64, f64) {
        let pairs = self.slice_medians.iter().zip(&other.slice_medians);
        let mut ratios: Vec<f64> =
            pairs.map(|(mine, theirs)| mine.as_secs_f64() / theirs.as_secs_f64()).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let at = |percent: usize| ratios.get(ratios.len() * percent / 100).copied().unwrap_or(f64::NAN);
        (at(25), at(75))
    }
}

fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get(sorted.len() * percent / 100).or(sorted.last()).copied().unwrap_or(Duration::ZERO)
}

/// Measures both, `rounds` slices each, after one slice each that does not count.
pub(crate) fn alternate(
    rounds: u32,
    mut a: Contender<'_>,
    mut b: Contender<'_>,
) -> io::Result<(Samples, Samples)> {
    let (mut of_a, mut of_b) = (Samples::default(), Samples::default());
    for round in 0..=rounds {
        let number = u64::from(round) * u64::from(SLICE);
        let (slice_a, slice_b) = if round % 2 == 0 {
            let first = slice(&mut a, number)?;
            (first, slice(&mut b, number)?)
        } else {
            let first = slice(&mut b, number)?;
            (slice(&mut a, number)?, first)
        };
        if round > 0 {
            of_a.add_slice(slice_a);
            of_b.add_slice(slice_b);
        }
    }
    Ok((of_a, of_b))
}

fn slice(contender: &mut Contender<'_>, first: u64) -> io::Result<Vec<Duration>> {
    let mut took = Vec::new();
    for number in first..first + u64::from(contender.slice) {
        let start = Instant::now();
        (contender.run)(number)?;
        took.push(start.elapsed());
    }
    (contender.tidy)()?;
    Ok(took)
}

/// Measures one thing alone: `prepare` is not timed, what it returns is.
pub(crate) fn alone<T>(
    rounds: u32,
    mut prepare: impl FnMut(u64) -> io::Result<T>,
    mut run: impl FnMut(T) -> io::Result<()>,
) -> io::Result<Samples> {
    let mut samples = Samples::default();
    for round in 0..=rounds {
        let mut took = Vec::new();
        for number in 0..u64::from(SLICE) {
            let ready = prepare(u64::from(round) * u64::from(SLICE) + number)?;
            let start = Instant::now();
            run(ready)?;
            took.push(start.elapsed());
        }
        if round > 0 {
            samples.add_slice(took);
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn contenders_take_turns_and_the_first_slices_do_not_count() {
        let order = RefCell::new(String::new());
        let contender = |name: char| {
            let order = &order;
            Contender::new(move |_| {
                order.borrow_mut().push(name);
                Ok(())
            })
        };
        let (a, b) = alternate(3, contender('a'), contender('b')).unwrap();
        let mut turns = order.borrow().clone().into_bytes();
        turns.dedup();
        assert_eq!(turns, b"ababa", "a b, b a, a b, b a: {turns:?}");
        let counted = usize::try_from(3 * SLICE).unwrap();
        assert_eq!((a.sorted.len(), b.sorted.len()), (counted, counted));
    }

    #[test]
    fn quantiles_are_of_the_whole_and_ratios_of_the_slices() {
        let of = |slices: &[&[u64]]| {
            let mut samples = Samples::default();
            for slice in slices {
                samples.add_slice(slice.iter().copied().map(Duration::from_millis).collect());
            }
            samples
        };
        let ours = of(&[&[3, 1, 2], &[30, 10, 20]]);
        let raw = of(&[&[2, 2, 2], &[10, 10, 10]]);
        assert_eq!(ours.median(), Duration::from_millis(10));
        assert_eq!(ours.p99(), Duration::from_millis(30));
        assert_eq!(ours.ratio_quartiles(&raw), (1.0, 2.0));
        assert_eq!(Samples::default().median(), Duration::ZERO);
    }
}
