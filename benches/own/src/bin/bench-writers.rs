//! What durable puts cost, by many threads.
use std::error::Error;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use media::{BlockDevice, BlockIndex, FileDisk, Fs as _, Geometry, OsFs, SystemClock};
use statefs::{Key, Options, SharedStore, Store, StoreId};

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    let dir = std::env::args_os().nth(1).ok_or("dir")?;
    let dir = tempfile::tempdir_in(dir)?;
    let open = |name: &str| -> Result<FileDisk, Box<dyn Error>> {
        let dir = OsFs.open_dir(Path::new(dir.path()))?;
        Ok(FileDisk::create(&*dir, name.as_ref(), Geometry::new(4096, 8192)?)?)
    };
    let raw = open("raw")?;
    let mut rows = Vec::new();
    for writers in [1_usize, 8, 32] {
        let store = Store::format(open(&format!("s{writers}"))?, &Options::new(StoreId([3; 16])))?;
        rows.push((writers, SharedStore::new(store, Arc::new(SystemClock::new())), Vec::new()));
    }
    let mut raws = Vec::new();
    for slice in 0..25_u64 {
        let begun = Instant::now();
        for n in 0..100 {
            raw.write(BlockIndex::new((slice * 100 + n) % 8192), &[1; 4096])?;
            raw.flush()?;
        }
        let raw_each = begun.elapsed().as_secs_f64() / 100.0;
        raws.push(raw_each);
        for (writers, store, ratios) in &mut rows {
            let each = 100.max(320 / *writers);
            let begun = Instant::now();
            std::thread::scope(|scope| {
                for w in 0..*writers {
                    let store = store.clone();
                    scope.spawn(move || {
                        for n in 0..each {
                            let key = Key::parse(&format!("/state/app/{w}/{:04}", n % 300)).unwrap();
                            store.put(&key, &[7; 155]).unwrap();
                        }
                    });
                }
            });
            let took = begun.elapsed().as_secs_f64() / f64::from(u32::try_from(each * *writers)?);
            ratios.push(raw_each / took);
        }
    }
    raws.sort_by(f64::total_cmp);
    writeln!(out, "raw {:.1} us", raws[raws.len() / 2] * 1e6)?;
    for (writers, store, ratios) in &mut rows {
        ratios.sort_by(f64::total_cmp);
        let stats = store.stats();
        writeln!(
            out,
            "{writers} writers: ratio {:.2} [{:.2}..{:.2}] barriers/op {:.3} group p50 {} max {} frame p50 {} us",
            ratios[ratios.len() / 2],
            ratios[ratios.len() / 4],
            ratios[ratios.len() * 3 / 4],
            stats.store.journal.barriers as f64 / (stats.store.frame_ops.count() as f64),
            stats.store.frame_ops.percentile(50),
            stats.store.frame_ops.max(),
            stats.frame_micros.percentile(50)
        )?;
    }
    let _ = Duration::ZERO;
    Ok(())
}
