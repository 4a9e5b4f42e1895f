//! Canaries on a disk: the classic mistakes of engines on block devices. The simulator must find each of them.
//!
//! All but one are written against the seam of [`media`], not against an engine of ours: an engine would not let them
//! happen.

use crashsim::{
    Class, DiskImage, Expected, Life, Mark, Operation, Recording, Run, SimDisk, Value, Verdict, Witness as _,
    Workload,
};
use media::{BlockDevice, BlockIndex, DeviceError, Geometry};
use statefs::{Access, Key, Store};

use crate::CaseOn;
use crate::state::{blocks_of, geometry, options};

/// A mistake, and what it leads to.
pub struct DiskCanary {
    name: &'static str,
    about: &'static str,
    geometry: Geometry,
    value_len: usize,
    prepare: fn(&SimDisk) -> Done,
    run: fn(&SimDisk) -> Done,
    look: fn(&SimDisk) -> Option<Value>,
    /// The broken promises that each profile must show: all of them, and no others.
    finds: [(&'static str, &'static [Class]); 3],
}

type Done = Result<(), Box<dyn std::error::Error>>;

const CELL: &str = "/state/a";
const OLD: u8 = b'o';
const NEW: u8 = b'n';

const NONE: &[Class] = &[];
const LOST: &[Class] = &[Class::Lost];
const MIX: &[Class] = &[Class::Mix];

/// Blocks of two sectors, that break in two.
const TWO_SECTORS: Geometry = blocks_of(1024, 4);
const BLOCK_LEN: usize = 1024;
/// Of a value that fits into a frame.
const SHORT_LEN: usize = 200;

impl DiskCanary {
    /// What the profile of this name must find; [`None`] for a profile the canary says nothing about.
    #[must_use]
    pub fn finds(&self, profile: &str) -> Option<&'static [Class]> {
        self.finds.iter().find(|(name, _)| *name == profile).map(|(_, classes)| *classes)
    }
}

/// Everything the simulator must find on a disk.
#[must_use]
pub fn disk_canaries() -> Vec<DiskCanary> {
    let all = |torn, subset, prefix| {
        [("any-subset-torn", torn), ("any-subset", subset), ("ordered-prefix", prefix)]
    };
    vec![
        DiskCanary {
            name: "state-no-flush",
            about: "the store on a device whose flush says Ok and does nothing",
            geometry: geometry(32),
            value_len: SHORT_LEN,
            prepare: |disk| put(Store::format(disk.clone(), &options())?, OLD),
            run: |disk| put(Store::open(NoFlush(disk.clone()), Access::Write)?.0, NEW),
            look: |disk| {
                let (store, _) = Store::open(disk.clone(), Access::Read).ok()?;
                let value = store.get(&Key::parse(CELL).ok()?)?;
                Some(Value::bytes(value.bytes))
            },
            finds: all(LOST, LOST, LOST),
        },
        DiskCanary {
            name: "state-rewrite-in-place",
            about: "write a new value over the old one, flush, and call it durable",
            geometry: TWO_SECTORS,
            value_len: BLOCK_LEN,
            prepare: |disk| write(disk, 0, OLD),
            run: |disk| {
                write(disk, 0, NEW)?;
                disk.flush()?;
                Ok(())
            },
            look: |disk| read(disk, 0),
            finds: all(MIX, NONE, MIX),
        },
        DiskCanary {
            name: "state-root-with-data",
            about: "write a value to a free block and the root that names it, with one flush for both",
            geometry: TWO_SECTORS,
            value_len: BLOCK_LEN,
            prepare: |disk| {
                write(disk, 1, OLD)?;
                write(disk, 0, 1)
            },
            run: |disk| {
                write(disk, 2, NEW)?;
                write(disk, 0, 2)?;
                disk.flush()?;
                Ok(())
            },
            // One byte of the root counts, so that it cannot be torn.
            look: |disk| read(disk, u64::from(*read(disk, 0)?.bytes.first()?)),
            // The usual model of crash tests misses it.
            finds: all(&[Class::AllZero, Class::Mix], &[Class::AllZero], NONE),
        },
    ]
}

fn write(disk: &SimDisk, at: u64, byte: u8) -> Done {
    disk.write(BlockIndex::new(at), &[byte; BLOCK_LEN])?;
    Ok(())
}

fn read(disk: &SimDisk, at: u64) -> Option<Value> {
    let mut block = [0; BLOCK_LEN];
    disk.read(BlockIndex::new(at), &mut block).ok()?;
    Some(Value::bytes(&block))
}

fn put<D: BlockDevice>(mut store: Store<D>, byte: u8) -> Done {
    let _revision = store.put(&Key::parse(CELL)?, &[byte; SHORT_LEN])?;
    Ok(())
}

/// A device whose flush does nothing.
#[derive(Debug)]
struct NoFlush(SimDisk);

impl BlockDevice for NoFlush {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        self.0.read(at, into)
    }

    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.0.write(at, from)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn write_durable(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.0.write_durable(at, from)
    }

    fn mark(&self, point: &'static str) {
        self.0.mark(point);
    }
}

impl CaseOn<SimDisk> for DiskCanary {
    fn about(&self) -> &str {
        self.about
    }
}

impl Workload<SimDisk> for DiskCanary {
    fn name(&self) -> &str {
        self.name
    }

    fn start(&self) -> (DiskImage, Expected) {
        let disk = SimDisk::mount(DiskImage::new(self.geometry), Recording::Off);
        let why = (self.prepare)(&disk).err().map(|error| error.to_string());
        // A canary that cannot even begin must not look like one in which there is nothing to find.
        let cells = match why {
            None => vec![(CELL.into(), Some(Value::bytes(&vec![OLD; self.value_len])))],
            Some(why) => vec![(format!("prepared: {why}").into(), Some(Value::bytes(b"everything")))],
        };
        (disk.image(), Expected::starting(cells))
    }

    fn run(&self, disk: &SimDisk, _run: &Run) {
        let value = Some(Value::bytes(&vec![NEW; self.value_len]));
        disk.tell(Mark::Begin(Operation::one(format_args!("write {CELL}"), CELL, value)));
        disk.tell(match (self.run)(disk) {
            Ok(()) => Mark::Acknowledged,
            Err(_) => Mark::Failed(crashsim::Fate::Unknown),
        });
    }

    fn recover(&self, _disk: &SimDisk, _life: Life) -> Result<(), String> {
        Ok(())
    }

    fn check(&self, disk: &SimDisk, _life: Life, expected: &Expected) -> Verdict {
        expected.judge(|_| (self.look)(disk))
    }
}
