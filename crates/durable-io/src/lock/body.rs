//! What a lock file says: one JSON object, padded with spaces to a fixed length.

use std::io;

use media::{File, ProcessIdentity, Timestamp};
use serde::{Deserialize, Serialize};

use crate::staged::read_full;

/// The length of every lock file we write. A fixed one lets the note of a kernel lock be overwritten in place
/// without ever being longer than its predecessor.
pub(super) const BODY_LEN: usize = 1024;

/// The part of the host name that is kept: the rest of the body is below 400 bytes.
const HOST_LEN_MAX: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum BodyKind {
    /// A note for people; the kernel decides.
    Kernel,
    /// The lock itself.
    Exclusive,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Body {
    steadfast_lock: u32,
    pub(super) kind: BodyKind,
    pid: u32,
    start_time: u64,
    boot_id: String,
    pid_namespace: u64,
    host: String,
    /// Random; names one taking of the lock. Empty in the note of a kernel lock.
    pub(super) token: String,
    /// Wall-clock seconds since 1970, for people and for the age rule; 0 in the note of a kernel lock.
    pub(super) time: i64,
}

/// What was found in a lock file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Missing,
    /// Empty, or a note of ours that a power cut has spoilt: nothing to judge by.
    Unreadable,
    /// Somebody else's file, which happens to have the name (`Cargo.lock`).
    Foreign,
    Body(Body),
}

impl Found {
    pub(super) fn into_body(self) -> Option<Body> {
        match self {
            Self::Body(body) => Some(body),
            Self::Missing | Self::Unreadable | Self::Foreign => None,
        }
    }
}

impl Body {
    pub(super) fn kernel(me: &ProcessIdentity) -> Self {
        Self::of(me, BodyKind::Kernel, String::new(), 0)
    }

    pub(super) fn exclusive(me: &ProcessIdentity, token: [u8; 16], now: Timestamp) -> Self {
        let token = u128::from_be_bytes(token);
        Self::of(me, BodyKind::Exclusive, format!("{token:032x}"), now.seconds)
    }

    fn of(me: &ProcessIdentity, kind: BodyKind, token: String, time: i64) -> Self {
        let mut host = me.host.clone();
        while host.len() > HOST_LEN_MAX {
            host.pop();
        }
        Self {
            steadfast_lock: 1,
            kind,
            pid: me.pid,
            start_time: me.start_time,
            boot_id: me.boot_id.clone(),
            pid_namespace: me.pid_namespace,
            host,
            token,
            time,
        }
    }

    pub(super) fn process(&self) -> ProcessIdentity {
        ProcessIdentity {
            pid: self.pid,
            start_time: self.start_time,
            boot_id: self.boot_id.clone(),
            pid_namespace: self.pid_namespace,
            host: self.host.clone(),
        }
    }

    /// Exactly [`BODY_LEN`] bytes.
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self).map_err(io::Error::other)?;
        if bytes.len() >= BODY_LEN {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the lock body is too long"));
        }
        bytes.resize(BODY_LEN - 1, b' ');
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let body: Self = serde_json::from_slice(bytes).ok()?;
        let token_fits = match body.kind {
            BodyKind::Kernel => body.token.is_empty(),
            // The token becomes part of a file name.
            BodyKind::Exclusive => {
                body.token.len() == 32 && body.token.bytes().all(|b| b.is_ascii_hexdigit())
            }
        };
        (body.steadfast_lock == 1 && token_fits).then_some(body)
    }
}

pub(super) fn read(file: &dyn File) -> io::Result<Found> {
    let mut buffer = [0_u8; BODY_LEN];
    let bytes = read_full(file, 0, &mut buffer)?;
    Ok(match Body::decode(bytes) {
        Some(body) => Found::Body(body),
        None if could_be_ours(bytes) => Found::Unreadable,
        None => Found::Foreign,
    })
}

/// How everything that we write begins.
const BEGINNING: &[u8] = b"{\"steadfast_lock\":";

/// Whether it may be a body of ours, cut or zeroed.
fn could_be_ours(bytes: &[u8]) -> bool {
    let is_zeroed = bytes.iter().all(|&byte| byte == 0);
    is_zeroed || bytes.iter().zip(BEGINNING).all(|(byte, ours)| byte == ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::HostIdentity as _;
    use media::doubles::FakeHost;

    fn body() -> Body {
        let me = FakeHost::with_pid(7).this_process().unwrap();
        Body::exclusive(&me, [0xAB; 16], Timestamp { seconds: 5, nanos: 0 })
    }

    #[test]
    fn a_body_round_trips_at_its_fixed_length() {
        let bytes = body().encode().unwrap();
        assert_eq!(bytes.len(), BODY_LEN);
        assert_eq!(Body::decode(&bytes), Some(body()));
    }

    #[test]
    fn every_truncation_and_a_hostile_token_are_unreadable() {
        let bytes = body().encode().unwrap();
        let json_len = bytes.iter().rposition(|&b| b == b'}').unwrap() + 1;
        for len in 0..json_len {
            assert_eq!(Body::decode(&bytes[..len]), None, "{len}");
        }
        let hostile = String::from_utf8(bytes).unwrap().replace("abababab", "../../..");
        assert_eq!(Body::decode(hostile.as_bytes()), None);
        assert_eq!(Body::decode(&vec![0; BODY_LEN]), None);
    }

    #[test]
    fn what_we_wrote_is_ours_however_it_is_cut_and_nothing_else_is() {
        let bytes = body().encode().unwrap();
        assert!((0..bytes.len()).all(|len| could_be_ours(&bytes[..len])));
        assert!(could_be_ours(&[0; 100]));
        for foreign in [&b"# This file is automatically @generated"[..], b"{}", b"x", b"\0\0x"] {
            assert!(!could_be_ours(foreign), "{foreign:?}");
        }
    }

    #[test]
    fn the_longest_host_name_fits() {
        let mut me = FakeHost::with_pid(u32::MAX).this_process().unwrap();
        me.host = "ü".repeat(4000);
        (me.start_time, me.pid_namespace) = (u64::MAX, u64::MAX);
        let body = Body::exclusive(&me, [0xFF; 16], Timestamp { seconds: i64::MIN, nanos: 0 });
        assert_eq!(Body::decode(&body.encode().unwrap()), Some(body));
    }
}
