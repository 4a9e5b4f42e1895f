//! Every call of a transaction is failed in turn: what the error says is true, nothing is left, and the next open agrees.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::path::Path;
use std::sync::Arc;

use crash_recovery::{Committed, Error, Publish, Root, RootOptions, TransactionFailure};
use durable_io::TargetState;
use media::doubles::{Call, FailNth, Lasting, Listener, Op, Recorder, TapFs, When};
use media::{Fs, OsFs};

use crate::common::{add_staged, all_ways, at, files, open, open_on, put, these};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Hears nothing before it is told to.
#[derive(Debug)]
struct FromNowOn<L> {
    inner: L,
    armed: std::sync::atomic::AtomicBool,
}

impl<L: Listener> Listener for FromNowOn<L> {
    fn before(&self, call: &Call) -> std::io::Result<()> {
        if self.armed.load(std::sync::atomic::Ordering::SeqCst) { self.inner.before(call) } else { Ok(()) }
    }

    fn after(&self, call: &Call) -> std::io::Result<()> {
        if self.armed.load(std::sync::atomic::Ordering::SeqCst) { self.inner.after(call) } else { Ok(()) }
    }
}

fn listening<L: Listener + 'static>(inner: L) -> (Arc<FromNowOn<L>>, Arc<dyn Fs>) {
    let listener = Arc::new(FromNowOn { inner, armed: false.into() });
    let fs = TapFs::shared(OsFs::shared(), Arc::<FromNowOn<L>>::clone(&listener));
    (listener, fs)
}

const OLD: [(&str, &str); 3] = [("a", "old"), ("d/b", "old"), ("d/c", "old")];
const NEW: [(&str, &str); 4] =
    [("a", "new"), ("d/c", "old"), ("e/f", "new, and longer than rides"), ("g", "old")];

/// A transaction in which there is one of everything.
fn one_of_everything(root: &Root) -> Result<Committed, TransactionFailure> {
    let failed = |error: Error| TransactionFailure { error, staged: Vec::new() };
    let mut transaction = root.transaction();
    transaction.replace(&at("a"), b"new").map_err(failed)?;
    transaction.rename(&at("d/b"), &at("g")).map_err(failed)?;
    let (path, text) = NEW[2];
    add_staged(root, &mut transaction, path, text.as_bytes(), Publish::CreateNew).map_err(failed)?;
    transaction.commit()
}

/// A root with files in it, on `fs` from then on.
fn begin(home: &Path, fs: Arc<dyn Fs>, options: &RootOptions) -> Root {
    let (root, _) = open(home, options);
    for (name, text) in OLD {
        put(&root, name, text.as_bytes());
    }
    root.close().unwrap();
    open_on(fs, home, options).unwrap().0
}

fn small(options: RootOptions) -> RootOptions {
    RootOptions { payload_len_max: 16, journal_bytes: 128 << 10, ..options }
}

fn calls_of(options: &RootOptions) -> Vec<Call> {
    let home = tempfile::tempdir().unwrap();
    let (listener, fs) = listening(Recorder::default());
    let root = begin(home.path(), fs, options);
    listener.armed.store(true, std::sync::atomic::Ordering::SeqCst);
    one_of_everything(&root).unwrap();
    listener.inner.calls()
}

#[test]
fn every_call_failed_in_turn() {
    let mut seen = 0;
    for options in all_ways().map(small) {
        let calls = calls_of(&options).len();
        for nth in 0..calls {
            for (code, when, lasting) in [
                (ENOSPC, When::Before, Lasting::Once),
                (EIO, When::After, Lasting::Once),
                (EIO, When::Before, Lasting::Forever),
            ] {
                let home = tempfile::tempdir().unwrap();
                let fail = FailNth::new(nth, code).when(when).lasting(lasting);
                let (listener, fs) = listening(fail);
                let root = begin(home.path(), fs, &options);
                listener.armed.store(true, std::sync::atomic::Ordering::SeqCst);
                let outcome = one_of_everything(&root).map_err(|failure| failure.error);
                listener.armed.store(false, std::sync::atomic::Ordering::SeqCst);
                // Calls that fail by themselves (a look for what is not there) count only before.
                let Some(failing) = listener.inner.failed() else { continue };
                let what = format!("{nth} {failing} {code} {when:?} {lasting:?}: {outcome:?} {options:?}");
                drop(root);
                if let Err(error) = &outcome
                    && error.state() == TargetState::Unchanged
                {
                    // What could not be removed, or was made by a call that said it was not, is for the next open.
                    let may_be_left = lasting == Lasting::Forever
                        || failing.op == Op::Unlink
                        || (when == When::After && matches!(failing.op, Op::CreateExclusive | Op::Link));
                    let found = files(home.path());
                    let kept: Vec<_> =
                        found.into_iter().filter(|(name, _)| !name.ends_with(".nxpart")).collect();
                    assert_eq!(kept, these(&OLD), "{what}");
                    assert!(
                        may_be_left || files(home.path()).len() == OLD.len(),
                        "{what}: {:?}",
                        files(home.path())
                    );
                }
                let (_root, recovery) = open(home.path(), &options);
                assert!(
                    recovery.conflicts.is_empty() && recovery.read_only.is_none(),
                    "{what}: {recovery:?}"
                );
                // Of another journal's process: young ones are spared in a directory of others.
                let found: Vec<_> =
                    files(home.path()).into_iter().filter(|(name, _)| !name.ends_with(".nxpart")).collect();
                let (old, new) = (found == these(&OLD), found == these(&NEW));
                match outcome.as_ref().map_err(Error::state) {
                    Ok(_) | Err(TargetState::DurableNotVisible | TargetState::ReplacedNotDurable) => {
                        assert!(new, "{what}: {found:?}");
                    }
                    Err(TargetState::Unchanged) => assert!(old, "{what}: {found:?}"),
                    Err(TargetState::Unknown) => assert!(old || new, "{what}: {found:?}"),
                }
                seen += 1;
            }
        }
    }
    println!("{seen} failures");
    assert!(seen > 200);
}
