//! Names at the limit, links across directories, several names for one file.

use std::os::unix::fs::symlink;

use durable_io::{
    Barriers, Change, Dir, HardLinks, Kind, Publish, Reason, RenameMode, Symlinks, TargetState, WriteOptions,
};
use testbed::{FsKind, LoopFs, need};

use crate::{mode, names};

fn named(letter: &str, len: usize) -> String {
    letter.repeat(len)
}

#[test]
fn names_of_255_bytes_work_in_every_operation_on_every_file_system() {
    for (kind, size) in need!(FsKind::journalled()) {
        let fs = need!(LoopFs::mount(kind, size));
        let dir = Dir::open(fs.root()).unwrap();
        let (a, b, sub) = (named("a", 255), named("b", 255), named("d", 255));
        assert_eq!(dir.replace(&a, b"one").unwrap().change, Change::Created, "{kind:?}");
        assert_eq!(dir.replace(&a, b"two").unwrap().change, Change::Replaced, "{kind:?}");
        drop(dir.create_new(&b, b"new").unwrap());
        assert_eq!(dir.create_new(&b, b"again").unwrap_err().kind(), Kind::Exists, "{kind:?}");
        let mut staged = dir.stage(&a).unwrap();
        staged.write_all(b"staged").unwrap();
        drop(staged.seal().unwrap().publish(Publish::Replace).unwrap());
        assert_eq!(dir.read(&a).unwrap(), b"staged", "{kind:?}");
        let (bytes, stamp) = dir.read_stamped(&a).unwrap();
        assert_eq!(bytes.unwrap(), b"staged");
        let expecting = WriteOptions { expect: Some(stamp), ..WriteOptions::default() };
        drop(dir.replace_with(&a, b"swapped", &expecting).unwrap());
        assert_eq!(dir.replace_with(&a, b"late", &expecting).unwrap_err().kind(), Kind::Conflict);
        dir.sync_file(&a).unwrap();

        assert!(dir.create_dir(&sub).unwrap().is_durable(), "{kind:?}");
        let below = dir.subdir(&sub).unwrap();
        drop(below.replace(&a, b"below").unwrap());
        drop(dir.replace(format!("{}/{}/{a}", named("e", 255), named("f", 255)), b"deep").unwrap());
        dir.rename_to(&a, &below, &b, RenameMode::NoReplace, Barriers::Required).unwrap();
        below.rename_to(&a, &below, &b, RenameMode::Exchange, Barriers::Required).unwrap();
        assert_eq!(below.read(&a).unwrap(), b"swapped", "{kind:?}");
        std::fs::hard_link(below.path().join(&a), below.path().join(named("c", 255))).unwrap();
        let in_place = WriteOptions { hard_links: HardLinks::InPlace, ..WriteOptions::default() };
        assert_eq!(below.replace_with(&a, b"shared", &in_place).unwrap().change, Change::Overwritten);
        assert_eq!(below.read(named("c", 255)).unwrap(), b"shared", "{kind:?}");
        below.remove(&a).unwrap();
        dir.rename(&b, named("z", 255)).unwrap();
        assert_eq!(names(fs.root()), [sub, named("e", 255), named("z", 255)], "{kind:?}");
    }
}

#[test]
fn names_of_256_bytes_are_refused_as_too_long() {
    for (kind, size) in need!(FsKind::journalled()) {
        let fs = need!(LoopFs::mount(kind, size));
        let dir = Dir::open(fs.root()).unwrap();
        drop(dir.replace("a", b"old").unwrap());
        let long = named("x", 256);
        for error in [
            dir.replace(&long, b"x").unwrap_err(),
            dir.create_new(&long, b"x").unwrap_err(),
            dir.replace(format!("{long}/x"), b"x").unwrap_err(),
            dir.stage(&long).unwrap_err(),
            dir.read(&long).unwrap_err(),
            dir.remove(&long).unwrap_err(),
            dir.create_dir(&long).unwrap_err(),
            dir.subdir(&long).unwrap_err(),
            dir.rename("a", &long).unwrap_err(),
            dir.rename(&long, "a").unwrap_err(),
        ] {
            assert_eq!(error.reason(), Some(Reason::NameTooLong), "{kind:?}: {error}");
            assert_eq!((error.kind(), error.state()), (Kind::Invalid, TargetState::Unchanged), "{kind:?}");
        }
        assert_eq!(names(fs.root()), ["a"], "{kind:?}");
        assert_eq!(dir.read("a").unwrap(), b"old");
    }
}

#[test]
fn a_chain_of_links_is_followed_each_from_its_own_directory() {
    let fs = need!(LoopFs::mount(FsKind::Ext4, 16 << 20));
    let root = fs.root();
    for sub in ["a", "b", "b/inner", "c"] {
        std::fs::create_dir(root.join(sub)).unwrap();
    }
    symlink("../b/inner/second", root.join("a/first")).unwrap();
    symlink("../third", root.join("b/inner/second")).unwrap();
    symlink(root.join("c/target"), root.join("b/third")).unwrap();
    let dir = Dir::open(root).unwrap();
    // At first it dangles, then it leads to a file.
    for (content, change) in [(b"one", Change::Created), (b"two", Change::Replaced)] {
        assert_eq!(dir.replace("a/first", content).unwrap().change, change);
        assert_eq!(std::fs::read(root.join("c/target")).unwrap(), content);
        assert_eq!(dir.read("a/first").unwrap(), content);
    }
    assert_ne!(mode(&root.join("c/target")), 0o777, "the mode of a link means nothing");
    assert_eq!(names(&root.join("a")), ["first"]);
    assert_eq!(names(&root.join("b")), ["inner", "third"]);
    assert_eq!(names(&root.join("c")), ["target"]);

    let refuse = WriteOptions { symlinks: Symlinks::Refuse, ..WriteOptions::default() };
    assert_eq!(dir.replace_with("a/first", b"x", &refuse).unwrap_err().kind(), Kind::Invalid);
    let replace = WriteOptions { symlinks: Symlinks::Replace, ..WriteOptions::default() };
    drop(dir.replace_with("a/first", b"file now", &replace).unwrap());
    assert!(std::fs::symlink_metadata(root.join("a/first")).unwrap().is_file());
    assert_ne!(mode(&root.join("a/first")), 0o777);
    assert_eq!(std::fs::read(root.join("c/target")).unwrap(), b"two");
}

#[test]
fn forty_links_are_followed_and_a_circle_is_not() {
    let fs = need!(LoopFs::mount(FsKind::Ext4, 16 << 20));
    let root = fs.root();
    let dir = Dir::open(root).unwrap();
    symlink("y", root.join("x")).unwrap();
    symlink("x", root.join("y")).unwrap();
    for error in [dir.replace("x", b"").unwrap_err(), dir.read("x").unwrap_err()] {
        assert_eq!((error.reason(), error.state()), (Some(Reason::SymlinkLoop), TargetState::Unchanged));
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::LOOP.raw_os_error()));
    }
    for number in 1..=40 {
        symlink((number - 1).to_string(), root.join(number.to_string())).unwrap();
    }
    std::fs::write(root.join("0"), b"old").unwrap();
    // The kernel is the judge: as many links as it follows, we follow.
    for name in ["39", "40"] {
        let kernel = std::fs::read(root.join(name));
        assert_eq!(dir.replace(name, b"new").map(drop).is_ok(), kernel.is_ok(), "{name}: {kernel:?}");
    }
    symlink("40", root.join("41")).unwrap();
    assert!(std::fs::read(root.join("41")).is_err());
    assert_eq!(dir.replace("41", b"new").unwrap_err().reason(), Some(Reason::SymlinkLoop));
}

#[test]
fn one_name_of_several_is_replaced_or_all_are_overwritten_as_the_policy_says() {
    for (kind, size) in need!(FsKind::journalled()) {
        let fs = need!(LoopFs::mount(kind, size));
        let root = fs.root();
        let dir = Dir::open(root).unwrap();
        drop(dir.replace("a", b"the shared old content").unwrap());
        std::fs::hard_link(root.join("a"), root.join("b")).unwrap();
        std::fs::hard_link(root.join("a"), root.join("c")).unwrap();

        let with = |hard_links| WriteOptions { hard_links, ..WriteOptions::default() };
        let error = dir.replace_with("a", b"x", &with(HardLinks::Refuse)).unwrap_err();
        assert_eq!((error.kind(), error.state()), (Kind::Invalid, TargetState::Unchanged), "{kind:?}");
        let published = dir.replace_with("a", b"shared", &with(HardLinks::InPlace)).unwrap();
        assert_eq!((published.change, published.other_links), (Change::Overwritten, 2), "{kind:?}");
        assert!(["a", "b", "c"].iter().all(|name| dir.read(name).unwrap() == b"shared"), "{kind:?}");
        let published = dir.replace("a", b"mine").unwrap();
        assert_eq!((published.change, published.other_links), (Change::Replaced, 2), "{kind:?}");
        assert_eq!((dir.read("a").unwrap(), dir.read("b").unwrap()), (b"mine".to_vec(), b"shared".to_vec()));
        assert_eq!(names(root), ["a", "b", "c"], "{kind:?}");
    }
}
