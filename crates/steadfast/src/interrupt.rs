//! Ctrl-C, without a trace: the signal only sets a flag, and the command stops at the next safe place, where its
//! temporary files are removed on the way out.

use std::io::{self, Read as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::failure::{Exit, Failure, Outcome};

/// Whether somebody asked us to stop.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    asked: Arc<AtomicBool>,
    /// Whether nothing has been begun yet, so that a signal may end the process on the spot: it may be waiting where
    /// no flag is looked at (for a lock, for the other end of a FIFO).
    idle: Arc<Mutex<bool>>,
}

impl Interrupt {
    /// Listens for SIGINT, SIGTERM and SIGHUP (Ctrl-C and Ctrl-Break on Windows).
    pub(crate) fn install() -> Outcome<Self> {
        let interrupt = Self { asked: Arc::default(), idle: Arc::default() };
        let heard = interrupt.clone();
        ctrlc::set_handler(move || heard.hear())
            .map_err(|e| Failure::stream("listening for signals", io::Error::other(e)))?;
        Ok(interrupt)
    }

    fn hear(&self) {
        self.asked.store(true, Ordering::SeqCst);
        // Held while exiting: who ends the idle time waits for it, and never gets further.
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if *idle {
            std::process::exit(Exit::Interrupted.code().into());
        }
    }

    /// From here on a signal may end the process on the spot.
    pub(crate) fn begin_idle(&self) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// From here on it may not; an error if somebody has asked to stop meanwhile.
    pub(crate) fn end_idle(&self) -> Outcome<()> {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.check()
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// An error once somebody has asked.
    pub(crate) fn check(&self) -> Outcome<()> {
        if self.is_asked() { Err(Failure::Interrupted) } else { Ok(()) }
    }

    /// Reads from stdin without being deaf to signals while nothing comes.
    pub(crate) fn read_stdin(&self, into: &mut [u8]) -> Outcome<usize> {
        loop {
            self.check()?;
            if !stdin_is_ready()? {
                continue;
            }
            match io::stdin().lock().read(into) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome.map_err(|e| Failure::stream("reading standard input", e)),
            }
        }
    }
}

/// Waits a tenth of a second at most for input, or its end.
#[cfg(unix)]
fn stdin_is_ready() -> Outcome<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stdin = io::stdin();
    let mut wanted = [PollFd::new(&stdin, PollFlags::IN)];
    match poll(&mut wanted, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 })) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(Failure::stream("waiting for standard input", e.into())),
    }
}

/// Elsewhere the read itself waits, and a signal is heard after it.
#[cfg(not(unix))]
fn stdin_is_ready() -> Outcome<bool> {
    Ok(true)
}
