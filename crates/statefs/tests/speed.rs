//! What reading costs. Not an assertion about a machine: run it with `--ignored --nocapture`, in release.

use std::hint::black_box;
use std::time::Instant;

use media::{Geometry, MemDisk};
use statefs::{Access, Key, Options, Prefix, Store, StoreId};

#[test]
#[ignore = "measures, and asserts nothing"]
fn reading_and_opening_a_hundred_thousand_keys() {
    let disk = MemDisk::new(Geometry::new(4096, 20_000).unwrap()).unwrap();
    let mut store = Store::format(disk.clone(), &Options::new(StoreId([2; 16]))).unwrap();
    let keys: Vec<Key> =
        (0..100_000).map(|n| Key::parse(&format!("/state/app/{:07}", n * 7919 % 100_000)).unwrap()).collect();
    let start = Instant::now();
    for key in &keys {
        let _revision = store.put_buffered(key, &[7; 100]).unwrap();
    }
    let _durable = store.sync().unwrap();
    println!("buffered put      {:>8.0} ns", start.elapsed().as_secs_f64() * 1e9 / 1e5);
    store.close().unwrap();
    let start = Instant::now();
    let (mut store, _) = Store::open(disk.clone(), Access::Write).unwrap();
    println!("open, as written  {:>8.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    while store.compact_step().unwrap() != statefs::Compaction::Finished {}
    println!("compaction        {:>8.1} ms", start.elapsed().as_secs_f64() * 1e3);
    store.close().unwrap();
    let start = Instant::now();
    let (mut store, _) = Store::open(disk, Access::Write).unwrap();
    println!("open, copied      {:>8.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    for key in keys.iter().cycle().take(1_000_000) {
        let _value = black_box(store.get(key));
    }
    println!("get               {:>8.0} ns", start.elapsed().as_secs_f64() * 1e9 / 1e6);
    let start = Instant::now();
    for key in keys.iter().take(10_000) {
        let _page = black_box(store.list(&Prefix::root(), Some(key), 100).unwrap());
    }
    println!("list of 100       {:>8.0} ns", start.elapsed().as_secs_f64() * 1e9 / 1e4);
    let start = Instant::now();
    for key in keys.iter().take(20_000) {
        let _revision = store.put(key, &[7; 100]).unwrap();
    }
    println!("put, memory disk  {:>8.0} ns", start.elapsed().as_secs_f64() * 1e9 / 2e4);
}
