//! Views against copies of a map, taken at the same moments.

extern crate std;

use std::collections::BTreeMap;
use std::format;
use std::string::String;

use alloc::vec;
use media::{Geometry, MemDisk};

use super::*;
use crate::index::Index;
use crate::{Batch, ErrorKind, Options, SnapshotName};

type Model = BTreeMap<String, (Vec<u8>, Revision)>;

fn store(blocks: u64) -> Store<MemDisk> {
    let disk = MemDisk::new(Geometry::new(4096, blocks).unwrap()).unwrap();
    Store::format(disk, &Options::new(StoreId([7; 16]))).unwrap()
}

/// Numbers that look like none.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Keys with long prefixes on two levels, keys that differ early, keys of which one begins with the other.
fn key(number: u64) -> Key {
    let text = match number % 4 {
        0 => format!("/state/svc{:05}/obj/{number:07}", number / 100),
        1 => format!("/state/k{number:07}"),
        2 => format!("/state/{}", "n".repeat(usize::try_from(number / 4 % 200 + 1).unwrap())),
        _ => format!("/state/svc{:05}/obj", number / 100 + 1),
    };
    Key::parse(&text).unwrap()
}

fn value(state: &mut u64) -> Vec<u8> {
    let len = if draw(state).is_multiple_of(50) { draw(state) % 9000 } else { draw(state) % 120 };
    vec![u8::try_from(draw(state) % 256).unwrap(); usize::try_from(len).unwrap()]
}

fn prefix(state: &mut u64) -> Prefix {
    match draw(state) % 3 {
        0 => Prefix::root(),
        1 => Prefix::parse(&format!("/state/svc{:05}", draw(state) % 20)).unwrap(),
        _ => Prefix::parse(&format!("/state/svc{:05}/obj", draw(state) % 20)).unwrap(),
    }
}

/// A view shows what the map has: by key, in order, in pages and scans that go on.
fn assert_shows(view: &View, model: &Model, state: &mut u64) {
    let all: Model = view
        .iter()
        .map(|(key, value)| (key.as_str().into(), (value.bytes.to_vec(), value.revision)))
        .collect();
    assert!(all == *model, "{} and {} keys", all.len(), model.len());
    for _ in 0..20 {
        let key = key(draw(state) % 2000);
        let found = view.get(&key).map(|value| (value.bytes.to_vec(), value.revision));
        assert_eq!(found, model.get(key.as_str()).cloned(), "{key}");
    }
    let prefix = prefix(state);
    let covered: Vec<&String> = model.keys().filter(|key| prefix.covers_text(key)).collect();
    let max = usize::try_from(draw(state) % 60 + 1).unwrap();
    let (mut listed, mut scanned) = (Vec::new(), Vec::new());
    let mut after = None;
    loop {
        let page = view.list(&prefix, after.as_ref(), max).unwrap();
        listed.extend(page.entries.iter().map(|entry| String::from(entry.key)));
        let Some(next) = page.next else { break };
        after = Some(next);
    }
    assert!(listed.iter().eq(covered.iter().copied()), "{prefix}");
    let mut after = None;
    loop {
        let mut count = 0;
        let next = view.scan(&prefix, after.as_ref(), max, |key, value| {
            assert_eq!(model[key].0, value.bytes);
            scanned.push(String::from(key));
            count += 1;
            if count == max / 2 + 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let Some(next) = next.unwrap() else { break };
        after = Some(next);
    }
    assert!(scanned.iter().eq(covered), "{prefix}");
}

/// What readers without a view get is the same.
fn assert_readers_get_the_same(store: &Store<MemDisk>, model: &Model, state: &mut u64) {
    let keys: Vec<Key> = (0..10).map(|_| key(draw(state) % 2000)).collect();
    for key in &keys {
        let shared = store.value_for_reader(key).unwrap();
        let found = shared.as_ref().map(|shared| (shared.value().bytes.to_vec(), shared.value().revision));
        assert_eq!(found, model.get(key.as_str()).cloned());
        assert_eq!(
            store.get_with(key, |value| value.map(|value| value.bytes.to_vec())),
            found.map(|found| found.0)
        );
    }
    let prefix = prefix(state);
    let limit = usize::try_from(draw(state) % 60 + 1).unwrap();
    let (mut here, mut there) = (Vec::new(), Vec::new());
    let next = store.scan(&prefix, keys.first(), limit, |key, value| {
        here.push((String::from(key), value.bytes.to_vec()));
        ControlFlow::Continue(())
    });
    let part = store.part_for_reader(&prefix, keys.first(), limit).unwrap();
    let next_of_part = part.each(|key, value| {
        there.push((String::from(key), value.bytes.to_vec()));
        ControlFlow::Continue(())
    });
    assert_eq!((here, next.unwrap()), (there, next_of_part));
}

/// One change of the store, or several in a batch.
fn change(store: &mut Store<MemDisk>, model: &mut Model, state: &mut u64, reach: u64) {
    match draw(state) % 10 {
        0 => {
            let mut batch = Batch::new();
            let mut changes = BTreeMap::new();
            for _ in 0..draw(state) % 300 + 1 {
                let value = (!draw(state).is_multiple_of(4)).then(|| value(state));
                changes.insert(key(draw(state) % reach), value);
            }
            for (key, value) in &changes {
                match value {
                    Some(value) => batch.put(key, value).unwrap(),
                    None => batch.delete(key).unwrap(),
                }
            }
            let last = store.batch(&batch).unwrap().get();
            let first = last + 1 - u64::try_from(changes.len()).unwrap();
            for (nth, (key, value)) in (first..).zip(changes) {
                match value {
                    Some(value) => drop(model.insert(key.as_str().into(), (value, Revision::from_u64(nth)))),
                    None => drop(model.remove(key.as_str())),
                }
            }
        }
        1 | 2 => {
            let key = key(draw(state) % reach);
            let deleted = store.delete(&key).unwrap();
            assert_eq!(deleted.is_some(), model.remove(key.as_str()).is_some());
        }
        3 => {
            let (key, value) = (key(draw(state) % reach), value(state));
            let revision = store.put_buffered(&key, &value).unwrap();
            model.insert(key.as_str().into(), (value, revision));
        }
        _ => {
            let (key, value) = (key(draw(state) % reach), value(state));
            let revision = store.put(&key, &value).unwrap();
            model.insert(key.as_str().into(), (value, revision));
        }
    }
}

#[test]
fn every_view_shows_its_moment_whatever_is_written_pruned_and_cleared_later() {
    for seed in 1..=6 {
        let mut state = seed;
        let mut store = store(6000);
        let mut model = Model::new();
        let mut views: Vec<(View, Model)> = Vec::new();
        let (mut snapshots, mut taken) = (Vec::new(), 0);
        for round in 0..2500_u64 {
            let reach = if round / 500 % 2 == 0 { 2000 } else { 100 };
            change(&mut store, &mut model, &mut state, reach);
            if draw(&mut state).is_multiple_of(13) {
                if views.len() >= VIEWS_MAX {
                    let at = usize::try_from(draw(&mut state)).unwrap() % views.len();
                    drop(views.swap_remove(at));
                }
                let view = store.view().unwrap();
                assert_eq!(view.last_revision(), store.view().unwrap().last_revision());
                views.push((view, model.clone()));
                taken += 1;
            }
            if draw(&mut state).is_multiple_of(97) {
                let name = SnapshotName::parse(&format!("s{round}")).unwrap();
                store.snapshot(&name).unwrap();
                snapshots.push((name, model.clone()));
                views.push((store.view_for_readers().unwrap(), model.clone()));
            }
            if draw(&mut state).is_multiple_of(151) && !snapshots.is_empty() {
                let (name, _) = snapshots.remove(0);
                store.drop_snapshot(&name).unwrap();
            }
            if draw(&mut state).is_multiple_of(40) {
                store.compact_step().unwrap();
                views.retain(|_| draw(&mut state).is_multiple_of(3));
            }
            if round % 50 == 0 {
                views.iter().for_each(|(view, model)| assert_shows(view, model, &mut state));
                assert_readers_get_the_same(&store, &model, &mut state);
                let view = store.view_for_readers().unwrap();
                for (name, model) in &snapshots {
                    let of_view = view.at(name).unwrap();
                    let shown =
                        of_view.iter().map(|(key, value)| (String::from(key.as_str()), value.bytes.to_vec()));
                    assert!(shown.eq(model.iter().map(|(key, (value, _))| (key.clone(), value.clone()))));
                }
            }
        }
        assert!(taken > 100, "{taken}");
        // They stay when the store is gone, on other threads.
        store.close().unwrap();
        std::thread::scope(|scope| {
            for (view, model) in &views {
                scope.spawn(move || assert_shows(view, model, &mut 1));
            }
        });
    }
}

#[test]
fn sixteen_views_of_different_moments_and_no_more() {
    let mut store = store(200);
    let put = |store: &mut Store<MemDisk>, nth: u64| store.put(&key(nth * 4), b"v").unwrap();
    let mut views = Vec::new();
    for nth in 0..u64::try_from(VIEWS_MAX).unwrap() {
        put(&mut store, nth);
        views.push(store.view().unwrap());
        // The same moment counts once, and shares everything.
        let same = store.view().unwrap();
        assert!(Arc::ptr_eq(&same.moment, &views.last().unwrap().moment));
    }
    put(&mut store, 100);
    let refused = store.view().unwrap_err();
    assert!(matches!(refused, Error::TooManyViews { limit: VIEWS_MAX }));
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert!(store.view_for_readers().is_ok(), "the store's own do not count");
    let clone = views.last().unwrap().clone();
    drop(views.pop());
    assert!(store.view().is_err(), "a clone of it is still there");
    drop(clone);
    let last = store.view().unwrap();
    assert_eq!(last.iter().count(), VIEWS_MAX + 1);
    let _more = last.clone();
    put(&mut store, 101);
    assert!(store.view().is_err());
}

#[test]
fn a_backup_of_a_view_is_not_overtaken() {
    let mut store = store(2000);
    let mut state = 5;
    let mut model = Model::new();
    (0..200).for_each(|_| change(&mut store, &mut model, &mut state, 1000));
    store.sync().unwrap();
    let mut expected = Vec::new();
    let mut to = |bytes: &[u8]| {
        expected.extend_from_slice(bytes);
        Ok::<(), Error>(())
    };
    store.backup(Source::Now, &mut to, |_| ()).unwrap();
    let view = store.view().unwrap();
    let mut backup = view.begin_backup(Source::Now).unwrap();
    let mut of_store = store.begin_backup(Source::Now).unwrap();
    let mut found = Vec::new();
    let mut to = |bytes: &[u8]| {
        found.extend_from_slice(bytes);
        Ok::<(), Error>(())
    };
    while backup.step(&view, &mut to).unwrap().is_some() {
        change(&mut store, &mut model, &mut state, 1000);
    }
    assert!(found == expected, "the same bytes");
    let mut ignore = |_: &[u8]| Ok::<(), Error>(());
    while of_store.step(&view, &mut ignore).unwrap().is_some() {}
    let mut again = view.begin_backup(Source::Now).unwrap();
    again.step(&view, &mut ignore).unwrap();
    let overtaken = again.step(&store, &mut ignore).unwrap_err();
    assert!(matches!(overtaken, BackupError::Store(Error::BackupOvertaken)));
}

const fn assert_shared_between_threads<T: Clone + Send + Sync + 'static>() {}
const _: () = assert_shared_between_threads::<View>();
const fn assert_send<T: Send + Sync + 'static>() {}
const _: () = assert_send::<(Index, Part, SharedValue)>();
