//! What real file systems leave after a power cut, for the ways of writing a file that people use, and for ours. The
//! harness measures itself on protocols whose outcomes are known; the simulator's profiles are compared with this table.
//!
//! In the table, every protocol is stopped before each of its calls and after its last; the power goes at once or after a foreign
//! sync ([`Cut`]); the payload is small or has several pages; and the kernel has written back nothing of it yet, the
//! first page, or all.
//!
//! `cargo test -p testbed --test power_cuts -- --nocapture` shows the tables.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of the functions marked as tests")]

mod cases;
mod companions;
mod engine;
mod protocols;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::ErrorKind;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use media::OsFs;
use media::doubles::TapFs;
use testbed::{Cut, CutFs, CutKind, Missing, PullThePlug, need};

use protocols::{Payload, Protocol, TARGET};

const PAGE_SIZE: usize = 4096;

/// What the target turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// The old content; no file, where there was none.
    A,
    /// The new content.
    B,
    /// No file, where there was one.
    Missing,
    /// No bytes.
    Empty,
    /// The beginning of the new content.
    Short,
    /// As long as the new content, and all zeros: what a check of the length does not notice.
    Zeros,
    /// Anything else.
    Mix,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::A => "A",
            Self::B => "B",
            Self::Missing => "missing",
            Self::Empty => "empty",
            Self::Short => "short",
            Self::Zeros => "zeros",
            Self::Mix => "mix",
        })
    }
}

impl Class {
    fn of(target: &Path, payload: &Payload) -> Self {
        let found = match std::fs::read(target) {
            Ok(bytes) => Some(bytes),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::NotFound, "{}: {e}", target.display());
                None
            }
        };
        let new = &payload.new[..];
        match found.as_deref() {
            bytes if bytes == payload.old.as_deref() => Self::A,
            None => Self::Missing,
            Some(bytes) if bytes == new => Self::B,
            Some([]) => Self::Empty,
            Some(bytes) if new.starts_with(bytes) => Self::Short,
            Some(bytes) if bytes.len() == new.len() && bytes.iter().all(|&byte| byte == 0) => Self::Zeros,
            Some(_) => Self::Mix,
        }
    }
}

/// How far the kernel had come with writing the data back when the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WrittenBack {
    Nothing,
    /// And what shares a folio of the page cache with it, which is not all of the larger payload.
    FirstPage,
    All,
}

impl WrittenBack {
    fn of(payload: &Payload) -> &'static [Self] {
        if payload.new.len() > PAGE_SIZE {
            &[Self::Nothing, Self::FirstPage, Self::All]
        } else {
            &[Self::Nothing, Self::All]
        }
    }

    fn write_back(self, fs: &CutFs, file: &Path, payload: &Payload) {
        let len = match self {
            Self::Nothing => return,
            Self::FirstPage => PAGE_SIZE,
            Self::All => payload.new.len(),
        };
        fs.write_back(file, 0..u64::try_from(len).unwrap()).unwrap();
    }
}

/// The outcomes of one protocol on one file system.
#[derive(Debug, Clone, Default)]
struct Outcomes {
    /// Stopped before one of its calls, whatever came after.
    during: BTreeSet<Class>,
    /// After the last call.
    after: BTreeSet<Class>,
    /// After the last call and a foreign sync.
    after_foreign: BTreeSet<Class>,
}

impl Outcomes {
    fn all(&self) -> BTreeSet<Class> {
        [&self.during, &self.after, &self.after_foreign].into_iter().flatten().copied().collect()
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [&self.during, &self.after, &self.after_foreign].map(|classes| {
            let words: Vec<_> = classes.iter().map(ToString::to_string).collect();
            format!("{:20}", words.join(" "))
        });
        f.write_str(words.join("| ").trim_end())
    }
}

/// What one file system did, and how long it took.
#[derive(Debug, Default)]
struct Measured {
    outcomes: BTreeMap<Protocol, Outcomes>,
    cuts: u32,
    cutting: Duration,
    resetting: Duration,
}

impl Measured {
    fn new(kind: CutKind) -> Result<Self, Missing> {
        let mut fs = CutFs::mount(kind)?;
        let mut measured = Self::default();
        for protocol in Protocol::ALL {
            for payload in protocol.payloads() {
                for &written_back in WrittenBack::of(&payload) {
                    for how in Cut::ALL {
                        measured.stop_everywhere(&mut fs, protocol, &payload, written_back, how);
                    }
                }
            }
        }
        Ok(measured)
    }

    fn stop_everywhere(
        &mut self,
        fs: &mut CutFs,
        protocol: Protocol,
        payload: &Payload,
        written_back: WrittenBack,
        how: Cut,
    ) {
        for at in 0.. {
            let start = Instant::now();
            fs.reset().unwrap();
            self.resetting += start.elapsed();
            let dir = fs.path();
            payload.set_up(&dir);
            fs.sync().unwrap();

            let plug = Arc::new(PullThePlug::before(at));
            let tapped = TapFs::new(Arc::new(OsFs), Arc::<PullThePlug>::clone(&plug));
            let mut written = |name: &str| written_back.write_back(fs, &dir.join(name), payload);
            let done = protocol.run(&tapped, &dir, payload, &mut written);
            let stopped = plug.pulled().is_some();
            assert_eq!(done.is_err(), stopped, "{protocol} on {}: {done:?}", fs.kind());

            let start = Instant::now();
            fs.cut(how).unwrap();
            self.cutting += start.elapsed();
            self.cuts += 1;
            let outcomes = self.outcomes.entry(protocol).or_default();
            let seen = match (stopped, how) {
                (true, _) => &mut outcomes.during,
                (false, Cut::Now) => &mut outcomes.after,
                (false, Cut::AfterForeignSync) => &mut outcomes.after_foreign,
            };
            seen.insert(Class::of(&dir.join(TARGET), payload));
            if !stopped {
                return;
            }
        }
    }
}

/// One thread for each file system; none of them ever holds a second mount.
fn on_every_kind<T: Send>(measure: impl Fn(CutKind) -> T + Sync) -> Vec<(CutKind, T)> {
    let measure = &measure;
    std::thread::scope(|scope| {
        let threads = CutKind::ALL.map(|kind| (kind, scope.spawn(move || measure(kind))));
        let join =
            |thread: ScopedJoinHandle<'_, T>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        threads.into_iter().map(|(kind, thread)| (kind, join(thread))).collect()
    })
}

/// Everything that this protocol may leave there. What is not in here has never been seen and would need a reason.
fn may_leave(protocol: Protocol, kind: CutKind) -> &'static [Class] {
    use Class::{A, B, Empty, Mix, Short, Zeros};
    match (protocol, kind) {
        (Protocol::SyncRename | Protocol::SyncRenameDirSync, _) => &[A, B],
        // Copy on write; a foreign sync that becomes a full commit may find the first pages written and the rest not.
        (Protocol::InPlaceSync, _) => &[A, B, Mix],
        // `auto_da_alloc`: the rename starts writing the data, so it has a place and its length counts. But the blocks
        // are marked as written only after the write, by a later transaction: a commit in between leaves zeros. (Not
        // with `dioread_lock`.)
        (Protocol::TempRename | Protocol::TempRenameDirSync | Protocol::SetLenTempRename, CutKind::Ext4) => {
            &[A, B, Zeros, Mix]
        }
        // Mix: the first pages written back, a later commit finds the others like that.
        (
            Protocol::TempRename
            | Protocol::AllocateTempRename
            | Protocol::TempRenameDirSync
            | Protocol::NewName,
            CutKind::Ext4 | CutKind::Ext4NoAutoDaAlloc,
        ) => &[A, B, Empty, Short, Zeros, Mix],
        // The length grows only after the data is written.
        (
            Protocol::TempRename
            | Protocol::AllocateTempRename
            | Protocol::TempRenameDirSync
            | Protocol::NewName,
            CutKind::Xfs | CutKind::Btrfs,
        ) => &[A, B, Empty, Short],
        (Protocol::SetLenTempRename, _) => &[A, B, Empty, Short, Zeros, Mix],
    }
}

fn check(kind: CutKind, protocol: Protocol, outcomes: &Outcomes) {
    use Class::{A, B, Empty};
    let case = format!("{protocol} on {kind}: {outcomes}");
    let only = |class| BTreeSet::from([class]);
    let allowed = BTreeSet::from_iter(may_leave(protocol, kind).iter().copied());
    assert!(outcomes.all().is_subset(&allowed), "{case}");
    match protocol {
        Protocol::SyncRenameDirSync | Protocol::InPlaceSync => {
            assert_eq!(outcomes.after, only(B), "acknowledged and lost: {case}");
            assert_eq!(outcomes.after_foreign, only(B), "acknowledged and lost: {case}");
        }
        // From here on, the harness is on trial: what nobody synced must be gone, or it cuts nothing.
        Protocol::TempRename
        | Protocol::AllocateTempRename
        | Protocol::SetLenTempRename
        | Protocol::NewName => assert_eq!(outcomes.after, only(A), "nothing is lost: {case}"),
        Protocol::SyncRename => {
            assert_eq!(outcomes.after, only(A), "nothing is lost: {case}");
            // One journal or log for all; btrfs logs by file and may, or may not, take the name along.
            let taken_along = kind == CutKind::Btrfs || outcomes.after_foreign == only(B);
            assert!(taken_along, "the foreign sync commits nothing: {case}");
        }
        // The name without the bytes: not only the end of time is lost, the order is too.
        Protocol::TempRenameDirSync => {
            assert!(kind == CutKind::Ext4 || outcomes.after.contains(&Empty), "no harm done: {case}");
        }
    }
}

#[test]
fn what_a_power_cut_leaves_of_a_file_is_what_is_known_of_its_protocol() {
    let mut all = Vec::new();
    for (kind, measured) in on_every_kind(Measured::new) {
        let measured = need!(measured);
        let (cut, reset) = (measured.cutting / measured.cuts, measured.resetting / measured.cuts);
        println!("{kind}: {} cuts, {cut:?} each, {reset:?} for each reset", measured.cuts);
        all.push((kind, measured.outcomes));
    }
    println!("{:60}{:20}| {:20}| after the last and a foreign sync", "", "before a call", "after the last");
    for protocol in Protocol::ALL {
        for (kind, outcomes) in &all {
            println!("{:58}  {}", format!("{protocol}, {kind}"), outcomes[&protocol]);
        }
    }
    for (kind, outcomes) in &all {
        outcomes.iter().for_each(|(&protocol, outcomes)| check(*kind, protocol, outcomes));
    }
}
