//! The cases of the key/value store, on block devices as small as the format allows.
//!
//! A case is a [`Script`]: a line in the table of [`scripts`], of [`settings`] or of [`snapshots`]. What a cell stands for
//! ([`look`]) and what must hold of every store ([`contradiction`]) is the same for all of them. A part of the store with a
//! world of its own (another way to begin, another way to start again) is a workload of its own beside them, and a line in
//! [`state_cases`].

use crashsim::{
    Atom, Cell, Class, DiskImage, Expected, Fate, Life, Mark, Operation, Recording, Run, SimDisk, Value,
    Verdict as Found, Witness as _, Workload,
};
use media::Geometry;
use statefs::{
    Access, Batch, Certainty, Compaction, Error, ErrorKind, Key, Precondition, Prefix, Recovery, Store,
    StoreId, Verdict,
};

use crate::CaseOn;

mod chance;
mod init;
mod scripts;
mod settings;
mod snapshots;

/// Every case of the store, in the order in which they are shown.
#[must_use]
pub fn state_cases() -> Vec<Box<dyn CaseOn<SimDisk>>> {
    let scripts = scripts::SCRIPTS.into_iter().chain(settings::SCRIPTS).chain(snapshots::SCRIPTS);
    let scripts = scripts.map(|script| -> Box<dyn CaseOn<SimDisk>> { Box::new(script) });
    scripts.chain(init::cases()).chain(chance::cases()).collect()
}

/// The case of the store that has this name.
#[must_use]
pub fn state_case_named(name: &str) -> Option<Box<dyn CaseOn<SimDisk>>> {
    state_cases().into_iter().find(|case| case.name() == name)
}

/// Why a script went no further. Of what the store answered the witness has been told.
#[derive(Debug)]
pub(crate) enum Ended {
    Store(Error),
    /// Something was not as the script has it. A case that does this without any fault is wrong, and a test looks for it.
    Unplanned(&'static str),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<statefs::KeyError> for Ended {
    fn from(error: statefs::KeyError) -> Self {
        Self::Store(error.into())
    }
}

impl From<statefs::NameError> for Ended {
    fn from(error: statefs::NameError) -> Self {
        Self::Store(error.into())
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Unplanned(why) => f.write_str(why),
        }
    }
}

impl Ended {
    pub(crate) fn is_no_space(&self) -> bool {
        matches!(self, Self::Store(error) if error.kind() == ErrorKind::NoSpace)
    }
}

pub(crate) type Outcome = Result<(), Ended>;

/// A device of the smallest blocks there are, which may read back as anything when they were interrupted.
pub(crate) const fn geometry(blocks: u64) -> Geometry {
    blocks_of(512, blocks).with_torn_blocks()
}

/// A device that is known to be one when this is compiled.
pub(crate) const fn blocks_of(block_size: u32, blocks: u64) -> Geometry {
    let made = Geometry::new(block_size, blocks);
    let geometry = match &made {
        Ok(geometry) => *geometry,
        Err(_) => panic!("there are such devices"),
    };
    // An error may have something to drop, which a constant may not.
    std::mem::forget(made);
    geometry
}

pub(crate) fn options() -> statefs::Options {
    let journal = journal::Limits { frame_blocks_max: 2, in_flight_blocks_max: 4 };
    statefs::Options { journal, ..statefs::Options::new(StoreId(*b"a crashing store")) }
}

/// As every case opens its store: with all the keys to what is sealed.
pub(crate) fn open(disk: &SimDisk, access: Access) -> Result<(Store<SimDisk>, Recovery), Error> {
    let (mut store, recovery) = Store::open(disk.clone(), access)?;
    settings::unlock(&mut store)?;
    Ok((store, recovery))
}

/// A store whose witness is told what is asked and answered.
pub(crate) struct Told<'d> {
    pub(crate) disk: &'d SimDisk,
    pub(crate) store: Store<SimDisk>,
    /// What was buffered since the last barrier.
    buffered: Vec<Atom>,
}

impl<'d> Told<'d> {
    pub(crate) fn open(disk: &'d SimDisk) -> Result<Self, Ended> {
        let (store, _) = open(disk, Access::Write)?;
        Ok(Self::with(disk, store))
    }

    /// This store, of which nothing is buffered.
    fn with(disk: &'d SimDisk, store: Store<SimDisk>) -> Self {
        Self { disk, store, buffered: Vec::new() }
    }

    /// One durable operation of the store, and what it answered.
    pub(crate) fn tell<T>(
        &mut self,
        label: &str,
        atoms: Vec<Atom>,
        act: impl FnOnce(&mut Store<SimDisk>) -> Result<T, Error>,
    ) -> Result<T, Ended> {
        // What is durable makes all before it durable; a later change of the same key comes last.
        let mut all: Vec<Atom> = Vec::new();
        for atom in self.buffered.iter().cloned().chain(atoms) {
            all.retain(|before| !before.iter().all(|(cell, _)| atom.iter().any(|(other, _)| other == cell)));
            all.push(atom);
        }
        self.disk.tell(Mark::Begin(Operation::new(label, all)));
        let outcome = act(&mut self.store);
        match &outcome {
            Ok(_) => self.disk.tell(Mark::Acknowledged),
            Err(error) => tell_failure(self.disk, error),
        }
        if outcome.is_ok() {
            self.buffered.clear();
        }
        outcome.map_err(Ended::from)
    }

    pub(crate) fn put(&mut self, name: &str, value: &[u8]) -> Outcome {
        let key = Key::parse(name)?;
        self.tell(&format!("put {name}"), vec![put_of(name, value)], |store| store.put(&key, value)).map(drop)
    }

    pub(crate) fn delete(&mut self, name: &str) -> Outcome {
        let key = Key::parse(name)?;
        let atom = vec![(name.into(), None)];
        self.tell(&format!("delete {name}"), vec![atom], |store| store.delete(&key)).map(drop)
    }

    pub(crate) fn batch(&mut self, changes: &[(&str, Option<&[u8]>)]) -> Outcome {
        let mut batch = Batch::new();
        for (name, value) in changes {
            match value {
                Some(value) => batch.put(&Key::parse(name)?, value)?,
                None => batch.delete(&Key::parse(name)?)?,
            }
        }
        let atom = changes.iter().map(|(name, value)| ((*name).into(), value.map(Value::bytes))).collect();
        self.tell("batch", vec![atom], |store| store.batch(&batch)).map(drop)
    }

    /// A compare-and-swap that finds what it expects.
    pub(crate) fn swap(&mut self, name: &str, value: &[u8]) -> Outcome {
        let key = Key::parse(name)?;
        let found = self.store.get(&key).map(|found| found.revision);
        let wanted = found.map_or(Precondition::Absent, Precondition::RevisionIs);
        let swap = |store: &mut Store<SimDisk>| store.compare_and_swap(&key, wanted, value).map(drop);
        self.tell(&format!("swap {name}"), vec![put_of(name, value)], swap)
    }

    pub(crate) fn put_buffered(&mut self, name: &str, value: &[u8]) -> Outcome {
        let (key, atom) = (Key::parse(name)?, put_of(name, value));
        self.disk.tell(Mark::Begin(Operation::new(format_args!("buffer {name}"), vec![atom.clone()])));
        let outcome = self.store.put_buffered(&key, value);
        match &outcome {
            Ok(_) => self.disk.tell(Mark::Visible),
            Err(error) => tell_failure(self.disk, error),
        }
        let _revision = outcome?;
        self.buffered.push(atom);
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> Outcome {
        self.tell("sync", Vec::new(), Store::sync).map(drop)
    }

    /// A whole compaction with something between its steps.
    pub(crate) fn compact(&mut self, mut between: impl FnMut(&mut Self, u8) -> Outcome) -> Outcome {
        for nth in 0..30 {
            if self.store.compact_step()? == Compaction::Finished {
                return Ok(());
            }
            between(self, nth)?;
        }
        Err(Ended::Unplanned("unplanned: a compaction does not end"))
    }

    /// Another process opens the store; the one before it did not close it.
    pub(crate) fn reopen(&mut self) -> Outcome {
        self.store = open(self.disk, Access::Write)?.0;
        // Nobody has been promised anything about these.
        self.buffered.clear();
        Ok(())
    }

    pub(crate) fn close_and_reopen(&mut self) -> Outcome {
        let disk = self.disk;
        self.tell("close", Vec::new(), |store| {
            // A reader stands in for it meanwhile.
            let (reader, _) = open(disk, Access::Read)?;
            std::mem::replace(store, reader).close()
        })?;
        self.reopen()
    }
}

/// Promises what no image can keep: whatever is looked at after this is broken, and says why.
fn never(disk: &SimDisk, why: &str) {
    disk.tell(Mark::Begin(Operation::one(why, NEVER, Some(Value::bytes(why.as_bytes())))));
    disk.tell(Mark::Acknowledged);
}

/// A cell in which nothing stands.
const NEVER: &str = "what must not be";

fn put_of(name: &str, value: &[u8]) -> Atom {
    vec![(name.into(), Some(Value::bytes(value)))]
}

/// What the kind of an error says about the target.
fn tell_failure(disk: &SimDisk, error: &Error) {
    match error.kind() {
        ErrorKind::Poisoned => disk.tell(Mark::Failed(Fate::Unknown)),
        ErrorKind::NoSpace | ErrorKind::Io | ErrorKind::ReadOnly => disk.tell(Mark::Failed(Fate::Unchanged)),
        // No script asks for anything that is answered so, whatever fails.
        ErrorKind::Invalid
        | ErrorKind::Conflict
        | ErrorKind::NotFound
        | ErrorKind::Corrupt
        | ErrorKind::NoMemory
        | ErrorKind::Locked
        | ErrorKind::Busy => {
            disk.tell(Mark::Failed(Fate::Unchanged));
            never(disk, &format!("no error that belongs here: {error}"));
        }
    }
}

/// What a store holds before a case begins, and the device it is on.
pub(crate) type Before = Result<(DiskImage, Vec<(Cell, Option<Value>)>), Ended>;

/// Whether a process may find a cache that shows what no flush covers any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cache {
    Honest,
    /// After a flush that failed. The next process cannot know: what it reads and then loses must be *reported*.
    MayLie,
}

/// A case of the store: something to do with it.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) geometry: Geometry,
    pub(crate) before: fn(Geometry) -> Before,
    pub(crate) run: fn(&mut Told<'_>) -> Outcome,
    /// What every life does with the store that it found, so that this must survive what follows.
    pub(crate) live_on: fn(&mut Told<'_>, Life) -> Outcome,
    pub(crate) cache: Cache,
}

impl Script {
    /// One that begins with a single key.
    const fn new(
        name: &'static str,
        about: &'static str,
        blocks: u64,
        run: fn(&mut Told<'_>) -> Outcome,
    ) -> Self {
        Self {
            name,
            about,
            geometry: geometry(blocks),
            before: one_key,
            run,
            live_on: put_and_delete,
            cache: Cache::Honest,
        }
    }

    const fn beginning(self, before: fn(Geometry) -> Before) -> Self {
        Self { before, ..self }
    }

    const fn living_on(self, live_on: fn(&mut Told<'_>, Life) -> Outcome) -> Self {
        Self { live_on, ..self }
    }

    const fn with_a_cache_that_lies(self) -> Self {
        Self { cache: Cache::MayLie, ..self }
    }
}

/// A new store with `/state/a` in it.
fn one_key(geometry: Geometry) -> Before {
    let disk = SimDisk::mount(DiskImage::new(geometry), Recording::Off);
    let mut store = Store::format(disk.clone(), &options())?;
    let _revision = store.put(&Key::parse("/state/a")?, b"zero")?;
    Ok((disk.image(), vec![("/state/a".into(), Some(Value::bytes(b"zero")))]))
}

/// A case that cannot even begin must not look like one that keeps its promises.
fn started(geometry: Geometry, before: Before) -> (DiskImage, Expected) {
    match before {
        Ok((image, cells)) => (image, Expected::starting(cells)),
        Err(why) => {
            let cell = format!("prepared: {why}").into();
            (DiskImage::new(geometry), Expected::starting([(cell, Some(Value::bytes(b"everything")))]))
        }
    }
}

impl CaseOn<SimDisk> for Script {
    fn about(&self) -> &str {
        self.about
    }
}

impl Workload<SimDisk> for Script {
    fn name(&self) -> &str {
        self.name
    }

    fn start(&self) -> (DiskImage, Expected) {
        started(self.geometry, (self.before)(self.geometry))
    }

    fn run(&self, disk: &SimDisk, _run: &Run) {
        let outcome = Told::open(disk).and_then(|mut told| (self.run)(&mut told));
        if let Err(Ended::Unplanned(why)) = outcome {
            disk.tell(Mark::Point(why));
            never(disk, why);
        }
    }

    fn recover(&self, disk: &SimDisk, life: Life) -> Result<(), String> {
        recover(disk, life, self.cache, self.live_on)
    }

    fn check(&self, disk: &SimDisk, life: Life, expected: &Expected) -> Found {
        check(disk, life, self.cache, expected)
    }

    fn is_same(&self, first: &SimDisk, second: &SimDisk) -> bool {
        holds_the_same(first, second)
    }
}

/// Whether a process has died before this one without the power having failed: it may have left a cache that lies.
fn has_died(life: Life) -> bool {
    life.process > life.boot
}

/// Put and deleted by every recovery, and nothing is promised about it.
const SCRATCH: &str = "/state/scratch";

/// A write that may find no room: on a full device that is no broken promise.
fn unless_full(outcome: Outcome) -> Outcome {
    match outcome {
        Err(ended) if !ended.is_no_space() => Err(ended),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// How most cases live on. Deletes always work.
fn put_and_delete(told: &mut Told<'_>, life: Life) -> Outcome {
    if life.boot < 3 {
        unless_full(told.put("/state/life", &[1]))?;
        let scratch = Key::parse(SCRATCH)?;
        unless_full(told.store.put(&scratch, &[2]).map(drop).map_err(Ended::from))?;
        let _revision = told.store.delete(&scratch)?;
    }
    Ok(())
}

/// Opens the store, and goes on to work with it.
fn recover(
    disk: &SimDisk,
    life: Life,
    cache: Cache,
    live_on: fn(&mut Told<'_>, Life) -> Outcome,
) -> Result<(), String> {
    let (store, recovery) = open(disk, Access::Write).map_err(|error| error.to_string())?;
    if let Verdict::Damaged { .. } = recovery.tail {
        if cache == Cache::MayLie && has_died(life) {
            return Ok(());
        }
        return Err(format!("a power cut is taken for damage: {recovery:?}"));
    }
    if recovery.suspect_keys > 0 || recovery.read_only.is_some() {
        return Err(format!("without damage everything is certain: {recovery:?}"));
    }
    if let Some(why) = settings::contradiction(disk, &store) {
        return Err(why);
    }
    live_on(&mut Told::with(disk, store), life).map_err(|ended| ended.to_string())
}

fn check(disk: &SimDisk, life: Life, cache: Cache, expected: &Expected) -> Found {
    let (store, recovery) = match open(disk, Access::Read) {
        Err(error) => return Found::broken(Class::CannotOpen, error.to_string()),
        Ok(opened) => opened,
    };
    if matches!(recovery.tail, Verdict::Damaged { .. }) && !(cache == Cache::MayLie && has_died(life)) {
        return Found::broken(Class::CannotOpen, format!("a recovered store is damaged: {recovery:?}"));
    }
    if let Some(why) = contradiction(disk, &store, &recovery, expected) {
        return Found::broken(Class::Stranger, why);
    }
    expected.judge(|cell| look(disk, &store, cell, expected))
}

/// What is wrong with a store, whatever it is that should be in it.
fn contradiction(
    disk: &SimDisk,
    store: &Store<SimDisk>,
    recovery: &Recovery,
    expected: &Expected,
) -> Option<String> {
    let is_known = |name: &str| name == SCRATCH || expected.cells().any(|cell| **cell == *name);
    let listed = match store.list(&Prefix::root(), None, 100) {
        Err(error) => return Some(error.to_string()),
        Ok(page) => page.entries.len(),
    };
    let there = store.iter().count();
    if listed != there || recovery.live_keys != u64::try_from(there).unwrap_or(u64::MAX) {
        return Some(format!("{listed} are listed, {there} are there"));
    }
    if let Some((key, _)) = store.iter().find(|(key, _)| !is_known(key.as_str())) {
        return Some(format!("{key}, that nobody put"));
    }
    snapshots::contradiction(store, is_known).or_else(|| settings::contradiction(disk, store))
}

/// What stands in a cell: the value of a key, or what one of the parts of the store has there.
fn look(disk: &SimDisk, store: &Store<SimDisk>, cell: &Cell, expected: &Expected) -> Option<Value> {
    if snapshots::is_cell(cell) {
        return snapshots::look(store, cell);
    }
    if settings::is_cell(cell) {
        return settings::look(disk, store, cell, expected);
    }
    let key = Key::parse(cell).ok()?;
    match store.certainty(&key) {
        Certainty::Certain => settings::plain_value(store, &key).ok()?.map(|value| Value::bytes(&value)),
        // Where the store says that it may not be the newest, whatever it should be.
        Certainty::Suspect => expected.allowed(cell).into_iter().next().flatten(),
    }
}

/// A journal says of every start that there was one: what counts is what it holds.
fn holds_the_same(first: &SimDisk, second: &SimDisk) -> bool {
    let everything = |disk: &SimDisk| {
        let (store, _) = open(disk, Access::Read).ok()?;
        let values: Option<Vec<(Key, Option<Vec<u8>>)>> = store
            .iter()
            .map(|(key, _)| Some((key.clone(), settings::plain_value(&store, &key).ok()?)))
            .collect();
        Some((values?, snapshots::everything(&store), settings::everything(&store)))
    };
    everything(first) == everything(second)
}
