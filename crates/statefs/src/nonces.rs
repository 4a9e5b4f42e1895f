//! Nonces: the random bytes that each sealed value and each record of a sealed prefix has of its own.
//!
//! The source is foreign code: it may wait, fail or panic. A store that threads share therefore draws nonces ahead, while it
//! holds no lock, and seals with what was drawn.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::error::Error;

/// Bytes of a nonce.
pub(crate) const NONCE_LEN: usize = 24;

/// A nonce.
pub(crate) type Nonce = [u8; NONCE_LEN];

/// Where nonces come from: random bytes of cryptographic quality, as those of the operating system.
pub trait Nonces: Send + Sync {
    /// Fills `bytes` with fresh random bytes.
    ///
    /// # Errors
    /// [`NoRandom`]: nothing is written then.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandom>;
}

/// The source of random bytes has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are no random bytes")]
pub struct NoRandom;

#[cfg(feature = "std")]
impl<E: media::Entropy + ?Sized> Nonces for alloc::sync::Arc<E> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoRandom> {
        media::Entropy::fill(&**self, bytes).map_err(|_| NoRandom)
    }
}

/// A source of nonces, and the nonces that were drawn from it ahead.
#[derive(Default)]
pub(crate) struct NonceSupply {
    source: Option<Box<dyn Nonces>>,
    drawn: Vec<Nonce>,
}

impl NonceSupply {
    /// A nonce that has not been used.
    pub(crate) fn next(&mut self) -> Result<Nonce, Error> {
        if let Some(nonce) = self.drawn.pop() {
            return Ok(nonce);
        }
        let source = self.source.as_mut().ok_or(Error::NoRandom)?;
        draw(source.as_mut())
    }

    pub(crate) fn set_source(&mut self, source: Box<dyn Nonces>) {
        self.source = Some(source);
    }

    /// How many nonces have been drawn and not used.
    #[cfg(feature = "std")]
    pub(crate) fn drawn(&self) -> usize {
        self.drawn.len()
    }

    #[cfg(feature = "std")]
    pub(crate) fn take_source(&mut self) -> Option<Box<dyn Nonces>> {
        self.source.take()
    }

    /// Adds nonces that were drawn from the source.
    #[cfg(feature = "std")]
    pub(crate) fn supply(&mut self, mut nonces: Vec<Nonce>) {
        if self.drawn.is_empty() {
            self.drawn = nonces;
        } else {
            self.drawn.append(&mut nonces);
        }
    }
}

/// Draws one nonce.
pub(crate) fn draw(source: &mut dyn Nonces) -> Result<Nonce, Error> {
    let mut nonce = [0; NONCE_LEN];
    source.fill(&mut nonce).map_err(|NoRandom| Error::NoRandom)?;
    Ok(nonce)
}

/// Draws as many nonces as one request needs, and more for the requests that follow it while the source has any.
///
/// # Errors
/// [`Error::NoRandom`]: the source has fewer than the request needs, or is missing. [`Error::NoMemory`].
#[cfg(feature = "std")]
pub(crate) fn draw_ahead(
    source: Option<&mut (dyn Nonces + 'static)>,
    count: usize,
    ahead: usize,
) -> Result<Vec<Nonce>, Error> {
    let source = source.ok_or(Error::NoRandom)?;
    let all = count.saturating_add(ahead);
    let len = all.saturating_mul(size_of::<Nonce>());
    let mut nonces = Vec::new();
    nonces.try_reserve_exact(all).map_err(|_| Error::NoMemory { len })?;
    for nth in 0..all {
        match draw(source) {
            Ok(nonce) => nonces.push(nonce),
            Err(error) if nth < count => return Err(error),
            Err(_) => break,
        }
    }
    Ok(nonces)
}
