//! [`Ledger`]: how much each app has, and the one place that says whether it may have more.
//!
//! Whoever is about to write asks for a [`Reservation`] first. It is a value: dropped, it gives back what it holds; settled,
//! it becomes what the app has.
//!
//! Invariants
//! - an app uses what its objects are long and what its reservations hold; neither bytes, files nor staged bytes are ever
//!   reserved beyond their limits, not by one, whatever the number of threads.
//! - staged bytes are what reservations hold, and nothing else: whatever is written is staged before it is an object.
//! - a replace holds the new object on top of the old one until it is settled.
//! - memory is for each app that uses something, at most [`APPS_MAX`] of them; none for each object.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Quota;

/// How many apps may use something at a time.
pub const APPS_MAX: usize = 1024;

/// What is counted in a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Lengths, holes included.
    Bytes,
    /// Objects and staged objects.
    Files,
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Files => "files",
        })
    }
}

/// Why there is no more. Nothing was written; removing works. `used` and `requested` together are more than `limit`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// The app would have more than its quota.
    #[error("quota of {what} exceeded for `{app}`: limit={limit} used={used} requested={requested}")]
    Exceeded {
        /// Whose.
        app: String,
        /// Of what.
        what: Counted,
        /// The most there may be.
        limit: u64,
        /// How much there is: objects, and what is staged or being written.
        used: u64,
        /// How much more was asked for.
        requested: u64,
    },
    /// The app would have more staged bytes than its temp budget.
    #[error("temp budget exceeded for `{app}`: limit={limit} used={used} requested={requested}")]
    TempBudgetExceeded {
        /// Whose.
        app: String,
        /// The most bytes that may be staged.
        limit: u64,
        /// How many are.
        used: u64,
        /// How many more were asked for.
        requested: u64,
    },
    /// As many apps as there may be use something, and this is another one.
    #[error("too many apps: limit={limit}")]
    TooManyApps {
        /// The most there may be.
        limit: usize,
    },
}

impl QuotaError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Exceeded { .. } => {
                "remove something, or raise the quota; a replace needs room for the new object beside the old one"
            }
            Self::TempBudgetExceeded { .. } => {
                "commit or discard what is staged, or raise `quota.temp_ratio_pct`"
            }
            Self::TooManyApps { .. } => "remove everything that one of the apps has",
        }
    }
}

/// Bytes and files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

impl Amount {
    /// One object of this length.
    pub(crate) fn object(len: u64) -> Self {
        Self { bytes: len, files: 1 }
    }

    fn is_none(self) -> bool {
        self == Self::default()
    }

    /// [`None`]: more than can be counted.
    pub(crate) fn plus(self, more: Self) -> Option<Self> {
        Some(Self { bytes: self.bytes.checked_add(more.bytes)?, files: self.files.checked_add(more.files)? })
    }

    /// [`None`]: less than nothing.
    fn less(self, less: Self) -> Option<Self> {
        Some(Self { bytes: self.bytes.checked_sub(less.bytes)?, files: self.files.checked_sub(less.files)? })
    }
}

/// How much an app uses, and how much it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Lengths of objects and staged objects.
    pub bytes: u64,
    /// Objects and staged objects.
    pub files: u64,
    /// Lengths of staged objects alone.
    pub staged_bytes: u64,
    /// Staged objects alone.
    pub staged_files: u64,
    /// The most that `bytes` may be.
    pub bytes_max: u64,
    /// The most that `files` may be.
    pub files_max: u64,
    /// The most that `staged_bytes` may be.
    pub staged_bytes_max: u64,
}

/// What one app has.
#[derive(Debug, Clone, Copy, Default)]
struct Account {
    objects: Amount,
    reserved: Amount,
}

impl Account {
    fn is_none(&self) -> bool {
        self.objects.is_none() && self.reserved.is_none()
    }
}

/// The accounts of all apps.
#[derive(Debug)]
pub(crate) struct Ledger {
    bytes_max: u64,
    files_max: u64,
    staged_bytes_max: u64,
    accounts: Mutex<BTreeMap<Box<str>, Account>>,
}

/// What was promised to one writer and is not an object yet.
#[derive(Debug)]
#[must_use = "dropped, it gives back what it holds"]
pub(crate) struct Reservation {
    ledger: Arc<Ledger>,
    app: Box<str>,
    held: Amount,
}

impl Ledger {
    pub(crate) fn new(quota: &Quota) -> Arc<Self> {
        Arc::new(Self {
            bytes_max: quota.per_app_bytes.get(),
            files_max: quota.per_app_files.get(),
            staged_bytes_max: quota.staged_bytes_max(),
            accounts: Mutex::new(BTreeMap::new()),
        })
    }

    /// What was counted at open. It may be more than a limit, which somebody has lowered: then there is no more until enough
    /// is removed.
    pub(crate) fn load(&self, app: &str, objects: Amount) {
        if !objects.is_none() {
            self.lock().entry(app.into()).or_default().objects = objects;
        }
    }

    /// Promises that much more, or says why not.
    pub(crate) fn reserve(self: &Arc<Self>, app: &str, wanted: Amount) -> Result<Reservation, QuotaError> {
        self.hold(app, wanted)?;
        Ok(Reservation { ledger: Arc::clone(self), app: app.into(), held: wanted })
    }

    /// An object is gone.
    pub(crate) fn forget(&self, app: &str, object: Amount) {
        self.change(app, |account| subtract(app, &mut account.objects, object));
    }

    pub(crate) fn usage(&self, app: &str) -> Usage {
        let account = self.lock().get(app).copied().unwrap_or_default();
        let Account { objects, reserved } = account;
        Usage {
            bytes: objects.bytes.saturating_add(reserved.bytes),
            files: objects.files.saturating_add(reserved.files),
            staged_bytes: reserved.bytes,
            staged_files: reserved.files,
            bytes_max: self.bytes_max,
            files_max: self.files_max,
            staged_bytes_max: self.staged_bytes_max,
        }
    }

    /// Nothing in here panics with the lock held, and were it so, every account is whole between two of its statements.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The check and the charge, under one lock.
    fn hold(&self, app: &str, wanted: Amount) -> Result<(), QuotaError> {
        let mut accounts = self.lock();
        let account = accounts.get(app).copied();
        if account.is_none() && accounts.len() >= APPS_MAX {
            return Err(QuotaError::TooManyApps { limit: APPS_MAX });
        }
        let Account { objects, reserved } = account.unwrap_or_default();
        let exceeded = |what, limit, used, requested| {
            Err(QuotaError::Exceeded { app: app.to_owned(), what, limit, used, requested })
        };
        let used = objects.bytes.saturating_add(reserved.bytes);
        if !fits(used, wanted.bytes, self.bytes_max) {
            return exceeded(Counted::Bytes, self.bytes_max, used, wanted.bytes);
        }
        let used = objects.files.saturating_add(reserved.files);
        if !fits(used, wanted.files, self.files_max) {
            return exceeded(Counted::Files, self.files_max, used, wanted.files);
        }
        let (limit, used, requested) = (self.staged_bytes_max, reserved.bytes, wanted.bytes);
        if !fits(used, requested, limit) {
            return Err(QuotaError::TempBudgetExceeded { app: app.to_owned(), limit, used, requested });
        }
        // All that is held is below limits that are below 2^53.
        if let Some(reserved) = reserved.plus(wanted)
            && !wanted.is_none()
        {
            accounts.insert(app.into(), Account { objects, reserved });
        }
        Ok(())
    }

    fn change(&self, app: &str, change: impl FnOnce(&mut Account)) {
        let mut accounts = self.lock();
        let mut account = accounts.get(app).copied().unwrap_or_default();
        change(&mut account);
        if account.is_none() {
            accounts.remove(app);
        } else {
            accounts.insert(app.into(), account);
        }
    }
}

/// Whether so much more stays within the limit. Nothing more always does.
fn fits(used: u64, requested: u64, limit: u64) -> bool {
    requested == 0 || used.checked_add(requested).is_some_and(|sum| sum <= limit)
}

/// Takes away what is known to be there. Were it not, somebody else has changed what only the store may: there is nothing
/// right to count any more, until the next open counts all of it.
fn subtract(app: &str, from: &mut Amount, gone: Amount) {
    *from = from.less(gone).unwrap_or_else(|| {
        tracing::warn!(
            app,
            ?from,
            ?gone,
            "objects were changed behind the store; usage is recounted at the next open"
        );
        Amount { bytes: from.bytes.saturating_sub(gone.bytes), files: from.files.saturating_sub(gone.files) }
    });
}

impl Reservation {
    /// The bytes it holds.
    pub(crate) fn bytes(&self) -> u64 {
        self.held.bytes
    }

    /// Holds so many bytes more, or says why not and holds what it held.
    pub(crate) fn grow(&mut self, bytes: u64) -> Result<(), QuotaError> {
        let more = Amount { bytes, files: 0 };
        self.ledger.hold(&self.app, more)?;
        // What the ledger has promised can be counted.
        self.held = self.held.plus(more).unwrap_or(self.held);
        Ok(())
    }

    /// Gives back all bytes above so many.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let back = Amount { bytes: self.held.bytes.saturating_sub(bytes), files: 0 };
        self.ledger.change(&self.app, |account| subtract(&self.app, &mut account.reserved, back));
        self.held.bytes = self.held.bytes.min(bytes);
    }

    /// It is an object now, in the place of `replaced`.
    pub(crate) fn settle(mut self, replaced: Option<Amount>) {
        let held = std::mem::take(&mut self.held);
        self.ledger.change(&self.app, |account| {
            subtract(&self.app, &mut account.reserved, held);
            account.objects = account.objects.plus(held).unwrap_or(account.objects);
            if let Some(old) = replaced {
                subtract(&self.app, &mut account.objects, old);
            }
        });
    }

    /// Nobody knows whether it is an object. It is counted as one, and what it would have replaced is counted too: never
    /// less than there is. The next open counts what there is.
    pub(crate) fn settle_unknown(self) {
        self.settle(None);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let held = self.held;
        if !held.is_none() {
            self.ledger.change(&self.app, |account| subtract(&self.app, &mut account.reserved, held));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;

    fn ledger(bytes: u64, files: u64, pct: u64) -> Arc<Ledger> {
        Ledger::new(&Quota {
            per_app_bytes: bytes.try_into().unwrap(),
            per_app_files: files.try_into().unwrap(),
            temp_ratio_pct: pct.try_into().unwrap(),
        })
    }

    fn amount(bytes: u64, files: u64) -> Amount {
        Amount { bytes, files }
    }

    fn used(ledger: &Ledger, app: &str) -> (u64, u64, u64, u64) {
        let Usage { bytes, files, staged_bytes, staged_files, .. } = ledger.usage(app);
        (bytes, files, staged_bytes, staged_files)
    }

    #[test]
    fn a_reservation_dropped_gives_back_and_one_settled_stays() {
        let ledger = ledger(100, 10, 100);
        let dropped = ledger.reserve("a", amount(40, 1)).unwrap();
        let mut settled = ledger.reserve("a", amount(10, 1)).unwrap();
        assert_eq!(used(&ledger, "a"), (50, 2, 50, 2));
        drop(dropped);
        assert_eq!(used(&ledger, "a"), (10, 1, 10, 1));
        settled.grow(20).unwrap();
        assert_eq!((settled.bytes(), used(&ledger, "a")), (30, (30, 1, 30, 1)));
        settled.shrink_to(25);
        settled.shrink_to(60);
        assert_eq!((settled.bytes(), used(&ledger, "a")), (25, (25, 1, 25, 1)));
        settled.settle(None);
        assert_eq!(used(&ledger, "a"), (25, 1, 0, 0));
        assert_eq!(used(&ledger, "b"), (0, 0, 0, 0));
        ledger.forget("a", Amount::object(25));
        assert_eq!(used(&ledger, "a"), (0, 0, 0, 0));
        assert!(ledger.lock().is_empty(), "no memory for an app that has nothing");
    }

    #[test]
    fn a_replace_is_charged_on_top_until_it_is_settled() {
        let ledger = ledger(100, 2, 100);
        ledger.load("a", amount(60, 1));
        assert!(ledger.reserve("a", Amount::object(41)).is_err());
        let new = ledger.reserve("a", Amount::object(40)).unwrap();
        assert_eq!(used(&ledger, "a"), (100, 2, 40, 1));
        new.settle(Some(Amount::object(60)));
        assert_eq!(used(&ledger, "a"), (40, 1, 0, 0));
        let unknown = ledger.reserve("a", Amount::object(5)).unwrap();
        unknown.settle_unknown();
        assert_eq!(used(&ledger, "a"), (45, 2, 0, 0));
    }

    #[test]
    fn each_limit_holds_at_its_last_unit_and_the_error_says_all_three_numbers() {
        let ledger = ledger(100, 3, 50);
        ledger.load("a", amount(60, 1));
        for (bytes, is_ok) in [(39, true), (40, true), (41, false)] {
            assert_eq!(ledger.reserve("a", amount(bytes, 1)).is_ok(), is_ok, "{bytes}");
        }
        let app = || "a".to_owned();
        let error = ledger.reserve("a", amount(41, 1)).unwrap_err();
        let what = Counted::Bytes;
        assert_eq!(error, QuotaError::Exceeded { app: app(), what, limit: 100, used: 60, requested: 41 });
        assert_eq!(error.to_string(), "quota of bytes exceeded for `a`: limit=100 used=60 requested=41");
        for (files, is_ok) in [(1, true), (2, true), (3, false)] {
            assert_eq!(ledger.reserve("a", amount(0, files)).is_ok(), is_ok, "{files}");
        }
        let error = ledger.reserve("a", amount(0, 3)).unwrap_err();
        let what = Counted::Files;
        assert_eq!(error, QuotaError::Exceeded { app: app(), what, limit: 3, used: 1, requested: 3 });
        for (bytes, is_ok) in [(49, true), (50, true), (51, false)] {
            assert_eq!(ledger.reserve("b", amount(bytes, 1)).is_ok(), is_ok, "{bytes}");
        }
        let held = ledger.reserve("b", amount(50, 1)).unwrap();
        let error = ledger.reserve("b", amount(1, 1)).unwrap_err();
        let app = "b".to_owned();
        assert_eq!(error, QuotaError::TempBudgetExceeded { app, limit: 50, used: 50, requested: 1 });
        // What is beyond both is beyond the quota: the temp budget would not help.
        assert!(matches!(ledger.reserve("b", amount(51, 0)), Err(QuotaError::Exceeded { .. })));
        held.settle(None);
        assert!(ledger.reserve("b", amount(50, 1)).is_ok());
        assert!(matches!(ledger.reserve("b", amount(u64::MAX, 1)), Err(QuotaError::Exceeded { .. })));
        assert!(matches!(ledger.reserve("b", amount(1, u64::MAX)), Err(QuotaError::Exceeded { .. })));
    }

    #[test]
    fn an_app_above_a_lowered_limit_can_only_shrink() {
        let ledger = ledger(100, 1, 100);
        ledger.load("a", amount(150, 3));
        assert!(ledger.reserve("a", amount(1, 0)).is_err());
        assert!(ledger.reserve("a", amount(0, 1)).is_err());
        assert!(ledger.reserve("a", amount(0, 0)).is_ok(), "nothing more is no more");
        ledger.forget("a", Amount::object(150));
        ledger.forget("a", amount(0, 2));
        assert!(ledger.reserve("a", amount(100, 1)).is_ok());
    }

    #[test]
    fn there_are_at_most_so_many_apps_and_one_that_has_nothing_is_none() {
        let ledger = ledger(10, 10, 100);
        for app in 0..APPS_MAX - 1 {
            ledger.load(&app.to_string(), amount(1, 1));
        }
        let last = ledger.reserve("last", amount(0, 1)).unwrap();
        let limit = APPS_MAX;
        assert_eq!(ledger.reserve("more", amount(0, 1)).unwrap_err(), QuotaError::TooManyApps { limit });
        assert!(ledger.reserve("last", amount(1, 1)).is_ok());
        drop(last);
        assert!(ledger.reserve("more", amount(0, 1)).is_ok());
    }

    #[test]
    fn threads_racing_at_the_limit_never_exceed_it_by_a_byte() {
        const THREADS: u64 = 8;
        const ROUNDS: u64 = 4_000;
        // So near that most requests meet the limit, by bytes, by files and by staged bytes.
        let ledger = ledger(64, 12, 75);
        let refused = AtomicU64::new(0);
        let taken = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (ledger, refused, taken) = (&ledger, &refused, &taken);
                scope.spawn(move || {
                    let mut state = thread + 1;
                    let mut next = |below: u64| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        (state >> 33) % below
                    };
                    let mut mine: Vec<u64> = Vec::new();
                    for _ in 0..ROUNDS {
                        let len = next(20);
                        let replaced = if next(2) == 0 { mine.pop() } else { None };
                        match ledger.reserve("a", Amount::object(len)) {
                            Ok(mut reservation) => {
                                taken.fetch_add(1, Ordering::Relaxed);
                                let more = next(8);
                                let len = if reservation.grow(more).is_ok() { len + more } else { len };
                                reservation.settle(replaced.map(Amount::object));
                                mine.push(len);
                            }
                            Err(_) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                                mine.extend(replaced);
                            }
                        }
                        let now = ledger.usage("a");
                        assert!(now.bytes <= 64 && now.files <= 12 && now.staged_bytes <= 48, "{now:?}");
                        if next(3) == 0
                            && let Some(gone) = mine.pop()
                        {
                            ledger.forget("a", Amount::object(gone));
                        }
                    }
                    for gone in mine {
                        ledger.forget("a", Amount::object(gone));
                    }
                });
            }
        });
        assert_eq!(used(&ledger, "a"), (0, 0, 0, 0), "all that was taken was given back");
        assert!(refused.into_inner() > 1_000 && taken.into_inner() > 1_000, "there was a race");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Reserve { app: usize, bytes: u64, files: u64 },
        Grow { at: usize, bytes: u64 },
        Shrink { at: usize, bytes: u64 },
        Drop { at: usize },
        Settle { at: usize, replaced: usize },
        Unknown { at: usize },
        Forget { at: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        let at = 0..8_usize;
        prop_oneof![
            3 => (0..2_usize, 0..70_u64, 0..3_u64).prop_map(|(app, bytes, files)| Step::Reserve { app, bytes, files }),
            2 => (at.clone(), 0..40_u64).prop_map(|(at, bytes)| Step::Grow { at, bytes }),
            1 => (at.clone(), 0..40_u64).prop_map(|(at, bytes)| Step::Shrink { at, bytes }),
            1 => at.clone().prop_map(|at| Step::Drop { at }),
            2 => (at.clone(), 0..4_usize).prop_map(|(at, replaced)| Step::Settle { at, replaced }),
            1 => at.clone().prop_map(|at| Step::Unknown { at }),
            1 => at.prop_map(|at| Step::Forget { at }),
        ]
    }

    /// The dumb one: a list of what there is, summed up each time.
    #[derive(Debug, Default)]
    struct Model {
        objects: Vec<(usize, Amount)>,
        reserved: Vec<(usize, Amount)>,
    }

    impl Model {
        fn sums(&self, app: usize) -> (u64, u64, u64, u64) {
            let sum = |list: &[(usize, Amount)]| {
                let mine = list.iter().filter(|(of, _)| *of == app);
                mine.fold((0, 0), |sum, (_, amount)| (sum.0 + amount.bytes, sum.1 + amount.files))
            };
            let (objects, reserved) = (sum(&self.objects), sum(&self.reserved));
            (objects.0 + reserved.0, objects.1 + reserved.1, reserved.0, reserved.1)
        }

        fn may(&self, app: usize, bytes: u64, files: u64) -> bool {
            let (used_bytes, used_files, staged, _) = self.sums(app);
            (bytes == 0 || (used_bytes + bytes <= 200 && staged + bytes <= 100))
                && (files == 0 || used_files + files <= 6)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn the_ledger_is_the_dumb_model(steps in prop::collection::vec(step(), 1..60)) {
            const APPS: [&str; 2] = ["a", "b"];
            let ledger = ledger(200, 6, 50);
            let mut model = Model::default();
            let mut live: Vec<Reservation> = Vec::new();
            for step in steps {
                match step {
                    Step::Reserve { app, bytes, files } => {
                        let may = model.may(app, bytes, files);
                        match ledger.reserve(APPS[app], amount(bytes, files)) {
                            Ok(reservation) => {
                                live.push(reservation);
                                model.reserved.push((app, amount(bytes, files)));
                                prop_assert!(may);
                            }
                            Err(_) => prop_assert!(!may),
                        }
                    }
                    Step::Grow { at, bytes } if at < live.len() => {
                        let may = model.may(model.reserved[at].0, bytes, 0);
                        prop_assert_eq!(live[at].grow(bytes).is_ok(), may);
                        if may {
                            model.reserved[at].1.bytes += bytes;
                        }
                    }
                    Step::Shrink { at, bytes } if at < live.len() => {
                        live[at].shrink_to(bytes);
                        let held = &mut model.reserved[at].1.bytes;
                        *held = (*held).min(bytes);
                    }
                    Step::Drop { at } if at < live.len() => {
                        drop(live.remove(at));
                        model.reserved.remove(at);
                    }
                    Step::Settle { at, replaced } if at < live.len() => {
                        let (app, held) = model.reserved.remove(at);
                        let old = model.objects.iter().position(|(of, _)| *of == app).filter(|_| replaced > 0);
                        let old = old.map(|old| model.objects.remove(old).1);
                        live.remove(at).settle(old);
                        model.objects.push((app, held));
                    }
                    Step::Unknown { at } if at < live.len() => {
                        live.remove(at).settle_unknown();
                        let kept = model.reserved.remove(at);
                        model.objects.push(kept);
                    }
                    Step::Forget { at } if at < model.objects.len() => {
                        let (app, gone) = model.objects.remove(at);
                        ledger.forget(APPS[app], gone);
                    }
                    // It is about something that is not there.
                    Step::Grow { .. }
                    | Step::Shrink { .. }
                    | Step::Drop { .. }
                    | Step::Settle { .. }
                    | Step::Unknown { .. }
                    | Step::Forget { .. } => {}
                }
                for (app, name) in APPS.iter().enumerate() {
                    prop_assert_eq!(used(&ledger, name), model.sums(app));
                }
            }
        }
    }
}
