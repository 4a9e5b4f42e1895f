//! The environment: time, randomness, who this process is, and threads for barriers. All passed in, so that a
//! run under a simulator replays to the byte.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::Timestamp;
use crate::sync::Arc;

mod host;
mod pool;
mod shared;

pub use host::{HostIdentity, Liveness, OsHost, ProcessIdentity};
pub use pool::{OsPool, SyncPool};
pub use shared::Shared;

/// Time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Wall-clock time: may jump, never used to measure.
    fn now(&self) -> Timestamp;

    /// Time since some fixed moment; never goes back.
    fn elapsed(&self) -> Duration;

    /// Waits.
    fn sleep(&self, how_long: Duration);
}

/// Randomness.
pub trait Entropy: Send + Sync + fmt::Debug {
    /// Fills `bytes`.
    ///
    /// # Errors
    /// Where the source fails.
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()>;
}

/// Everything that a durable operation needs besides a file system.
#[derive(Debug, Clone)]
pub struct Env {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Who this process is, and whether others are alive.
    pub host: Arc<dyn HostIdentity>,
    /// Threads on which many barriers run side by side.
    pub pool: Arc<dyn SyncPool>,
    /// What the threads of this process share, such as the queues before its locks.
    pub shared: Arc<Shared>,
}

impl Env {
    /// The real ones. All of them share one [`Shared`], because this is one process.
    #[must_use]
    pub fn os() -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy),
            host: Arc::new(OsHost::default()),
            pool: Arc::new(OsPool),
            shared: Shared::of_this_process(),
        }
    }
}

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// Starts measuring now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one clock that asks the system")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // A clock before 1970 is wrong anyway; zero is as good an answer as any.
        let since = since.unwrap_or(Duration::ZERO);
        Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one clock that really waits")]
    fn sleep(&self, how_long: Duration) {
        std::thread::sleep(how_long);
    }
}

/// The system's random source.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(io::Error::from)
    }
}
