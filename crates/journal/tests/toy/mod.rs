//! A toy engine of byte keys and byte values on devices as small as the format allows, and scripts for it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use crashsim::{
    Class, DiskImage, DiskProfile, Expected, Explorer, Gauge, Life, Mark, Operation, Options, Report, Run,
    Scenario, SimDisk, Value, Verdict as Found, Witness, Workload,
};
use journal::{Access, Durable, Format, Journal, JournalError, Limits, Opened, Owner, StoreId, Verdict};
use media::Geometry;

pub(crate) const STORE: StoreId = StoreId(*b"a toy store's id");

/// Whose the blocks are.
pub(crate) fn owner() -> Owner {
    Owner::of(STORE, Format::LATEST)
}

/// Keys and values in the order of their frames.
#[derive(Debug)]
pub(crate) struct Toy {
    pub(crate) journal: Journal<SimDisk>,
    pub(crate) map: BTreeMap<u8, u8>,
}

pub(crate) fn limits() -> Limits {
    Limits { frame_blocks_max: 2, in_flight_blocks_max: 4 }
}

impl Toy {
    pub(crate) fn open(disk: &SimDisk, access: Access) -> Result<(Self, journal::Report), JournalError> {
        let mut map = BTreeMap::new();
        let Opened { journal, report } = Journal::open(disk.clone(), access, &mut |frame| {
            map.extend(frame.body.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            Ok::<_, JournalError>(())
        })?;
        Ok((Self { journal, map }, report))
    }

    pub(crate) fn put(&mut self, pairs: &[(u8, u8)], padding: usize) -> Result<Durable, JournalError> {
        let mut body: Vec<u8> = pairs.iter().flat_map(|&(key, value)| [key, value]).collect();
        // The same pair again, to fill more than one block.
        let last = body[body.len() - 2..].to_vec();
        for _ in 0..padding {
            body.extend_from_slice(&last);
        }
        let durable = match self.journal.commit(&body) {
            Err(JournalError::Full { .. }) => {
                let _switched = self.switch()?;
                self.journal.commit(&body)?
            }
            outcome => outcome?,
        };
        self.map.extend(pairs.iter().copied());
        Ok(durable)
    }

    pub(crate) fn switch(&mut self) -> Result<Durable, JournalError> {
        self.journal.begin_copy()?;
        self.copy_all()?;
        self.journal.finish_copy()
    }

    pub(crate) fn copy_all(&mut self) -> Result<(), JournalError> {
        let body: Vec<u8> = self.map.iter().flat_map(|(&key, &value)| [key, value]).collect();
        self.journal.copy(&body)
    }
}

/// A script on the toy.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) blocks: u64,
    pub(crate) run: fn(&SimDisk, &mut Toy) -> Result<(), JournalError>,
}

pub(crate) fn told(
    disk: &SimDisk,
    toy: &mut Toy,
    pairs: &[(u8, u8)],
    padding: usize,
) -> Result<(), JournalError> {
    let atom = pairs.iter().map(|&(key, value)| (cell(key), Some(Value::bytes(&[value])))).collect();
    disk.tell(Mark::Begin(Operation::new(format_args!("put {pairs:?}"), vec![atom])));
    let outcome = toy.put(pairs, padding);
    disk.tell(match &outcome {
        Ok(_) => Mark::Acknowledged,
        Err(_) => Mark::Failed(crashsim::Fate::Unknown),
    });
    outcome.map(drop)
}

/// What was read at a writable open is durable, and what was not there has been discarded for good: it says so.
pub(crate) fn claim(disk: &SimDisk, toy: &Toy) {
    for key in KEYS {
        let value = toy.map.get(&key).map(|&value| Value::bytes(&[value]));
        disk.tell(Mark::Begin(Operation::one("read", cell(key), value)));
        disk.tell(Mark::Acknowledged);
    }
}

/// The keys of scripts.
const KEYS: std::ops::RangeInclusive<u8> = 1..=6;

/// The key of frames that are written only for their numbers.
pub(crate) const NUMBERED: u8 = 201;

/// Numbers for frames that no flush covers yet: nobody else may ever get the same. More than one, for the record of the next
/// open takes one as well.
pub(crate) fn hand_out(disk: &SimDisk, toy: &mut Toy, life: Life) -> Result<(), JournalError> {
    for _ in 0..3 {
        let seq = match toy.journal.write(&[NUMBERED, 1]) {
            Err(JournalError::Full { .. }) => return Ok(()),
            outcome => outcome?,
        };
        let holder = Some(Value::with_facts(b"", life.process));
        disk.tell(Mark::Begin(Operation::one("hand out a number", format!("seq {seq}"), holder)));
        disk.tell(Mark::Visible);
    }
    Ok(())
}

pub(crate) fn cell(key: u8) -> crashsim::Cell {
    format!("{key}").into()
}

pub(crate) fn geometry(blocks: u64) -> Geometry {
    Geometry::new(512, blocks).unwrap().with_torn_blocks()
}

impl Workload<SimDisk> for Script {
    fn name(&self) -> &str {
        self.name
    }

    fn start(&self) -> (DiskImage, Expected) {
        let disk = SimDisk::new(geometry(self.blocks));
        drop(Journal::format(disk.clone(), STORE, limits(), b"toy").unwrap());
        (disk.image(), Expected::default())
    }

    fn run(&self, disk: &SimDisk, _run: &Run) {
        if let Ok((mut toy, _)) = Toy::open(disk, Access::Write) {
            drop((self.run)(disk, &mut toy));
        }
    }

    fn recover(&self, disk: &SimDisk, life: Life) -> Result<(), String> {
        let (mut toy, report) = Toy::open(disk, Access::Write).map_err(|error| error.to_string())?;
        if let Verdict::Damaged { .. } = report.verdict {
            return Err(format!("a power cut is taken for damage: {report:?}"));
        }
        claim(disk, &toy);
        if self.name == "an attempt cut short" {
            let _switched = toy.switch().map_err(|error| error.to_string())?;
        }
        hand_out(disk, &mut toy, life).map_err(|error| error.to_string())?;
        // Life goes on: what is committed now must survive what follows.
        if life.boot < 3 {
            told(disk, &mut toy, &[(200, 1)], 0).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn check(&self, disk: &SimDisk, _life: Life, expected: &Expected) -> Found {
        let twice = |cell: &crashsim::Cell| expected.allowed(cell).iter().flatten().count() > 1;
        if let Some(cell) = expected.cells().find(|cell| cell.starts_with("seq") && twice(cell)) {
            return Found::broken(Class::Mix, format!("{cell} was handed out twice"));
        }
        match Toy::open(disk, Access::Read) {
            Err(error) => Found::broken(Class::CannotOpen, error.to_string()),
            Ok((toy, _)) => expected.judge(|cell| {
                let key: u8 = cell.parse().ok()?;
                toy.map.get(&key).map(|&value| Value::bytes(&[value]))
            }),
        }
    }

    /// A journal says of every start that there was one: what counts is what it holds.
    fn is_same(&self, first: &SimDisk, second: &SimDisk) -> bool {
        let map = |disk| {
            let (mut toy, _) = Toy::open(disk, Access::Read).ok()?;
            // Nobody was promised what only took a number.
            toy.map.remove(&NUMBERED);
            Some(toy.map)
        };
        map(first) == map(second)
    }
}

/// A script that starts on another image than that of a disk fresh from the factory.
pub(crate) struct On<'s> {
    pub(crate) script: &'s Script,
    pub(crate) image: DiskImage,
    pub(crate) expected: Expected,
}

impl Workload<SimDisk> for On<'_> {
    fn name(&self) -> &str {
        self.script.name
    }

    fn start(&self) -> (DiskImage, Expected) {
        (self.image.clone(), self.expected.clone())
    }

    fn run(&self, disk: &SimDisk, run: &Run) {
        self.script.run(disk, run);
    }

    fn recover(&self, disk: &SimDisk, life: Life) -> Result<(), String> {
        self.script.recover(disk, life)
    }

    fn check(&self, disk: &SimDisk, life: Life, expected: &Expected) -> Found {
        self.script.check(disk, life, expected)
    }

    fn is_same(&self, first: &SimDisk, second: &SimDisk) -> bool {
        self.script.is_same(first, second)
    }
}

pub(crate) const SCRIPTS: [Script; 12] = [
    Script {
        name: "commit",
        blocks: 24,
        run: |disk, toy| {
            told(disk, toy, &[(1, 1)], 0)?;
            told(disk, toy, &[(1, 2), (2, 2)], 0)
        },
    },
    Script {
        name: "frame of two blocks",
        blocks: 24,
        run: |disk, toy| {
            told(disk, toy, &[(1, 1), (2, 1)], 300)?;
            told(disk, toy, &[(1, 2), (2, 2)], 300)
        },
    },
    Script {
        name: "seal and close",
        blocks: 24,
        run: |disk, toy| {
            told(disk, toy, &[(1, 1)], 0)?;
            toy.journal.seal()?;
            told(disk, toy, &[(1, 2)], 0)
        },
    },
    Script {
        name: "switch",
        blocks: 24,
        run: |disk, toy| {
            told(disk, toy, &[(1, 1)], 0)?;
            let _switched = toy.switch()?;
            told(disk, toy, &[(1, 2)], 0)
        },
    },
    Script {
        name: "commits during a copy",
        blocks: 32,
        run: |disk, toy| {
            told(disk, toy, &[(1, 1)], 0)?;
            toy.journal.begin_copy()?;
            told(disk, toy, &[(2, 1)], 0)?;
            toy.map.remove(&2);
            toy.copy_all()?;
            told(disk, toy, &[(1, 2)], 0)?;
            let _switched = toy.journal.finish_copy()?;
            told(disk, toy, &[(3, 1)], 0)
        },
    },
    Script {
        name: "a start after a death",
        blocks: 24,
        run: |disk, toy| {
            told(disk, toy, &[(1, 1)], 0)?;
            // Written, and the process dies before the flush.
            disk.tell(Mark::Begin(Operation::one("put 2", cell(2), Some(Value::bytes(&[1])))));
            toy.journal.write(&[2, 1])?;
            disk.tell(Mark::Failed(crashsim::Fate::Unknown));
            let (mut next, _) = Toy::open(disk, Access::Write)?;
            claim(disk, &next);
            hand_out(disk, &mut next, Life::default().restarted())?;
            told(disk, &mut next, &[(1, 2)], 0)
        },
    },
    Script {
        name: "closed, opened, switched",
        blocks: 24,
        run: |disk, toy| {
            told(disk, toy, &[(1, 1), (2, 1)], 0)?;
            toy.journal.seal_for_good()?;
            let (mut next, _) = Toy::open(disk, Access::Write)?;
            let _switched = next.switch()?;
            told(disk, &mut next, &[(1, 2)], 0)
        },
    },
    Script {
        name: "a copy given up",
        blocks: 32,
        run: |disk, toy| {
            told(disk, toy, &[(1, 1)], 0)?;
            toy.journal.begin_copy()?;
            toy.copy_all()?;
            told(disk, toy, &[(1, 2)], 0)?;
            let _switched = toy.switch()?;
            let _again = toy.switch()?;
            told(disk, toy, &[(1, 3)], 0)
        },
    },
    Script {
        name: "an attempt cut short",
        blocks: 44,
        run: |disk, toy| {
            told(disk, toy, &[(1, 1)], 0)?;
            let _there = toy.switch()?;
            let _and_back = toy.switch()?;
            toy.journal.seal_for_good()?;
            // Nothing but the copy says that there was this start.
            let (mut next, _) = Toy::open(disk, Access::Write)?;
            next.journal.begin_copy()?;
            for _ in 0..12 {
                next.copy_all()?;
            }
            Ok(())
        },
    },
    Script {
        name: "full, twice around",
        blocks: 22,
        run: |disk, toy| {
            for value in 1..6 {
                told(disk, toy, &[(1, value)], 0)?;
            }
            Ok(())
        },
    },
    Script {
        name: "later commits in pieces",
        blocks: 36,
        run: |disk, toy| {
            toy.journal.begin_copy()?;
            toy.copy_all()?;
            told(disk, toy, &[(1, 1)], 0)?;
            told(disk, toy, &[(2, 1)], 0)?;
            let false = toy.journal.copy_later(1)? else { return Ok(()) };
            told(disk, toy, &[(1, 2)], 0)?;
            let _switched = toy.journal.finish_copy()?;
            told(disk, toy, &[(3, 1)], 0)
        },
    },
    Script {
        name: "later commits do not fit",
        blocks: 24,
        run: |disk, toy| {
            toy.journal.begin_copy()?;
            toy.copy_all()?;
            told(disk, toy, &[(1, 1)], 0)?;
            toy.journal.copy_later(1)?;
            while toy.journal.is_copying() {
                told(disk, toy, &[(1, 2)], 0)?;
                if let Err(error) = toy.journal.copy(&[]).and_then(|()| toy.journal.copy_later(1).map(drop)) {
                    drop(error);
                }
            }
            told(disk, toy, &[(1, 3)], 0)
        },
    },
];

/// What came of every state that a script may leave.
pub(crate) fn explore(workload: &dyn Workload<SimDisk>, profile: DiskProfile, options: &Options) -> Report {
    let recorded = Scenario::plain(workload.name()).record::<SimDisk>(workload).unwrap();
    Explorer::default().explore::<SimDisk>(workload, &recorded, profile, options, &Gauge::default())
}
