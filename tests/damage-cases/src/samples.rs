//! [`samples`]: small images, each with the history that made it.

use media::{BlockIndex, Geometry};
use statefs::{Access, Batch, Compaction, Key, Options, Store, StoreId};

use crate::disk::ImageDisk;

/// Bytes of a block of a sample: the smallest there are.
pub const BLOCK: usize = 512;

/// Who the stores are.
pub const STORE: StoreId = StoreId(*b"a store to ruin!");

/// One change of a key: its revision, and its value if it was not a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which key.
    pub key: String,
    /// The number of the change.
    pub revision: u64,
    /// The value it had from then on.
    pub value: Option<Vec<u8>>,
}

/// What was written as one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its sequence number.
    pub seq: u64,
    /// Its changes, in order.
    pub changes: Vec<Change>,
}

/// How a sample was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As a power cut leaves it that spares everything written.
    Cut,
    /// Closed: not even the last commit may be lost in silence.
    Closed,
}

/// A device, and how it came about.
#[derive(Debug, Clone)]
pub struct Sample {
    /// For people.
    pub name: &'static str,
    /// Its shape.
    pub geometry: Geometry,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// How it was left.
    pub end: End,
    /// Every frame of records that was ever written and not discarded since, in order.
    pub history: Vec<Frame>,
    /// Keys and values that someone tried to put. Those that are not in the history were not acknowledged, and a later open
    /// has discarded them.
    pub tried: Vec<(String, Vec<u8>)>,
    /// What blocks held once, and do not any more.
    pub older: Vec<(usize, Vec<u8>)>,
}

/// How the stores are made.
pub(crate) fn options(store_id: StoreId) -> Options {
    let journal = journal::Limits { frame_blocks_max: 2, in_flight_blocks_max: 4 };
    Options { journal, ..Options::new(store_id) }
}

/// A store that is being filled, and what was written to it.
struct Build<'d> {
    disk: &'d ImageDisk,
    store: Store<&'d ImageDisk>,
    history: Vec<Frame>,
    count: u8,
}

fn key(name: &str) -> Key {
    Key::parse(&format!("/state/{name}")).unwrap()
}

impl<'d> Build<'d> {
    fn format(disk: &'d ImageDisk) -> Self {
        let store = Store::format(disk, &options(STORE)).unwrap();
        // A root of another store that comes back makes two stores of one, which is refused aloud.
        disk.forget_older();
        Self { disk, store, history: Vec::new(), count: 0 }
    }

    /// Bytes that no other put of the sample has.
    fn value(&mut self, len: usize) -> Vec<u8> {
        self.count += 1;
        let mut value = vec![self.count; len.max(1)];
        // Where it is long enough, it looks like a block of the store that is not where it belongs.
        let image = self.disk.image();
        if let Some(to) = value.get_mut(1..).and_then(|rest| rest.get_mut(..48)) {
            to.copy_from_slice(&image[2 * BLOCK..2 * BLOCK + 48]);
        }
        value
    }

    fn note(&mut self, key: Key, revision: u64, value: Option<Vec<u8>>) {
        let change = Change { key: key.as_str().to_owned(), revision, value };
        let seq = revision >> 16;
        match self.history.last_mut().filter(|last| last.seq == seq) {
            Some(last) => last.changes.push(change),
            None => self.history.push(Frame { seq, changes: vec![change] }),
        }
    }

    fn put(&mut self, name: &str, len: usize) {
        let value = self.value(len);
        let revision = self.store.put(&key(name), &value).unwrap();
        self.note(key(name), revision.get(), Some(value));
    }

    fn buffer(&mut self, name: &str, len: usize) {
        let value = self.value(len);
        let revision = self.store.put_buffered(&key(name), &value).unwrap();
        self.note(key(name), revision.get(), Some(value));
    }

    fn delete(&mut self, name: &str) {
        let revision = self.store.delete(&key(name)).unwrap().expect("it was there");
        self.note(key(name), revision.get(), None);
    }

    /// Two puts and a deletion that belong together, in two blocks.
    fn batch(&mut self, puts: [&str; 2], gone: &str) {
        let values = [self.value(300), self.value(300)];
        let mut batch = Batch::new();
        for (name, value) in puts.iter().zip(&values) {
            batch.put(&key(name), value).unwrap();
        }
        batch.delete(&key(gone)).unwrap();
        let last = self.store.batch(&batch).unwrap().get();
        for ((name, value), revision) in puts.iter().zip(values).zip(last - 2..) {
            self.note(key(name), revision, Some(value));
        }
        self.note(key(gone), last, None);
    }

    fn compact(&mut self) {
        while self.store.compact_step().unwrap() == Compaction::Running {}
    }

    /// The process dies, and another one goes on.
    fn start_again(&mut self) {
        self.store = Store::open(self.disk, Access::Write).unwrap().0;
        // What was never written, or has been discarded, is no longer part of the history.
        let newest = self.store.iter().map(|(_, value)| value.revision.get() >> 16).max().unwrap_or(0);
        let last = |frames: &[Frame]| frames.last().map_or(0, |frame| frame.seq);
        while last(&self.history) > newest
            && self.history.last().is_some_and(|frame| frame.changes.iter().any(|c| c.value.is_some()))
        {
            self.history.pop();
        }
    }

    /// The block that was written last is torn.
    fn tear_last(&mut self) {
        self.disk.tamper(|bytes| {
            let newest = bytes.chunks(BLOCK).zip(0..).filter_map(|(block, at)| {
                let (header, _) = journal::frame::decode(block, STORE, BlockIndex::new(at)).ok()?;
                Some((header.epoch, header.seq, header.index, at))
            });
            let (_, _, _, at) = newest.max().unwrap();
            let at = usize::try_from(at).unwrap() * BLOCK;
            bytes[at + 100..at + BLOCK].fill(0xA5);
        });
    }
}

type Script = fn(&mut Build<'_>);

/// What was on the disk before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ground {
    /// Zeros.
    Fresh,
    /// Another store, so that what was never written is full of blocks that begin like ours.
    Used,
}

fn make(name: &'static str, blocks: u64, ground: Ground, end: End, script: Script) -> Sample {
    let geometry = Geometry::new(512, blocks).unwrap().with_torn_blocks();
    let len = usize::try_from(geometry.byte_len()).unwrap();
    let disk = ImageDisk::new(geometry, vec![0; len]);
    if ground == Ground::Used {
        live_another_life(&disk);
    }
    let mut build = Build::format(&disk);
    script(&mut build);
    let Build { store, history, .. } = build;
    match end {
        End::Cut => drop(store),
        End::Closed => store.close().unwrap(),
    }
    let tried = Vec::new();
    Sample { name, geometry, bytes: disk.image(), end, history, tried, older: disk.older() }
}

fn live_another_life(disk: &ImageDisk) {
    let mut store = Store::format(disk, &options(StoreId([0x77; 16]))).unwrap();
    for nth in 0..20_u8 {
        store.put(&key("of another life"), &[nth; 200]).unwrap();
    }
}

fn commits(build: &mut Build<'_>) {
    build.put("a", 3);
    build.put("b", 300);
    build.put("c", 640);
    build.delete("b");
    build.put("d", 60);
    build.batch(["a", "b"], "d");
    build.put("c", 5);
}

fn copied(build: &mut Build<'_>) {
    build.put("a", 3);
    build.put("gone", 300);
    build.put("b", 400);
    build.delete("gone");
    build.compact();
    build.put("b", 300);
    build.delete("a");
    build.put("c", 20);
}

/// Every sample there is.
#[must_use]
pub fn samples() -> Vec<Sample> {
    vec![
        make("commits, cut", 36, Ground::Fresh, End::Cut, commits),
        make("commits, closed", 36, Ground::Fresh, End::Closed, commits),
        make("copied, cut", 32, Ground::Used, End::Cut, copied),
        make("copied, closed", 32, Ground::Used, End::Closed, copied),
        make("copied and closed at once", 28, Ground::Fresh, End::Closed, |build| {
            build.put("a", 300);
            build.put("b", 400);
            build.delete("a");
            build.compact();
        }),
        make("a region used again, with deleted keys in it", 28, Ground::Used, End::Cut, |build| {
            for round in 0..3 {
                build.put("gone", 200);
                build.put("kept", 100 + round);
                build.delete("gone");
                build.put("kept", 50);
                build.compact();
            }
            build.put("kept", 9);
        }),
        make("buffered, not synced", 40, Ground::Used, End::Cut, |build| {
            build.put("a", 30);
            build.put("b", 30);
            build.buffer("a", 600);
            build.buffer("b", 600);
            build.buffer("c", 600);
        }),
        make("sealed when it was idle", 28, Ground::Fresh, End::Cut, |build| {
            build.put("a", 30);
            build.put("b", 300);
            for ms in [0, 100] {
                build.store.tick(std::time::Duration::from_millis(ms)).unwrap();
            }
        }),
        make("in the middle of a copy", 36, Ground::Used, End::Cut, |build| {
            build.put("a", 600);
            build.put("b", 600);
            build.put("c", 30);
            for _ in 0..3 {
                assert_eq!(build.store.compact_step().unwrap(), Compaction::Running);
            }
            build.put("a", 30);
        }),
        make("copied, without the new root", 32, Ground::Fresh, End::Cut, |build| {
            build.put("a", 300);
            build.put("b", 400);
            build.delete("a");
            build.put("c", 30);
            // The header, one copied frame and the closing land; the slots of the root do not.
            build.disk.fail_after(3);
            while let Ok(Compaction::Running) = build.store.compact_step() {}
        }),
        make("several lives, cut", 36, Ground::Used, End::Cut, several_lives),
        make("several lives, closed", 36, Ground::Fresh, End::Closed, several_lives),
        make("opened until the region was full", 22, Ground::Fresh, End::Cut, |build| {
            build.put("a", 30);
            build.put("b", 30);
            for _ in 0..9 {
                build.start_again();
            }
        }),
    ]
}

fn several_lives(build: &mut Build<'_>) {
    build.put("a", 30);
    build.put("b", 300);
    build.start_again();
    build.put("discarded", 100);
    build.tear_last();
    build.start_again();
    build.put("b", 20);
    build.delete("a");
    build.start_again();
    build.put("c", 640);
    build.tear_last();
    build.start_again();
    build.put("d", 30);
}
