//! Windows by themselves.

use std::ffi::OsStr;
use std::path::Path;

use crashsim::SimFs;
use media::doubles::{FailNth, InlinePool, Op, Recorder};
use media::{Fs, Mode, OsPool};

use super::*;

fn window(changes: usize) -> Window {
    Window::new(WindowLimits { changes, bytes: 100, threads: 1 })
}

fn change(number: Number, path: &str, bytes: usize) -> Change {
    Change {
        number,
        path: TreePath::parse(path).unwrap(),
        file: None,
        writeback: Writeback::Left,
        folders: Vec::new(),
        bytes,
    }
}

/// With a descriptor.
fn with_file(number: Number, path: &str) -> Change {
    let home = tempfile::tempdir().unwrap();
    let dir = media::Fs::open_dir(&media::OsFs, home.path()).unwrap();
    let file = dir.create_exclusive("f".as_ref(), media::Mode::PRIVATE).unwrap();
    Change { file: Some(file), ..change(number, path, 1) }
}

#[test]
fn there_are_places_for_twice_its_changes_and_not_one_more() {
    let window = window(2);
    let mut first = window.reserve(2).unwrap();
    let second = window.reserve(2).unwrap();
    // Two of four are in place now: whoever wants one more has to make room first.
    window.add(vec![with_file(1, "a"), with_file(2, "b")], &mut first);
    assert!(window.reserve(1).is_none());
    drop(first);
    assert!(window.reserve(1).is_none(), "their places went over to the changes");
    drop(second);
    let others = window.reserve(2).unwrap();
    assert!(window.reserve(1).is_none());
    drop(others);
    assert_eq!(window.checkpoint(When::Now, &InlinePool, &|| 2).unwrap(), Some(2));
    drop(window.reserve(4).unwrap());
    assert_eq!(window.lock().places, 0);
}

#[test]
fn a_checkpoint_is_due_when_it_is_full_of_changes_or_of_bytes() {
    let window = window(3);
    let mut none = window.reserve(0).unwrap();
    let due = || window.checkpoint(When::Due, &InlinePool, &|| 9).unwrap().is_some();
    window.add(vec![change(1, "a", 1), change(2, "b", 1)], &mut none);
    assert!(!due());
    window.add(vec![change(3, "c", 1)], &mut none);
    assert!(due() && !due());
    window.add(vec![change(4, "d", 99)], &mut none);
    assert!(!due());
    window.add(vec![change(5, "e", 1)], &mut none);
    assert!(due());
}

/// What is not synced when it is released is lost by the next power cut.
#[test]
fn only_the_newest_file_of_a_name_is_asked_for() {
    let window = window(8);
    let mut places = window.reserve(2).unwrap();
    window.add(vec![with_file(2, "a")], &mut places);
    assert!(window.unsynced(&TreePath::parse("a").unwrap()).is_some());
    window.add(vec![change(3, "a", 0)], &mut places);
    assert!(window.unsynced(&TreePath::parse("a").unwrap()).is_none());
    assert!(window.unsynced(&TreePath::parse("b").unwrap()).is_none());
}

/// Adds a change that is in place, with a file that is not synced.
fn add(window: &Window, fs: &dyn Fs, number: Number) {
    let dir = fs.open_dir(Path::new("/")).unwrap();
    let path = TreePath::parse(&format!("f{number}")).unwrap();
    let file = Some(dir.create_exclusive(OsStr::new(path.name()), Mode::PRIVATE).unwrap());
    let folders = vec![Folder { path: String::new(), dir }];
    let mut places = window.reserve(1).unwrap();
    window
        .add(vec![Change { number, path, file, writeback: Writeback::Left, folders, bytes: 1 }], &mut places);
}

#[test]
fn nothing_is_called_complete_behind_a_checkpoint_that_failed() {
    let (_, fs) = FailNth::new(1, 5).only(Op::SyncAll).over(Arc::new(SimFs::new()));
    let window = window(8);
    (1..4).for_each(|number| add(&window, &*fs, number));
    assert!(window.checkpoint(When::Now, &OsPool, &|| 3).is_err());
    add(&window, &*fs, 4);
    for when in [When::Now, When::Due, When::Crowded] {
        let refused = window.checkpoint(when, &OsPool, &|| 4);
        assert!(matches!(refused, Err(Error::Poisoned { .. })), "{when:?}: {refused:?}");
    }
}

#[test]
fn what_is_in_place_behind_a_slow_change_is_synced_with_the_others_and_complete_after_it() {
    let (recorder, fs) = Recorder::over(Arc::new(SimFs::new()));
    let window = window(8);
    add(&window, &*fs, 2);
    add(&window, &*fs, 3);
    assert_eq!(window.checkpoint(When::Now, &OsPool, &|| 0).unwrap(), Some(0));
    assert_eq!((recorder.count(Op::SyncAll), recorder.count(Op::DirSync)), (2, 1));
    add(&window, &*fs, 1);
    assert_eq!(window.checkpoint(When::Now, &OsPool, &|| 3).unwrap(), Some(3));
    assert_eq!((recorder.count(Op::SyncAll), recorder.count(Op::DirSync)), (3, 2), "each of them once");
}

/// Asks, while a checkpoint runs, for another one.
#[derive(Debug)]
struct Impatient<'w> {
    window: &'w Window,
    fs: Arc<dyn Fs>,
}

impl SyncPool for Impatient<'_> {
    fn run(&self, _width: usize, count: usize, job: &(dyn Fn(usize) + Sync)) {
        add(self.window, &*self.fs, 3);
        add(self.window, &*self.fs, 4);
        let again = self.window.checkpoint(When::Due, &OsPool, &|| 4);
        assert_eq!(again.unwrap(), None, "it is left to the one that runs");
        (0..count).for_each(job);
    }
}

#[test]
fn a_checkpoint_that_is_due_while_one_runs_is_left_to_whoever_comes_after_it() {
    let (recorder, fs) = Recorder::over(Arc::new(SimFs::new()));
    let window = window(2);
    add(&window, &*fs, 1);
    assert_eq!(window.checkpoint(When::Due, &OsPool, &|| 1).unwrap(), None, "it is not due");
    add(&window, &*fs, 2);
    // With as many again it would be overdue, and waited for.
    let pool = Impatient { window: &window, fs: Arc::clone(&fs) };
    assert_eq!(window.checkpoint(When::Due, &pool, &|| 2).unwrap(), Some(2));
    assert_eq!(recorder.count(Op::SyncAll), 2);
    assert_eq!(window.checkpoint(When::Due, &OsPool, &|| 4).unwrap(), Some(4));
    assert_eq!(recorder.count(Op::SyncAll), 4);
}
