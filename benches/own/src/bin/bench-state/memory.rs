//! What reading, opening and buffered writing cost, in memory.

use std::error::Error;
use std::hint::black_box;
use std::io;
use std::time::Instant;

use media::{Geometry, MemDisk};
use statefs::{Access, Batch, Compaction, Key, Options, Prefix, Store, StoreId};

/// How many keys there are where reading is measured, and where opening is.
const KEYS: [u32; 3] = [10_000, 100_000, 1_000_000];
const REPETITIONS: u32 = 5;
const BATCH: u32 = 1000;
/// Bytes of a copied record before its value, and of the payload of a block.
const RECORD_LEN: u64 = 14 + 18;
const PAYLOAD_LEN: u64 = 4096 - 48;

/// Measures all of it.
pub(crate) fn measure(out: &mut impl io::Write) -> Result<(), Box<dyn Error>> {
    KEYS.into_iter().try_for_each(|count| in_memory(out, count))
}

/// In an order that is none.
fn key(number: u32, of: u32) -> Result<Key, statefs::KeyError> {
    Key::parse(&format!("/state/app/{:07}", u64::from(number) * 7919 % u64::from(of)))
}

/// Among those, and none of them.
fn more_key(number: u32) -> Result<Key, statefs::KeyError> {
    Key::parse(&format!("/state/app/{:07}/more", u64::from(number) * 7919 % 10_000))
}

/// What repetitions of one thing took, per operation.
#[derive(Default)]
struct Row(Vec<f64>);

impl Row {
    fn add(&mut self, begun: Instant, count: u32) {
        self.0.push(begun.elapsed().as_secs_f64() * 1e9 / f64::from(count));
    }

    fn print(mut self, out: &mut impl io::Write, what: &str) -> io::Result<()> {
        self.0.sort_by(f64::total_cmp);
        let [least, median] = [0, self.0.len() / 2].map(|at| self.0.get(at).copied().unwrap_or(0.0));
        writeln!(out, "  {what:<52}{least:>9.0} {median:>9.0}")
    }
}

/// So many keys, on a device of which a region is four fifths full of them after a copy.
fn in_memory(out: &mut impl io::Write, count: u32) -> Result<(), Box<dyn Error>> {
    // A device in memory has 256 MiB at most.
    let value = vec![7; if count < 1_000_000 { 100 } else { 60 }];
    let longer = vec![9; value.len() + 1];
    let live_blocks = u64::from(count) * (RECORD_LEN + u64::try_from(value.len())?) / PAYLOAD_LEN;
    let geometry = Geometry::new(4096, live_blocks * 5 / 2 + 64)?;
    let keys: Vec<Key> = (0..count).map(|number| key(number, count)).collect::<Result<_, _>>()?;
    let more: Vec<Key> = (0..BATCH).map(more_key).collect::<Result<_, _>>()?;
    let mut rows: [Row; 8] = Default::default();
    let [put, overwrite, written, copied, get, list, batch_new, batch_old] = &mut rows;
    let mut live = String::new();
    for _ in 0..REPETITIONS {
        let disk = MemDisk::new(geometry)?;
        let mut store = Store::format(disk.clone(), &Options::new(StoreId([2; 16])))?;
        let begun = Instant::now();
        for key in &keys {
            let _revision = store.put_buffered(key, &value)?;
        }
        let _durable = store.sync()?;
        put.add(begun, count);
        store.close()?;
        let begun = Instant::now();
        let (mut store, _) = Store::open(disk.clone(), Access::Write)?;
        written.add(begun, count);
        while store.compact_step()? != Compaction::Finished {}
        store.close()?;
        let begun = Instant::now();
        let (mut store, _) = Store::open(disk, Access::Write)?;
        copied.add(begun, count);
        let stats = store.stats();
        live =
            format!("{} of {} blocks of a region live", stats.live_blocks, (geometry.block_count() - 4) / 2);
        let begun = Instant::now();
        for key in keys.iter().cycle().take(1_000_000) {
            let _value = black_box(store.get(key));
        }
        get.add(begun, 1_000_000);
        let begun = Instant::now();
        for key in keys.iter().take(10_000) {
            let _page = black_box(store.list(&Prefix::root(), Some(key), 100)?);
        }
        list.add(begun, 10_000);
        for row in [&mut *batch_new, &mut *batch_old] {
            let begun = Instant::now();
            let mut batch = Batch::new();
            for key in &more {
                batch.put(key, &value)?;
            }
            let _revision = store.batch(&batch)?;
            row.add(begun, BATCH);
        }
        let begun = Instant::now();
        for key in keys.iter().take(10_000) {
            let _revision = store.put_buffered(key, &longer)?;
        }
        let _durable = store.sync()?;
        overwrite.add(begun, 10_000);
    }
    writeln!(out, "in memory, {count} keys of 18 bytes with values of {}, {live};", value.len())?;
    writeln!(out, "  ns, least and median of {REPETITIONS}, the making of keys not counted")?;
    let names = [
        "buffered put of a new key, one sync at the end",
        "buffered put of a longer value, one sync at the end",
        "open as written, a key",
        "open after a copy, a key",
        "get, hot",
        "list of 100",
        "batch of 1000 with new keys, a put",
        "batch of 1000 with the same keys, a put",
    ];
    rows.into_iter().zip(names).try_for_each(|(row, name)| row.print(out, name)).map_err(Into::into)
}
