//! Which image is opened, and who may write it.

use super::*;

/// The bytes of a store with blocks of that size, with one value in it.
fn store(dir: &Path, name: &str, block_size: &str, value: &str) -> Vec<u8> {
    expect(dir, &["init", name, "--size", "1MiB", "--block-size", block_size], 0);
    expect(dir, &["put", name, "/state/a", value], 0);
    fs::read(dir.join(name)).unwrap()
}

/// A store with larger blocks was made over one with blocks of 4 KiB, whose second superblock is still there. The command used to
/// try 4 KiB first, and to read and write the older one.
#[test]
fn store_f1_an_image_with_superblocks_of_two_stores_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let older = store(dir, "older", "4096", "deleted long ago");
    let mut both = store(dir, "newer", "16384", "new");
    both[4096..8192].copy_from_slice(&older[4096..8192]);
    set(dir.join("both"), &both);
    for arguments in [
        &["get", "both", "/state/a"][..],
        &["put", "both", "/state/a", "newer"],
        &["fsck", "both"],
        &["scrub", "both"],
        &["salvage", "both", "saved"],
    ] {
        let (stdout, stderr) = expect(dir, arguments, 3);
        assert!(stdout.is_empty(), "{arguments:?}: {stdout}");
        for words in ["two stores", "blocks of 4096 bytes", "blocks of 16384 bytes"] {
            assert!(stderr.contains(words), "{arguments:?}: {stderr}");
        }
    }
    assert_eq!(fs::read(dir.join("both")).unwrap(), both, "nothing was written");
    // It is held by nobody, and the store alone is fine.
    drop(hold(dir, "both"));
    assert_eq!(expect(dir, &["get", "newer", "/state/a"], 0).0, "new");
}

#[test]
fn store_f6_holes_of_an_image_are_told() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    store(dir, "image", "4096", "kept");
    assert_eq!(json(dir, &["stats", "image"], 0)["has_holes"], false);
    assert!(!expect(dir, &["stats", "image"], 0).0.contains("holes"));
    let dense = fs::read(dir.join("image")).unwrap();
    let sparse = fs::File::create(dir.join("sparse")).unwrap();
    sparse.set_len(u64::try_from(dense.len()).unwrap()).unwrap();
    for (bytes, at) in
        dense.chunks(4096).zip(0_u64..).filter(|(bytes, _)| bytes.iter().any(|&byte| byte != 0))
    {
        std::os::unix::fs::FileExt::write_all_at(&sparse, bytes, at * 4096).unwrap();
    }
    assert_eq!(json(dir, &["stats", "sparse"], 0)["has_holes"], true);
    assert!(expect(dir, &["stats", "sparse"], 0).0.contains("the image has holes"));
    assert_eq!(expect(dir, &["get", "sparse", "/state/a"], 0).0, "kept");
}

/// The two have different locks, and the same blocks.
#[test]
#[cfg(target_os = "linux")]
fn store_f7_an_image_behind_a_loop_device_is_written_by_one_name_only() {
    let device = testbed::need!(testbed::LoopDevice::attach(1 << 20, 512));
    let root = tempfile::tempdir().unwrap();
    let (dir, path) = (root.path(), device.path().to_str().unwrap());
    let image = device.image();
    let image = image.to_str().unwrap();
    expect(dir, &["init", path, "--overwrite-device"], 0);
    expect(dir, &["put", path, "/state/a", "one"], 0);
    let (_, stderr) = expect(dir, &["put", image, "/state/a", "two"], 6);
    assert!(stderr.contains(&format!("the loop device `{path}` is attached")), "{stderr}");
    assert_eq!(json(dir, &["put", image, "/state/a", "two"], 6)["error"]["code"], "locked");
    // Readers need no lock, and whoever has the lock of the file keeps writers from the device.
    assert_eq!(expect(dir, &["get", image, "/state/a"], 0).0, "one");
    let held = hold(device.image().parent().unwrap(), "image");
    let (_, stderr) = expect(dir, &["put", path, "/state/a", "two"], 6);
    assert!(stderr.contains("the file behind this loop device"), "{stderr}");
    drop(held);
    expect(dir, &["put", path, "/state/a", "three"], 0);
}

/// As `/dev/disk/by-id/...` and `/dev/mapper/...` are.
#[test]
#[cfg(target_os = "linux")]
fn store_f7_a_device_is_opened_by_a_link_to_it() {
    let device = testbed::need!(testbed::LoopDevice::attach(1 << 20, 512));
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    std::os::unix::fs::symlink(device.path(), dir.join("by-id")).unwrap();
    std::os::unix::fs::symlink("by-id", dir.join("by-name")).unwrap();
    expect(dir, &["init", "by-id", "--overwrite-device"], 0);
    expect(dir, &["put", "by-name", "/state/a", "one"], 0);
    assert_eq!(expect(dir, &["get", "by-id", "/state/a"], 0).0, "one");
    // A link to a file stays a link.
    std::os::unix::fs::symlink(device.image(), dir.join("to-image")).unwrap();
    for arguments in [&["get", "to-image", "/state/a"][..], &["put", "to-image", "/state/a", "two"]] {
        assert!(expect(dir, arguments, 2).1.contains("symbolic link"));
    }
}

/// Whatever can be read is salvaged: an image that a byte or a block is missing of, and one that has lost every superblock.
#[test]
fn store_d5_an_image_cut_short_or_without_superblocks_is_salvaged() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    for block_size in ["512", "4096", "16384"] {
        let whole = store(dir, &format!("whole-{block_size}"), block_size, "kept");
        let mut lost = whole.clone();
        for block in lost.chunks_mut(512).filter(|block| block.starts_with(b"SFSUPER1")) {
            block.fill(0xEE);
        }
        let byte_short = whole[..whole.len() - 1].to_vec();
        // A few blocks at the end of a large device may be nobody's.
        let block_short = whole[..whole.len() - 16 * block_size.parse::<usize>().unwrap()].to_vec();
        for (what, bytes) in [("lost", lost), ("byte", byte_short), ("block", block_short)] {
            let (image, saved) = (format!("{what}-{block_size}"), format!("saved-{what}-{block_size}"));
            set(dir.join(&image), &bytes);
            let (_, stderr) = expect(dir, &["put", &image, "/state/b", "x"], 3);
            assert!(stderr.contains("salvage"), "{image}: {stderr}");
            let (_, stderr) = expect(dir, &["salvage", &image, &saved, "--size", "1MiB"], 0);
            assert!(stderr.contains("saved 1 key(s)"), "{image}: {stderr}");
            assert_eq!(expect(dir, &["get", &saved, "/state/a"], 0).0, "kept");
        }
    }
}
