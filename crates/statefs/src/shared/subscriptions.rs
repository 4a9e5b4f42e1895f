//! Subscriptions: who is told of which durable changes.
//!
//! They are kept by prefix. When changes have become durable, each changed key and each of its parents is looked up once, so a
//! change costs nothing for the subscriptions of other prefixes, and wakes none of them.
//!
//! Invariants
//! - a subscription that has unfetched changes knows the revision of the oldest one. It falls behind only when that change is
//!   no longer remembered.
//! - `notify` is called when a subscription that has no unfetched change gets one, after the change is durable, with no lock
//!   held.

use std::collections::BTreeMap;
use std::fmt;

use media::sync::{Arc, Mutex, MutexGuard, PoisonError, caught};

use crate::changes::{Changes, Ring};
use crate::error::Error;
use crate::key::Prefix;
use crate::record::Revision;

/// What a subscription is, as the store sees it.
pub(super) struct Subscriber {
    prefix: Prefix,
    /// The revision of its oldest change that has not been fetched.
    oldest: Mutex<Option<Revision>>,
    notify: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Subscriber {
    /// Tells the subscriber. A panic in its callback concerns the subscriber alone, and so does one in what the callback has
    /// captured, which is dropped here if the subscription has ended meanwhile.
    pub(super) fn notify(self: Arc<Self>) {
        drop(caught(move || (self.notify)()));
    }

    fn oldest(&self) -> MutexGuard<'_, Option<Revision>> {
        self.oldest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All subscriptions.
#[derive(Debug)]
pub(super) struct Subscriptions {
    by_prefix: BTreeMap<Box<str>, Vec<Arc<Subscriber>>>,
    /// Changes up to this revision have been looked up.
    seen: Revision,
}

impl Subscriptions {
    /// No subscriptions; changes up to a revision are known.
    pub(super) fn from(seen: Revision) -> Self {
        Self { by_prefix: BTreeMap::new(), seen }
    }

    /// Adds a subscription to the changes below a prefix that become durable from now on.
    pub(super) fn add(&mut self, prefix: &Prefix, notify: Box<dyn Fn() + Send + Sync>) -> Arc<Subscriber> {
        let subscriber = Arc::new(Subscriber { prefix: prefix.clone(), oldest: Mutex::new(None), notify });
        self.by_prefix.entry(prefix.as_str().into()).or_default().push(Arc::clone(&subscriber));
        subscriber
    }

    pub(super) fn remove(&mut self, subscriber: &Arc<Subscriber>) {
        let Some(all) = self.by_prefix.get_mut(subscriber.prefix.as_str()) else { return };
        all.retain(|other| !Arc::ptr_eq(other, subscriber));
        if all.is_empty() {
            self.by_prefix.remove(subscriber.prefix.as_str());
        }
    }

    /// Looks up the changes that have become durable, and returns the subscribers that are to be notified.
    pub(super) fn look_up(&mut self, ring: &Ring, durable: Revision) -> Vec<Arc<Subscriber>> {
        let mut found = Vec::new();
        if durable > self.seen && !self.by_prefix.is_empty() {
            if ring.remembers_after(self.seen) {
                ring.each_after(self.seen, durable, |key, revision| self.mark(key, revision, &mut found));
            } else {
                // More changed at once than is remembered, so whose prefix the forgotten changes had is unknown.
                let lost = Revision::from_u64(self.seen.get().saturating_add(1));
                let all = self.by_prefix.values().flatten();
                found.extend(all.filter(|subscriber| subscriber.mark(lost)).map(Arc::clone));
            }
        }
        self.seen = self.seen.max(durable);
        found
    }

    /// Marks the subscriptions of a key and of each of its parents.
    fn mark(&self, key: &str, revision: Revision, found: &mut Vec<Arc<Subscriber>>) {
        let parents = key.rmatch_indices('/').map(|(at, _)| key.get(..at).unwrap_or(""));
        for prefix in std::iter::once(key).chain(parents) {
            let Some(subscribers) = self.by_prefix.get(prefix) else { continue };
            found.extend(subscribers.iter().filter(|subscriber| subscriber.mark(revision)).map(Arc::clone));
        }
    }

    /// Every subscriber: the store has been closed.
    pub(super) fn all(&self) -> Vec<Arc<Subscriber>> {
        self.by_prefix.values().flatten().map(Arc::clone).collect()
    }

    /// Fetches the next changes of a subscription.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: nothing has been fetched.
    pub(super) fn fetch(
        &self,
        subscriber: &Subscriber,
        ring: &Ring,
        durable: Revision,
        max: usize,
    ) -> Result<Changes, Error> {
        let mut oldest = subscriber.oldest();
        let Some(first) = *oldest else {
            return Ok(Changes::Events { events: Vec::new(), next: durable.min(self.seen) });
        };
        let before = Revision::from_u64(first.get().saturating_sub(1));
        let changes = ring.changes(&subscriber.prefix, before, durable, max)?;
        *oldest = match &changes {
            Changes::Events { next, .. } => ring.first_covered(&subscriber.prefix, *next, durable),
            Changes::FellBehind { .. } => None,
        };
        Ok(changes)
    }
}

impl Subscriber {
    /// Takes note of a durable change; whether it is the first that has not been fetched.
    fn mark(&self, revision: Revision) -> bool {
        let mut oldest = self.oldest();
        let is_first = oldest.is_none();
        oldest.get_or_insert(revision);
        is_first
    }

    /// Forgets that there are unfetched changes: the next one notifies again.
    pub(super) fn rearm(&self) {
        *self.oldest() = None;
    }
}
