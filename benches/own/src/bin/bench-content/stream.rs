//! How much memory it takes to stream an object in and out.

use std::io::{self, Read};

use bench_own::{Fact, Ground};
use content::Uri;
use media::OsFs;

use crate::puts;

const LEN: u64 = 256 << 20;
/// What reads and writes it, at a time.
const PIECE: usize = 64 << 10;

/// The most memory that the process has had since [`forget_peak`], in MiB.
fn peak_mib() -> io::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| io::Error::other("the system does not tell the peak"))
}

fn forget_peak() -> io::Result<()> {
    use io::Write as _;
    std::fs::OpenOptions::new().write(true).open("/proc/self/clear_refs")?.write_all(b"5")
}

pub(crate) fn measure(ground: &Ground, _rounds: u32) -> io::Result<Vec<Fact>> {
    let path = ground.fresh_dir()?.join("store");
    let store = puts::open_content(OsFs::shared(), &path)?;
    let uri = Uri::parse("state:/bench/stream").map_err(io::Error::other)?;
    forget_peak()?;
    let begun = peak_mib()?;
    store.put_from(&uri, &mut io::repeat(0x5A).take(LEN), None).map_err(io::Error::other)?;
    let object = store.open_object(&uri).map_err(io::Error::other)?;
    let (mut at, mut piece) = (0, vec![0; PIECE]);
    while at < LEN {
        let count = object.read_at(at, &mut piece).map_err(io::Error::other)?;
        if count == 0 {
            return Err(io::Error::other("the object is shorter than what was put"));
        }
        at += u64::try_from(count).map_err(io::Error::other)?;
    }
    let peak = peak_mib()?;
    store.unlink(&uri).and_then(|()| store.close()).map_err(io::Error::other)?;
    let fact = |what: &str, figure, at_most| {
        let what = format!("a stream of 256 MiB, {what}");
        Fact { what, figure, unit: "MiB", at_most }
    };
    Ok(vec![fact("peak memory", peak, Some(32.0)), fact("of which before", begun, None)])
}
