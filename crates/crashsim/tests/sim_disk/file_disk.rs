//! A device in a file of the simulated file system: one power cut for the disk and for the names around it.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use crashsim::{FileProfile, FsImage, Recording, SimFs, points};
use media::conformance::{block_device, born_zeroed};
use media::{Access, BlockDevice, BlockIndex, Dir, FileDisk, Fs, Geometry, Mode, RenameMode};

use super::geometry;

fn root(fs: &SimFs) -> Arc<dyn Dir> {
    fs.open_dir(Path::new("/")).unwrap()
}

#[test]
fn a_file_disk_on_the_simulated_file_system_conforms() {
    let fs = SimFs::new();
    let made = Cell::new(0);
    let make = |wish: Geometry| {
        made.set(made.get() + 1);
        FileDisk::create(&*root(&fs), OsStr::new(&format!("disk{}", made.get())), wish).unwrap()
    };
    assert_eq!(block_device(make), 17);
    assert_eq!(born_zeroed(make), 1);
}

/// Two letters for the sectors of block 1, and the name that the other file has.
fn look(image: &FsImage) -> String {
    let content = |name: &str| image.lookup(FsImage::ROOT, OsStr::new(name)).map(|ino| image.content(ino));
    let disk = content("disk").unwrap();
    assert_eq!(disk.len(), 4096);
    let sectors = [1024, 1536].map(|at| char::from(disk[at]));
    let name = ["old", "new"].into_iter().find(|name| content(name).is_some()).unwrap_or("nothing");
    format!("{}{} {name}", sectors[0], sectors[1])
}

#[test]
fn one_power_cut_covers_a_disk_in_a_file_and_a_rename_beside_it() {
    let fs = SimFs::new();
    let disk = FileDisk::create(&*root(&fs), OsStr::new("disk"), geometry(1024, 4)).unwrap();
    disk.write(BlockIndex::new(1), &[b'o'; 1024]).unwrap();
    root(&fs).create_exclusive(OsStr::new("old"), Mode::PRIVATE).unwrap();

    let start = fs.image();
    let fs = SimFs::mount(start.clone(), Recording::On);
    let file = root(&fs).open(OsStr::new("disk"), Access::ReadWrite).unwrap();
    let disk = FileDisk::open(file, 1024).unwrap();
    disk.write(BlockIndex::new(1), &[b'n'; 1024]).unwrap();
    root(&fs).rename(OsStr::new("old"), &*root(&fs), OsStr::new("new"), RenameMode::NoReplace).unwrap();
    let unflushed = fs.trace().len();
    disk.flush().unwrap();
    let flushed = fs.trace().len();
    root(&fs).sync().unwrap();

    let found = |count| -> BTreeSet<String> {
        let points = points(&start, &fs.trace().until(count), FileProfile::POSIX_MIN);
        let point = points.last().unwrap();
        assert_eq!(point.at, count);
        let image = |number| {
            let mut image = point.base.clone();
            point.build(&point.digits(number), |piece| piece.apply(&mut image));
            image.settle();
            look(&image)
        };
        (0..point.combinations()).map(image).collect()
    };
    let wanted = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<BTreeSet<_>>();
    let anything = ["oo old", "no old", "on old", "nn old", "oo new", "no new", "on new", "nn new"];
    assert_eq!(found(unflushed), wanted(&anything));
    assert_eq!(found(flushed), wanted(&["nn old", "nn new"]));
    assert_eq!(found(fs.trace().len()), wanted(&["nn new"]));
}
