//! The journal under power cuts: a toy engine of byte keys and byte values on a device as small as the format allows.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use crashsim::{
    BlockOp, Class, DiskImage, DiskProfile, Expected, Explorer, Gauge, Life, Mark, Operation, Options,
    Report, Run, Scenario, SimDisk, Trace, Value, Verdict as Found, Witness, Workload, barriers, replay,
};
use journal::{Access, Durable, Journal, JournalError, Limits, Opened, StoreId, Verdict};
use media::Geometry;

const STORE: StoreId = StoreId(*b"a toy store's id");

/// Keys and values in the order of their frames.
#[derive(Debug)]
struct Toy {
    journal: Journal<SimDisk>,
    map: BTreeMap<u8, u8>,
}

fn limits() -> Limits {
    Limits { frame_blocks_max: 2, in_flight_blocks_max: 4 }
}

impl Toy {
    fn open(disk: &SimDisk, access: Access) -> Result<(Self, journal::Report), JournalError> {
        let mut map = BTreeMap::new();
        let Opened { journal, report } = Journal::open(disk.clone(), access, &mut |frame| {
            map.extend(frame.body.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            Ok::<_, JournalError>(())
        })?;
        Ok((Self { journal, map }, report))
    }

    fn put(&mut self, pairs: &[(u8, u8)], padding: usize) -> Result<Durable, JournalError> {
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

    fn switch(&mut self) -> Result<Durable, JournalError> {
        self.journal.begin_copy()?;
        self.copy_all()?;
        self.journal.finish_copy()
    }

    fn copy_all(&mut self) -> Result<(), JournalError> {
        let body: Vec<u8> = self.map.iter().flat_map(|(&key, &value)| [key, value]).collect();
        self.journal.copy(&body)
    }
}

/// A script on the toy.
struct Script {
    name: &'static str,
    blocks: u64,
    run: fn(&SimDisk, &mut Toy) -> Result<(), JournalError>,
}

fn told(disk: &SimDisk, toy: &mut Toy, pairs: &[(u8, u8)], padding: usize) -> Result<(), JournalError> {
    let atom = pairs.iter().map(|&(key, value)| (cell(key), Some(Value::bytes(&[value])))).collect();
    disk.tell(Mark::Begin(Operation::new(format_args!("put {pairs:?}"), vec![atom])));
    let outcome = toy.put(pairs, padding);
    disk.tell(match &outcome {
        Ok(_) => Mark::Acknowledged,
        Err(_) => Mark::Failed(crashsim::Fate::Unknown),
    });
    outcome.map(drop)
}

/// What was read at a writable open is durable: it says so.
fn claim(disk: &SimDisk, toy: &Toy) {
    for (&key, &value) in &toy.map {
        disk.tell(Mark::Begin(Operation::one("read", cell(key), Some(Value::bytes(&[value])))));
        disk.tell(Mark::Acknowledged);
    }
}

/// The key of frames that are written only for their numbers.
const NUMBERED: u8 = 201;

/// Numbers for frames that no flush covers yet: nobody else may ever get the same. More than one, for the record of the next
/// open takes one as well.
fn hand_out(disk: &SimDisk, toy: &mut Toy, life: Life) -> Result<(), JournalError> {
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

fn cell(key: u8) -> crashsim::Cell {
    format!("{key}").into()
}

fn geometry(blocks: u64) -> Geometry {
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

const SCRIPTS: [Script; 10] = [
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
];

fn explore(script: &Script, profile: DiskProfile, options: &Options) -> Report {
    let recorded = Scenario::plain(script.name).record::<SimDisk>(script).unwrap();
    Explorer::default().explore::<SimDisk>(script, &recorded, profile, options, &Gauge::default())
}

#[test]
fn acknowledged_frames_survive_every_power_cut() {
    let options = Options { states_max: 2000, depth: 1, nested_states_max: 40, ..Options::default() };
    for script in &SCRIPTS {
        for profile in DiskProfile::ALL {
            let report = explore(script, profile, &options);
            println!(
                "{:<24} {:<18} points {:>3} visited {:>7} distinct {:>7} space {} {}",
                script.name,
                profile.name(),
                report.points,
                report.visited,
                report.distinct,
                report.space,
                if report.exhaustive { "all" } else { "sampled" }
            );
            if let Some(failure) = &report.failure {
                panic!("{}", replay::<SimDisk>(script, &failure.id).unwrap());
            }
        }
    }
}

/// Every flush of every script, taken away. Those that nobody misses are these, and no others.
#[test]
fn every_barrier_is_needed_or_has_a_reason() {
    let options = Options { states_max: 128, depth: 1, nested_states_max: 8, ..Options::default() };
    let mut needed: BTreeMap<&str, usize> = BTreeMap::new();
    let mut unnoticed: BTreeMap<&str, usize> = BTreeMap::new();
    for script in &SCRIPTS {
        let scenario = Scenario::plain(script.name);
        let recorded = scenario.record::<SimDisk>(script).unwrap();
        let purposes = purposes(&recorded.trace);
        let found = barriers::<SimDisk>(script, &scenario, DiskProfile::DEFAULT, &options);
        assert_eq!(found.len(), purposes.len());
        for (barrier, purpose) in found.into_iter().zip(purposes) {
            let list = if barrier.removed.is_some() { &mut needed } else { &mut unnoticed };
            *list.entry(purpose).or_default() += 1;
        }
    }
    println!("needed: {needed:?}\nunnoticed somewhere: {unnoticed:?}");
    let never: Vec<&str> = unnoticed.keys().filter(|what| !needed.contains_key(*what)).copied().collect();
    // The flush of an open has nothing to cover where nobody died before it; where somebody did, it counts as that of the
    // frame he left, and is needed.
    assert_eq!(never, ["open"]);
}

/// What each flush is for: what was written since the one before it.
fn purposes(trace: &Trace<BlockOp>) -> Vec<&'static str> {
    let mut since: Vec<Kind> = Vec::new();
    let mut writes = 0;
    let mut purposes = Vec::new();
    for op in trace.records().iter().filter_map(|record| record.op()) {
        match op {
            BlockOp::Write { at, bytes, .. } => {
                writes += 1;
                since.extend(bytes.chunks(512).next().and_then(|block| kind_of(*at, block)));
            }
            BlockOp::Flush { .. } => {
                purposes.push(match since.last() {
                    None => "open",
                    Some(Kind::Root) if writes == 1 => "slot written again",
                    Some(Kind::Root) => "root",
                    Some(Kind::Frame(journal::Kind::Header)) => "header",
                    Some(Kind::Frame(journal::Kind::Copied | journal::Kind::Closing)) => "closing",
                    Some(Kind::Frame(journal::Kind::Commit)) => "commit",
                    Some(Kind::Frame(journal::Kind::Seal)) => "seal",
                    Some(Kind::Frame(journal::Kind::Open)) => "record of an open",
                });
                since.clear();
                writes = 0;
            }
        }
    }
    purposes
}

enum Kind {
    Root,
    Frame(journal::Kind),
}

fn kind_of(at: media::BlockIndex, block: &[u8]) -> Option<Kind> {
    if block.starts_with(b"SFSUPER1") {
        return Some(Kind::Root);
    }
    let decoded = journal::frame::decode(block, STORE, at);
    decoded.ok().map(|(header, _)| Kind::Frame(header.kind))
}
