//! Reading and writing beside a map in memory, with keys as users have them: long ones that share prefixes on two levels, and
//! short ones that differ early; without a view, and with one that was taken just before.

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::io;
use std::time::Instant;

use media::{Geometry, MemDisk};
use statefs::{Batch, Key, KeyError, Options, Store, StoreId, View};

const COUNT: u32 = 100_000;
const SLICES: u32 = 31;
const GETS: u32 = 20_000;
const BATCH: u32 = 1000;
const VALUE_LEN: usize = 100;

type Map = BTreeMap<Box<str>, Box<[u8]>>;

/// Keys of 27 bytes, 100 to a prefix.
fn long(number: u32) -> Result<Key, KeyError> {
    Key::parse(&format!("/state/svc{:05}/obj/{number:07}", number / 100))
}

/// Keys of 15 bytes.
fn short(number: u32) -> Result<Key, KeyError> {
    Key::parse(&format!("/state/k{number:07}"))
}

/// Nanoseconds of each operation, by slice.
#[derive(Default)]
struct Slices(Vec<f64>);

impl Slices {
    fn time(
        &mut self,
        count: u32,
        act: impl FnOnce() -> Result<(), Box<dyn Error>>,
    ) -> Result<(), Box<dyn Error>> {
        let begun = Instant::now();
        act()?;
        self.0.push(begun.elapsed().as_secs_f64() * 1e9 / f64::from(count));
        Ok(())
    }

    fn median(&mut self) -> f64 {
        self.0.sort_by(f64::total_cmp);
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Measures both kinds of keys.
pub(crate) fn measure(out: &mut impl io::Write) -> Result<(), Box<dyn Error>> {
    writeln!(
        out,
        "beside a map from boxed texts to boxed bytes, {COUNT} keys with values of {VALUE_LEN} bytes, in no order;"
    )?;
    writeln!(
        out,
        "  ns an operation, medians of {SLICES} slices by turns: map; store, and its ratio to the map; the same with a view\n  alive since the begin; the same with a view taken just before"
    )?;
    beside_a_map(out, "keys of 27 bytes", long)?;
    beside_a_map(out, "keys of 15 bytes", short)
}

fn put_all(store: &mut Store<MemDisk>, keys: &[Key], value: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut batch = Batch::new();
    for key in keys {
        batch.put(key, value)?;
    }
    let _revision = store.batch(&batch)?;
    Ok(())
}

fn beside_a_map(
    out: &mut impl io::Write,
    what: &str,
    key: fn(u32) -> Result<Key, KeyError>,
) -> Result<(), Box<dyn Error>> {
    let keys: Vec<Key> = (0..COUNT).map(key).collect::<Result<_, _>>()?;
    let value = vec![7; VALUE_LEN];
    let mut store =
        Store::format(MemDisk::new(Geometry::new(4096, 60_000)?)?, &Options::new(StoreId([3; 16])))?;
    let mut map = Map::new();
    // In no order, as they come to be.
    let in_no_order = |from: u32, count: u32| {
        (from..from + count).map(|nth| u64::from(nth) * 76_543 % u64::from(COUNT)).map(usize::try_from)
    };
    for at in in_no_order(0, COUNT) {
        let Some(key) = keys.get(at?) else { continue };
        let _revision = store.put_buffered(key, &value)?;
        map.insert(key.as_str().into(), value.as_slice().into());
    }
    let _durable = store.sync()?;
    let pick = |slice: u32, count: u32| -> Result<Vec<Key>, Box<dyn Error>> {
        let picked =
            in_no_order(slice * 7919, count).map(|at| Ok(keys.get(at?).cloned().ok_or("no such key")?));
        picked.collect()
    };
    let mut rows: [[Slices; 4]; 2] = Default::default();
    let [gets, batches] = &mut rows;
    let mut view: Option<View> = None;
    for slice in 0..SLICES {
        let (read, written) = (pick(slice, GETS)?, pick(slice + 1000, BATCH)?);
        let value = vec![u8::try_from(slice % 251)?; VALUE_LEN];
        gets[0].time(GETS, || {
            for key in &read {
                let _found = black_box(map.get(key.as_str()));
            }
            Ok(())
        })?;
        batches[0].time(BATCH, || {
            for key in &written {
                map.insert(key.as_str().into(), value.as_slice().into());
            }
            Ok(())
        })?;
        for nth in [1, 3] {
            if nth == 3 {
                view = Some(store.view()?);
            }
            gets[nth].time(GETS, || {
                for key in &read {
                    let _found = black_box(store.get(key));
                }
                Ok(())
            })?;
            batches[nth].time(BATCH, || put_all(&mut store, &written, &value))?;
        }
        drop(view.take());
    }
    let _old = store.view()?;
    for slice in 0..SLICES {
        let (read, written) = (pick(slice + 2000, GETS)?, pick(slice + 3000, BATCH)?);
        let value = vec![u8::try_from(slice % 251)?; VALUE_LEN];
        gets[2].time(GETS, || {
            for key in &read {
                let _found = black_box(store.get(key));
            }
            Ok(())
        })?;
        batches[2].time(BATCH, || put_all(&mut store, &written, &value))?;
    }
    for (row, name) in rows.iter_mut().zip(["get", "batch of 1000, a put"]) {
        let [map, of_store @ ..] = row.each_mut().map(Slices::median);
        write!(out, "  {:<40}{map:>6.0}", format!("{what}, {name}"))?;
        for ns in of_store {
            write!(out, " {ns:>7.0} {:>5.2}", ns / map)?;
        }
        writeln!(out)?;
    }
    Ok(())
}
