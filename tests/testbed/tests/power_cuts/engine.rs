//! The engine itself, stopped before each of its calls: `durable-io` keeps what it says on real file systems.

use std::path::Path;
use std::sync::Arc;

use durable_io::{Dir, TargetState};
use media::doubles::TapFs;
use media::{Env, OsFs};
use testbed::{Cut, CutFs, Missing, PullThePlug, need};

use crate::protocols::{Payload, TARGET};
use crate::{Class, on_every_kind};

/// One change of the target.
struct Operation {
    name: &'static str,
    is_there_before: bool,
    act: fn(&Dir, &[u8]) -> durable_io::Result<()>,
}

const OPERATIONS: [Operation; 3] = [
    Operation { name: "replace", is_there_before: true, act: |dir, new| dir.replace(TARGET, new).map(drop) },
    Operation {
        name: "replace, new name",
        is_there_before: false,
        act: |dir, new| dir.replace(TARGET, new).map(drop),
    },
    Operation {
        name: "create_new",
        is_there_before: false,
        act: |dir, new| dir.create_new(TARGET, new).map(drop),
    },
];

/// `Ok` is the number of cuts.
fn stop_everywhere(fs: &mut CutFs, operation: &Operation, how: Cut) -> usize {
    // Long enough that its space is reserved, which takes away ext4's own care for renamed files.
    let payload =
        Payload { old: operation.is_there_before.then(|| vec![b'a'; 5_000]), new: vec![b'b'; 1_200_000] };
    for at in 0.. {
        fs.reset().unwrap();
        payload.set_up(&fs.path());
        fs.sync().unwrap();
        let plug = Arc::new(PullThePlug::before(at));
        let done = run(&fs.path(), &plug, |dir| (operation.act)(dir, &payload.new));
        fs.cut(how).unwrap();
        let class = Class::of(&fs.path().join(TARGET), &payload);
        let stopped = plug.pulled().map_or("after the last call".to_owned(), |call| format!("before {call}"));
        let case = format!("{} on {}, stopped {stopped}, cut {how}", operation.name, fs.kind());
        match done.map_err(|error| error.state()) {
            Ok(()) => assert_eq!(class, Class::B, "acknowledged and lost: {case}"),
            Err(TargetState::Unchanged) => assert_eq!(class, Class::A, "said to be unchanged: {case}"),
            Err(_) => assert!(matches!(class, Class::A | Class::B), "{class}: {case}"),
        }
        if plug.pulled().is_none() {
            return at + 1;
        }
    }
    unreachable!("an operation has an end")
}

/// Every handle is closed when it returns.
fn run(
    path: &Path,
    plug: &Arc<PullThePlug>,
    act: impl FnOnce(&Dir) -> durable_io::Result<()>,
) -> durable_io::Result<()> {
    let fs = TapFs::shared(Arc::new(OsFs), Arc::<PullThePlug>::clone(plug));
    act(&Dir::open_on(fs, path, Env::os())?)
}

#[test]
fn what_durable_io_acknowledged_is_there_and_before_that_old_or_new() {
    let cuts = on_every_kind(|kind| {
        let mut fs = CutFs::mount(kind)?;
        let cases = OPERATIONS.iter().flat_map(|operation| Cut::ALL.map(|how| (operation, how)));
        Ok::<_, Missing>(
            cases.map(|(operation, how)| stop_everywhere(&mut fs, operation, how)).sum::<usize>(),
        )
    });
    for (kind, cuts) in cuts {
        let cuts = need!(cuts);
        println!("{kind}: durable-io survived {cuts} cuts");
        assert!(cuts > OPERATIONS.len() * Cut::ALL.len() * 4, "{kind}: {cuts} cuts");
    }
}
