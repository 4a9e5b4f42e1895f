//! The first format of a disk: over nothing, over garbage, over an older store. Cut anywhere, there is what was there
//! before, or no store, or the new one.

use crashsim::{
    Cell, Class, DiskImage, Expected, Fate, Life, Mark, Operation, Random, Recording, Run, SimDisk, Value,
    Verdict as Found, Witness as _, Workload,
};
use media::{BlockDevice as _, BlockIndex, Geometry};
use statefs::{Access, Error, ErrorKind, Key, Store, StoreId, Verdict};

use super::{Ended, Told, geometry, holds_the_same, open, options, started};
use crate::CaseOn;

const GEOMETRY: Geometry = geometry(32);

/// Beside the keys: which store there is.
const STORE: &str = "store";
const OLD: StoreId = StoreId(*b"the older store.");
const KEYS: [&str; 2] = ["/state/a", "/state/b"];

/// Cells and what they hold.
type Cells = Vec<(Cell, Option<Value>)>;

struct Init {
    name: &'static str,
    about: &'static str,
    before: fn() -> Result<DiskImage, Ended>,
    holds: fn() -> Cells,
}

pub(super) fn cases() -> impl Iterator<Item = Box<dyn CaseOn<SimDisk>>> {
    let cases = [
        Init {
            name: "state-init",
            about: "make a store on a disk full of garbage",
            before: garbage,
            holds: no_store,
        },
        Init {
            name: "state-init-over",
            about: "make a store over an older one that had been compacted",
            before: older,
            holds: older_store,
        },
    ];
    cases.into_iter().map(|case| -> Box<dyn CaseOn<SimDisk>> { Box::new(case) })
}

fn cells(store: Option<StoreId>, values: [Option<&[u8]>; 2]) -> Cells {
    let mut cells: Cells = vec![(STORE.into(), store.map(|StoreId(id)| Value::bytes(&id)))];
    cells.extend(KEYS.into_iter().zip(values).map(|(key, value)| (key.into(), value.map(Value::bytes))));
    cells
}

fn no_store() -> Cells {
    cells(None, [None, None])
}

fn older_store() -> Cells {
    cells(Some(OLD), [Some(b"new"), Some(b"only here")])
}

/// Bytes that nobody wrote, some of which begin like blocks of a store.
fn garbage() -> Result<DiskImage, Ended> {
    let disk = SimDisk::mount(DiskImage::new(GEOMETRY), Recording::Off);
    let mut random = Random::new(7);
    for at in 0..GEOMETRY.block_count() {
        let mut block = [0; 512];
        block.fill_with(|| u8::try_from(random.below(256)).unwrap_or(0));
        if at % 3 == 1
            && let Some(magic) = block.first_chunk_mut()
        {
            *magic = *b"SFJ1";
        }
        disk.write(BlockIndex::new(at), &block).map_err(|_| Ended::Unplanned("unplanned: no such block"))?;
    }
    Ok(disk.image())
}

/// A store of two generations, with values of both on the disk.
fn older() -> Result<DiskImage, Ended> {
    let disk = SimDisk::mount(DiskImage::new(GEOMETRY), Recording::Off);
    let mut store = Store::format(disk.clone(), &statefs::Options { store_id: OLD, ..options() })?;
    let _revision = store.put(&Key::parse(KEYS[0])?, b"old")?;
    while store.compact_step()? != statefs::Compaction::Finished {}
    let _revision = store.put(&Key::parse(KEYS[0])?, b"new")?;
    let _revision = store.put(&Key::parse(KEYS[1])?, b"only here")?;
    Ok(disk.image())
}

/// That there is no store, said in one of the ways in which it is said.
fn is_no_store(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt)
}

impl CaseOn<SimDisk> for Init {
    fn about(&self) -> &str {
        self.about
    }
}

impl Workload<SimDisk> for Init {
    fn name(&self) -> &str {
        self.name
    }

    fn start(&self) -> (DiskImage, Expected) {
        started(GEOMETRY, (self.before)().map(|image| (image, (self.holds)())))
    }

    fn run(&self, disk: &SimDisk, _run: &Run) {
        // Until it is acknowledged there may be no store at all.
        disk.tell(Mark::Begin(Operation::new("wipe", vec![no_store()])));
        disk.tell(Mark::Visible);
        let made = cells(Some(options().store_id), [None, None]);
        disk.tell(Mark::Begin(Operation::new("make a store", vec![made])));
        let outcome = Store::format(disk.clone(), &options());
        disk.tell(outcome.as_ref().map_or(Mark::Failed(Fate::Unknown), |_| Mark::Acknowledged));
        if let Ok(store) = outcome {
            let mut told = Told::with(disk, store);
            drop(told.put(KEYS[0], b"first"));
        }
    }

    fn recover(&self, disk: &SimDisk, _life: Life) -> Result<(), String> {
        match open(disk, Access::Write) {
            // Whether there may be none is for the check to say.
            Err(error) if is_no_store(&error) => Ok(()),
            Err(error) => Err(error.to_string()),
            Ok((_, recovery)) if matches!(recovery.tail, Verdict::Damaged { .. }) => {
                Err(format!("a power cut is taken for damage: {recovery:?}"))
            }
            Ok(_) => Ok(()),
        }
    }

    fn check(&self, disk: &SimDisk, _life: Life, expected: &Expected) -> Found {
        let store = match open(disk, Access::Read) {
            Err(error) if is_no_store(&error) => None,
            Err(error) => return Found::broken(Class::CannotOpen, error.to_string()),
            Ok((store, _)) => Some(store),
        };
        expected.judge(|cell| {
            let store = store.as_ref()?;
            if &**cell == STORE {
                return Some(Value::bytes(&store.store_id().0));
            }
            Some(Value::bytes(store.get(&Key::parse(cell).ok()?)?.bytes))
        })
    }

    fn is_same(&self, first: &SimDisk, second: &SimDisk) -> bool {
        holds_the_same(first, second)
    }
}
