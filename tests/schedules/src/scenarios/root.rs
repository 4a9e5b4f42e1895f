//! A whole root over a simulated file system: threads that change the same names, checkpoints, and a handle that outlives it.

use std::sync::Arc;

use crash_recovery::{Root, RootOptions, TreePath, WindowLimits};
use crashsim::SimFs;
use media::Fs;
use media::doubles::fixed_env;
use media::sync::thread;

use crate::explore::{Scenario, Search};

pub(super) fn all() -> Vec<Scenario> {
    vec![
        root("root-owned-2-transactions", &options(true), 1),
        root("root-owned-3-transactions-full-window", &options(true), 2),
        root("root-shared-2-transactions", &options(false), 1),
    ]
}

fn options(is_owned: bool) -> RootOptions {
    let base = if is_owned { RootOptions::owned("j") } else { RootOptions::shared() };
    // A window of one change: every transaction has to make room for itself.
    let window = WindowLimits { changes: 1, threads: 2, ..WindowLimits::default() };
    RootOptions { journal_bytes: 64 << 10, block_size: 512, window, ..base }
}

/// Each transaction changes `b` and a name of its own; meanwhile a thread checkpoints, and another drops what it has staged,
/// perhaps after the root was closed. When the root is opened again, `b` is as the last of them has left it.
fn root(name: &'static str, options: &RootOptions, more: usize) -> Scenario {
    let options = options.clone();
    let what = "each name is as the last transaction has left it, also after closing and opening";
    Scenario::new(name, what, Search::Sampled, move || {
        let fs = SimFs::new().shared();
        let root = Arc::new(open(&fs, &options));
        let mut threads = Vec::new();
        for thread in 0..=more {
            let root = Arc::clone(&root);
            threads.push(thread::spawn(move || change(&root, thread)));
        }
        {
            let root = Arc::clone(&root);
            threads.push(thread::spawn(move || root.checkpoint().unwrap()));
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let staged = (options.ownership == crash_recovery::Ownership::Owned)
            .then(|| root.stage(&path("s.nxpart")).unwrap());
        let dropping = thread::spawn(move || drop(staged));
        Arc::into_inner(root).unwrap().close().unwrap();
        let again = open(&fs, &options);
        let last = read(&fs, "b").unwrap();
        assert!((0..=more).any(|thread| last == [thread_byte(thread); 3]), "b is {last:?}");
        for thread in 0..=more {
            assert_eq!(read(&fs, &format!("n{thread}")), Some(vec![thread_byte(thread)]), "n{thread}");
        }
        dropping.join().unwrap();
        again.close().unwrap();
    })
}

fn open(fs: &Arc<dyn Fs>, options: &RootOptions) -> Root {
    let (root, recovery) = Root::open(Arc::clone(fs), "/", fixed_env(1), options.clone()).unwrap();
    assert_eq!(recovery.read_only, None);
    root
}

fn path(text: &str) -> TreePath {
    TreePath::parse(text).unwrap()
}

fn thread_byte(thread: usize) -> u8 {
    b'0' + u8::try_from(thread).unwrap()
}

fn change(root: &Root, thread: usize) {
    let mut transaction = root.transaction();
    transaction.replace(&path("b"), &[thread_byte(thread); 3]).unwrap();
    transaction.replace(&path(&format!("n{thread}")), &[thread_byte(thread)]).unwrap();
    if let Err(failure) = transaction.commit() {
        panic!("{failure:?}");
    }
}

fn read(fs: &Arc<dyn Fs>, name: &str) -> Option<Vec<u8>> {
    let file = fs.open_dir("/".as_ref()).unwrap().open(name.as_ref(), media::Access::Read).ok()?;
    let mut bytes = vec![0; 8];
    let len = file.read_at(0, &mut bytes).unwrap();
    bytes.truncate(len);
    Some(bytes)
}
