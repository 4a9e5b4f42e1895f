//! Walks over the simulated file system, and one over the real one.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crashsim::SimFs;
use media::doubles::{FailNth, Op};
use media::{Mode, OsFs};
use proptest::prelude::*;

use super::*;

const EIO: i32 = 5;

/// A tree with these files, each as long as its number says.
fn plant(files: &[(&str, u64)]) -> (SimFs, Arc<dyn Dir>) {
    let sim = SimFs::new();
    let root = sim.shared().open_dir(Path::new("/")).unwrap();
    for (path, len) in files {
        put(&root, path, *len);
    }
    (sim, root)
}

fn put(root: &Arc<dyn Dir>, path: &str, len: u64) {
    let mut at = Arc::clone(root);
    let (dirs, name) = path.rsplit_once('/').unwrap_or(("", path));
    for dir in dirs.split('/').filter(|dir| !dir.is_empty()) {
        let created = at.create_dir(OsStr::new(dir), Mode::DIR);
        assert!(created.is_ok() || Reason::of(&created.unwrap_err()) == Reason::AlreadyExists);
        at = at.open_dir(Path::new(dir)).unwrap();
    }
    if !name.is_empty() {
        at.create_exclusive(OsStr::new(name), Mode::PRIVATE).unwrap().set_len(len).unwrap();
    }
}

fn uri(text: &str) -> Uri {
    Uri::parse(text).unwrap()
}

fn count(root: &Arc<dyn Dir>, at: &str) -> Recount {
    let at = uri(at);
    recount(&*open_uri(root, &at).unwrap().unwrap(), &at).unwrap()
}

/// All of it, in one walk.
fn walk(root: &Arc<dyn Dir>, at: &str, cursor: Option<&str>, wanted: usize) -> Vec<(String, u64)> {
    let (at, cursor) = (uri(at), cursor.map(uri));
    let dir = open_uri(root, &at).unwrap().unwrap();
    let mut walk = Walk::new(dir, &at, cursor.as_ref(), wanted).unwrap();
    std::iter::from_fn(|| walk.next().unwrap()).map(|found| (found.uri.to_string(), found.len)).collect()
}

fn names(found: &[(String, u64)]) -> Vec<&str> {
    found.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn objects_come_in_the_order_of_their_uris_and_what_is_staged_does_not() {
    let (_sim, root) = plant(&[
        ("app/a/b", 1),
        ("app/a.txt", 2),
        ("app/a/x.nxpart", 100),
        ("app/.steadfast-7", 200),
        ("app/a0", 3),
        ("app/é", 4),
        ("app/Z", 5),
        ("app/empty/", 0),
        ("other/x", 6),
    ]);
    let found = walk(&root, "state:/app", None, 10);
    let expected =
        ["state:/app/Z", "state:/app/a.txt", "state:/app/a/b", "state:/app/a0", "state:/app/é"].as_slice();
    assert_eq!(names(&found), expected);
    assert!(expected.is_sorted());
    assert_eq!(found[0].1, 5);
    assert_eq!(names(&walk(&root, "state:/app/a", None, 10)), ["state:/app/a/b"]);
    assert_eq!(walk(&root, "state:/app/empty", None, 10), []);
    let counted = count(&root, "state:/app");
    assert_eq!(counted.objects, Amount { bytes: 15, files: 5 });
    assert_eq!(counted.staged, Amount { bytes: 300, files: 2 });
    assert_eq!(counted.foreign, Foreign::default());
    let (apps, foreign) = apps(&*root).unwrap();
    assert_eq!((apps, foreign.count), (vec![uri("state:/app"), uri("state:/other")], 0));
}

#[test]
fn a_listing_goes_on_after_any_cursor_whether_or_not_it_is_there() {
    let (_sim, root) =
        plant(&[("app/a/b", 1), ("app/a/c/d", 1), ("app/a.txt", 1), ("app/b", 1), ("app/c/x", 1)]);
    let all = walk(&root, "state:/app", None, 10);
    assert_eq!(all.len(), 5);
    let cursors = [
        "state:/aaa/z",
        "state:/app",
        "state:/app/0",
        "state:/app/a",
        "state:/app/a.txt",
        "state:/app/a.zzz",
        "state:/app/a/a",
        "state:/app/a/b",
        "state:/app/a/b/never",
        "state:/app/a/bb",
        "state:/app/a/c",
        "state:/app/a/c/d",
        "state:/app/a/c/e",
        "state:/app/a0",
        "state:/app/b",
        "state:/app/b/x",
        "state:/app/c/x",
        "state:/app/z",
        "state:/app.b/z",
        "state:/zzz",
    ];
    for cursor in cursors {
        let expected: Vec<_> = all.iter().filter(|(name, _)| name.as_str() > cursor).cloned().collect();
        assert_eq!(walk(&root, "state:/app", Some(cursor), 10), expected, "after {cursor}");
        let below: Vec<_> =
            expected.iter().filter(|(name, _)| name.starts_with("state:/app/a/")).cloned().collect();
        assert_eq!(walk(&root, "state:/app/a", Some(cursor), 10), below, "below a, after {cursor}");
    }
}

#[test]
fn a_directory_of_more_names_than_a_batch_is_read_again_and_no_name_is_lost() {
    for count in [BATCH_MIN - 1, BATCH_MIN, BATCH_MIN + 1, 3 * BATCH_MIN] {
        let files: Vec<(String, u64)> = (0..count).map(|n| (format!("app/{n:05}"), 1)).collect();
        let files: Vec<(&str, u64)> = files.iter().map(|(name, len)| (name.as_str(), *len)).collect();
        let (sim, root) = plant(&files);
        let before = sim.calls().len();
        let found = walk(&root, "state:/app", None, 1);
        let lists = sim.calls()[before..].iter().filter(|op| **op == Op::List).count();
        assert_eq!(lists, count.div_ceil(BATCH_MIN), "what is held of {count} names is a batch");
        assert_eq!(found.len(), count);
        assert!(names(&found).is_sorted());
        assert!(found.iter().zip(&files).all(|((found, _), (planted, _))| found.ends_with(planted)));
    }
}

#[test]
fn what_is_foreign_is_reported_and_neither_followed_nor_counted() {
    let deep = format!("app{}/x", "/d".repeat(DEPTH_MAX));
    let deepest = format!("app{}/y", "/d".repeat(DEPTH_MAX - 1));
    let long = format!("app/{}", "n".repeat(249));
    let longest = format!("app/{}", "n".repeat(248));
    let (sim, root) = plant(&[
        (&deep, 1),
        (&deepest, 10),
        (&long, 1),
        (&longest, 20),
        ("app/new\nline", 1),
        ("app/x.nxpart/inside", 1),
        ("elsewhere/secret", 1000),
        ("Upper/x", 1),
        ("file", 1),
        ("content/config.json", 1),
        ("crashsim/report", 1),
        (".steadfast-journaled", 1),
    ]);
    sim.symlink(Path::new("/app/link"), Path::new("/elsewhere")).unwrap();
    sim.symlink(Path::new("/app/link2"), Path::new("/elsewhere/secret")).unwrap();
    sim.symlink(Path::new("/linked-app"), Path::new("/elsewhere")).unwrap();
    let counted = count(&root, "state:/app");
    assert_eq!(counted.objects, Amount { bytes: 30, files: 2 });
    assert_eq!(counted.staged, Amount::default());
    let mut named = counted.foreign.named.clone();
    named.sort();
    let expected =
        [&deep, "app/link", "app/link2", "app/new\nline", &long, "app/x.nxpart"].map(PathBuf::from);
    assert_eq!((counted.foreign.count, named.as_slice()), (6, expected.as_slice()));
    assert_eq!(walk(&root, "state:/app", None, 10).len(), 2);
    assert!(open_uri(&root, &uri("state:/app/link")).unwrap().is_none(), "a link is no directory");
    assert!(open_uri(&root, &uri("state:/linked-app")).unwrap().is_none());
    assert!(open_uri(&root, &uri("state:/app/none/x")).unwrap().is_none());
    let (apps, foreign) = apps(&*root).unwrap();
    assert_eq!(apps, [uri("state:/app"), uri("state:/elsewhere")]);
    assert_eq!(foreign.count, 3, "{foreign:?}");
}

#[test]
fn many_foreign_entries_are_counted_and_a_few_are_named() {
    let files: Vec<String> = (0..FOREIGN_NAMED_MAX + 5).map(|n| format!("app/\u{1}{n}")).collect();
    let files: Vec<(&str, u64)> = files.iter().map(|name| (name.as_str(), 1)).collect();
    let (_sim, root) = plant(&files);
    let Recount { objects, foreign, .. } = count(&root, "state:/app");
    assert_eq!((objects.files, foreign.named.len()), (0, FOREIGN_NAMED_MAX));
    assert_eq!(foreign.count, 21);
}

#[test]
fn an_error_on_the_way_is_an_error_and_not_a_short_answer() {
    let (sim, _) = plant(&[("app/a/b", 1), ("app/c", 1), ("app/d/e", 1)]);
    let at = uri("state:/app");
    let mut failures = 0;
    for nth in 0.. {
        let (failing, fs) = FailNth::new(nth, EIO).over(sim.shared());
        let counted = fs.open_dir(Path::new("/")).and_then(|root| {
            let dir = open_uri(&root, &at)?;
            recount(&*dir.ok_or(io::ErrorKind::NotFound)?, &at)
        });
        if failing.failed().is_none() {
            assert_eq!(counted.unwrap().objects.files, 3);
            break;
        }
        failures += 1;
        assert_eq!(counted.unwrap_err().raw_os_error(), Some(EIO), "call {nth}");
    }
    for nth in 0.. {
        let (failing, fs) = FailNth::new(nth, EIO).over(sim.shared());
        let listed = fs.open_dir(Path::new("/")).and_then(|root| {
            let dir = open_uri(&root, &at)?.ok_or(io::ErrorKind::NotFound)?;
            let mut walk = Walk::new(dir, &at, None, 10)?;
            let mut count = 0;
            while walk.next()?.is_some() {
                count += 1;
            }
            Ok(count)
        });
        if failing.failed().is_none() {
            assert_eq!(listed.unwrap(), 3);
            break;
        }
        failures += 1;
        assert_eq!(listed.unwrap_err().raw_os_error(), Some(EIO), "call {nth}");
    }
    assert!(failures > 20, "{failures}");
}

#[cfg(unix)]
#[test]
fn a_name_that_is_no_text_and_a_device_are_foreign_on_the_real_file_system() {
    use std::os::unix::ffi::OsStringExt as _;
    let ground = tempfile::tempdir().unwrap();
    let root = OsFs::shared().open_dir(ground.path()).unwrap();
    put(&root, "app/good", 7);
    put(&root, "app/dir/good", 7);
    let app = root.open_dir(Path::new("app")).unwrap();
    let no_text = OsString::from_vec(vec![b'x', 0xff]);
    app.create_exclusive(&no_text, Mode::PRIVATE).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(ground.path().join("app/socket")).unwrap();
    let found = count(&root, "state:/app");
    drop(socket);
    assert_eq!((found.objects, found.foreign.count), (Amount { bytes: 14, files: 2 }, 2));
    assert_eq!(names(&walk(&root, "state:/app", None, 5)), ["state:/app/dir/good", "state:/app/good"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn pages_of_any_size_are_the_sorted_tree(
        paths in prop::collection::btree_map("[ab.0]{1,2}(/[ab.0]{1,2}){0,3}", 0..9_u64, 0..40),
        page in 1..7_usize,
    ) {
        let sim = SimFs::new();
        let root = sim.shared().open_dir(Path::new("/")).unwrap();
        put(&root, "app/", 0);
        // What is a directory already cannot be a file as well, nor the other way round.
        let mut model: BTreeMap<String, u64> = BTreeMap::new();
        for (path, len) in paths {
            let Ok(uri) = Uri::parse(&format!("state:/app/{path}")) else { continue };
            let clashes = model.keys().any(|other| {
                other.starts_with(&format!("{uri}/")) || uri.as_str().starts_with(&format!("{other}/"))
            });
            if !clashes {
                put(&root, uri.below_root(), len);
                model.insert(uri.to_string(), len);
            }
        }
        let expected: Vec<(String, u64)> = model.into_iter().collect();
        prop_assert_eq!(&walk(&root, "state:/app", None, 100), &expected);
        // Page by page, each begun after the last object of the one before.
        let mut listed: Vec<(String, u64)> = Vec::new();
        loop {
            let cursor = listed.last().map(|(name, _)| name.clone());
            let mut next = walk(&root, "state:/app", cursor.as_deref(), page);
            next.truncate(page);
            if next.is_empty() {
                break;
            }
            listed.append(&mut next);
        }
        prop_assert_eq!(&listed, &expected);
        let sum = Amount { bytes: expected.iter().map(|(_, len)| len).sum(), files: u64::try_from(expected.len()).unwrap() };
        prop_assert_eq!(count(&root, "state:/app").objects, sum);
    }
}

/// Puts a link in the place of the directory `swapped` between the look at it and its opening.
#[cfg(unix)]
#[derive(Debug)]
struct Swapping {
    ground: PathBuf,
}

#[cfg(unix)]
impl media::doubles::Listener for Swapping {
    fn before(&self, call: &media::doubles::Call) -> io::Result<()> {
        if call.op == Op::OpenDir && call.to_string().contains("swapped") {
            let swapped = self.ground.join("app/swapped");
            std::fs::remove_dir_all(&swapped)?;
            std::os::unix::fs::symlink(self.ground.join("elsewhere"), swapped)?;
        }
        Ok(())
    }
}

#[cfg(unix)]
#[test]
fn a_link_that_takes_a_directorys_name_meanwhile_is_not_followed() {
    let ground = tempfile::tempdir().unwrap();
    let listener = Arc::new(Swapping { ground: ground.path().to_owned() });
    let root = media::doubles::TapFs::shared(OsFs::shared(), listener).open_dir(ground.path()).unwrap();
    let plain = OsFs::shared().open_dir(ground.path()).unwrap();
    for way in ["count", "walk"] {
        drop(std::fs::remove_file(ground.path().join("app/swapped")));
        put(&plain, &format!("app/swapped/ours-{way}"), 1);
        put(&plain, &format!("elsewhere/secret-{way}"), 1000);
        match way {
            "count" => assert_eq!(count(&root, "state:/app").objects, Amount::default()),
            _ => assert_eq!(walk(&root, "state:/app", None, 10), []),
        }
        assert!(ground.path().join("app/swapped").is_symlink());
    }
}
