//! Random operations against a map, with every kind of reopening among them.

use std::collections::BTreeMap;

use content::{ContentStore, CreateOpts, Replace, Uri};
use durable_io::Kind;
use proptest::prelude::*;

use crate::common::{Ground, STAGED, assert_exact, config, content, uri};

const BYTES: u64 = 4000;
const FILES: u64 = 6;
const STAGED_MAX: u64 = 2400;

#[derive(Debug, Clone)]
enum Step {
    Put { name: usize, len: usize },
    Stream { name: usize, len: usize },
    Create { name: usize },
    Stage { name: usize },
    Write { name: usize, offset: u64, len: usize },
    Commit { staged: usize, name: usize, replace: bool },
    Unlink { name: usize },
    Discard { name: usize },
    Checkpoint,
    Reopen { closed: bool },
}

/// Two directories, and a name that is a directory's beginning.
const NAMES: [(&str, &str); 4] =
    [("state:/app", "a.x"), ("state:/app/a", "b"), ("state:/app/a", "c"), ("state:/app", "d")];

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    // Around what rides in the journal here.
    let len = || prop_oneof![0..20_usize, 990..1010_usize, 0..2500_usize];
    prop_oneof![
        4 => (name(), len()).prop_map(|(name, len)| Step::Put { name, len }),
        2 => (name(), len()).prop_map(|(name, len)| Step::Stream { name, len }),
        1 => name().prop_map(|name| Step::Create { name }),
        3 => name().prop_map(|name| Step::Stage { name }),
        4 => (name(), 0..1500_u64, 0..1500_usize).prop_map(|(name, offset, len)| Step::Write { name, offset, len }),
        3 => (name(), name(), any::<bool>()).prop_map(|(staged, name, replace)| Step::Commit { staged, name, replace }),
        2 => name().prop_map(|name| Step::Unlink { name }),
        1 => name().prop_map(|name| Step::Discard { name }),
        1 => Just(Step::Checkpoint),
        2 => any::<bool>().prop_map(|closed| Step::Reopen { closed }),
    ]
}

/// What there is, in the dumbest way.
#[derive(Debug, Default)]
struct Model {
    objects: BTreeMap<usize, Vec<u8>>,
    staged: BTreeMap<usize, Vec<u8>>,
}

fn sum(of: &BTreeMap<usize, Vec<u8>>) -> (u64, u64) {
    let bytes: usize = of.values().map(Vec::len).sum();
    (u64::try_from(bytes).unwrap(), u64::try_from(of.len()).unwrap())
}

impl Model {
    fn may(&self, bytes: usize, files: u64) -> bool {
        let bytes = u64::try_from(bytes).unwrap();
        let (objects, staged) = (sum(&self.objects), sum(&self.staged));
        (bytes == 0 || (objects.0 + staged.0 + bytes <= BYTES && staged.0 + bytes <= STAGED_MAX))
            && (files == 0 || objects.1 + staged.1 + files <= FILES)
    }
}

fn object(name: usize) -> Uri {
    let (dir, name) = NAMES[name];
    uri(dir).join(name).unwrap()
}

/// What is staged, as the store hands it out.
fn staged(all: &BTreeMap<usize, Uri>, name: usize) -> Option<&Uri> {
    all.get(&name)
}

fn check(store: &ContentStore, model: &Model) {
    let expected: BTreeMap<String, Vec<u8>> =
        model.objects.iter().map(|(name, bytes)| (object(*name).to_string(), bytes.clone())).collect();
    assert_eq!(content(store, "app"), expected.into_iter().collect::<Vec<_>>());
    let (objects, staged) = (sum(&model.objects), sum(&model.staged));
    let usage = store.usage("app").unwrap();
    assert_eq!((usage.bytes, usage.files), (objects.0 + staged.0, objects.1 + staged.1));
    assert_eq!((usage.staged_bytes, usage.staged_files), staged);
    assert_exact(store, "app");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_store_is_the_dumb_model(fast in any::<bool>(), steps in prop::collection::vec(step(), 1..50)) {
        let (ground, mut store) = Ground::sim(&config(fast, BYTES, FILES, 60));
        let mut model = Model::default();
        let mut uris: BTreeMap<usize, Uri> = BTreeMap::new();
        for (number, step) in steps.into_iter().enumerate() {
            let fill = |len: usize| vec![u8::try_from(number % 250).unwrap() + 1; len];
            match step {
                Step::Put { name, len } | Step::Stream { name, len } => {
                    let bytes = fill(len);
                    let outcome = if matches!(step, Step::Put { .. }) {
                        store.put(&object(name), &bytes)
                    } else {
                        store.put_from(&object(name), &mut bytes.as_slice(), None).map(drop)
                    };
                    prop_assert_eq!(outcome.is_ok(), model.may(len, 1), "{:?}", outcome);
                    if outcome.is_ok() {
                        model.objects.insert(name, bytes);
                    }
                }
                Step::Create { name } => {
                    let (dir, last) = NAMES[name];
                    let outcome = store.create2(&uri(dir), last, &CreateOpts::default());
                    let may = model.may(0, 1) && !model.objects.contains_key(&name);
                    prop_assert_eq!(outcome.is_ok(), may, "{:?}", outcome);
                    if may {
                        model.objects.insert(name, Vec::new());
                    }
                }
                Step::Stage { name } => {
                    let (dir, last) = NAMES[name];
                    let outcome = store.create2(&uri(dir), last, &STAGED);
                    let may = model.may(0, 1) && !model.staged.contains_key(&name);
                    prop_assert_eq!(outcome.is_ok(), may, "{:?}", outcome);
                    if let Ok(uri) = outcome {
                        uris.insert(name, uri);
                        model.staged.insert(name, Vec::new());
                    }
                }
                Step::Write { name, offset, len } => {
                    let (Some(uri), Some(held)) = (staged(&uris, name), model.staged.get(&name)) else { continue };
                    let end = if len == 0 { 0 } else { usize::try_from(offset).unwrap() + len };
                    let may = model.may(end.saturating_sub(held.len()), 0);
                    let outcome = store.write(uri, offset, &fill(len));
                    prop_assert_eq!(outcome.is_ok(), may, "{:?}", outcome);
                    if may && len > 0 {
                        let held = model.staged.get_mut(&name).unwrap();
                        held.resize(held.len().max(end), 0);
                        held[end - len..end].copy_from_slice(&fill(len));
                    }
                }
                Step::Commit { staged: which, name, replace } => {
                    let Some(uri_of) = staged(&uris, which).cloned() else { continue };
                    let (dir, last) = NAMES[name];
                    let how = if replace { Replace::Yes } else { Replace::No };
                    let outcome = store.commit(&uri_of, &uri(dir), last, how);
                    let may = replace || !model.objects.contains_key(&name);
                    prop_assert_eq!(outcome.is_ok(), may, "{:?}", outcome);
                    if may {
                        uris.remove(&which);
                        let bytes = model.staged.remove(&which).unwrap();
                        model.objects.insert(name, bytes);
                    }
                }
                Step::Unlink { name } => {
                    let outcome = store.unlink(&object(name));
                    match model.objects.remove(&name) {
                        Some(_) => prop_assert!(outcome.is_ok(), "{:?}", outcome),
                        None => prop_assert_eq!(outcome.unwrap_err().kind(), Kind::NotFound),
                    }
                }
                Step::Discard { name } => {
                    let Some(uri) = uris.remove(&name) else { continue };
                    store.unlink(&uri).unwrap();
                    model.staged.remove(&name);
                }
                Step::Checkpoint => store.checkpoint().unwrap(),
                Step::Reopen { closed } => {
                    if closed {
                        store.close().unwrap();
                    } else {
                        drop(store);
                    }
                    uris.clear();
                    model.staged.clear();
                    let (again, report) = ground.open().unwrap();
                    prop_assert!(report.recovery.was_closed || !closed);
                    store = again;
                }
            }
            check(&store, &model);
        }
    }
}
