//! What a barrier takes along that it does not promise, file system by file system: the evidence for the order that a
//! simulator's profile of it may assume. Only what the contract of the seam promises is asserted.

use std::fs::File;
use std::path::Path;

use testbed::{Cut, CutFs, CutKind, need};

use crate::on_every_kind;

/// Changes, a barrier, and the question whether a change is there after the cut.
struct Probe {
    name: &'static str,
    /// Durable before the changes.
    set_up: fn(&Path),
    act: fn(&Path),
    is_there: fn(&Path) -> bool,
    /// Whether the contract says so.
    promised: bool,
}

const PROBES: [Probe; 17] = [
    Probe {
        name: "new file: fsync file and dir. The file",
        set_up: |_| {},
        act: |dir| {
            put(&dir.join("new"), b"bytes");
            fsync(&dir.join("new"));
            fsync(dir);
        },
        is_there: |dir| holds(&dir.join("new"), b"bytes"),
        promised: true,
    },
    Probe {
        name: "new file: fsync file. Its name",
        set_up: |_| {},
        act: |dir| {
            put(&dir.join("new"), b"bytes");
            fsync(&dir.join("new"));
        },
        is_there: |dir| holds(&dir.join("new"), b"bytes"),
        promised: false,
    },
    Probe {
        name: "new file: fsync dir. Its bytes",
        set_up: |_| {},
        act: |dir| {
            put(&dir.join("new"), b"bytes");
            fsync(dir);
        },
        is_there: |dir| holds(&dir.join("new"), b"bytes"),
        promised: false,
    },
    Probe {
        name: "two new files: fsync one. The other's name",
        set_up: |_| {},
        act: |dir| {
            put(&dir.join("other"), b"bytes");
            put(&dir.join("new"), b"bytes");
            fsync(&dir.join("new"));
        },
        is_there: |dir| dir.join("other").exists(),
        promised: false,
    },
    Probe {
        name: "file in a new directory: fsync both. The new directory's name",
        set_up: |_| {},
        act: |dir| {
            std::fs::create_dir(dir.join("sub")).unwrap();
            put(&dir.join("sub/new"), b"bytes");
            fsync(&dir.join("sub/new"));
            fsync(&dir.join("sub"));
        },
        is_there: |dir| holds(&dir.join("sub/new"), b"bytes"),
        promised: false,
    },
    Probe {
        name: "renamed file: fsync dir. The new name",
        set_up: |dir| put(&dir.join("old"), b"bytes"),
        act: |dir| {
            rename(&dir.join("old"), &dir.join("new"));
            fsync(dir);
        },
        is_there: |dir| holds(&dir.join("new"), b"bytes") && !dir.join("old").exists(),
        promised: true,
    },
    Probe {
        name: "renamed file: fsync file. The new name",
        set_up: |dir| put(&dir.join("old"), b"bytes"),
        act: |dir| {
            rename(&dir.join("old"), &dir.join("new"));
            fsync(&dir.join("new"));
        },
        is_there: |dir| dir.join("new").exists(),
        promised: false,
    },
    Probe {
        name: "renamed and changed file: fsync file. The new name",
        set_up: |dir| put(&dir.join("old"), b"bytes"),
        act: |dir| {
            rename(&dir.join("old"), &dir.join("new"));
            put(&dir.join("new"), b"other");
            fsync(&dir.join("new"));
        },
        is_there: |dir| dir.join("new").exists(),
        promised: false,
    },
    Probe {
        name: "renamed parent, changed file: fsync file and parent. The parent's new name",
        set_up: |dir| {
            std::fs::create_dir(dir.join("old")).unwrap();
            put(&dir.join("old/file"), b"bytes");
        },
        act: |dir| {
            rename(&dir.join("old"), &dir.join("new"));
            put(&dir.join("new/file"), b"other");
            fsync(&dir.join("new/file"));
            fsync(&dir.join("new"));
        },
        is_there: |dir| dir.join("new").exists(),
        promised: false,
    },
    Probe {
        name: "renamed grandparent, new file: fsync file and parent. The file by its new path",
        set_up: |dir| std::fs::create_dir_all(dir.join("old/sub")).unwrap(),
        act: |dir| {
            rename(&dir.join("old"), &dir.join("new"));
            put(&dir.join("new/sub/file"), b"bytes");
            fsync(&dir.join("new/sub/file"));
            fsync(&dir.join("new/sub"));
        },
        is_there: |dir| holds(&dir.join("new/sub/file"), b"bytes"),
        promised: false,
    },
    Probe {
        name: "rename across directories: fsync the new parent. The new name",
        set_up: two_directories,
        act: |dir| {
            rename(&dir.join("one/file"), &dir.join("two/moved"));
            fsync(&dir.join("two"));
        },
        is_there: |dir| holds(&dir.join("two/moved"), b"bytes"),
        promised: true,
    },
    Probe {
        name: "rename across directories: fsync the new parent. The old name is gone",
        set_up: two_directories,
        act: |dir| {
            rename(&dir.join("one/file"), &dir.join("two/moved"));
            fsync(&dir.join("two"));
        },
        is_there: |dir| !dir.join("one/file").exists(),
        promised: false,
    },
    Probe {
        name: "rename across directories: fsync both parents. One name, the new one",
        set_up: two_directories,
        act: |dir| {
            rename(&dir.join("one/file"), &dir.join("two/moved"));
            fsync(&dir.join("two"));
            fsync(&dir.join("one"));
        },
        is_there: |dir| !dir.join("one/file").exists() && holds(&dir.join("two/moved"), b"bytes"),
        promised: true,
    },
    Probe {
        name: "rename across directories: fsync the old parent. The new name",
        set_up: two_directories,
        act: |dir| {
            rename(&dir.join("one/file"), &dir.join("two/moved"));
            fsync(&dir.join("one"));
        },
        is_there: |dir| dir.join("two/moved").exists(),
        promised: false,
    },
    Probe {
        name: "renames in two directories: fsync the second. The first rename",
        set_up: two_directories,
        act: |dir| {
            rename(&dir.join("one/file"), &dir.join("one/renamed"));
            rename(&dir.join("two/file"), &dir.join("two/renamed"));
            fsync(&dir.join("two"));
        },
        is_there: |dir| dir.join("one/renamed").exists(),
        promised: false,
    },
    Probe {
        name: "removed in one directory: fsync another that changed. The removal",
        set_up: two_directories,
        act: |dir| {
            std::fs::remove_file(dir.join("one/file")).unwrap();
            rename(&dir.join("two/file"), &dir.join("two/renamed"));
            fsync(&dir.join("two"));
        },
        is_there: |dir| !dir.join("one/file").exists(),
        promised: false,
    },
    Probe {
        name: "removed: fsync dir. The removal",
        set_up: two_directories,
        act: |dir| {
            std::fs::remove_file(dir.join("one/file")).unwrap();
            fsync(&dir.join("one"));
        },
        is_there: |dir| !dir.join("one/file").exists(),
        promised: true,
    },
];

fn two_directories(dir: &Path) {
    for sub in ["one", "two"] {
        std::fs::create_dir(dir.join(sub)).unwrap();
        put(&dir.join(sub).join("file"), b"bytes");
    }
}

/// Overwrites what is there, and does not truncate: that is a change of its own.
fn put(file: &Path, bytes: &[u8]) {
    let mut file = File::options().create(true).truncate(false).write(true).open(file).unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
}

fn fsync(path: &Path) {
    rustix::fs::fsync(File::open(path).unwrap()).unwrap();
}

fn rename(from: &Path, to: &Path) {
    rustix::fs::renameat(rustix::fs::CWD, from, rustix::fs::CWD, to).unwrap();
}

fn holds(file: &Path, bytes: &[u8]) -> bool {
    std::fs::read(file).is_ok_and(|found| found == bytes)
}

#[test]
fn what_a_barrier_promises_is_there_after_a_power_cut() {
    let answers = on_every_kind(|kind| {
        let mut fs = CutFs::mount(kind)?;
        let answers = PROBES.each_ref().map(|probe| {
            fs.reset().unwrap();
            (probe.set_up)(&fs.path());
            fs.sync().unwrap();
            (probe.act)(&fs.path());
            fs.cut(Cut::Now).unwrap();
            (probe.is_there)(&fs.path())
        });
        Ok::<_, testbed::Missing>(answers)
    });
    let mut kinds = Vec::new();
    for (kind, answers) in answers {
        kinds.push((kind, need!(answers)));
    }
    println!("{:80}{}", "what is there?", CutKind::ALL.map(|kind| format!("{kind:22}")).concat());
    for (index, probe) in PROBES.iter().enumerate() {
        let words = kinds.iter().map(|(_, answers)| if answers[index] { "yes" } else { "no" });
        println!(
            "{:80}{}",
            probe.name,
            words.map(|word| format!("{word:22}")).collect::<String>().trim_end()
        );
    }
    for (kind, answers) in kinds {
        for (probe, is_there) in PROBES.iter().zip(answers) {
            assert!(is_there || !probe.promised, "{kind}: {} is not there", probe.name);
        }
    }
}
