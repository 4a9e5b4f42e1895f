//! Operations by chance, on devices that are nearly always full.

use crashsim::{DiskImage, Expected, Life, Random, Run, SimDisk, Verdict as Found, Workload};

use super::{
    Cache, Ended, Outcome, Told, check, geometry, holds_the_same, one_key, put_and_delete, recover, started,
};
use crate::CaseOn;

const OPERATIONS: u32 = 25;

const KEYS: [&str; 4] = ["/state/a", "/state/b", "/state/c", "/state/d"];

struct ByChance {
    name: &'static str,
    about: &'static str,
    blocks: u64,
}

pub(super) fn cases() -> impl Iterator<Item = Box<dyn CaseOn<SimDisk>>> {
    let cases = [
        ByChance {
            name: "state-mixed",
            about: "operations of the store drawn by chance, with starts in between",
            blocks: 40,
        },
        ByChance {
            name: "state-mixed-full",
            about: "operations drawn by chance on a device that is nearly always full",
            blocks: 30,
        },
    ];
    cases.into_iter().map(|case| -> Box<dyn CaseOn<SimDisk>> { Box::new(case) })
}

fn carry_out(told: &mut Told<'_>, random: &mut Random, nth: u32) -> Outcome {
    let (first, second) = (one_of(&KEYS, random), one_of(&KEYS, random));
    let value = vec![u8::try_from(nth).unwrap_or(u8::MAX); one_of(&[3, 60, 350, 650], random)];
    match random.below(12) {
        0..=2 => told.put(first, &value),
        3 | 4 => told.put_buffered(first, &value),
        5 => told.delete(first),
        6 if first != second => told.batch(&[(first, Some(&value)), (second, None)]),
        6 | 7 => told.swap(first, &value),
        8 => told.sync(),
        9 | 10 => told.store.compact_step().map(drop).map_err(Ended::from),
        _ => told.reopen(),
    }
}

fn one_of<T: Copy + Default>(all: &[T], random: &mut Random) -> T {
    let count = u32::try_from(all.len()).unwrap_or(0);
    let drawn = usize::try_from(random.below(count)).unwrap_or(0);
    all.get(drawn).copied().unwrap_or_default()
}

impl CaseOn<SimDisk> for ByChance {
    fn about(&self) -> &str {
        self.about
    }
}

impl Workload<SimDisk> for ByChance {
    fn name(&self) -> &str {
        self.name
    }

    fn start(&self) -> (DiskImage, Expected) {
        let geometry = geometry(self.blocks);
        started(geometry, one_key(geometry))
    }

    fn run(&self, disk: &SimDisk, run: &Run) {
        let Ok(mut told) = Told::open(disk) else { return };
        let mut random = Random::new(run.seed);
        for nth in 0..OPERATIONS {
            // Drawn whether it is left out or not, so that the others stay what they are.
            let mut of_this = Random::new(random.next_u64());
            if run.skip.contains(&nth) {
                continue;
            }
            match carry_out(&mut told, &mut of_this, nth) {
                Err(ended) if !ended.is_no_space() => return,
                Ok(()) | Err(_) => {}
            }
        }
    }

    fn recover(&self, disk: &SimDisk, life: Life) -> Result<(), String> {
        recover(disk, life, Cache::Honest, put_and_delete)
    }

    fn check(&self, disk: &SimDisk, life: Life, expected: &Expected) -> Found {
        check(disk, life, Cache::Honest, expected)
    }

    fn is_same(&self, first: &SimDisk, second: &SimDisk) -> bool {
        holds_the_same(first, second)
    }

    fn operations(&self, _seed: u64) -> u32 {
        OPERATIONS
    }
}
