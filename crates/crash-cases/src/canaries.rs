//! Canaries: the classic mistakes, as tiny workloads. The simulator must find each of them, and only where real file systems
//! have been seen to break it (or where a profile says that it is stricter than what was seen).
//!
//! They are written against the seam of [`media`], not against an engine of ours: an engine would not let them happen.

use std::io;
use std::sync::Arc;

use crashsim::{Cell, Class, Expected, Mark, Operation, Run, Value, Verdict, Witness};
use media::{Access, Dir, File, Mode, Reason, RenameMode};

use crate::cases::file;
use crate::site::{FileCase, Site};

/// A mistake, and what it leads to.
pub struct Canary {
    name: &'static str,
    about: &'static str,
    prepare: fn(&Hand) -> io::Result<()>,
    run: fn(&Hand) -> io::Result<()>,
    recover: fn(&Hand) -> io::Result<()>,
    /// The broken promises that each profile must show: all of them, and no others.
    finds: [(&'static str, &'static [Class]); 5],
    /// On which real file systems it was seen to break, and how.
    seen: &'static str,
}

impl Canary {
    /// What the profile of this name must find; [`None`] for a profile the canary says nothing about.
    #[must_use]
    pub fn finds(&self, profile: &str) -> Option<&'static [Class]> {
        self.finds.iter().find(|(name, _)| *name == profile).map(|(_, classes)| *classes)
    }

    /// Where it was seen to break on real file systems, in words.
    #[must_use]
    pub fn seen(&self) -> &'static str {
        self.seen
    }
}

/// The calls of a program, on files in one directory.
struct Hand<'s> {
    dir: Arc<dyn Dir>,
    witness: &'s dyn Witness,
}

/// Two sectors, so that half of it can be missing.
const OLD: [u8; 1024] = [b'o'; 1024];
const NEW: [u8; 1024] = [b'n'; 1024];
const TARGET: &str = "f";
const TEMP: &str = "t";

impl Hand<'_> {
    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<Arc<dyn File>> {
        let file = self.dir.create_exclusive(name.as_ref(), Mode::FILE)?;
        put(&*file, 0, bytes)?;
        Ok(file)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        self.dir.open(name.as_ref(), access)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.dir.rename(from.as_ref(), &*self.dir, to.as_ref(), RenameMode::Replace)
    }

    fn begin(&self, name: &str, bytes: &[u8]) {
        self.witness.tell(Mark::Begin(Operation::one(format_args!("write {name}"), name, file(bytes))));
    }

    fn acknowledge(&self) {
        self.witness.tell(Mark::Acknowledged);
    }
}

fn put(file: &dyn File, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = file.write_at(offset, bytes)?;
        bytes = bytes.get(count..).filter(|_| count > 0).ok_or(io::ErrorKind::WriteZero)?;
        offset += u64::try_from(count).map_err(io::Error::other)?;
    }
    Ok(())
}

fn an_old_file(hand: &Hand) -> io::Result<()> {
    hand.create(TARGET, &OLD).map(drop)
}

fn nothing(_: &Hand) -> io::Result<()> {
    Ok(())
}

/// As it should be done.
fn the_chain(hand: &Hand) -> io::Result<()> {
    hand.begin(TARGET, &NEW);
    hand.create(TEMP, &NEW)?.sync_all()?;
    hand.rename(TEMP, TARGET)?;
    hand.dir.sync()?;
    hand.acknowledge();
    Ok(())
}

fn an_unused_temp(hand: &Hand) -> io::Result<()> {
    match hand.dir.unlink(TEMP.as_ref()) {
        Err(error) if Reason::of(&error) == Reason::NotFound => Ok(()),
        outcome => outcome,
    }
}

const NONE: &[Class] = &[];
const LOST: &[Class] = &[Class::Lost];
const TORN: &[Class] = &[Class::ZeroLength, Class::AllZero, Class::Mix];
const ZEROS: &[Class] = &[Class::AllZero, Class::Mix];
const EMPTY: &[Class] = &[Class::ZeroLength];

/// Everything the simulator must find, and one protocol in which there is nothing to find.
#[must_use]
#[expect(clippy::too_many_lines, reason = "a table")]
pub fn canaries() -> Vec<Canary> {
    let all = |posix, ext4, noauto, xfs, btrfs| {
        [
            ("posix-min", posix),
            ("ext4-ordered", ext4),
            ("ext4-noauto", noauto),
            ("xfs", xfs),
            ("btrfs", btrfs),
        ]
    };
    vec![
        Canary {
            name: "clean-chain",
            about: "write a temp, fsync, rename, fsync the directory: nothing to find",
            prepare: an_old_file,
            run: the_chain,
            recover: an_unused_temp,
            finds: all(NONE, NONE, NONE, NONE, NONE),
            seen: "clean everywhere",
        },
        Canary {
            name: "rename-without-fsync",
            about: "write a temp, rename, fsync the directory, and never the file",
            prepare: an_old_file,
            run: |hand| {
                hand.begin(TARGET, &NEW);
                hand.create(TEMP, &NEW)?;
                hand.rename(TEMP, TARGET)?;
                hand.dir.sync()?;
                hand.acknowledge();
                Ok(())
            },
            recover: an_unused_temp,
            finds: all(TORN, ZEROS, TORN, EMPTY, EMPTY),
            seen: "zero-length on ext4 noauto_da_alloc, XFS and btrfs; all-zero and a mix on ext4",
        },
        Canary {
            name: "foreign-fsync",
            about: "write a temp, rename, fsync some other file; nothing is claimed but old or new",
            prepare: an_old_file,
            run: |hand| {
                hand.begin(TARGET, &NEW);
                hand.create(TEMP, &NEW)?;
                hand.rename(TEMP, TARGET)?;
                let log = hand.open(TARGET, Access::Read).and_then(|_| hand.create("log", b"x"))?;
                log.sync_all()?;
                hand.dir.unlink("log".as_ref())
            },
            recover: an_unused_temp,
            finds: all(TORN, ZEROS, TORN, EMPTY, EMPTY),
            seen: "zero-length and all-zero on ext4 noauto_da_alloc, zero-length on XFS",
        },
        Canary {
            name: "write-without-fsync",
            about: "write a new file and claim nothing but all or nothing",
            prepare: nothing,
            run: |hand| {
                hand.begin(TARGET, &NEW);
                hand.create(TARGET, &NEW).map(drop)
            },
            recover: nothing,
            finds: all(TORN, TORN, TORN, EMPTY, EMPTY),
            seen: "zero-length and all-zero on ext4",
        },
        Canary {
            name: "fsync-without-dirsync",
            // An empty file, so that nothing but the name can be lost.
            about: "create a marker file, fsync it, and call its name durable",
            prepare: nothing,
            run: |hand| {
                hand.begin(TARGET, b"");
                hand.create(TARGET, b"")?.sync_all()?;
                hand.acknowledge();
                Ok(())
            },
            recover: nothing,
            finds: all(&[Class::Missing], NONE, NONE, NONE, NONE),
            seen: "nowhere: the three file systems log the name of a new file with it; POSIX does not ask them to",
        },
        Canary {
            name: "rename-claimed",
            about: "write a temp, fsync, rename, and call that durable",
            prepare: an_old_file,
            run: |hand| {
                hand.begin(TARGET, &NEW);
                hand.create(TEMP, &NEW)?.sync_all()?;
                hand.rename(TEMP, TARGET)?;
                hand.acknowledge();
                Ok(())
            },
            recover: an_unused_temp,
            finds: all(LOST, LOST, LOST, LOST, LOST),
            seen: "lost everywhere",
        },
        Canary {
            name: "dirsync-before-rename",
            about: "write a temp, fsync, fsync the directory, and only then rename",
            prepare: an_old_file,
            run: |hand| {
                hand.begin(TARGET, &NEW);
                hand.create(TEMP, &NEW)?.sync_all()?;
                hand.dir.sync()?;
                hand.rename(TEMP, TARGET)?;
                hand.acknowledge();
                Ok(())
            },
            recover: an_unused_temp,
            finds: all(LOST, LOST, LOST, LOST, LOST),
            seen: "lost everywhere",
        },
        Canary {
            name: "overwrite-in-place",
            about: "overwrite a file in place and fsync it",
            prepare: an_old_file,
            run: |hand| {
                hand.begin(TARGET, &NEW);
                let file = hand.open(TARGET, Access::Write)?;
                put(&*file, 0, &NEW)?;
                file.sync_all()?;
                hand.acknowledge();
                Ok(())
            },
            recover: nothing,
            finds: all(&[Class::Mix], &[Class::Mix], &[Class::Mix], &[Class::Mix], NONE),
            seen: "a mix on ext4 and XFS; btrfs copies on write",
        },
        Canary {
            name: "truncate-and-rewrite",
            about: "cut a file to nothing, write it anew, fsync it",
            prepare: an_old_file,
            run: |hand| {
                hand.begin(TARGET, &NEW);
                let file = hand.open(TARGET, Access::Write)?;
                file.set_len(0)?;
                put(&*file, 0, &NEW)?;
                file.sync_all()?;
                hand.acknowledge();
                Ok(())
            },
            recover: nothing,
            // Without the cut, some of the new sectors in the old file.
            finds: all(TORN, TORN, TORN, &[Class::ZeroLength, Class::Mix], EMPTY),
            seen: "zero-length on ext4 and XFS",
        },
        Canary {
            name: "append-without-fsync",
            about: "append to a log and call it durable",
            prepare: |hand| hand.create(TARGET, b"{\"n\":1}\n").map(drop),
            run: |hand| {
                hand.begin(TARGET, b"{\"n\":1}\n{\"n\":2}\n");
                let log = hand.open(TARGET, Access::Append)?;
                log.append(b"{\"n\":2}\n")?;
                hand.acknowledge();
                Ok(())
            },
            recover: nothing,
            finds: all(
                &[Class::Lost, Class::Mix],
                &[Class::Lost, Class::Mix],
                &[Class::Lost, Class::Mix],
                LOST,
                LOST,
            ),
            seen: "lost everywhere; NUL bytes at the end on ext4",
        },
        Canary {
            name: "dummy-fsync-batch",
            about: "git's batch mode: write temps, fsync one dummy for all of them, rename",
            prepare: nothing,
            run: |hand| {
                hand.witness.tell(Mark::Begin(Operation::new(
                    "write o1 and o2",
                    vec![vec![("o1".into(), file(&NEW))], vec![("o2".into(), file(&OLD))]],
                )));
                let (one, two) = (hand.create("t1", &NEW)?, hand.create("t2", &OLD)?);
                one.start_writeback(0, 1024)?;
                two.start_writeback(0, 1024)?;
                let dummy = hand.create("dummy", b"")?;
                dummy.sync_all()?;
                hand.dir.unlink("dummy".as_ref())?;
                hand.rename("t1", "o1")?;
                hand.rename("t2", "o2")?;
                hand.dir.sync()?;
                hand.acknowledge();
                Ok(())
            },
            recover: nothing,
            finds: all(TORN, TORN, TORN, EMPTY, EMPTY),
            seen: "empty on btrfs; on ext4 and XFS the writeback that was asked for came in time here",
        },
        Canary {
            name: "stale-temp-adopted",
            about: "after a crash, take a temp that is there for a finished one",
            prepare: an_old_file,
            run: the_chain,
            recover: |hand| match hand.rename(TEMP, TARGET) {
                Err(error) if Reason::of(&error) == Reason::NotFound => Ok(()),
                Err(error) => Err(error),
                Ok(()) => hand.dir.sync(),
            },
            finds: all(TORN, TORN, TORN, EMPTY, EMPTY),
            seen: "zero-length on ext4 and XFS",
        },
        Canary {
            name: "header-before-growth",
            about: "count a record in the header, then append it, then fsync",
            prepare: |hand| hand.create(TARGET, &header_and_records(1)).map(drop),
            run: |hand| {
                hand.begin(TARGET, &header_and_records(2));
                let file = hand.open(TARGET, Access::ReadWrite)?;
                put(&*file, 0, b"count=2;")?;
                put(&*file, 512, &[b'2'; 512])?;
                file.sync_all()?;
                hand.acknowledge();
                Ok(())
            },
            recover: nothing,
            finds: all(&[Class::Mix], &[Class::Mix], &[Class::Mix], &[Class::Mix], &[Class::Mix]),
            seen: "a mix on ext4",
        },
    ]
}

/// A sector of header, and a sector for each record but the first, which is in the header's.
fn header_and_records(count: u8) -> Vec<u8> {
    let mut bytes = format!("count={count};").into_bytes();
    bytes.resize(512, b'1');
    if count > 1 {
        bytes.resize(1024, b'2');
    }
    bytes
}

impl FileCase for Canary {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        self.about
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Vec<(Cell, Option<Value>)>, String> {
        let prepared = with_hand(site, self.prepare).and_then(|()| site.names()).and_then(|names| {
            names.into_iter().map(|name| site.look(&name).map(|value| (Cell::from(name), value))).collect()
        });
        // A directory that was just made has room for a file.
        let mut cells: Vec<(Cell, Option<Value>)> = prepared.map_err(|error| error.to_string())?;
        if cells.is_empty() {
            cells.push((TARGET.into(), None));
        }
        Ok(cells)
    }

    fn run(&self, site: &Site<'_>, _run: &Run) {
        if with_hand(site, self.run).is_err() {
            site.witness.tell(Mark::Failed(crashsim::Fate::Unknown));
        }
    }

    fn recover(&self, site: &Site<'_>) -> Result<(), String> {
        with_hand(site, self.recover).map_err(|error| error.to_string())
    }

    fn check(&self, site: &Site<'_>, expected: &Expected) -> Verdict {
        // Strangers are temps here, and temps are not what canaries are about.
        expected.judge(|cell| site.look(cell).ok().flatten())
    }
}

fn with_hand(site: &Site<'_>, work: fn(&Hand) -> io::Result<()>) -> io::Result<()> {
    work(&Hand { dir: site.fs.open_dir(&site.root)?, witness: site.witness })
}
