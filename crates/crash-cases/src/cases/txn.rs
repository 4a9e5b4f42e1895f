//! Several names that change together, in a root of our own and in a directory of others.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use crash_recovery::Publish;
use crashsim::Operation;
use media::doubles::{Call, Listener, Op, TapFs};
use media::{Access, Mode};

use super::case::{Ended, boxed};
use super::tree::{Change, Meanwhile, Script, Shape, Tree, TreeCase, Way, at, commit};
use crate::site::{FileCase, Site, sweep_all};

const EVERY_WAY: &[Way] = &[Way::Fast, Way::Plain, Way::Shared];
const OWNED: &[Way] = &[Way::Fast, Way::Plain];
const WITH_DURABLE_WRITES: &[Way] = &[Way::Fast, Way::FastDurable, Way::Plain, Way::Shared];

pub(super) fn cases() -> Vec<Box<dyn FileCase>> {
    boxed(SCRIPTS.into_iter().flat_map(Script::cases).collect::<Vec<TreeCase>>())
}

const OLD: &[u8] = b"old";
const NEW: &[u8] = b"new";
const LONG: &[u8] = b"more than rides in the journal";
const LONGER: &[u8] = b"much more than rides in the journal";

/// A journal that needs no switch after several opens.
const ROOMY: Shape = Shape { journal_blocks: 80, window: 8 };

const SCRIPTS: [Script; 27] = [
    Script::new("put", "replace a file", WITH_DURABLE_WRITES, &[("a", OLD)], |mut tree| tree.put("a", NEW)),
    Script::new("first", "make the journal, and put a file", EVERY_WAY, &[], |mut tree| tree.put("a", NEW)),
    Script::new("remove", "remove a file", EVERY_WAY, &[("a", OLD)], |mut tree| tree.remove("a")),
    Script::new(
        "rename",
        "rename a file over another, and back to a free name",
        EVERY_WAY,
        &[("a", OLD), ("b", LONG)],
        |mut tree| {
            tree.commit("rename b to a", &[Change::Rename("b", "a")])?;
            tree.commit("rename a to b", &[Change::Rename("a", "b")])
        },
    ),
    Script::new(
        "three",
        "replace one file, create another, remove a third, together",
        WITH_DURABLE_WRITES,
        &[("a", OLD), ("b", OLD)],
        |mut tree| {
            tree.commit(
                "three at once",
                &[Change::Put("a", NEW), Change::Create("c", LONG), Change::Remove("b")],
            )
        },
    ),
    Script::new(
        "swap",
        "swap two files, and rotate three",
        EVERY_WAY,
        &[("a", b"1"), ("b", LONG), ("c", b"3")],
        |mut tree| {
            tree.commit("swap a and b", &[Change::Rename("a", "b"), Change::Rename("b", "a")])?;
            tree.commit(
                "rotate",
                &[Change::Rename("a", "b"), Change::Rename("b", "c"), Change::Rename("c", "a")],
            )
        },
    ),
    Script::new(
        "every-kind",
        "replace, create, remove, rename and swap, in one transaction",
        EVERY_WAY,
        &[("a", OLD), ("b", OLD), ("c", LONG), ("e", LONG), ("f", LONGER)],
        |mut tree| {
            tree.commit(
                "every kind",
                &[
                    Change::Put("a", NEW),
                    Change::Create("n", LONG),
                    Change::Remove("b"),
                    Change::Rename("c", "d"),
                    Change::Rename("e", "f"),
                    Change::Rename("f", "e"),
                ],
            )
        },
    ),
    Script::new(
        "folders",
        "put into new folders, and move to another",
        EVERY_WAY,
        &[("a", OLD)],
        |mut tree| {
            tree.put("x/y/a", LONG)?;
            tree.commit("move to z", &[Change::Rename("x/y/a", "z/a"), Change::Put("x/b", NEW)])
        },
    ),
    Script {
        shape: Shape { journal_blocks: 22, window: 8 },
        ..Script::new(
            "list",
            "a transaction that is too long for a frame, and a put behind it",
            EVERY_WAY,
            &[("a", OLD)],
            |mut tree| {
                tree.commit("six at once", &SIX.map(|name| Change::Put(name, LONG)))?;
                tree.put("a", NEW)
            },
        )
    },
    Script {
        shape: Shape { journal_blocks: 22, window: 1 },
        ..Script::new(
            "switch",
            "put until the journal has switched its regions",
            WITH_DURABLE_WRITES,
            &[("a", OLD)],
            |mut tree| {
                for nth in 0..5 {
                    tree.put("a", &[b'0' + nth])?;
                    if nth == 2 {
                        tree.put("b", LONG)?;
                    }
                }
                Ok(())
            },
        )
    },
    Script::new(
        "staged",
        "stage in one folder piece by piece, and publish in another",
        OWNED,
        &[("b/a", OLD), ("in/b", OLD)],
        {
            |mut tree| {
                tree.publish("in/1.nxpart", "b/a", NEW)?;
                tree.publish("in/2.nxpart", "b/a", LONG)
            }
        },
    ),
    Script::new("reopen", "put, close, open, put", EVERY_WAY, &[("a", OLD)], |mut tree| {
        tree.put("a", NEW)?;
        let mut tree = tree.reopen(Shape::new())?;
        tree.put("a", b"newer")?;
        tree.root.close().map_err(Ended::from)
    }),
    Script {
        afterwards: |mut tree| tree.put("life", b"on"),
        ..Script::new(
            "life",
            "put and remove; the process that comes after a crash puts another file",
            EVERY_WAY,
            &[("a", OLD), ("b", OLD)],
            |mut tree| {
                tree.put("a", NEW)?;
                tree.remove("b")
            },
        )
    },
    Script {
        afterwards: put_into_the_folder,
        ..Script::new(
            "life-folders",
            "put into a new folder; the process that comes after a crash puts into it too, and completes that",
            EVERY_WAY,
            &[("a", OLD)],
            |mut tree| tree.put("x/y/a", LONG),
        )
    },
    Script {
        earlier: |site| make_folders(site, &["own", "own/journal"]),
        ..Script::new(
            "first-again",
            "make the journal where a process has died that was about to, and put a file",
            OWNED,
            &[],
            |mut tree| tree.put("a", NEW),
        )
    },
    Script {
        pending: &[
            Change::Put("a", NEW),
            Change::Put("b", LONG),
            Change::Remove("c"),
            Change::Rename("d", "e"),
        ],
        ..Script::new(
            "finish",
            "open where several changes were committed and none is in place, and put another file",
            WITH_DURABLE_WRITES,
            &[("a", OLD), ("c", OLD), ("d", LONG)],
            |mut tree| tree.put("f", NEW),
        )
    },
    Script {
        shape: Shape { journal_blocks: 22, window: 8 },
        pending: &[
            Change::Put("1", LONG),
            Change::Put("2", LONG),
            Change::Put("3", LONG),
            Change::Put("x/4", LONG),
            Change::Put("x/5", LONG),
            Change::Remove("a"),
        ],
        ..Script::new(
            "finish-list",
            "open where more was committed than fits into a frame, and put another file",
            EVERY_WAY,
            &[("a", OLD)],
            |mut tree| tree.put("f", NEW),
        )
    },
    Script {
        earlier: |site| make_folders(site, &["x"]),
        ..Script::new(
            "made-folder",
            "put into a folder that somebody has made without a barrier",
            EVERY_WAY,
            &[("a", OLD)],
            |mut tree| tree.put("x/a", LONG),
        )
    },
    Script {
        earlier: |site| make_folders(site, &["x"]),
        ..Script::new(
            "made-folder-done",
            "put into a folder that somebody has made without a barrier, checkpoint, and put another",
            WITH_DURABLE_WRITES,
            &[("a", OLD)],
            |mut tree| {
                tree.put("x/a", NEW)?;
                tree.root.checkpoint()?;
                tree.put("a", NEW)
            },
        )
    },
    Script {
        earlier: |site| make_folders(site, &["d/x", "e/y"]),
        ..Script::new(
            "made-folders",
            "stage in a folder that somebody has made without a barrier, and publish in another",
            OWNED,
            &[("d/a", OLD), ("e/a", OLD)],
            |mut tree| tree.publish("d/x/1.nxpart", "e/y/b", LONG),
        )
    },
    Script {
        earlier: |site| {
            let atom = vec![("d/b".into(), None), ("d/a".into(), Way::Shared.file(LONG))];
            site.announce(Operation::new("others rename d/b to d/a", vec![atom]));
            site.move_file("d/b", "d/a")
        },
        ..Script::new(
            "remove-renamed",
            "remove a file that others have renamed without a barrier, and put another elsewhere",
            &[Way::Shared],
            &[("d/a", OLD), ("d/b", LONG), ("e/c", OLD)],
            |mut tree| {
                tree.seen.insert("d/a".to_owned(), tree.way.file(LONG));
                tree.commit("remove d/a, put e/c", &[Change::Remove("d/a"), Change::Put("e/c", NEW)])
            },
        )
    },
    Script {
        earlier: |site| {
            let atom = vec![("d/y/f".into(), None), ("d/x/f".into(), Way::Shared.file(LONG))];
            site.announce(Operation::new("others rename d/y to d/x", vec![atom]));
            site.move_file("d/y", "d/x")
        },
        ..Script::new(
            "moved-folder",
            "rename a file out of a folder that others have renamed without a barrier",
            &[Way::Shared],
            &[("d/y/f", LONG), ("e/a", OLD)],
            |mut tree| {
                tree.seen.insert("d/x/f".to_owned(), tree.way.file(LONG));
                tree.commit("rename d/x/f to e/g", &[Change::Rename("d/x/f", "e/g")])
            },
        )
    },
    Script::new(
        "rename-written",
        "rename a file that others have written without a barrier",
        &[Way::Shared],
        &[("a", OLD), ("b", LONG)],
        |mut tree| {
            // One byte is written or not.
            let written = tree.way.file(b"Old");
            tree.site.announce(Operation::one("others write a", "a", written.clone()));
            let (dir, name) = tree.site.split("a")?;
            dir.open(name, Access::Write)?.write_at(0, b"O")?;
            tree.seen.insert("a".to_owned(), written);
            tree.commit("rename a to b", &[Change::Rename("a", "b")])
        },
    ),
    Script::new(
        "checkpoint",
        "put a name twice, checkpoint, and put another",
        OWNED,
        &[("a", OLD)],
        |mut tree| {
            tree.put("a", b"1")?;
            tree.put("a", b"2")?;
            tree.root.checkpoint()?;
            tree.put("c", NEW)
        },
    ),
    Script {
        shape: ROOMY,
        ..Script::new(
            "release",
            "put a name while a checkpoint syncs what it was before, and put another",
            &[Way::Fast, Way::FastDurable],
            &[("a", OLD)],
            put_during_a_checkpoint,
        )
    },
    Script {
        meanwhile: Meanwhile::Foreign(replace_by_others),
        ..Script::new(
            "foreign",
            "change two names; after a crash somebody else replaces one of them before the recovery",
            &[Way::Shared],
            &[("a", OLD), ("b", OLD)],
            two_at_once,
        )
    },
    Script {
        meanwhile: Meanwhile::Foreign(overwrite_by_others),
        ..Script::new(
            "foreign-in-place",
            "change two names; after a crash somebody else overwrites one of them before the recovery",
            &[Way::Shared],
            &[("a", OLD), ("b", OLD)],
            two_at_once,
        )
    },
];

fn put_into_the_folder(mut tree: Tree<'_, '_>) -> Result<(), Ended> {
    tree.put("x/y/life", LONG)?;
    tree.root.checkpoint()?;
    tree.put("life", NEW)
}

/// Makes folders, without a barrier, in which there is nothing.
fn make_folders(site: &Site<'_>, folders: &[&str]) -> io::Result<()> {
    folders.iter().try_for_each(|folder| {
        site.announce(Operation::one(format_args!("make {folder}"), format!("{folder}/nothing"), None));
        let (dir, name) = site.split(folder)?;
        dir.create_dir(name, Mode::DIR)
    })
}

const SIX: [&str; 6] = ["1", "2", "3", "4", "5", "6"];

fn two_at_once(mut tree: Tree<'_, '_>) -> Result<(), Ended> {
    tree.commit("two at once", &[Change::Put("a", NEW), Change::Put("b", NEW)])
}

const FOREIGN: &[u8] = b"ext";

/// Whoever works here beside us uses files of his own, which he sweeps himself.
fn replace_by_others(site: &Site<'_>) -> Result<(), Ended> {
    sweep_all(site).map_err(Ended)?;
    let operation = Operation::one("others replace a", "a", Way::Shared.file(FOREIGN));
    site.perform(operation, || site.dir()?.replace("a", FOREIGN))?;
    Ok(())
}

/// In a file that may have been removed meanwhile.
fn overwrite_by_others(site: &Site<'_>) -> Result<(), Ended> {
    let operation = Operation::one("others overwrite a", "a", Way::Shared.file(FOREIGN));
    site.perform(operation, || {
        let (dir, name) = site.split("a")?;
        let file = dir.open(name, Access::Write)?;
        match file.write_at(0, FOREIGN)? {
            count if count == FOREIGN.len() => file.sync_all(),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    })?;
    Ok(())
}

impl Tree<'_, '_> {
    /// Publishes a file that was staged in two pieces, the second one first.
    fn publish(&mut self, hidden: &str, name: &str, bytes: &[u8]) -> Result<(), Ended> {
        let mut staged = self.root.stage(&at(hidden)?)?;
        let (first, second) = bytes.split_at(2);
        staged.write_at(2, second)?;
        staged.write_at(0, first)?;
        let operation = Operation::one(format_args!("publish {name}"), name, self.way.file(bytes));
        let target = at(name)?;
        self.site.perform(operation, || {
            let mut transaction = self.root.transaction();
            transaction.publish(staged, &target, Publish::Replace)?;
            transaction.commit()
        })?;
        self.seen.insert(name.to_owned(), self.way.file(bytes));
        Ok(())
    }
}

/// Stops the first sync of a file that is asked for, says so, and waits until it is told to go on.
#[derive(Debug)]
struct StopAtSync {
    reached: Mutex<Option<Sender<()>>>,
    go_on: Mutex<Receiver<()>>,
}

impl Listener for StopAtSync {
    fn before(&self, call: &Call) -> io::Result<()> {
        let lock = |reached: &Mutex<Option<Sender<()>>>| {
            reached.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        if call.op != Op::SyncAll {
            return Ok(());
        }
        if let Some(reached) = lock(&self.reached)
            && reached.send(()).is_ok()
        {
            let go_on = self.go_on.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever has gone has nothing to wait for.
            go_on.recv().unwrap_or_default();
        }
        Ok(())
    }
}

/// The newer change of the name is committed and in place, and its file not synced, when the older one is released.
fn put_during_a_checkpoint(tree: Tree<'_, '_>) -> Result<(), Ended> {
    let (told, reached) = channel();
    let (go_on, waiting) = channel();
    let stop = Arc::new(StopAtSync { reached: Mutex::new(None), go_on: Mutex::new(waiting) });
    let Tree { site, root, way, .. } = tree;
    root.close()?;
    let fs = TapFs::shared(Arc::clone(&site.fs), Arc::<StopAtSync>::clone(&stop));
    let tapped = Site::new(fs, &site.root, site.life, site.witness);
    let mut tree = Tree::open(&tapped, way, ROOMY, &[("a", OLD)])?;
    tree.put("a", b"older")?;
    *stop.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
    let root = &tree.root;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if reached.recv().is_ok() {
                let operation = Operation::one("put a newer a", "a", way.file(b"newer"));
                drop(site.perform(operation, || commit(root, &[Change::Put("a", b"newer")])));
            }
            drop(go_on);
        });
        let outcome = root.checkpoint();
        // Where there was nothing to sync.
        drop(stop.reached.lock().unwrap_or_else(PoisonError::into_inner).take());
        outcome
    })?;
    tree.put("c", NEW)
}
