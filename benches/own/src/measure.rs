//! Alternating slices: A B, B A, A B, … so that a machine that becomes slower does so for both.

use std::io;
use std::time::{Duration, Instant};

/// How many short operations are measured in a row before the other contender has its turn. (Of long ones, one.)
pub const SLICE: u32 = 5;

/// What a slice took that times itself.
#[derive(Debug)]
pub struct Took {
    /// Each operation, as its caller saw it.
    pub each: Vec<Duration>,
    /// All of it, with what is paid in common, or later.
    pub all: Duration,
}

/// One side of a comparison.
pub struct Contender<'a> {
    run: Run<'a>,
    /// After each slice, not timed: removes what the operations left.
    tidy: Box<dyn FnMut() -> io::Result<()> + 'a>,
}

enum Run<'a> {
    /// One operation, of the given number; this is what is timed. A slice has so many.
    Each(Box<dyn FnMut(u64) -> io::Result<()> + 'a>, u32),
    /// A slice, which begins with the operation of the given number.
    Slice(Box<dyn FnMut(u64) -> io::Result<Took> + 'a>),
}

impl<'a> Contender<'a> {
    /// One that leaves nothing.
    pub fn new(run: impl FnMut(u64) -> io::Result<()> + 'a) -> Self {
        Self { run: Run::Each(Box::new(run), SLICE), tidy: Box::new(|| Ok(())) }
    }

    /// One whose slices time themselves: where operations run side by side, or leave something to be paid at the end. They
    /// are compared by what a whole slice took.
    pub fn of_slices(slice: impl FnMut(u64) -> io::Result<Took> + 'a) -> Self {
        Self { run: Run::Slice(Box::new(slice)), tidy: Box::new(|| Ok(())) }
    }

    /// The same, one operation a slice: for those that take long enough by themselves.
    #[must_use]
    pub fn one_by_one(mut self) -> Self {
        if let Run::Each(_, count) = &mut self.run {
            *count = 1;
        }
        self
    }

    /// The same, with something to remove after each slice.
    #[must_use]
    pub fn tidied(mut self, tidy: impl FnMut() -> io::Result<()> + 'a) -> Self {
        self.tidy = Box::new(tidy);
        self
    }
}

/// How long operations took.
#[derive(Debug, Default)]
pub struct Samples {
    sorted: Vec<Duration>,
    /// What an operation took, slice by slice: half of them more, half of them less; or its share in the whole.
    slices: Vec<Duration>,
    has_shares: bool,
}

impl Samples {
    /// Adds one that was measured alone.
    pub fn add(&mut self, took: Duration) {
        self.add_slice(vec![took]);
    }

    fn add_slice(&mut self, mut slice: Vec<Duration>) {
        slice.sort_unstable();
        self.slices.push(quantile(&slice, 50));
        self.add_all(slice);
    }

    fn add_whole(&mut self, took: Took) {
        self.has_shares = true;
        self.slices.push(took.all / u32::try_from(took.each.len().max(1)).unwrap_or(u32::MAX));
        self.add_all(took.each);
    }

    fn add_all(&mut self, slice: Vec<Duration>) {
        self.sorted.extend(slice);
        self.sorted.sort_unstable();
    }

    /// Half of the operations took longer.
    #[must_use]
    pub fn median(&self) -> Duration {
        quantile(&self.sorted, 50)
    }

    /// One in a hundred took longer.
    #[must_use]
    pub fn p99(&self) -> Duration {
        quantile(&self.sorted, 99)
    }

    /// What one is compared by: the median of the operations, or of their shares in whole slices.
    #[must_use]
    pub fn typical(&self) -> Duration {
        if !self.has_shares {
            return self.median();
        }
        let mut shares = self.slices.clone();
        shares.sort_unstable();
        quantile(&shares, 50)
    }

    /// The quartiles of `self / other`, slice by slice: how steady a ratio of medians is.
    #[must_use]
    pub fn ratio_quartiles(&self, other: &Self) -> (f64, f64) {
        let pairs = self.slices.iter().zip(&other.slices);
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
///
/// # Errors
/// Of either.
pub fn alternate(rounds: u32, mut a: Contender<'_>, mut b: Contender<'_>) -> io::Result<(Samples, Samples)> {
    let (mut of_a, mut of_b) = (Samples::default(), Samples::default());
    for round in 0..=rounds {
        let number = u64::from(round) * u64::from(SLICE);
        // The first slices do not count.
        let (mut first_a, mut first_b) = (Samples::default(), Samples::default());
        let (into_a, into_b) = if round > 0 { (&mut of_a, &mut of_b) } else { (&mut first_a, &mut first_b) };
        if round % 2 == 0 {
            slice(&mut a, number, into_a)?;
            slice(&mut b, number, into_b)?;
        } else {
            slice(&mut b, number, into_b)?;
            slice(&mut a, number, into_a)?;
        }
    }
    Ok((of_a, of_b))
}

fn slice(contender: &mut Contender<'_>, first: u64, into: &mut Samples) -> io::Result<()> {
    match &mut contender.run {
        Run::Each(run, count) => {
            let mut took = Vec::new();
            for number in first..first + u64::from(*count) {
                let start = Instant::now();
                run(number)?;
                took.push(start.elapsed());
            }
            into.add_slice(took);
        }
        Run::Slice(slice) => into.add_whole(slice(first)?),
    }
    (contender.tidy)()
}

/// Measures one thing alone: `prepare` is not timed, what it returns is.
///
/// # Errors
/// Of it.
pub fn alone<T>(
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
        assert_eq!(
            (ours.typical(), Samples::default().median()),
            (Duration::from_millis(10), Duration::ZERO)
        );
    }

    /// What is paid at the end of a slice belongs to each of its operations.
    #[test]
    fn a_slice_that_times_itself_is_compared_by_the_whole() {
        let millis = Duration::from_millis;
        let slow = |_| Ok(Took { each: vec![millis(1); 9], all: millis(90) });
        let fast = |_| Ok(Took { each: vec![millis(2); 9], all: millis(18) });
        let (slow, fast) = alternate(2, Contender::of_slices(slow), Contender::of_slices(fast)).unwrap();
        assert_eq!((slow.median(), slow.typical(), fast.typical()), (millis(1), millis(10), millis(2)));
        assert_eq!((slow.ratio_quartiles(&fast), slow.sorted.len()), ((5.0, 5.0), 18));
    }
}
